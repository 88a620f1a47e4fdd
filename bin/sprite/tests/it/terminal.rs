//! Terminal sessions, on a pseudo-terminal.

use rustix::process::Signal;

use crate::harness::{World, eventually};
use crate::pty::OnTerminal;

fn console(world: &World) -> OnTerminal {
    let terminal = OnTerminal::start(world, &["console"]);
    terminal.wait_for("at 100x30");
    terminal
}

#[test]
fn a_console_has_our_size_and_passes_keys_and_resizes() {
    let world = World::with_demo();
    let mut terminal = console(&world);
    terminal.wait_for("ran sprite-console at 100x30 TERM=xterm");
    // The title names the sprite.
    terminal.wait_for("\x1b]0;demo: bash\x07");
    eventually("the terminal is raw", || terminal.is_raw());
    // Ctrl-C is a key for the command.
    terminal.type_keys("ab\x03");
    terminal.wait_for("ab\x03");
    terminal.resize(120, 40);
    terminal.wait_for("[\"resize\" 120]");
    terminal.type_keys("q");
    assert_eq!(terminal.wait(), Some(3));
    assert!(!terminal.is_raw());
    // The title that was there before comes back.
    terminal.wait_for("\x1b[23;2t");
}

#[test]
fn the_detach_key_leaves_the_session_running() {
    let world = World::with_demo();
    let mut terminal = console(&world);
    eventually("the terminal is raw", || terminal.is_raw());
    terminal.type_keys("\x1b[?25l");
    terminal.wait_for("\x1b[?25l");
    terminal.type_keys("x\x1c");
    assert_eq!(terminal.wait(), Some(0));
    assert!(!terminal.is_raw());
    terminal.wait_for("sprite attach 4242 -s demo");
    // What was typed before the key arrived; the cursor that was hidden is shown.
    terminal.wait_for("\x1b[?25h");
    let closed = |message: &serde_json::Value| message["type"] == "closed";
    eventually("the socket is closed", || world.server.messages().iter().any(closed));
    let mut again = OnTerminal::start(&world, &["attach", "4242"]);
    again.wait_for("[\"resize\" 100]");
    again.type_keys("q");
    assert_eq!(again.wait(), Some(3));
}

#[test]
fn signals_restore_the_terminal() {
    let world = World::with_demo();
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let mut terminal = console(&world);
        eventually("the terminal is raw", || terminal.is_raw());
        terminal.signal(signal);
        assert_eq!(terminal.wait(), Some(code), "{signal:?}");
        assert!(!terminal.is_raw(), "{signal:?}");
    }
}

#[test]
fn a_lost_connection_restores_the_terminal() {
    let mut world = World::with_demo();
    let mut terminal = console(&world);
    eventually("the terminal is raw", || terminal.is_raw());
    world.server = crate::fake::Server::start();
    assert_eq!(terminal.wait(), Some(1));
    assert!(!terminal.is_raw());
    terminal.wait_for("run `sprite-console` in `demo`: the connection was lost");
    terminal.wait_for("sprite attach 4242 -s demo");
}

#[test]
fn a_sprite_without_the_helper_gets_a_plain_shell() {
    let world = World::with_demo();
    std::fs::write(world.server.path("/no-console"), "").unwrap();
    let mut terminal = OnTerminal::start(&world, &["console"]);
    terminal.wait_for("ran bash --login at 100x30");
    assert!(!terminal.screen().contains("not found"), "{}", terminal.screen());
    terminal.type_keys("q");
    assert_eq!(terminal.wait(), Some(3));
}

#[test]
fn exec_on_a_terminal_without_tty_leaves_it_alone() {
    let world = World::with_demo();
    let mut terminal = OnTerminal::start(&world, &["exec", "sh", "-c", "cat; echo done"]);
    terminal.wait_for("done");
    assert_eq!(terminal.wait(), Some(0));
    let mut terminal = OnTerminal::start(&world, &["exec", "-tty", "vi"]);
    terminal.wait_for("ran vi at 100x30");
    eventually("the terminal is raw", || terminal.is_raw());
    terminal.type_keys("q");
    assert_eq!(terminal.wait(), Some(3));
}

#[test]
fn a_secret_is_not_shown_and_ctrl_c_leaves_the_prompt() {
    let mut world = World::strange();
    world.env.push(("SPRITES_API_URL".into(), world.server.url()));
    let mut terminal = OnTerminal::start(&world, &["login"]);
    terminal.wait_for("Token for http://");
    eventually("the terminal is raw", || terminal.is_raw());
    terminal.type_keys("acme/secret\x03");
    assert_eq!(terminal.wait(), Some(130));
    assert!(!terminal.is_raw());
    assert!(!terminal.screen().contains("secret"), "{}", terminal.screen());

    let mut terminal = OnTerminal::start(&world, &["login"]);
    terminal.wait_for("Token for http://");
    eventually("the terminal is raw", || terminal.is_raw());
    terminal.type_keys(&format!("X\x7f{}\r", crate::harness::TOKEN));
    terminal.wait_for("Logged in to");
    assert_eq!(terminal.wait(), Some(0));
}

#[test]
fn people_see_a_table_and_may_change_their_mind() {
    let world = World::with_demo();
    let mut terminal = OnTerminal::start(&world, &["list"]);
    terminal.wait_for("1 sprite\r\n");
    assert!(terminal.screen().contains("NAME"), "{}", terminal.screen());
    assert_eq!(terminal.wait(), Some(0));
    let mut terminal = OnTerminal::start(&world, &["destroy"]);
    terminal.wait_for("[y/N]");
    terminal.type_keys("n\r");
    terminal.wait_for("Cancelled.");
    assert_eq!(terminal.wait(), Some(0));
    assert!(world.server.has_sprite("demo"));
}
