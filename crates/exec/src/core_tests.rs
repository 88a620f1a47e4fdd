//! A session without a process: what its clients see, whatever they and their streams do.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn query(attachment: &str, owner: bool, from: Option<u64>) -> AttachQuery {
    AttachQuery { attachment: attachment.to_owned(), from, owner, cols: None, rows: None }
}

fn core(now: Instant) -> Core {
    Core::new("7".into(), false, true, Some(Duration::from_secs(10)), now)
}

fn attach(core: &mut Core, id: &str, owner: bool, from: Option<u64>, now: Instant) -> u64 {
    let greet = |from: u64, input: u64| Bytes::from(format!("{from} {input}"));
    core.attach(&query(id, owner, from), greet, now).unwrap().0
}

fn frames(bytes: &Bytes) -> Vec<SessionFrame> {
    let mut bytes = BytesMut::from(&bytes[..]);
    std::iter::from_fn(|| SessionFrame::decode(&mut bytes).unwrap()).collect()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Plays the session's timers until `until`, and returns what they did and when.
fn play(core: &mut Core, start: Instant, until: Instant) -> Vec<(u64, Effect)> {
    let mut seen = Vec::new();
    while let Some(at) = core.deadline().filter(|at| *at <= until) {
        for effect in core.tick(at) {
            seen.push(((at - start).as_secs(), effect));
        }
    }
    seen
}

#[test]
fn an_abandoned_command_is_asked_to_end_and_then_made_to() {
    let start = Instant::now();
    let mut core = core(start);
    let stream = attach(&mut core, "a", true, None, start);
    assert_eq!(play(&mut core, start, start + seconds(100)), []);
    core.frame(stream, SessionFrame::Detach, start + seconds(100)).unwrap();
    let effects = play(&mut core, start, start + seconds(200));
    assert_eq!(effects, [(110, Effect::Terminate), (115, Effect::Kill)]);
}

#[test]
fn who_comes_back_in_time_cancels_the_end() {
    let start = Instant::now();
    let mut core = core(start);
    let stream = attach(&mut core, "a", true, None, start);
    core.frame(stream, SessionFrame::Detach, start).unwrap();
    assert_eq!(play(&mut core, start, start + seconds(9)), []);
    attach(&mut core, "b", false, None, start + seconds(9));
    assert_eq!(play(&mut core, start, start + seconds(500)), []);
}

#[test]
fn a_command_that_nobody_ever_follows_ends_too() {
    let start = Instant::now();
    let mut core = core(start);
    let effects = play(&mut core, start, start + seconds(60));
    assert_eq!(effects, [(10, Effect::Terminate), (15, Effect::Kill)]);
}

/// A broken stream is not a farewell: its attachment counts for another 30 s.
#[test]
fn a_broken_stream_keeps_the_command_for_its_host() {
    let start = Instant::now();
    let mut core = core(start);
    let stream = attach(&mut core, "a", true, None, start);
    core.broken(stream, start + seconds(5));
    let effects = play(&mut core, start, start + seconds(200));
    assert_eq!(effects, [(45, Effect::Terminate), (50, Effect::Kill)]);
}

#[test]
fn a_client_that_is_blocked_is_dropped_after_thirty_seconds() {
    let start = Instant::now();
    let mut core = core(start);
    let stream = attach(&mut core, "a", true, None, start);
    while core.next_batch().is_some() {}
    core.wants(stream, start);
    while core.may_read() {
        core.append(Output::Stdout, &[0; 65536], start + seconds(1));
    }
    assert_eq!(core.log.end(), OUTPUT_WINDOW);
    // Progress of any size buys time.
    while core.next_batch().is_some() {
        core.wants(stream, start + seconds(1));
    }
    core.frame(stream, SessionFrame::OutputAck { offset: 1 }, start + seconds(20)).unwrap();
    assert!(core.may_read());
    core.append(Output::Stdout, &[0; 65536], start + seconds(21));
    assert!(!core.may_read());
    assert_eq!(play(&mut core, start, start + seconds(50)), []);
    let effects = play(&mut core, start, start + seconds(52));
    let [(51, Effect::Close { stream: closed, last })] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(*closed, stream);
    assert_eq!(frames(last.as_ref().unwrap()), [SessionFrame::Dropped]);
    assert!(core.may_read(), "the process goes on");
}

#[test]
fn output_is_kept_from_the_start_until_the_creator_comes() {
    let start = Instant::now();
    let mut core = core(start);
    attach(&mut core, "curious", false, None, start);
    let mut size = 0;
    while core.may_read() {
        core.append(Output::Stdout, &[1; 65536], start);
        size += 65536;
    }
    assert_eq!(size, OUTPUT_WINDOW);
    let owner = attach(&mut core, "a", true, Some(0), start + seconds(29));
    let batch = std::iter::from_fn(|| core.next_batch()).find(|b| b.stream == owner).unwrap();
    assert_eq!(frames(&batch.bytes)[0], SessionFrame::Attached(Bytes::from("0 0")));
}

#[test]
fn the_exit_is_last_and_waits_for_quiet_or_the_end_of_output() {
    let start = Instant::now();
    let mut core = core(start);
    attach(&mut core, "a", true, None, start);
    core.exited(3, start);
    assert!(!core.drain_is_due(start + Duration::from_millis(99)));
    core.append(Output::Stderr, b"late", start + Duration::from_millis(99));
    assert!(!core.drain_is_due(start + Duration::from_millis(198)));
    assert!(core.drain_is_due(start + Duration::from_millis(199)));
    core.output_complete(start + Duration::from_millis(199));
    let batch = core.next_batch().unwrap();
    assert!(batch.last);
    let frames = frames(&batch.bytes);
    assert_eq!(frames.last(), Some(&SessionFrame::Exit { code: 3 }));
    assert!(matches!(&frames[1], SessionFrame::Output { bytes, .. } if &bytes[..] == b"late"));
    assert_eq!(core.next_batch(), None);
    assert!(!core.is_finished(start + seconds(29)), "the host may have missed it");
    let again = attach(&mut core, "a", true, Some(4), start + seconds(29));
    assert!(core.next_batch().unwrap().last);
    core.frame(again, SessionFrame::Detach, start + seconds(29)).unwrap();
    assert!(core.is_finished(start + seconds(29)));
}

#[test]
fn descendants_that_never_stop_writing_are_not_waited_for() {
    let start = Instant::now();
    let mut core = core(start);
    attach(&mut core, "a", true, None, start);
    core.exited(0, start);
    let mut now = start;
    while !core.drain_is_due(now) {
        core.append(Output::Stdout, b".", now);
        now += Duration::from_millis(50);
    }
    assert_eq!(now - start, DRAIN_MAX);
}

#[test]
fn there_is_a_limit_to_clients() {
    let start = Instant::now();
    let mut core = core(start);
    for i in 0..ATTACHMENTS_MAX {
        attach(&mut core, &i.to_string(), false, None, start);
    }
    let one_more = core.attach(&query("x", false, None), |_, _| Bytes::new(), start);
    assert_eq!(one_more, Err(AttachError::TooMany));
    attach(&mut core, "0", false, None, start);
}

/// What the host's side of one attachment knows.
#[derive(Debug, Default)]
struct Host {
    stream: Option<u64>,
    started: bool,
    from: u64,
    got: Vec<(bool, u8)>,
    exit: Option<i32>,
}

impl Host {
    fn end(&self) -> u64 {
        self.from + self.got.len() as u64
    }

    fn take(&mut self, frame: SessionFrame) {
        assert_eq!(self.exit, None, "nothing follows the exit");
        match frame {
            SessionFrame::Attached(json) => {
                let text = String::from_utf8(json.to_vec()).unwrap();
                let from: u64 = text.split(' ').next().unwrap().parse().unwrap();
                if !self.started {
                    self.from = from;
                    self.started = true;
                }
                assert_eq!(from, self.end(), "goes on where the host is");
            }
            SessionFrame::Output { output, offset, bytes } => {
                assert_eq!(offset, self.end());
                self.got.extend(bytes.iter().map(|&b| (output == Output::Stderr, b)));
            }
            SessionFrame::Exit { code } => self.exit = Some(code),
            frame => panic!("{frame:?}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        error: bool,
        len: usize,
    },
    Attach {
        who: u8,
    },
    /// The stream breaks; of what was under way, so many frames arrive.
    Break {
        who: u8,
        arrived: usize,
    },
    Deliver {
        who: u8,
    },
    Ack {
        who: u8,
    },
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..3_u8;
    prop_oneof![
        4 => (any::<bool>(), 1..200_000_usize).prop_map(|(error, len)| Step::Write { error, len }),
        2 => who.clone().prop_map(|who| Step::Attach { who }),
        1 => (who.clone(), 0..4_usize).prop_map(|(who, arrived)| Step::Break { who, arrived }),
        4 => who.clone().prop_map(|who| Step::Deliver { who }),
        3 => who.prop_map(|who| Step::Ack { who }),
        1 => (0..2000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing lost, nothing twice: each client's bytes are one contiguous piece of the
    /// process's output up to its end, whatever breaks on the way.
    #[test]
    fn every_client_gets_a_contiguous_piece_up_to_the_end(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        let mut now = Instant::now();
        let mut core = core(now);
        let mut written: Vec<(bool, u8)> = Vec::new();
        let mut hosts: BTreeMap<u8, Host> = BTreeMap::new();
        let mut flying: BTreeMap<u64, Vec<SessionFrame>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Write { error, len } => {
                    if core.may_read() {
                        let output = if error { Output::Stderr } else { Output::Stdout };
                        let bytes: Vec<u8> =
                            (0..len).map(|i| ((written.len() + i) % 251) as u8).collect();
                        written.extend(bytes.iter().map(|&b| (error, b)));
                        core.append(output, &bytes, now);
                    }
                }
                Step::Attach { who } => {
                    let host = hosts.entry(who).or_default();
                    let from = host.started.then(|| host.end());
                    host.stream =
                        Some(attach(&mut core, &who.to_string(), who == 0, from, now));
                }
                Step::Break { who, arrived } => {
                    let Some(host) = hosts.get_mut(&who) else { continue };
                    let Some(stream) = host.stream.take() else { continue };
                    let frames = flying.remove(&stream).unwrap_or_default();
                    frames.into_iter().take(arrived).for_each(|frame| host.take(frame));
                    core.broken(stream, now);
                }
                Step::Deliver { who } => deliver(&mut core, hosts.get_mut(&who), &mut flying, now),
                Step::Ack { who } => {
                    let Some(host) = hosts.get(&who) else { continue };
                    let Some(stream) = host.stream else { continue };
                    let offset = host.end();
                    core.frame(stream, SessionFrame::OutputAck { offset }, now).unwrap();
                }
                // No more than all in all stays below the patience.
                Step::Wait { ms } => now += Duration::from_millis(ms / 20),
            }
            while let Some(batch) = core.next_batch() {
                flying.entry(batch.stream).or_default().extend(frames(&batch.bytes));
            }
        }
        core.exited(5, now);
        core.output_complete(now);
        for who in 0..3 {
            let Some(host) = hosts.get_mut(&who) else { continue };
            if host.exit.is_some() {
                continue;
            }
            let from = host.started.then(|| host.end());
            host.stream = Some(attach(&mut core, &who.to_string(), who == 0, from, now));
            while host.exit.is_none() {
                while let Some(batch) = core.next_batch() {
                    flying.entry(batch.stream).or_default().extend(frames(&batch.bytes));
                }
                deliver(&mut core, Some(host), &mut flying, now);
            }
            prop_assert_eq!(host.exit, Some(5));
            let from = usize::try_from(host.from).unwrap();
            prop_assert!(host.got[..] == written[from..], "client {}", who);
            if who == 0 {
                prop_assert!(from == 0 || written.len() as u64 > OUTPUT_WINDOW, "the creator misses nothing");
            }
        }
    }
}

fn deliver(
    core: &mut Core,
    host: Option<&mut Host>,
    flying: &mut BTreeMap<u64, Vec<SessionFrame>>,
    now: Instant,
) {
    let Some(host) = host else { return };
    let Some(stream) = host.stream else { return };
    for frame in flying.remove(&stream).unwrap_or_default() {
        host.take(frame);
    }
    core.wants(stream, now);
}
