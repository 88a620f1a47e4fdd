//! A whole machine: the agent's program, its container, its network, over the link.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use sprite_link::guest::{PortEvent, SessionCreate, SessionCreated};
use sprite_link::session::SessionFrame;

use crate::guest::{Client, Follower, command, sh};
use crate::rootfs::{Machine, can_run};
use crate::sessions::{kill, kinds};

async fn output(client: &Client, script: &str) -> String {
    let (follower, code) = client.run(&sh(script), b"").await;
    let text = String::from_utf8(follower.stdout).unwrap();
    assert_eq!(code, 0, "{text} {}", String::from_utf8_lossy(&follower.stderr));
    text
}

#[tokio::test]
async fn commands_run_inside_as_the_user() {
    if !can_run() {
        return;
    }
    let machine = Machine::boot(Vec::new()).await;
    let client = &machine.client;
    assert_eq!(
        output(client, "id -u; id -g; pwd; hostname").await,
        "1001\n1001\n/home/sprite\ndemo\n"
    );
    let environment = output(client, "echo $HOME $USER $FROM_SPRITE $SPRITE_URL; echo $PATH").await;
    let mut lines = environment.lines();
    assert_eq!(lines.next(), Some("/home/sprite sprite 1 http://demo.test"));
    assert!(lines.next().unwrap().starts_with("/.sprite/bin:/usr/local/sbin:"));

    let hosts = output(client, "cat /etc/hosts /etc/hostname /etc/resolv.conf").await;
    let (address, gateway) = (&machine.network.address, &machine.network.gateway);
    assert!(hosts.contains("1.2.3.4 mine\n") && hosts.contains(&format!("{address}\tdemo\t")));
    assert!(hosts.ends_with(&format!("demo\nnameserver {gateway}\n")), "{hosts}");
    let interfaces = output(client, "ip -o addr show eth0; ip route").await;
    assert!(interfaces.contains(&format!("inet {address}/32")), "{interfaces}");
    assert!(interfaces.contains(&format!("default via {gateway}")), "{interfaces}");

    match client.create(&command(&["no-such-cmd"])).await {
        SessionCreated::Failed { exit_code: 127, message } => {
            assert!(message.contains("no-such-cmd"), "{message}");
        }
        other => panic!("{other:?}"),
    }

    let input = vec![7; 3 << 20];
    let cat = SessionCreate { stdin: true, ..command(&["cat"]) };
    let (follower, code) = client.run(&cat, &input).await;
    assert!(code == 0 && follower.stdout == input);
}

#[tokio::test]
async fn terminals_work_inside() {
    if !can_run() {
        return;
    }
    let machine = Machine::boot(Vec::new()).await;
    let script = "tty; stty size; trap 'echo interrupted; exit 3' INT; echo ready; \
                  while :; do sleep 1; done";
    let create = SessionCreate { tty: true, cols: Some(100), rows: Some(30), ..sh(script) };
    let session = machine.client.start(&create).await;
    let mut follower = machine.client.attach(session.session_id, "a&owner=true").await.unwrap();
    follower.wait_for("ready").await;
    let text = String::from_utf8_lossy(&follower.stdout).into_owned();
    assert!(text.starts_with("/dev/pts/0\r\n30 100\r\n"), "{text:?}");
    follower.send(SessionFrame::Signal { number: 2 }).await;
    follower.wait_for("interrupted").await;
    assert_eq!(follower.finish().await, 3);
}

#[tokio::test]
async fn sessions_are_killed_with_their_group() {
    if !can_run() {
        return;
    }
    let machine = Machine::boot(Vec::new()).await;
    let session = machine.client.start(&sh("sleep 1000 & sleep 1000; true")).await;
    let path = format!("/v1/sessions/{}", session.session_id);
    let events = kill(&machine.client, &path, 15, 10_000).await;
    assert_eq!(kinds(&events), ["signal", "exited", "complete"]);
    assert_eq!(events[2]["exit_code"], 143);
    assert_eq!(output(&machine.client, "ps -o args | grep -c '[s]leep 1000' || true").await, "0\n");
}

