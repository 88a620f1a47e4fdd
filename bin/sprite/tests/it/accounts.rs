//! Logging in and out, and where tokens go.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{TOKEN, World};

#[test]
fn a_token_from_stdin_is_checked_and_stored_for_its_owner_only() {
    let world = World::strange();
    world.server.add_sprite("one");
    let url = world.server.url();
    let run = world.run_with(&["login", &url], format!("{TOKEN}\n").as_bytes());
    assert!(!run.stdout.contains("S3cret") && !run.stderr.contains("S3cret"), "{run:?}");
    assert!(run.good().contains("acme"));
    let file = world.home().join(".sprites/sprites.json");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    // The next command needs neither variable nor flag.
    assert_eq!(world.run(&["list"]).good(), "one\n");
    let listed = world.run(&["org", "list", "--json"]).good();
    assert!(listed.contains("acme") && !listed.contains("S3cret"), "{listed}");
    world.run(&["logout", "--force"]).good();
    assert!(!file.exists());
    let error = world.run(&["list"]).bad(1);
    assert!(error.contains("Error: not logged in") && error.contains("hint: "), "{error}");
}

#[test]
fn a_refused_token_is_not_stored() {
    let world = World::strange();
    let url = world.server.url();
    let error = world.run_with(&["login", &url], b"acme/x/y/wrong").bad(1);
    assert!(error.contains("the token is not valid"), "{error}");
    assert!(!error.contains("wrong"), "{error}");
    assert!(!world.home().join(".sprites").exists());
}

#[test]
fn a_token_of_another_org_than_asked_for_is_refused() {
    let world = World::strange();
    let url = world.server.url();
    let error = world.run_with(&["login", &url, "-o", "other"], TOKEN.as_bytes()).bad(2);
    assert!(error.contains("belongs to org `acme`"), "{error}");
}

#[test]
fn auth_setup_takes_a_flag_and_an_alias_names_the_server() {
    let world = World::strange();
    world.server.add_sprite("one");
    let url = world.server.url();
    let mut command = world.command(&["auth", "setup", "--token", TOKEN, "-o", "home:acme"]);
    command.env("SPRITES_API_URL", &url);
    assert!(command.status().unwrap().success());
    assert_eq!(world.run(&["list", "-o", "home:acme"]).good(), "one\n");
    let error = world.run(&["list", "-o", "work:acme"]).bad(1);
    assert!(error.contains("alias `work`"), "{error}");
    world.run(&["org", "logout", "--force", "-o", "acme"]).good();
    world.run(&["list"]).bad(1);
}

#[test]
fn a_stored_token_is_not_sent_to_another_server() {
    let world = World::strange();
    let url = world.server.url();
    world.run_with(&["login", &url], TOKEN.as_bytes()).good();
    let other = crate::fake::Server::start();
    let output = world.command(&["list"]).env("SPRITES_API_URL", other.url()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(other.requests().is_empty());
}

#[test]
fn other_keys_of_the_configuration_survive() {
    let world = World::strange();
    let file = world.home().join(".sprites/sprites.json");
    std::fs::create_dir(world.home().join(".sprites")).unwrap();
    std::fs::write(&file, r#"{"version":"1","latest_version":"9.9"}"#).unwrap();
    let url = world.server.url();
    world.run_with(&["login", &url], TOKEN.as_bytes()).good();
    assert!(std::fs::read_to_string(&file).unwrap().contains("9.9"));
}

#[test]
fn the_debug_log_never_has_the_token() {
    let world = World::with_demo();
    let run = world.run(&["--debug", "exec", "--env", "PASSWORD=hunter2", "true"]);
    assert!(run.stderr.contains("websocket answered"), "{run:?}");
    assert!(!run.stderr.contains("S3cret") && !run.stderr.contains("hunter2"), "{run:?}");
    world.run(&["exec", "--debug=log.txt", "true"]).good();
    let log = world.read("log.txt");
    assert!(log.contains("/exec") && !log.contains("S3cret"), "{log}");
}

#[test]
fn the_token_reaches_curl_but_not_its_arguments() {
    let mut world = World::with_demo();
    let curl = world.write(
        "bin/curl",
        "#!/bin/sh\nprintf '%s\\n' \"$@\" > args\ncat \"$2\" > config\ncat > stdin\n",
    );
    std::fs::set_permissions(&curl, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", world.work().join("bin").display(), std::env::var("PATH").unwrap());
    world.env.push(("PATH".into(), path));
    let run = world.run_with(&["api", "/fs/list?path=/", "--", "-X", "POST"], b"body");
    assert!(run.stderr.starts_with("Calling API: acme demo\nURL: http://"), "{run:?}");
    run.good();
    let args = world.read("args");
    assert!(
        args.contains("-X\nPOST\n") && args.contains("/v1/sprites/demo/fs/list?path=/"),
        "{args}"
    );
    assert!(!args.contains("S3cret"), "{args}");
    assert_eq!(world.read("config"), format!("header = \"Authorization: Bearer {TOKEN}\"\n"));
    assert_eq!(world.read("stdin"), "body");
}

#[test]
fn real_curl_understands_it() {
    let world = World::with_demo();
    let run = world.run(&["api", "/v1/sprites/demo", "--", "-s"]);
    assert!(run.good().contains("\"name\":\"demo\""));
}
