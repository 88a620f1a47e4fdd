//! What failed, why, and what to type.

use crate::harness::World;

#[test]
fn wrong_usage_is_code_2() {
    let world = World::known();
    for arguments in [&["no-such-command"][..], &["exec", "--no-such-flag", "ls"], &["cp", "a"]] {
        world.run(arguments).bad(2);
    }
    assert!(world.run(&["--help"]).good().contains("SPRITE_TOKEN"));
    assert!(world.run(&["help", "exec"]).good().contains("--tty"));
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let mut world = World::known();
    // Nobody listens on a port that was just given back.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    world.env.retain(|(key, _)| key != "SPRITES_API_URL");
    world.env.push(("SPRITES_API_URL".into(), url.clone()));
    let error = world.run(&["list"]).bad(1);
    assert!(error.starts_with(&format!("Error: connect to {url}: ")), "{error}");
    assert!(error.contains("hint: ") && error.contains("/healthz"), "{error}");
}

#[test]
fn a_limit_tells_how_long_to_wait() {
    let world = World::known();
    world.server.answer_next(
        429,
        "Content-Type: application/json\r\n",
        r#"{"error":"sprite_creation_rate_limited","message":"too many sprites created",
            "limit":10,"current_count":11,"retry_after_seconds":30}"#,
    );
    let error = world.run(&["create", "x"]).bad(1);
    for part in ["too many sprites created", "limit 10, now 11", "hint: try again in 30 s"] {
        assert!(error.contains(part), "{part} in\n{error}");
    }
}

#[test]
fn redirects_are_not_followed() {
    let world = World::known();
    world.server.answer_next(302, "Location: http://example.invalid/\r\n", "");
    let error = world.run(&["list"]).bad(1);
    assert!(error.contains("redirects are not followed"), "{error}");
    assert_eq!(world.server.requests().len(), 1);
}

#[test]
fn answers_that_are_no_answers_are_survived() {
    let world = World::with_demo();
    for (status, body) in [(200, "<html>hello"), (200, "{}"), (500, "\u{1b}[31mboom"), (204, "")] {
        world.server.answer_next(status, "", body);
        let error = world.run(&["list"]).bad(1);
        assert!(error.starts_with("Error: list sprites: "), "{error:?}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
    world.server.answer_next(200, "", "not a socket");
    world.run(&["exec", "true"]).bad(1);
    world.server.answer_next(101, "", "");
    let error = world.run(&["exec", "true"]).bad(1);
    assert!(error.contains("handshake is wrong"), "{error}");
}

#[test]
fn two_names_for_one_sprite_are_refused() {
    let world = World::known();
    let error = world.run(&["info", "-s", "a", "b"]).bad(2);
    assert!(error.contains("`a` and `b`"), "{error}");
}

#[test]
fn odd_names_never_reach_the_server() {
    let world = World::known();
    for name in ["../x", "A", "a b", ""] {
        world.run(&["create", name]).bad(1);
        world.run(&["exec", "-s", name, "true"]).bad(1);
    }
    assert!(world.server.requests().is_empty(), "{:?}", world.server.requests());
}
