//! Commands over WebSocket: the contract's test vectors, and what can go wrong.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::world::{Outcome, eventually, q, world, world_with_sprite};

fn sh(script: &str) -> String {
    format!("cmd=sh&cmd=-c&cmd={}", q(script))
}

#[track_caller]
fn ended(outcome: &Outcome, code: u8) {
    assert_eq!(outcome.exit, Some(code), "{outcome:?}");
    assert_eq!(outcome.close, Some(1000), "{outcome:?}");
}

/// Vectors 1, 3, 4, 5, 6, 9, 17 and 20.
#[tokio::test]
async fn plain_commands_end_with_their_output_and_code() {
    let world = world_with_sprite().await;
    let outcome = world.run("cmd=echo&cmd=hello&cmd=world&path=echo").await;
    assert_eq!(outcome.out(), "hello world\n");
    assert_eq!(outcome.info["tty"], false);
    assert_eq!(outcome.info["is_owner"], true);
    assert_eq!(outcome.info["cols"], 80);
    assert!(outcome.info["session_id"].as_str().unwrap().bytes().all(|b| b.is_ascii_digit()));
    assert!(outcome.info["command"].as_str().unwrap().ends_with("echo hello world"));
    ended(&outcome, 0);

    assert_eq!(world.run("cmd=pwd&dir=%2Ftmp").await.out(), "/tmp\n");
    let outcome = world.run("cmd=env&env=A%3D1&env=B%3D2+3").await;
    for line in ["A=1\n", "B=2 3\n", "HOME=", "PATH="] {
        assert!(outcome.out().contains(line), "{line}: {}", outcome.out());
    }
    ended(&world.run(&sh("exit 42")).await, 42);
    let outcome = world.run("cmd=tty").await;
    assert_eq!(outcome.out(), "not a tty\n");
    ended(&outcome, 1);
    let outcome = world.run(&sh("echo out; echo err >&2")).await;
    assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("out\n", "err\n"));
    let outcome = world.run("cmd=no-such-cmd").await;
    assert!(outcome.err().contains("no-such-cmd"), "{outcome:?}");
    ended(&outcome, 127);
    let outcome = world.run("cmd=true&dir=%2Fno%2Fsuch%2Fdir").await;
    assert!(!outcome.err().is_empty());
    ended(&outcome, 1);
    let outcome = world.run(&sh(r"printf '\000\001\003\377'")).await;
    assert_eq!(outcome.stdout, [0, 1, 3, 255]);
    ended(&outcome, 0);
}

/// Vectors 7 and 8, and the close code that tells JavaScript the exit code.
#[tokio::test]
async fn a_terminal_has_its_size_before_the_command_runs() {
    let world = world_with_sprite().await;
    let outcome = world.run("cmd=stty&cmd=size&tty=true&rows=33&cols=99").await;
    assert_eq!(outcome.out(), "33 99\r\n");
    assert_eq!((outcome.exit, outcome.close), (None, Some(1000)));
    assert_eq!(outcome.texts, [json!({"type": "exit", "exit_code": 0, "code": 0})]);
    let outcome = world.run("cmd=tty&tty=true").await;
    assert!(outcome.out().starts_with("/dev/pts/"), "{outcome:?}");

    let target = "/v1/sprites/box/exec?cmd=sh&tty=true&stdin=true";
    let mut socket = world.socket(target).await.unwrap();
    socket.info().await;
    socket.send(Message::text(r#"{"type":"resize","cols":120,"rows":40}"#)).await;
    socket.send(Message::text("stty size; exit 2\r")).await;
    let outcome = socket.outcome().await;
    assert!(outcome.out().contains("40 120\r\n"), "{outcome:?}");
    assert_eq!(outcome.close, Some(4002));
    let outcome = world.run("cmd=no-such-cmd&tty=true").await;
    assert_eq!(outcome.close, Some(4127));
}

/// Vector 10, also as one message of 64 MiB and in fragments.
#[tokio::test]
async fn input_of_any_size_arrives_whole() {
    let world = world_with_sprite().await;
    let target = "/v1/sprites/box/exec?cmd=cat&stdin=true";
    let data: Vec<u8> = (0..1_048_576).map(|i| (i * 7 % 251) as u8).collect();
    let mut socket = world.socket(target).await.unwrap();
    for piece in data.chunks(4096) {
        socket.send_bytes(&[&[0], piece].concat()).await;
    }
    socket.send_bytes(&[4]).await;
    let outcome = socket.outcome().await;
    assert!(outcome.stdout == data);
    ended(&outcome, 0);

    let target = format!("/v1/sprites/box/exec?{}&stdin=true", sh("sha256sum; cat"));
    let mut socket = world.socket(&target).await.unwrap();
    let mut big = vec![0; 64 * 1024 * 1024 + 1];
    big[1..].iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 253) as u8);
    socket.send_bytes(&big).await;
    socket.send_bytes(&[4]).await;
    let outcome = socket.outcome().await;
    let sum = tokio::process::Command::new("sh")
        .args(["-c", "python3 -c 'import sys; p=bytes(i % 253 for i in range(253)); n=64*1024*1024; sys.stdout.buffer.write((p*(n//253+1))[:n])' | sha256sum"])
        .output()
        .await
        .unwrap();
    assert_eq!(outcome.out(), String::from_utf8_lossy(&sum.stdout));
    ended(&outcome, 0);
}

