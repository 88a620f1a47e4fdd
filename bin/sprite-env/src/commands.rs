//! `sprite-env`'s commands: each is one call of the management API.

use std::io::{BufRead, Read, Write};

use serde_json::{Map, Value, json};

use crate::http::{Answer, encode, send};
use crate::options::{commas, parse};
use crate::{Failure, curl, usage};

/// Longest answer that is taken in whole, and longest line of a stream, in bytes.
const ANSWER_MAX: u64 = 16 * 1024 * 1024;

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let Some((command, rest)) = args.split_first() else {
        return Err(Failure::Usage("a command is missing".to_owned()));
    };
    let asks_help = rest.iter().any(|arg| arg == "-h" || arg == "--help");
    match command.as_str() {
        "-h" | "--help" | "help" => help(usage::ALL),
        "curl" if rest.is_empty() || (rest.len() == 1 && asks_help) => help(usage::CURL),
        "curl" => curl::run(rest),
        "info" | "version" if asks_help => help(usage::ALL),
        "info" => {
            parse(rest, &[], &[])?.exactly([])?;
            show(send("GET", "/v1/info", None)?)
        }
        "version" | "--version" => {
            parse(rest, &[], &[])?.exactly([])?;
            let info = json_of(send("GET", "/v1/info", None)?)?;
            print(&format!("{}\n", info["version"].as_str().unwrap_or("unknown")))
        }
        "services" if asks_help => help(usage::SERVICES),
        "services" => services(rest),
        "checkpoints" if asks_help => help(usage::CHECKPOINTS),
        "checkpoints" => checkpoints(rest),
        other => Err(Failure::Usage(format!("unknown command `{other}`"))),
    }
}

fn help(text: &str) -> Result<(), Failure> {
    print(text)
}

/// Prints data. A reader that has had enough is no error of ours.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::error(format!("write output: {error}")))
        }
        _ => Ok(()),
    }
}

fn services(args: &[String]) -> Result<(), Failure> {
    let Some((command, rest)) = args.split_first() else {
        return Err(Failure::Usage("services: a command is missing".to_owned()));
    };
    let path = |name: &str| format!("/v1/services/{}", encode(name));
    match command.as_str() {
        "list" => {
            parse(rest, &[], &[])?.exactly([])?;
            show(send("GET", "/v1/services", None)?)
        }
        "get" => {
            let options = parse(rest, &[], &[])?;
            let [name] = options.exactly(["name"])?;
            show(send("GET", &path(name), None)?)
        }
        "create" => create_service(rest),
        "start" | "restart" => {
            let options = parse(rest, &["duration"], &[])?;
            let [name] = options.exactly(["name"])?;
            let query = options.value("duration").map(|d| format!("?duration={}", encode(d)));
            let query = query.unwrap_or_default();
            stream(send("POST", &format!("{}/{command}{query}", path(name)), None)?)
        }
        "stop" => {
            let options = parse(rest, &[], &[])?;
            let [name] = options.exactly(["name"])?;
            stream(send("POST", &format!("{}/stop", path(name)), None)?)
        }
        "signal" => {
            let options = parse(rest, &[], &[])?;
            let [name, signal] = options.exactly(["name", "SIGNAL"])?;
            let body = json!({ "signal": signal }).to_string();
            show(send("POST", &format!("{}/signal", path(name)), Some(&body))?)
        }
        "delete" => {
            let options = parse(rest, &[], &[])?;
            let [name] = options.exactly(["name"])?;
            show(send("DELETE", &path(name), None)?)
        }
        other => Err(Failure::Usage(format!("services: unknown command `{other}`"))),
    }
}

