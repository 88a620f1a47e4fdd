//! Commands as local processes, and a terminal that tells what it sees.

use std::process::Stdio;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::State;
use super::http::{Answer, Connection, Request, chunk};

type Sink = SplitSink<WebSocketStream<TcpStream>, Message>;
type Source = SplitStream<WebSocketStream<TcpStream>>;

struct Wanted {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    stdin: bool,
    tty: bool,
    size: (String, String),
}

fn wanted(request: &Request) -> Wanted {
    let query = request.query();
    let all = |key: &str| {
        query.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect::<Vec<_>>()
    };
    let one = |key: &str| all(key).into_iter().next().unwrap_or_default();
    let env = all("env");
    Wanted {
        argv: all("cmd"),
        env: env
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        stdin: one("stdin") == "true",
        tty: one("tty") == "true",
        size: (one("cols"), one("rows")),
    }
}

pub(super) async fn websocket(
    mut connection: Connection,
    request: &Request,
    state: &State,
    attach: Option<&&str>,
) {
    if attach.is_some_and(|id| *id != "4242") {
        let body = json!({ "error": "session not found" });
        return connection.answer(Answer::json(404, &body)).await;
    }
    let accept = derive_accept_key(request.header("sec-websocket-key").unwrap().as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSprite-Version: 0.0.1-rc50\r\n\r\n"
    );
    connection.write(head.as_bytes()).await;
    let socket = WebSocketStream::from_raw_socket(connection.stream, Role::Server, None).await;
    let (mut sink, source) = socket.split();
    let wanted = wanted(request);
    let tty = wanted.tty || attach.is_some();
    let info = json!({ "type": "session_info", "session_id": "4242", "command": "x",
        "created": 1, "cols": 80, "rows": 24, "is_owner": true, "tty": tty });
    let _ = sink.send(Message::text(info.to_string())).await;
    if tty {
        terminal(sink, source, state, &wanted).await;
    } else {
        pipes(sink, source, state, &wanted).await;
    }
}

/// Tells its size, echoes what is typed, and ends with code 3 when `q` is typed.
async fn terminal(mut sink: Sink, mut source: Source, state: &State, wanted: &Wanted) {
    if wanted.argv.first().is_some_and(|program| program == "sprite-console")
        && state.root.path().join("no-console").exists()
    {
        let text = "sprite-console: executable file not found in $PATH\r\n";
        let _ = sink.send(Message::binary(text)).await;
        return exit(&mut sink, 127, true).await;
    }
    let hello = format!(
        "\x1b]0;bash\x07ran {} at {}x{} TERM={}\r\n",
        wanted.argv.join(" "),
        wanted.size.0,
        wanted.size.1,
        wanted.env.iter().find(|(k, _)| k == "TERM").map_or("", |(_, v)| v)
    );
    let _ = sink.send(Message::binary(hello)).await;
    while let Some(Ok(message)) = source.next().await {
        match message {
            Message::Binary(data) if data.contains(&b'q') => {
                return exit(&mut sink, 3, true).await;
            }
            Message::Binary(data) => {
                let _ = sink.send(Message::binary(data)).await;
            }
            Message::Text(text) => {
                let value: Value = serde_json::from_str(text.as_str()).unwrap();
                let seen = format!("[{} {}]\r\n", value["type"], value["cols"]);
                state.messages.lock().unwrap().push(value);
                let _ = sink.send(Message::binary(seen)).await;
            }
            Message::Close(_) => {
                state.messages.lock().unwrap().push(json!({ "type": "closed" }));
            }
            _ => {}
        }
    }
}

fn spawn(wanted: &Wanted, state: &State) -> std::io::Result<Child> {
    // Absolute paths of ours mean the same to the command.
    let root = state.root.path().to_str().unwrap();
    Command::new(&wanted.argv[0])
        .args(&wanted.argv[1..])
        .envs(wanted.env.iter().cloned())
        .env("ROOT", root)
        .current_dir(state.root.path().join("home/sprite"))
        .stdin(if wanted.stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

async fn pipes(mut sink: Sink, mut source: Source, state: &State, wanted: &Wanted) {
    let mut child = match spawn(wanted, state) {
        Ok(child) => child,
        Err(error) => {
            let large = error.raw_os_error() == Some(7);
            let text = format!("\x02{}: {error}\n", wanted.argv[0]);
            let _ = sink.send(Message::binary(text)).await;
            exit(&mut sink, if large { 126 } else { 127 }, false).await;
            // Closing with unread input would reset the connection.
            while let Some(Ok(_)) = source.next().await {}
            return;
        }
    };
    let pid = child.id().unwrap();
    let mut stdin = child.stdin.take();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut out_open, mut err_open) = (true, true);
    let (mut out_buffer, mut err_buffer) = (vec![0; 65_535], vec![0; 65_535]);
    let reader = async {
        while out_open || err_open {
            let (stream, count, buffer) = tokio::select! {
                count = out.read(&mut out_buffer), if out_open => (1, count.unwrap_or(0), &out_buffer),
                count = err.read(&mut err_buffer), if err_open => (2, count.unwrap_or(0), &err_buffer),
            };
            if count == 0 {
                if stream == 1 {
                    out_open = false
                } else {
                    err_open = false
                }
                continue;
            }
            let frame = [&[stream], &buffer[..count]].concat();
            if sink.send(Message::binary(frame)).await.is_err() {
                break;
            }
        }
        let code = exit_code(child.wait().await.unwrap());
        exit(&mut sink, code, false).await;
    };
    let writer = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(data) if data.first() == Some(&0) => {
                    if let Some(stdin) = &mut stdin {
                        let _ = stdin.write_all(&data[1..]).await;
                    }
                }
                Message::Binary(data) if data.first() == Some(&4) => stdin = None,
                Message::Text(text) => {
                    let value: Value = serde_json::from_str(text.as_str()).unwrap();
                    if let Some(name) = value["signal"].as_str() {
                        let group = format!("-{pid}");
                        let _ =
                            Command::new("kill").args(["-s", name, "--", &group]).status().await;
                    }
                    state.messages.lock().unwrap().push(value);
                }
                _ => {}
            }
        }
    };
    tokio::join!(reader, writer);
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

async fn exit(sink: &mut Sink, code: i32, tty: bool) {
    let text = json!({ "type": "exit", "exit_code": code, "code": code });
    let _ = sink.send(Message::text(text.to_string())).await;
    if !tty {
        let _ = sink.send(Message::binary(vec![3, code as u8])).await;
    }
    let _ = sink.close().await;
}

pub(super) async fn post(mut connection: Connection, request: &Request, state: &State) {
    let wanted = wanted(request);
    let mut child = spawn(&wanted, state).unwrap();
    if let Some(mut stdin) = child.stdin.take() {
        let mut input = Vec::new();
        while let Some(data) = connection.chunk().await {
            input.extend(data);
        }
        tokio::spawn(async move { stdin.write_all(&input).await });
    }
    let output = child.wait_with_output().await.unwrap();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    connection.write(head.as_bytes()).await;
    for (stream, data) in [(1, output.stdout), (2, output.stderr)] {
        for piece in data.chunks(8191) {
            connection.write(&chunk(&[&[stream], piece].concat())).await;
        }
    }
    connection.write(&chunk(&[3, exit_code(output.status) as u8])).await;
    connection.write(b"0\r\n\r\n").await;
}
