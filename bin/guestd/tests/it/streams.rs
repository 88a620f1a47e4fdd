//! Following sessions: terminals, scrollback, broken streams, clients that go away.

use std::sync::{Arc, Mutex};

use hyper_util::service::TowerToHyperService;
use sprite_link::guest::SessionCreate;
use sprite_link::session::SessionFrame;
use sprite_linkmux::{Dial, Dialing, GuestIdentity, GuestLink, HostIdentity, HostLink, Io};

use crate::guest::{Client, Step, command, guest, sh};

fn terminal(create: SessionCreate) -> SessionCreate {
    SessionCreate { tty: true, cols: Some(80), rows: Some(24), ..create }
}

#[tokio::test]
async fn a_terminal_has_its_size_from_the_start() {
    let guest = guest();
    let (follower, code) = guest.run(&terminal(sh("stty size; tty; echo $TERM")), b"").await;
    let text = String::from_utf8(follower.stdout).unwrap();
    assert!(text.starts_with("24 80\r\n/dev/pts/"), "{text:?}");
    assert!(text.ends_with("xterm-256color\r\n"), "{text:?}");
    assert_eq!(code, 0);
}

#[tokio::test]
async fn a_terminal_is_resized_and_takes_typed_bytes() {
    let guest = guest();
    let script =
        "trap 'stty size' WINCH; echo ready; while ! read line; do :; done; echo got $line";
    let session = guest.start(&terminal(sh(script))).await;
    let mut follower = guest.attach(session.session_id, "a&owner=true").await.unwrap();
    follower.wait_for("ready").await;
    follower.send(SessionFrame::Resize { cols: 120, rows: 40 }).await;
    follower.wait_for("40 120").await;
    let view = guest.guest.sessions().get(session.session_id).unwrap();
    assert_eq!((view.cols, view.rows), (120, 40));
    follower.send_input(b"typed\r").await;
    follower.wait_for("got typed").await;
    assert_eq!(follower.finish().await, 0);
}

#[tokio::test]
async fn a_terminals_signal_reaches_its_foreground_group() {
    let guest = guest();
    let script = "set -m; sh -c 'trap \"echo child; exit 3\" INT; echo ready; \
                  while :; do sleep 0.1; done'; echo shell $?";
    let session = guest.start(&terminal(sh(script))).await;
    let mut follower = guest.attach(session.session_id, "a&owner=true").await.unwrap();
    follower.wait_for("ready").await;
    follower.send(SessionFrame::Signal { number: 2 }).await;
    follower.wait_for("shell 3").await;
    assert_eq!(follower.finish().await, 0);
}

#[tokio::test]
async fn a_signal_reaches_the_process_group() {
    let guest = guest();
    let session = guest.start(&sh("sleep 100 & sleep 100; echo not reached")).await;
    let mut follower = guest.attach(session.session_id, "a&owner=true").await.unwrap();
    follower.send(SessionFrame::Signal { number: 15 }).await;
    assert_eq!(follower.finish().await, 143);
}

#[tokio::test]
async fn who_attaches_later_sees_what_was_printed() {
    let guest = guest();
    let create =
        SessionCreate { detachable: true, stdin: true, ..sh("echo first; cat; echo last >&2") };
    let session = guest.start(&create).await;
    let mut first = guest.attach(session.session_id, "a&owner=true").await.unwrap();
    first.wait_for("first").await;
    first.send(SessionFrame::Detach).await;
    assert_eq!(first.frame().await, None);

    let mut second = guest.attach(session.session_id, "b").await.unwrap();
    let mut third = guest.attach(session.session_id, "c").await.unwrap();
    second.wait_for("first").await;
    second.send_all(b"second\n").await;
    assert_eq!(second.finish().await, 0);
    assert_eq!(third.finish().await, 0);
    assert_eq!(second.stdout, b"first\nsecond\n");
    assert_eq!(third.stdout, second.stdout);
    assert_eq!(third.stderr, b"last\n");
    let late = guest.attach(session.session_id, "d").await;
    assert_eq!(late.err(), Some(http::StatusCode::NOT_FOUND));
}

#[tokio::test]
async fn the_creator_still_gets_everything_of_a_command_that_is_over() {
    let guest = guest();
    let session = guest.start(&sh("echo quick; exit 7")).await;
    let mut live = guest.guest.sessions().live();
    live.wait_for(|live| *live == 0).await.unwrap();
    let other = guest.attach(session.session_id, "other").await;
    assert_eq!(other.err(), Some(http::StatusCode::NOT_FOUND));
    let mut owner = guest.attach(session.session_id, "a&owner=true").await.unwrap();
    assert_eq!(owner.finish().await, 7);
    assert_eq!(owner.stdout, b"quick\n");
}

/// 40 MiB through a stream that is cut again and again: all of it, once, in order.
#[tokio::test]
async fn output_survives_broken_streams() {
    let guest = guest();
    let session = guest.start(&command(&["seq", "5000000"])).await;
    let (mut got, mut end, mut exit) = (Vec::new(), 0, None);
    let mut cuts = 0;
    while exit.is_none() {
        let query = format!("a&owner=true&from={end}");
        let mut follower = guest.attach(session.session_id, &query).await.unwrap();
        assert_eq!(follower.end, end);
        for _ in 0..=cuts % 23 {
            exit = follower.step().await;
            if exit.is_some() {
                follower.send(SessionFrame::Detach).await;
                break;
            }
        }
        got.append(&mut follower.stdout);
        end = follower.end;
        cuts += 1;
    }
    assert_eq!(exit, Some(0));
    assert!(cuts > 20, "{cuts}");
    let expected: String = (1..=5_000_000).map(|i| format!("{i}\n")).collect();
    assert!(got == expected.as_bytes(), "{} of {} bytes", got.len(), expected.len());
}

