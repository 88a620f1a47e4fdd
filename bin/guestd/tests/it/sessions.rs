//! Creating, listing and ending sessions.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use sprite_link::guest::{SessionCreate, SessionCreated};
use sprite_link::session::SessionFrame;

use crate::guest::{command, guest, sh};

#[tokio::test]
async fn outputs_and_exit_code_arrive_apart() {
    let guest = guest();
    let (follower, code) = guest.run(&sh("echo out; echo err >&2; exit 42"), b"").await;
    assert_eq!(follower.stdout, b"out\n");
    assert_eq!(follower.stderr, b"err\n");
    assert_eq!(code, 42);
}

#[tokio::test]
async fn a_signal_death_is_128_plus_the_signal() {
    let (_, code) = guest().run(&sh("kill -9 $$"), b"").await;
    assert_eq!(code, 137);
}

#[tokio::test]
async fn binary_output_is_not_changed() {
    let (follower, _) = guest().run(&sh(r"printf '\000\001\003\377'"), b"").await;
    assert_eq!(follower.stdout, [0, 1, 3, 255]);
}

#[tokio::test]
async fn three_mebibytes_of_input_come_back() {
    let input: Vec<u8> = (0..3 << 20).map(|i: u32| (i % 251) as u8).collect();
    let create = SessionCreate { stdin: true, ..command(&["cat"]) };
    let (follower, code) = guest().run(&create, &input).await;
    assert_eq!(code, 0);
    assert!(follower.stdout == input, "{} bytes", follower.stdout.len());
}

#[tokio::test]
async fn without_stdin_the_input_is_the_null_device() {
    let (follower, code) = guest().run(&command(&["cat"]), b"").await;
    assert_eq!((follower.stdout.len(), code), (0, 0));
    let (follower, code) = guest().run(&command(&["tty"]), b"").await;
    assert_eq!((&follower.stdout[..], code), (&b"not a tty\n"[..], 1));
}

/// `cat` closes its descriptors before it ends. A terminal that is hung up at that moment kills
/// it, and its code is lost.
#[tokio::test]
async fn a_terminal_outlives_its_last_open_descriptor() {
    let script = "echo before; exec <&- >&- 2>&-; sleep 0.3; echo after > /dev/tty; exit 7";
    let create = SessionCreate { tty: true, ..sh(script) };
    let (follower, code) = guest().run(&create, b"").await;
    assert_eq!(String::from_utf8(follower.stdout).unwrap(), "before\r\nafter\r\n");
    assert_eq!(code, 7);
}

#[tokio::test]
async fn the_environment_is_default_then_sprite_then_caller() {
    let guest = guest();
    let script = "echo $FROM_SPRITE/$A/$SPRITE_URL/${TERM-none}; pwd; echo $HOME";
    let create = SessionCreate { env: vec![("A".into(), "b=c".into())], ..sh(script) };
    let (follower, _) = guest.run(&create, b"").await;
    let home = guest.home.path().canonicalize().unwrap();
    let home = home.display();
    let expected = format!("1/b=c/http://demo.test/none\n{home}\n{home}\n");
    assert_eq!(String::from_utf8(follower.stdout).unwrap(), expected);
}

#[tokio::test]
async fn commands_that_cannot_start_say_why() {
    let guest = guest();
    std::fs::write(guest.home.path().join("plain"), "x").unwrap();
    let long = "x".repeat(200 * 1024);
    for (create, expected, text) in [
        (command(&["no-such-cmd"]), 127, "no-such-cmd: executable file not found in $PATH"),
        (command(&["./missing"]), 127, "no such file or directory"),
        (command(&["./plain"]), 126, "permission denied"),
        (command(&["echo", &long]), 126, "argument list too long"),
        (SessionCreate { dir: Some("/nowhere".into()), ..sh("true") }, 1, "/nowhere"),
    ] {
        match guest.create(&create).await {
            SessionCreated::Failed { exit_code, message } => {
                assert_eq!(exit_code, expected, "{message}");
                assert!(message.contains(text), "{message}");
            }
            started => panic!("{started:?}"),
        }
    }
}