fn create_service(args: &[String]) -> Result<(), Failure> {
    let values = ["cmd", "args", "env", "dir", "needs", "http-port", "duration"];
    let options = parse(args, &values, &["no-stream"])?;
    let [name] = options.exactly(["name"])?;
    let Some(command) = options.value("cmd") else {
        return Err(Failure::Usage("services create: `--cmd` is missing".to_owned()));
    };
    let mut body = Map::new();
    body.insert("cmd".into(), command.into());
    body.insert("args".into(), commas(options.value("args").unwrap_or_default()).into());
    body.insert("needs".into(), commas(options.value("needs").unwrap_or_default()).into());
    if let Some(text) = options.value("env") {
        let mut env = Map::new();
        for pair in commas(text) {
            let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(Failure::Usage(format!("`{pair}` is not KEY=value")));
            };
            env.insert(key.to_owned(), value.into());
        }
        body.insert("env".into(), env.into());
    }
    if let Some(dir) = options.value("dir") {
        body.insert("dir".into(), dir.into());
    }
    if let Some(port) = options.value("http-port") {
        let port = port.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| Failure::Usage("`--http-port` is not a port".to_owned()))?;
        body.insert("http_port".into(), port.into());
    }
    let duration = if options.flag("no-stream") { Some("0s") } else { options.value("duration") };
    let query = duration.map(|d| format!("?duration={}", encode(d))).unwrap_or_default();
    let path = format!("/v1/services/{}{query}", encode(name));
    stream(send("PUT", &path, Some(&Value::Object(body).to_string()))?)
}

fn checkpoints(args: &[String]) -> Result<(), Failure> {
    let Some((command, rest)) = args.split_first() else {
        return Err(Failure::Usage("checkpoints: a command is missing".to_owned()));
    };
    match command.as_str() {
        "list" => {
            let options = parse(rest, &["history"], &["include-auto"])?;
            options.exactly([])?;
            let mut query = Vec::new();
            query.extend(options.value("history").map(|v| format!("history={}", encode(v))));
            query.extend(options.flag("include-auto").then(|| "includeAuto=true".to_owned()));
            let mark = if query.is_empty() { "" } else { "?" };
            show(send("GET", &format!("/v1/checkpoints{mark}{}", query.join("&")), None)?)
        }
        "get" => {
            let options = parse(rest, &[], &[])?;
            let [id] = options.exactly(["id"])?;
            show(send("GET", &format!("/v1/checkpoints/{}", encode(id)), None)?)
        }
        "create" => {
            let options = parse(rest, &["comment"], &[])?;
            options.exactly([])?;
            let comment = options.value("comment");
            let body = comment.map_or_else(|| json!({}), |text| json!({ "comment": text }));
            stream(send("POST", "/v1/checkpoint", Some(&body.to_string()))?)
        }
        "restore" => {
            let options = parse(rest, &[], &[])?;
            let [id] = options.exactly(["id"])?;
            stream(send("POST", &format!("/v1/checkpoints/{}/restore", encode(id)), None)?)
        }
        other => Err(Failure::Usage(format!("checkpoints: unknown command `{other}`"))),
    }
}

/// Reads a whole answer; one that is no success becomes an error with the runtime's words.
fn text_of(answer: Answer) -> Result<String, Failure> {
    let mut text = String::new();
    let read = answer.body.take(ANSWER_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure::error(format!("talk to the runtime: {error}")))?;
    if (200..300).contains(&answer.status) {
        return Ok(text);
    }
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let said = [&value["message"], &value["error"]].into_iter().find_map(Value::as_str);
    let said = said.unwrap_or(text.trim());
    Err(Failure::error(format!("{said} (status {})", answer.status)))
}

fn json_of(answer: Answer) -> Result<Value, Failure> {
    let text = text_of(answer)?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::error(format!("the runtime's answer is not JSON: {error}")))
}

/// Prints an answer as people read JSON; nothing for an answer without a body.
fn show(answer: Answer) -> Result<(), Failure> {
    if answer.status == 204 {
        return Ok(());
    }
    let value = json_of(answer)?;
    print(&format!("{value:#}\n"))
}

/// Prints a stream line by line as it comes. An `error` event makes the command fail.
fn stream(mut answer: Answer) -> Result<(), Failure> {
    if !(200..300).contains(&answer.status) {
        return text_of(answer).map(drop);
    }
    let mut failed = false;
    loop {
        let mut line = Vec::new();
        let read = answer.body.by_ref().take(ANSWER_MAX).read_until(b'\n', &mut line);
        if read.map_err(|error| Failure::error(format!("talk to the runtime: {error}")))? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        print(&format!("{}\n", text.trim_end()))?;
        let event: Value = serde_json::from_str(&text).unwrap_or_default();
        failed |= event["type"] == "error";
    }
    if failed { Err(Failure::error("the runtime reported an error")) } else { Ok(()) }
}