/// Input sent again after a break is not written twice.
#[tokio::test]
async fn input_survives_broken_streams() {
    let guest = guest();
    let create = SessionCreate { stdin: true, ..command(&["cat"]) };
    let session = guest.start(&create).await;
    let input: Vec<u8> = (0..400_000_u32).map(|i| (i % 253) as u8).collect();
    let mut sent = 0_usize;
    let mut got = Vec::new();
    for cut in 1.. {
        let query = format!("a&owner=true&from={}", got.len());
        let mut follower = guest.attach(session.session_id, &query).await.unwrap();
        // Go back a little further than needed, as a host does that lost the last ack.
        follower.input = follower.input.saturating_sub(cut % 5 * 1000);
        let start = usize::try_from(follower.input).unwrap();
        let stop = (start + 30_000).min(input.len());
        follower.send_input(&input[start..stop]).await;
        sent = sent.max(stop);
        if sent == input.len() {
            follower.send(SessionFrame::InputEof { offset: follower.input }).await;
            assert_eq!(follower.finish().await, 0);
            got.append(&mut follower.stdout);
            break;
        }
        while got.len() + follower.stdout.len() < sent {
            assert_eq!(follower.step().await, None);
        }
        got.append(&mut follower.stdout);
    }
    assert!(got == input, "{} of {} bytes", got.len(), input.len());
}

/// Input that nobody takes must not stand in the way of a signal behind it.
#[tokio::test]
async fn signals_pass_input_that_is_stuck() {
    let guest = guest();
    let create = SessionCreate { stdin: true, ..command(&["sleep", "100"]) };
    let session = guest.start(&create).await;
    let mut follower = guest.attach(session.session_id, "a&owner=true").await.unwrap();
    // The pipe takes what fits and acknowledges it; the rest of the window stays.
    let chunk = vec![0; 64 * 1024];
    while follower.input < (1 << 20) + follower.acked {
        follower.send_input(&chunk).await;
        if follower.input == 1 << 20 {
            follower.step().await;
        }
    }
    follower.send(SessionFrame::Signal { number: 15 }).await;
    assert_eq!(follower.finish().await, 143);
}

#[tokio::test]
async fn a_slow_reader_holds_the_process_back() {
    let guest = guest();
    let create = sh("i=0; while [ $i -lt 64 ]; do head -c 65536 /dev/zero; i=$((i+1)); \
                     echo $i > progress; done");
    let session = guest.start(&create).await;
    let mut follower = guest.attach(session.session_id, "a&owner=true").await.unwrap();
    // The window and the pipe hold about 2 MiB of the 4; then nothing moves any more.
    let progress = || {
        let text = std::fs::read_to_string(guest.home.path().join("progress"));
        text.ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0)
    };
    let (mut before, mut still) = (0, 0);
    while still < 20 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        let now = progress();
        still = if now == before && now > 0 { still + 1 } else { 0 };
        before = now;
    }
    assert!((16..60).contains(&before), "{before}");
    assert_eq!(follower.finish().await, 0);
    assert_eq!(follower.stdout.len(), 4 << 20);
}

/// A host that loses the link again and again.
struct Cutting {
    guest: sprite_guestd::Guest,
    link: GuestLink,
    task: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>>,
}

impl Dial for Cutting {
    fn dial(&self) -> Dialing<'_> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (link, guest) = (self.link.clone(), self.guest.clone());
        let task = tokio::spawn(async move {
            let service = TowerToHyperService::new(sprite_guestd::router(guest));
            let _ = link.serve_io(theirs, service).await;
        });
        *self.task.lock().unwrap() = Some(task);
        Box::pin(async { Ok(Box::new(ours) as Box<dyn Io>) })
    }
}

/// The whole way under a link that is cut again and again: complete, in order, nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_survives_a_link_that_is_cut_under_load() {
    let guest = guest();
    let secret = "7".repeat(64);
    let identity = GuestIdentity {
        machine_id: guest.guest.machine_id().clone(),
        boot_id: guest.guest.boot_id().clone(),
        secret: secret.clone(),
    };
    let task = Arc::new(Mutex::new(None));
    let dial =
        Cutting { guest: guest.guest.clone(), link: GuestLink::new(identity), task: task.clone() };
    let machine_id = guest.guest.machine_id().clone();
    let client = Client::Link(HostLink::connect(HostIdentity { machine_id, secret }, dial));
    let session = client.start(&command(&["seq", "3000000"])).await;
    let (mut got, mut end, mut cuts) = (Vec::new(), 0, 0);
    let exit = 'session: loop {
        let query = format!("a&owner=true&from={end}");
        let Ok(mut follower) = client.try_attach(session.session_id, &query).await else {
            continue;
        };
        assert_eq!(follower.end, end);
        let mut steps = 0;
        loop {
            match follower.try_step().await {
                Step::Frame => {
                    steps += 1;
                    // While more is under way.
                    if steps % 20 == 0
                        && let Some(task) = task.lock().unwrap().take()
                    {
                        task.abort();
                        cuts += 1;
                    }
                }
                Step::Exit(code) => {
                    got.append(&mut follower.stdout);
                    break 'session code;
                }
                Step::Broken => break,
            }
        }
        got.append(&mut follower.stdout);
        end = follower.end;
    };
    assert_eq!(exit, 0);
    assert!(cuts > 10, "{cuts}");
    let expected: String = (1..=3_000_000).map(|i| format!("{i}\n")).collect();
    assert!(got == expected.as_bytes(), "{} of {} bytes", got.len(), expected.len());
}