#[tokio::test]
async fn input_is_ignored_unless_it_was_asked_for() {
    let world = world_with_sprite().await;
    let mut socket = world.socket("/v1/sprites/box/exec?cmd=cat&stdin=false").await.unwrap();
    socket.send_bytes(b"\x00ignored").await;
    socket.send_bytes(&[4]).await;
    let outcome = socket.outcome().await;
    assert_eq!(outcome.out(), "");
    ended(&outcome, 0);
}

/// Vector 11.
#[tokio::test]
async fn a_signal_ends_the_command() {
    let world = world_with_sprite().await;
    for signal in [r#""TERM""#, r#""SIGTERM""#, "15"] {
        let mut socket = world.socket("/v1/sprites/box/exec?cmd=sleep&cmd=100").await.unwrap();
        assert_eq!(socket.headers["x-sprite-capabilities"], "signal");
        assert_eq!(socket.headers["sprite-version"], "0.0.1-rc50");
        socket.info().await;
        socket.send(Message::text(format!(r#"{{"type":"signal","signal":{signal}}}"#))).await;
        let outcome = socket.outcome().await;
        assert_eq!(outcome.exit, Some(143), "{outcome:?}");
    }
}

/// Vector 13.
#[tokio::test]
async fn a_daemon_started_by_a_short_command_survives_it() {
    let world = world_with_sprite().await;
    let marker = world.dir.path().join("done");
    let script = format!("(sleep 1; echo x > {}) & echo started", marker.display());
    let outcome = world.run(&sh(&script)).await;
    assert_eq!(outcome.out(), "started\n");
    ended(&outcome, 0);
    assert!(!marker.exists(), "the answer did not wait for it");
    eventually("the daemon finished", async || marker.exists()).await;
}

/// Vector 14, with a shorter limit.
#[tokio::test]
async fn an_abandoned_command_is_ended_after_its_limit() {
    let world = world_with_sprite().await;
    let target = "/v1/sprites/box/exec?cmd=sleep&cmd=1000&max_run_after_disconnect=500ms";
    let mut socket = world.socket(target).await.unwrap();
    socket.info().await;
    let count =
        async || world.call("GET", "/v1/sprites/box/exec", "").await.json()["count"].clone();
    assert_eq!(count().await, 1);
    drop(socket);
    eventually("the session is gone", async || count().await == 0).await;
}

/// Vectors 15 and 16, in every form of the URL.
#[tokio::test]
async fn a_detached_terminal_can_be_attached_again() {
    let world = world_with_sprite().await;
    let target = "/v1/sprites/box/exec?cmd=sh&tty=true&detachable=true";
    let mut socket = world.socket(target).await.unwrap();
    let id = socket.info().await["session_id"].as_str().unwrap().to_owned();
    socket.send_bytes(b"echo mar''ker\r").await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("marker\r\n") {
        let Some(Message::Binary(bytes)) = socket.next().await else { continue };
        seen.extend_from_slice(&bytes);
    }
    drop(socket);
    for form in [
        format!("exec/{id}?rows=50&cols=60&cmd=ignored"),
        format!("exec?id={id}"),
        format!("exec?session_id={id}&path=&cmd="),
    ] {
        let mut socket = world.socket(&format!("/v1/sprites/box/{form}")).await.unwrap();
        let info = socket.info().await;
        assert_eq!(info["session_id"], *id);
        assert_eq!((info["tty"].clone(), info["is_owner"].clone()), (json!(true), json!(false)));
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("marker\r\n") {
            let Some(Message::Binary(bytes)) = socket.next().await else { continue };
            seen.extend_from_slice(&bytes);
        }
    }
    let mut socket = world.socket(&format!("/v1/sprites/box/exec/{id}")).await.unwrap();
    socket.info().await;
    socket.send_bytes(b"exit 5\r").await;
    assert_eq!(socket.outcome().await.close, Some(4005));
    for unknown in ["exec/999999999", "exec?id=999999999", "exec/nonsense", "exec/-1"] {
        let refused = world.socket(&format!("/v1/sprites/box/{unknown}")).await;
        let answer = refused.err().expect("refused at the handshake");
        assert_eq!(answer.status, 404, "{unknown}");
        assert!(answer.json()["error"].as_str().unwrap().starts_with("session not found: "));
    }
}

#[tokio::test]
async fn two_clients_see_the_same_output_and_both_may_type() {
    let world = world_with_sprite().await;
    let target = "/v1/sprites/box/exec?cmd=cat&stdin=true&detachable=true";
    let mut one = world.socket(target).await.unwrap();
    let id = one.info().await["session_id"].as_str().unwrap().to_owned();
    let mut two = world.socket(&format!("/v1/sprites/box/exec/{id}")).await.unwrap();
    two.info().await;
    two.send_bytes(b"\x00from two\n").await;
    for socket in [&mut one, &mut two] {
        assert_eq!(socket.next().await, Some(Message::Binary(b"\x01from two\n"[..].into())));
    }
    one.send_bytes(&[4]).await;
    ended(&one.outcome().await, 0);
    ended(&two.outcome().await, 0);
}

/// Vector 19.
#[tokio::test]
async fn many_commands_run_at_once() {
    let world = world_with_sprite().await;
    let runs = (0..100).map(|i| {
        let world = &world;
        async move {
            let outcome = world.run(&format!("cmd=echo&cmd={i}")).await;
            assert_eq!(outcome.out(), format!("{i}\n"));
            ended(&outcome, 0);
        }
    });
    futures::future::join_all(runs).await;
}

/// Vector 21.
#[tokio::test]
async fn an_argument_may_be_long_and_a_too_long_one_ends_in_126() {
    let world = world_with_sprite().await;
    let outcome = world.run(&sh(&format!(": {}; echo ok", "x".repeat(60 * 1024)))).await;
    assert_eq!(outcome.out(), "ok\n");
    let outcome = world.run(&format!("cmd=echo&cmd={}", "x".repeat(200 * 1024))).await;
    assert!(!outcome.err().is_empty());
    ended(&outcome, 126);
    // Many arguments of bearable length, close to 1 MiB together.
    let many = "&cmd=".to_owned() + &"y".repeat(100_000);
    let outcome = world.run(&format!("cmd=sh&cmd=-c&cmd=echo+%24%23{}", many.repeat(9))).await;
    assert_eq!(outcome.out(), "8\n", "the first of nine is $0");
    let too_long = format!("cmd={}", "x".repeat(1024 * 1024));
    let refused = world.socket(&format!("/v1/sprites/box/exec?{too_long}")).await;
    assert_eq!(refused.err().expect("refused").status, 414);
}

#[tokio::test]
async fn much_output_arrives_complete() {
    let world = world_with_sprite().await;
    let started = Instant::now();
    let outcome = world.run(&sh("head -c 100000000 /dev/zero")).await;
    assert_eq!(outcome.stdout.len(), 100_000_000);
    eprintln!("100 MB in {:?}", started.elapsed());
    ended(&outcome, 0);
}

/// The child must stop rather than our memory grow, and go on when the client reads again.
#[tokio::test]
async fn a_slow_reader_holds_the_command_back() {
    let world = world_with_sprite().await;
    let counter = world.dir.path().join("count");
    let script = format!(
        "i=0; while [ $i -lt 400 ]; do head -c 100000 /dev/zero; i=$((i+1)); echo $i > {}; done",
        counter.display()
    );
    let target = format!("/v1/sprites/box/exec?{}", sh(&script));
    let mut socket = world.socket(&target).await.unwrap();
    socket.info().await;
    let progress = || std::fs::read_to_string(&counter).unwrap_or_default();
    // Wait until it stands still.
    let mut last = String::new();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = progress();
        if now == last && !now.is_empty() {
            break;
        }
        last = now;
    }
    let written: usize = last.trim().parse().unwrap();
    assert!(written < 350, "{written} of 400 were written though nobody reads");
    let outcome = socket.outcome().await;
    assert_eq!(outcome.stdout.len(), 40_000_000);
    ended(&outcome, 0);
}

#[tokio::test]
async fn garbage_from_a_client_disturbs_nobody() {
    let world = world_with_sprite().await;
    let mut socket = world.socket("/v1/sprites/box/exec?cmd=cat&stdin=true").await.unwrap();
    socket.info().await;
    for stray in [&b""[..], b"\x00", b"\x01x", b"\x02", b"\x03\x07", b"\x05", b"\xff\xff"] {
        socket.send_bytes(stray).await;
    }
    for stray in ["", "{", "[]", "null", r#"{"type":1}"#, r#"{"type":"resize","cols":-1}"#] {
        socket.send(Message::text(stray)).await;
    }
    socket.send_bytes(b"\x00fine\n").await;
    socket.send_bytes(&[4]).await;
    let outcome = socket.outcome().await;
    assert_eq!(outcome.out(), "fine\n");
    ended(&outcome, 0);

    // Bytes that are no WebSocket frames at all.
    let mut socket = world.socket("/v1/sprites/box/exec?cmd=sleep&cmd=5").await.unwrap();
    socket.info().await;
    let stream = socket.inner.get_mut();
    tokio::io::AsyncWriteExt::write_all(stream, &[0xff; 1000]).await.unwrap();
    while socket.next().await.is_some() {}
    ended(&world.run("cmd=true").await, 0);
}

#[tokio::test]
async fn commands_wait_for_a_sprite_that_is_still_booting() {
    let world = world().await;
    for name in ["a", "b", "c"] {
        let body = format!(r#"{{"name":"{name}"}}"#);
        assert_eq!(world.call("POST", "/v1/sprites", body).await.status, 201);
        let target = format!("/v1/sprites/{name}/exec?cmd=cat&stdin=true");
        let mut socket = world.socket(&target).await.unwrap();
        // Before anybody can have attached.
        socket.send_bytes(b"\x00early").await;
        socket.send_bytes(&[4]).await;
        assert_eq!(socket.outcome().await.out(), "early");
    }
}

/// Whoever deletes a sprite must not leave clients waiting.
#[tokio::test]
async fn deleting_a_sprite_closes_its_sockets() {
    let world = world_with_sprite().await;
    let mut socket = world.socket("/v1/sprites/box/exec?cmd=sleep&cmd=1000").await.unwrap();
    socket.info().await;
    assert_eq!(world.call("DELETE", "/v1/sprites/box", "").await.status, 204);
    assert_eq!(world.call("GET", "/v1/sprites/box", "").await.status, 404);
    let outcome = socket.outcome().await;
    assert!(outcome.close.is_some(), "{outcome:?}");
}

#[tokio::test]
async fn the_servers_end_closes_sockets_with_1001_and_leaves_sessions() {
    let world = world_with_sprite().await;
    let target = "/v1/sprites/box/exec?cmd=sleep&cmd=1000&tty=true&detachable=true";
    let mut socket = world.socket(target).await.unwrap();
    socket.info().await;
    world.shutdown.cancel();
    let outcome = socket.outcome().await;
    assert_eq!(outcome.close, Some(1001), "{outcome:?}");
    assert!(outcome.texts.is_empty(), "no exit: it runs on");
    let name = "box".parse().unwrap();
    let guest = world.sprites.guest(&world.org.id, &name).await.unwrap();
    let request = http::Request::get("/v1/sessions").body(axum::body::Body::empty()).unwrap();
    let answer = guest.link.send(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("session_id"), "{body:?}");
    world.sprites.stop_all().await;
}

#[tokio::test]
async fn sessions_are_listed_looked_at_and_killed() {
    let world = world_with_sprite().await;
    let mut socket = world.socket("/v1/sprites/box/exec?cmd=sleep&cmd=1000").await.unwrap();
    let id = socket.info().await["session_id"].as_str().unwrap().to_owned();
    let list = world.call("GET", "/v1/sprites/box/exec", "").await.json();
    assert_eq!(list["count"], 1);
    let session = &list["sessions"][0];
    assert_eq!(session["id"], *id);
    assert!(session["command"].as_str().unwrap().ends_with("sleep 1000"));
    assert!(session["bytes_per_second"].is_number());
    let one = world.call("GET", &format!("/v1/sprites/box/exec/{id}"), "").await.json();
    assert_eq!(one["id"], *id);

    let kill = format!("/v1/sprites/box/exec/{id}/kill");
    assert_eq!(world.call("POST", &format!("{kill}?signal=BOGUS"), "").await.status, 400);
    let answer = world.call("POST", &kill, r#"{"signal":"SIGTERM","timeout":5}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let kinds: Vec<_> = String::from_utf8_lossy(&answer.body)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| (event["type"].as_str().unwrap().to_owned(), event["exit_code"].clone()))
        .collect();
    let expected = [("signal", json!(null)), ("exited", json!(null)), ("complete", json!(143))];
    assert_eq!(kinds, expected.map(|(kind, code)| (kind.to_owned(), code)));
    assert_eq!(socket.outcome().await.exit, Some(143));
    assert_eq!(world.call("POST", &kill, "").await.status, 410);
    let missing = world.call("POST", "/v1/sprites/box/exec/77777777/kill", "").await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["error"], "session not found: 77777777");
    assert_eq!(world.call("GET", "/v1/sprites/box/exec/77777777", "").await.status, 404);
    assert_eq!(world.call("GET", "/v1/sprites/box/exec", "").await.json()["count"], 0);
}

/// Some clients report an error unless their close is answered.
#[tokio::test]
async fn a_clients_close_is_answered() {
    let world = world_with_sprite().await;
    let target = "/v1/sprites/box/exec?cmd=sleep&cmd=1000&detachable=true";
    let mut socket = world.socket(target).await.unwrap();
    socket.info().await;
    socket.send(Message::Close(None)).await;
    assert!(matches!(socket.next().await, Some(Message::Close(_))));
    assert!(socket.next().await.is_none());
    assert_eq!(world.call("GET", "/v1/sprites/box/exec", "").await.json()["count"], 1);
}

/// Without an answer to its close, the JavaScript SDK reports an error to whoever detaches.
#[tokio::test]
async fn a_client_that_closes_is_answered() {
    let world = world_with_sprite().await;
    for tty in [false, true] {
        let target = format!("/v1/sprites/box/exec?cmd=sleep&cmd=1000&tty={tty}&stdin=true");
        let mut socket = world.socket(&target).await.unwrap();
        socket.info().await;
        socket.send(Message::Close(None)).await;
        while let Some(message) = futures::StreamExt::next(&mut socket.inner).await {
            message.expect("the server closes in order");
        }
    }
}

/// A flood of output must not drown the farewell: the guest would wait for us to come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_in_a_flood_is_gone_at_once() {
    let world = world_with_sprite().await;
    for _ in 0..10 {
        let target = "/v1/sprites/box/exec?cmd=yes&max_run_after_disconnect=100ms";
        let mut socket = world.socket(target).await.unwrap();
        socket.info().await;
        drop(socket);
        let started = Instant::now();
        eventually("its command ends", async || {
            let answer = world.call("GET", "/v1/sprites/box/exec", "").await;
            answer.json()["count"] == 0
        })
        .await;
        // The guest's own patience is 30 s.
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
