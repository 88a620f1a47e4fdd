//! Commands without a terminal.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::harness::{Reaped, World, eventually};

#[test]
fn output_and_exit_code_are_the_commands_own() {
    let world = World::with_demo();
    let run = world.run(&["exec", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(42), "out\n", "err\n"));
    let run = world.run(&["x", "--http-post", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(7), "out\n", "err\n"));
    world.run(&["exec", "no-such-command"]).bad(127);
}

#[test]
fn a_megabyte_of_input_comes_back_whole() {
    let world = World::with_demo();
    let input: Vec<u8> = (0..1 << 20).map(|n: u32| b'a' + (n % 26) as u8).collect();
    for arguments in [&["exec", "cat"][..], &["exec", "-http-post", "cat"]] {
        let run = world.run_with(arguments, &input);
        assert!(run.stdout.as_bytes() == input, "{arguments:?}: {} bytes", run.stdout.len());
        assert_eq!(run.code, Some(0));
    }
    // The command does not wait for input that it does not get.
    assert_eq!(world.run_with(&["exec", "--no-stdin", "cat"], b"x").good(), "");
}

#[test]
fn input_that_nobody_reads_does_not_hold_up_the_end() {
    let world = World::with_demo();
    let input = vec![b'x'; 8 << 20];
    assert_eq!(world.run_with(&["exec", "head", "-c", "3"], &input).good(), "xxx");
}

#[test]
fn long_arguments_and_values_travel() {
    let world = World::with_demo();
    // Beyond the 65,534 bytes that HTTP libraries allow.
    let long = "y".repeat(100_000);
    for mode in ["--no-stdin", "--http-post"] {
        let env = format!("LONG={long}");
        let script = "printf %s \"$1\" | wc -c; printf %s \"$LONG\" | wc -c";
        let run = world.run(&["exec", mode, "--env", &env, "sh", "-c", script, "sh", &long]);
        assert_eq!(run.good(), "100000\n100000\n", "{mode}");
    }
    // One argument beyond what Linux allows.
    let run = world.run(&["exec", "echo", &"z".repeat(120_000), &"z".repeat(120_000)]);
    assert_eq!(run.code, Some(0));
}

#[test]
fn flags_after_the_command_are_the_commands_own() {
    let world = World::with_demo();
    assert_eq!(
        world.run(&["exec", "echo", "-s", "x", "--json", "-dir"]).good(),
        "-s x --json -dir\n"
    );
    assert_eq!(
        world.run(&["exec", "-env", "A=1,2,B=3", "sh", "-c", "echo $A $B"]).good(),
        "1,2 3\n"
    );
    assert_eq!(world.run(&["-s", "demo", "exec", "--", "echo", "--", "x"]).good(), "-- x\n");
    assert_eq!(world.run(&["exec", "-s", "demo", "echo", "hi"]).good(), "hi\n");
}

#[test]
fn files_are_there_before_the_command_starts() {
    let world = World::with_demo();
    world.write("local.txt", "content");
    let run = world.run(&["exec", "--file", "local.txt:sub/remote.txt", "cat", "sub/remote.txt"]);
    assert_eq!(run.good(), "content");
    world.run(&["exec", "--file", "local.txt", "true"]).bad(2);
    let error = world.run(&["exec", "--file", "missing:x", "true"]).bad(1);
    assert!(error.contains("open `missing`: No such file"), "{error}");
}

#[test]
fn ctrl_c_goes_to_the_command_first() {
    let world = World::with_demo();
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = Reaped(world.command(&["exec", "sh", "-c", script]).spawn().unwrap());
    let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    signal(&child, rustix::process::Signal::INT);
    stdout.read_to_string(&mut line).unwrap();
    assert_eq!(line, "ready\ncaught\n");
    assert_eq!(child.0.wait().unwrap().code(), Some(9));
}

#[test]
fn a_second_ctrl_c_leaves_a_command_that_ignores_the_first() {
    let world = World::with_demo();
    let script = "trap '' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = Reaped(world.command(&["exec", "sh", "-c", script]).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    signal(&child, rustix::process::Signal::INT);
    eventually("the first signal is passed on", || !world.server.messages().is_empty());
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
}

/// Whoever sends SIGTERM (`timeout`, a supervisor) does so once and expects an end.
#[test]
fn sigterm_ends_us_even_if_the_command_ignores_it() {
    let world = World::with_demo();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = Reaped(world.command(&["exec", "sh", "-c", script]).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(child.0.wait().unwrap().code(), Some(143));
    assert_eq!(world.server.messages()[0]["signal"], "TERM");
}

fn signal(child: &Reaped, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.0.id() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let world = World::with_demo();
    let mut child = world.command(&["exec", "yes"]).spawn().unwrap();
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = Reaped(child);
    let mut child = output;
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.0.wait().unwrap().code(), said.as_str()), (Some(141), ""));
}

#[test]
fn a_restored_sprite_is_waited_for() {
    let world = World::with_demo();
    world.server.answer_next(
        503,
        "Retry-After: 1\r\n",
        r#"{"error":"sprite_unavailable","message":"it is coming back"}"#,
    );
    assert_eq!(world.run(&["exec", "echo", "back"]).good(), "back\n");
}

#[test]
fn sessions_are_listed_and_killed() {
    let world = World::with_demo();
    let listed = world.run(&["sessions", "list"]).good();
    assert!(listed.starts_with(" ID"), "{listed}");
    assert!(listed.contains("4242") && listed.contains("/usr/bin/python3 -c…"), "{listed}");
    assert!(listed.contains("12 B/s"), "{listed}");
    assert_eq!(world.run(&["exec"]).good(), listed);
    let killed = world.run(&["s", "kill", "4242", "--signal", "TERM", "--timeout", "1s"]).good();
    assert!(killed.contains("Process exited"), "{killed}");
    let asked = world.server.requests().pop().unwrap();
    assert_eq!(asked, "POST /v1/sprites/demo/exec/4242/kill?signal=TERM&timeout=1s");
    world.server.answer_next(410, "", r#"{"error":"session has ended"}"#);
    world.run(&["sessions", "kill", "1"]).good();
    let error = world.run(&["attach", "999"]).bad(1);
    assert!(error.contains("session not found") && error.contains("sessions list"), "{error}");
}

/// In a shell loop, a command must not eat the loop's input by surprise unless it forwards it.
#[test]
fn no_stdin_leaves_our_input_alone() {
    let world = World::with_demo();
    let sprite = env!("CARGO_BIN_EXE_sprite");
    let script = format!("{sprite} exec --no-stdin true; cat");
    let mut command = world.any_command("sh", &["-c", &script]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"rest").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"rest");
}
