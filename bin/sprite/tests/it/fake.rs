//! A server that speaks just enough of the contract, on a runtime of its own.

mod files;
mod http;
mod sessions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use self::http::{Answer, Request};
use crate::harness::TOKEN;

/// Served until dropped.
pub(crate) struct Server {
    address: SocketAddr,
    pub(crate) state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// What tests look at and set.
pub(crate) struct State {
    sprites: Mutex<BTreeMap<String, Value>>,
    /// `METHOD target` of each request.
    requests: Mutex<Vec<String>>,
    /// Answers to give instead, once each: status, headers, body.
    canned: Mutex<Vec<(u16, String, String)>>,
    /// Text messages received on sessions.
    pub(crate) messages: Mutex<Vec<Value>>,
    /// Root of the files of all sprites.
    pub(crate) root: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let state = Arc::new(State {
            sprites: Mutex::default(),
            requests: Mutex::default(),
            canned: Mutex::default(),
            messages: Mutex::default(),
            root: tempfile::tempdir().unwrap(),
        });
        std::fs::create_dir_all(state.root.path().join("home/sprite")).unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = state.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { address, state, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn add_sprite(&self, name: &str) {
        self.state.sprites.lock().unwrap().insert(name.to_owned(), sprite(name, &json!({})));
    }

    pub(crate) fn has_sprite(&self, name: &str) -> bool {
        self.state.sprites.lock().unwrap().contains_key(name)
    }

    pub(crate) fn sprite(&self, name: &str) -> Value {
        self.state.sprites.lock().unwrap()[name].clone()
    }

    /// Answers the next request so.
    pub(crate) fn answer_next(&self, status: u16, headers: &str, body: &str) {
        let answer = (status, headers.to_owned(), body.to_owned());
        self.state.canned.lock().unwrap().push(answer);
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    pub(crate) fn messages(&self) -> Vec<Value> {
        self.state.messages.lock().unwrap().clone()
    }

    /// Where a path of a sprite lies here.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.state.root.path().join(path.trim_start_matches('/'))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn sprite(name: &str, body: &Value) -> Value {
    json!({
        "id": "sprite-6f1c0d7e-3a55-4e0e-9b0e-6f2f4f9b7c11", "name": name, "status": "running",
        "version": "0.0.1-rc50", "environment_version": null,
        "url": format!("http://{name}.example"), "url_settings": { "auth": "sprite" },
        "organization": "acme", "org_slug": "acme",
        "labels": body.get("labels").cloned().unwrap_or(json!([])),
        "created_at": "2026-01-13T10:30:00.000000Z", "updated_at": "2026-01-13T10:30:00.000000Z",
        "last_running_at": null, "last_warming_at": null,
    })
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    stream.set_nodelay(true).unwrap();
    let mut connection = http::Connection::new(stream);
    while let Some(request) = connection.request().await {
        state.requests.lock().unwrap().push(format!("{} {}", request.method, request.target));
        let canned = state.canned.lock().unwrap().pop();
        if let Some((status, headers, body)) = canned {
            connection.answer(Answer { status, headers, body: body.into_bytes() }).await;
            continue;
        }
        if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
            let body = json!({ "error": "unauthorized", "message": "the token is not valid" });
            connection.answer(Answer::json(401, &body)).await;
            continue;
        }
        let path: Vec<_> = request.path().split('/').skip(1).map(str::to_owned).collect();
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["v1", "sprites"] if request.header("accept") == Some("application/x-ndjson") => {
                return watch(connection, &state).await;
            }
            ["v1", "sprites", name, rest @ ..] if !rest.is_empty() => {
                if !state.sprites.lock().unwrap().contains_key(*name) {
                    connection.answer(not_found()).await;
                    continue;
                }
                match rest {
                    ["exec"] | ["exec", _] if request.header("upgrade").is_some() => {
                        return sessions::websocket(connection, &request, &state, rest.get(1))
                            .await;
                    }
                    ["exec"] if request.method == "POST" => {
                        return sessions::post(connection, &request, &state).await;
                    }
                    ["exec"] => connection.answer(Answer::json(200, &session_list())).await,
                    ["exec", _, "kill"] => connection.answer(killed()).await,
                    ["fs", call] => {
                        connection.answer(files::call(call, &request, &state)).await;
                    }
                    _ => connection.answer(not_yet()).await,
                }
            }
            _ => connection.answer(plain(&request, &path, &state)).await,
        }
    }
}

fn plain(request: &Request, path: &[&str], state: &State) -> Answer {
    let mut sprites = state.sprites.lock().unwrap();
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    match (request.method.as_str(), path) {
        ("GET", ["v1", "sprites"]) => {
            let query = request.query();
            let find = |key: &str| query.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
            let prefix = find("prefix").unwrap_or("");
            let after = find("continuation_token").unwrap_or("");
            let mut all: Vec<_> = sprites
                .values()
                .filter(|s| s["name"].as_str().unwrap().starts_with(prefix))
                .filter(|s| s["name"].as_str().unwrap() > after)
                .cloned()
                .collect();
            // Pages of two, whatever is asked for.
            let more = all.len() > 2;
            all.truncate(2);
            let next = all.last().filter(|_| more).map(|s| s["name"].clone());
            let org = json!({ "name": "acme", "running": 0, "warm": 0, "cold": 0,
                "running_limit": 9, "warm_limit": 9 });
            let mut list = org.clone();
            list["org"] = org;
            list["sprites"] = json!(all);
            list["has_more"] = json!(more);
            list["next_continuation_token"] = json!(next);
            Answer::json(200, &list)
        }
        ("POST", ["v1", "sprites"]) => {
            let name = body["name"].as_str().unwrap().to_owned();
            if sprites.contains_key(&name) {
                let message = format!("a sprite named `{name}` already exists");
                let error = json!({ "error": "sprite already exists", "message": message });
                return Answer::json(409, &error);
            }
            sprites.insert(name.clone(), sprite(&name, &body));
            Answer::json(201, &sprites[&name])
        }
        (method, ["v1", "sprites", name]) if sprites.contains_key(*name) => match method {
            "GET" => Answer::json(200, &sprites[*name]),
            "PUT" => {
                let sprite = sprites.get_mut(*name).unwrap();
                for (key, value) in body["url_settings"].as_object().unwrap() {
                    sprite["url_settings"][key] = value.clone();
                }
                Answer::json(200, sprite)
            }
            _ => {
                sprites.remove(*name);
                Answer { status: 204, headers: String::new(), body: Vec::new() }
            }
        },
        _ => not_found(),
    }
}

fn not_found() -> Answer {
    Answer::json(404, &json!({ "error": "sprite not found" }))
}

fn not_yet() -> Answer {
    let message = "this server cannot do that yet";
    Answer::json(501, &json!({ "error": "not_implemented", "message": message }))
}

fn session_list() -> Value {
    json!({ "count": 1, "sessions": [{
        "id": "4242", "command": "/usr/bin/python3 -c import time", "workdir": "/home/sprite",
        "created": "2026-01-13T10:30:00Z", "tty": true, "bytes_per_second": 12.0,
        "is_active": true,
    }] })
}

fn killed() -> Answer {
    let body = concat!(
        r#"{"type":"signal","message":"Signaling SIGTERM to process group 4242"}"#,
        "\n",
        r#"{"type":"exited","message":"Process exited"}"#,
        "\n",
        r#"{"type":"complete","exit_code":143}"#,
        "\n"
    );
    Answer { status: 200, headers: String::new(), body: body.into() }
}

async fn watch(mut connection: http::Connection, state: &State) {
    let names: Vec<_> = state.sprites.lock().unwrap().keys().cloned().collect();
    let mut lines = String::new();
    for name in names {
        lines += &format!(
            "{}\n",
            json!({ "name": name, "status": "running", "org": {
            "name": "acme", "running": 1, "warm": 0, "cold": 0, "running_limit": 1,
            "warm_limit": 1 } })
        );
    }
    lines += "{\"type\":\"heartbeat\"}\n";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    connection.write(head.as_bytes()).await;
    connection.write(&http::chunk(lines.as_bytes())).await;
    // Never ends by itself.
    std::future::pending::<()>().await;
}