#[tokio::test]
async fn files_are_the_containers() {
    if !can_run() {
        return;
    }
    let machine = Machine::boot(Vec::new()).await;
    let client = &machine.client;
    let write = "/v1/fs/write?path=made&workingDir=/home/sprite";
    let (status, answer) = client.json(Method::PUT, write, "hello").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(output(client, "cat made; stat -c %u:%g:%a made").await, "hello1001:1001:644\n");
    let (_, read) = client.call(Method::GET, "/v1/fs/read?path=/etc/hostname", "").await;
    assert_eq!(&read[..], b"demo\n");

    // Links and magic links lead where they lead inside, never to the host.
    output(
        client,
        "ln -s /etc/hostname absolute; ln -s ../../../../../etc/hostname up; \
                    ln -s /proc/self/root/etc/hostname magic; mkfifo pipe",
    )
    .await;
    for path in ["absolute", "up", "magic"] {
        let read = format!("/v1/fs/read?path=/home/sprite/{path}");
        let (status, body) = client.call(Method::GET, &read, "").await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"demo\n"[..]), "{path}");
    }
    let (status, answer) = client.json(Method::GET, "/v1/fs/read?path=/home/sprite/pipe", "").await;
    assert_eq!((status, &answer["code"]), (StatusCode::BAD_REQUEST, &json!("EINVAL")));

    let denied = client.json(Method::PUT, "/v1/fs/write?path=/root/x", "x").await;
    let as_root = client.json(Method::PUT, "/v1/fs/write?path=/root/x&asRoot=true", "x").await;
    assert_eq!(as_root.0, StatusCode::OK, "{as_root:?}");
    println!("without asRoot: {denied:?}");
    let temporary = client.json(Method::PUT, "/v1/fs/write?path=/dev/shm/x", "x").await;
    assert_eq!(temporary.0, StatusCode::OK, "guest mounts are seen: {temporary:?}");
    assert_eq!(output(client, "cat /dev/shm/x").await, "x");

    let big = vec![1; 20 << 20];
    let (status, _) = client.call(Method::PUT, "/v1/fs/write?path=/home/sprite/big", big).await;
    assert_eq!(status, StatusCode::OK);
    let (_, read) = client.call(Method::GET, "/v1/fs/read?path=/home/sprite/big", "").await;
    assert_eq!(read.len(), 20 << 20);
    assert_eq!(output(client, "ls -A /home/sprite | grep -c sprite-write || true").await, "0\n");
}

#[tokio::test]
async fn ports_are_told_to_the_session_that_opens_them() {
    if !can_run() {
        return;
    }
    let machine = Machine::boot(Vec::new()).await;
    let client = &machine.client;
    let session = client.start(&sh("nc -l -p 81 >/dev/null; sleep 1000")).await;
    let mut other = client.start(&sh("sleep 1000")).await;
    other.cols = 0;
    let mut follower = client.attach(session.session_id, "a&owner=true").await.unwrap();
    let opened = port(&mut follower).await;
    assert_eq!((&opened.kind[..], opened.port), ("port_opened", 81));
    assert!(["::", "0.0.0.0"].contains(&&opened.address[..]), "{}", opened.address);
    let (_, list) = client.json(Method::GET, "/v1/ports", "").await;
    let expected = json!({"ports": [{"type": "port_opened", "port": 81, "address": opened.address,
        "pid": opened.pid}]});
    assert_eq!(list, expected);
    let holder = output(client, &format!("cat /proc/{}/comm", opened.pid)).await;
    assert_eq!(holder, "nc\n");
    output(client, "killall nc").await;
    let closed = port(&mut follower).await;
    assert_eq!((&closed.kind[..], closed.port), ("port_closed", 81));
}