#[tokio::test]
async fn a_repeated_request_starts_nothing() {
    let guest = guest();
    let create = sh("echo x >> marks; echo done; sleep 100");
    let (first, second) = tokio::join!(guest.create(&create), guest.create(&create));
    let third = guest.create(&create).await;
    let id = |created: &SessionCreated| match created {
        SessionCreated::Started { session } => session.session_id,
        failed => panic!("{failed:?}"),
    };
    assert_eq!(id(&first), id(&second));
    assert_eq!(id(&first), id(&third));
    let other = guest.start(&sh("sleep 100")).await;
    assert_ne!(id(&first), other.session_id);
    let mut follower = guest.attach(id(&first), "a&owner=true").await.unwrap();
    follower.wait_for("done").await;
    guest.guest.shut_down().await;
    assert_eq!(std::fs::read(guest.home.path().join("marks")).unwrap(), b"x\n");
}

#[tokio::test]
async fn only_running_sessions_are_listed() {
    let guest = guest();
    let session = guest.start(&command(&["sleep", "100"])).await;
    let (status, list) = guest.json(Method::GET, "/v1/sessions", "").await;
    assert_eq!(status, StatusCode::OK);
    let entry = &list["sessions"][0];
    assert_eq!(entry["session_id"], json!(session.session_id.to_string()));
    assert!(entry["command"].as_str().unwrap().ends_with("/sleep 100"), "{entry}");
    assert!(entry["bytes_per_second"].is_number());

    let path = format!("/v1/sessions/{}", session.session_id);
    assert_eq!(guest.json(Method::GET, &path, "").await.0, StatusCode::OK);
    let events = kill(&guest, &path, 15, 10_000).await;
    assert_eq!(kinds(&events), ["signal", "exited", "complete"]);
    assert_eq!(events[0]["signal"], "SIGTERM");
    assert_eq!(events[2]["exit_code"], 143);

    let (_, list) = guest.json(Method::GET, "/v1/sessions", "").await;
    assert_eq!(list, json!({"sessions": []}));
    assert_eq!(guest.json(Method::GET, &path, "").await.0, StatusCode::NOT_FOUND);
    let body = r#"{"signal":15,"timeout_ms":0}"#;
    let again = guest.json(Method::POST, &format!("{path}/kill"), body).await;
    assert_eq!(again.0, StatusCode::GONE, "{again:?}");
    let never = guest.json(Method::POST, "/v1/sessions/1/kill", body).await;
    assert_eq!(never.0, StatusCode::NOT_FOUND);
}

