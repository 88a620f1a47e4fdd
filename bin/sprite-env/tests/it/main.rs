//! The real program against a runtime that says what the test wants.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the program; the socket answers once with `answer`. Returns what it did and what the
/// socket was asked.
fn run(args: &[&str], answer: &str) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let answer = answer.to_owned();
    let server = std::thread::spawn(move || {
        let (mut io, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(io.try_clone().unwrap());
        let mut asked = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
            if asked.is_empty() {
                asked = line.trim().replace(" HTTP/1.1", "");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        io.write_all(answer.as_bytes()).unwrap();
        format!("{asked} {}", String::from_utf8(body).unwrap())
    });
    let output = program(args, &socket);
    if !server.is_finished() {
        // Unblocks a server that nobody asked anything.
        let _ = std::os::unix::net::UnixStream::connect(&socket)
            .and_then(|mut io| io.write_all(b"nothing\r\n\r\n"));
    }
    (output, server.join().unwrap())
}

fn program(args: &[&str], socket: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sprite-env"))
        .args(args)
        .env("SPRITE_API_SOCKET", socket)
        .output()
        .unwrap()
}

fn json(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n{body}")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn info_is_pretty_json_and_version_one_line() {
    let info = json("200 OK", r#"{"org":"acme","version":"1.2"}"#);
    let (output, asked) = run(&["info"], &info);
    assert_eq!((output.status.code(), asked.trim()), (Some(0), "GET /v1/info"));
    assert_eq!(text(&output.stdout), "{\n  \"org\": \"acme\",\n  \"version\": \"1.2\"\n}\n");
    let (output, _) = run(&["version"], &info);
    assert_eq!(text(&output.stdout), "1.2\n");
}

#[test]
fn what_the_runtime_cannot_do_yet_is_an_honest_error() {
    let later = json("501 Not Implemented", r#"{"error":"e","message":"services: not yet"}"#);
    for (args, expected) in [
        (&["services", "list"][..], "GET /v1/services"),
        (&["services", "get", "a/b"], "GET /v1/services/a%2Fb"),
        (
            &["services", "start", "web", "--duration", "5s"],
            "POST /v1/services/web/start?duration=5s",
        ),
        (&["services", "stop", "web"], "POST /v1/services/web/stop"),
        (&["services", "signal", "web", "HUP"], r#"POST /v1/services/web/signal {"signal":"HUP"}"#),
        (&["services", "delete", "web"], "DELETE /v1/services/web"),
        (&["checkpoints", "list", "--include-auto"], "GET /v1/checkpoints?includeAuto=true"),
        (&["checkpoints", "create", "--comment", "x"], r#"POST /v1/checkpoint {"comment":"x"}"#),
        (&["checkpoints", "restore", "v1"], "POST /v1/checkpoints/v1/restore"),
    ] {
        let (output, asked) = run(args, &later);
        assert_eq!(asked.trim(), expected);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(text(&output.stderr), "sprite-env: services: not yet (status 501)\n");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn creating_a_service_sends_the_contracts_body_and_streams() {
    let lines = "{\"type\":\"started\"}\n{\"type\":\"complete\"}\n";
    let ok = format!("HTTP/1.1 200 OK\r\n\r\n{lines}");
    let args = [
        "services",
        "create",
        "web",
        "--cmd",
        "node",
        "--args",
        "a.js,-v",
        "--env=A=1,B=2",
        "--http-port=3000",
        "--dir",
        "/app",
        "--no-stream",
    ];
    let (output, asked) = run(&args, &ok);
    assert_eq!(
        asked,
        r#"PUT /v1/services/web?duration=0s {"args":["a.js","-v"],"cmd":"node","dir":"/app","env":{"A":"1","B":"2"},"http_port":3000,"needs":[]}"#
    );
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), lines.to_owned()));

    let failing = "HTTP/1.1 200 OK\r\n\r\n{\"type\":\"error\",\"data\":\"x\"}\n";
    let (output, _) = run(&["services", "start", "web"], failing);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn wrong_usage_is_exit_two_and_help_exit_zero() {
    let nowhere = Path::new("/nonexistent/api.sock");
    for args in [
        &[][..],
        &["what"],
        &["services"],
        &["services", "get"],
        &["services", "create", "web"],
        &["services", "create", "web", "--cmd", "x", "--http-port", "99999"],
        &["services", "create", "web", "--cmd", "x", "--env", "novalue"],
        &["info", "extra"],
        &["checkpoints", "get", "a", "b"],
        &["curl", "-s"],
    ] {
        let output = program(args, nowhere);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).contains("hint: "), "{args:?}");
    }
    for args in [
        &["--help"][..],
        &["services", "--help"],
        &["services", "create", "-h"],
        &["checkpoints", "--help"],
        &["curl", "--help"],
        &["info", "--help"],
    ] {
        let output = program(args, nowhere);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(text(&output.stdout).contains("Usage: sprite-env"), "{args:?}");
    }
    let output = program(&["info"], nowhere);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("hint: this works inside a sprite"));
}

/// The program goes by its name, as the image links it.
#[test]
fn other_names_are_other_programs() {
    let folder = tempfile::tempdir().unwrap();
    let link = |name: &str| {
        let path = folder.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sprite-env"), &path).unwrap();
        path
    };
    let browser = |path: &Path| {
        // A session of its own has no terminal.
        Command::new("setsid").arg("-w").arg(path).arg("https://a.test/").output().unwrap()
    };
    for name in ["sprite-browser", "xdg-open"] {
        let output = browser(&link(name));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(text(&output.stdout), "https://a.test/\n");
    }
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let mut console = Command::new(link("sprite-console"));
    let output = console
        .env("SHELL", "/nowhere/unknown-shell")
        .env("HOME", &home)
        .env("TERM", "odd-term")
        .env("SPRITE_TERMINFO_DATA", "Zm9v")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).starts_with("\x1b]0;bash --login\x07"), "{output:?}");
    assert_eq!(std::fs::read(home.join(".terminfo/o/odd-term")).unwrap(), b"foo");
}