/// Waits for a port event, past other output.
async fn port(follower: &mut Follower) -> PortEvent {
    loop {
        match follower.frame().await.expect("no end before the event") {
            SessionFrame::Port(json) => return serde_json::from_slice(&json).unwrap(),
            SessionFrame::Output { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_machine_can_become_another_sprites() {
    if !can_run() {
        return;
    }
    let machine = Machine::boot(Vec::new()).await;
    let body = json!({"hostname": "claimed", "sprite_id": "sprite-y", "sprite_name": "claimed",
        "org": "acme", "url": "http://claimed.test", "environment": [["NEW", "1"]]});
    let (status, _) = machine.client.call(Method::PUT, "/v1/identity", body.to_string()).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let script = "hostname; cat /etc/hostname; echo $NEW$FROM_SPRITE $SPRITE_URL";
    let text = output(&machine.client, script).await;
    assert_eq!(text, "claimed\nclaimed\n1 http://claimed.test\n");
    let hosts = output(&machine.client, "cat /etc/hosts").await;
    assert!(hosts.contains("\tclaimed\t") && !hosts.contains("demo"), "{hosts}");
}

#[tokio::test]
async fn the_management_socket_answers_inside() {
    if !can_run() {
        return;
    }
    let machine = Machine::boot(Vec::new()).await;
    let socket = format!("/proc/{}/root/.sprite/api.sock", machine.init_pid());
    let ask = |path: &str| {
        use std::io::{Read, Write};
        let mut io = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        io.set_read_timeout(Some(crate::guest::PATIENCE)).unwrap();
        write!(io, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).unwrap();
        answer
    };
    let info = ask("/v1/info");
    let body: Value = serde_json::from_str(info.rsplit("\r\n").next().unwrap()).unwrap();
    assert_eq!((&body["sprite_name"], &body["org"]), (&json!("demo"), &json!("acme")), "{info}");
    for (path, status) in [("/v1/services", "501"), ("/v1/tasks/x", "501"), ("/v2", "404")] {
        let answer = ask(path);
        assert!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{answer}");
    }
    let mut io = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    std::io::Write::write_all(
        &mut io,
        b"POST /v1/checkpoint HTTP/1.0\r\nContent-Length: 2\r\n\r\n",
    )
    .unwrap();
    // The body after the head, as simple clients send it.
    std::io::Write::write_all(&mut io, b"{}").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut io, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 501 "), "{answer}");
    let mode = output(&machine.client, "stat -c %a /.sprite/api.sock").await;
    assert_eq!(mode, "666\n");
}

#[tokio::test]
async fn a_shutdown_ends_everything_and_answers() {
    if !can_run() {
        return;
    }
    let mut machine = Machine::boot(Vec::new()).await;
    let create = sh("trap 'exit 9' TERM; echo up; while :; do sleep 1; done");
    let session = machine.client.start(&create).await;
    let mut follower = machine.client.attach(session.session_id, "a&owner=true").await.unwrap();
    follower.wait_for("up").await;
    let (status, _) = machine.client.call(Method::POST, "/v1/shutdown", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(machine.exit_code().await, Some(0));
    // Dropping the machine checks that nothing is left.
}

#[tokio::test]
async fn a_killed_agent_leaves_nothing() {
    if !can_run() {
        return;
    }
    let mut machine = Machine::boot(Vec::new()).await;
    machine.client.start(&sh("(sleep 1000 &) ; sleep 1000")).await;
    machine.agent.kill().unwrap();
    assert_eq!(machine.exit_code().await, None);
    // Dropping the machine checks the rest.
}

#[tokio::test]
async fn a_container_that_ends_by_itself_ends_the_agent_with_a_code() {
    if !can_run() {
        return;
    }
    let mut machine = Machine::boot(Vec::new()).await;
    let (status, answer) = machine.client.json(Method::PUT, "/v1/identity", "{}").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let pid = rustix::process::Pid::from_raw(machine.init_pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(machine.exit_code().await, Some(10));
}