pub(crate) async fn kill(
    guest: &crate::guest::Client,
    path: &str,
    signal: i32,
    timeout_ms: u64,
) -> Vec<Value> {
    let body = json!({"signal": signal, "timeout_ms": timeout_ms}).to_string();
    let (status, body) = guest.call(Method::POST, &format!("{path}/kill"), body).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    body.split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

pub(crate) fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_deaf_process_is_killed_after_the_timeout() {
    let guest = guest();
    let create = sh("trap '' TERM; echo ready; while :; do sleep 1; done");
    let session = guest.start(&create).await;
    let mut follower = guest.attach(session.session_id, "a&owner=true").await.unwrap();
    follower.wait_for("ready").await;
    let path = format!("/v1/sessions/{}", session.session_id);
    let events = kill(&guest, &path, 15, 50).await;
    assert_eq!(kinds(&events), ["signal", "timeout", "signal", "killed", "complete"]);
    assert_eq!(events[4]["exit_code"], 137);
    assert_eq!(follower.finish().await, 137);
}

#[tokio::test]
async fn a_zero_timeout_sends_and_returns() {
    let guest = guest();
    let session = guest.start(&command(&["sleep", "100"])).await;
    let path = format!("/v1/sessions/{}", session.session_id);
    let events = kill(&guest, &path, 9, 0).await;
    assert_eq!(kinds(&events), ["signal", "complete"]);
    assert!(events[1].get("exit_code").is_none());
}

#[tokio::test]
async fn a_daemon_outlives_its_command_and_does_not_delay_it() {
    let guest = guest();
    let create = sh("(while :; do echo noise; sleep 0.01; done) & echo $! > pid; echo started");
    let (follower, code) = guest.run(&create, b"").await;
    assert_eq!(code, 0);
    assert!(follower.stdout.starts_with(b"started\n") || follower.stdout.starts_with(b"noise\n"));
    let pid = std::fs::read_to_string(guest.home.path().join("pid")).unwrap();
    let pid: i32 = pid.trim().parse().unwrap();
    // It goes on writing into a pipe that nobody reads for its sake.
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn bad_requests_are_refused_in_words() {
    let guest = guest();
    for (body, text) in [
        ("nonsense", "not valid"),
        (r#"{"request_id":"r","argv":[]}"#, "no command"),
        (r#"{"request_id":"r","argv":["a\u0000b"]}"#, "NUL"),
        (r#"{"request_id":"r","argv":["a"],"env":[["","x"]]}"#, "without a name"),
        (r#"{"request_id":"r","argv":"sh"}"#, "not valid"),
    ] {
        let (status, answer) = guest.json(Method::POST, "/v1/sessions", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer["message"].as_str().unwrap().contains(text), "{answer}");
    }
    let huge = vec![b' '; 5 << 20];
    let (status, _) = guest.json(Method::POST, "/v1/sessions", huge).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = guest.json(Method::GET, "/v1/nothing", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = guest.json(Method::PUT, "/v1/sessions", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, _) = guest.json(Method::GET, "/v1/sessions/abc", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = guest.json(Method::GET, "/v1/sessions/1/stream?attachment=a", "").await;
    assert_eq!(status, StatusCode::UPGRADE_REQUIRED);
}

#[tokio::test]
async fn a_hundred_commands_at_once_all_succeed() {
    let guest = guest();
    let runs = (0..100).map(|i| {
        let guest = &guest;
        async move {
            let (follower, code) = guest.run(&sh(&format!("echo {i}; exit {i}")), b"").await;
            assert_eq!(follower.stdout, format!("{i}\n").as_bytes());
            assert_eq!(code, i);
        }
    });
    futures::future::join_all(runs).await;
}

#[tokio::test]
async fn shutdown_ends_even_the_deaf_and_answers_when_they_are_gone() {
    let guest = guest();
    let polite = guest.start(&command(&["sleep", "100"])).await;
    let mut follower = guest.attach(polite.session_id, "a&owner=true").await.unwrap();
    let (status, _) = guest.call(Method::POST, "/v1/shutdown", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(follower.finish().await, 143);
    guest.guest.wait_down().await;
}

#[tokio::test]
async fn identity_can_be_set_later() {
    let guest = guest();
    let body = json!({"hostname":"n","sprite_id":"i","sprite_name":"n","org":"o","url":"u2",
        "environment":[["NEW","1"]]});
    let (status, _) = guest.call(Method::PUT, "/v1/identity", body.to_string()).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (follower, _) = guest.run(&sh("echo $NEW/$SPRITE_URL/$FROM_SPRITE"), b"").await;
    assert_eq!(follower.stdout, b"1/u2/\n");
    let (_, health) = guest.json(Method::GET, "/v1/health", "").await;
    assert_eq!(health["machine_id"], json!(guest.guest.machine_id().to_string()));
}

/// What a protocol breaker sends must cost it its stream, not the session.
#[tokio::test]
async fn damaged_frames_end_the_stream_only() {
    let guest = guest();
    let create = SessionCreate { stdin: true, ..command(&["cat"]) };
    let session = guest.start(&create).await;
    let mut bad = guest.attach(session.session_id, "bad&owner=true").await.unwrap();
    bad.send(SessionFrame::Input { offset: 7, bytes: "x".into() }).await;
    assert_eq!(bad.frame().await, None);
    let mut good = guest.attach(session.session_id, "good").await.unwrap();
    good.send_all(b"hello").await;
    assert_eq!(good.finish().await, 0);
    assert_eq!(good.stdout, b"hello");
}
