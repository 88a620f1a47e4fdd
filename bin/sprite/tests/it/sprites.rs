//! Sprites: create, list, use, info, config, destroy.

use std::io::{BufRead, BufReader};

use crate::harness::{Reaped, World};

#[test]
fn a_created_sprite_becomes_the_directorys_own() {
    let world = World::known();
    let said = world.run(&["create", "demo", "--label", "a", "--label", "b"]).good();
    assert!(said.contains("Created sprite demo"), "{said}");
    let file = world.read(".sprite");
    assert!(file.contains("\"demo\"") && file.contains("\"acme\""), "{file}");
    assert_eq!(world.server.sprite("demo")["labels"], serde_json::json!(["a", "b"]));
    let info = world.run(&["info"]).good();
    for line in ["Name: demo", "URL: http://demo.example", "Auth: sprite"] {
        assert!(info.lines().any(|l| l == line), "{line} in\n{info}");
    }
    let error = world.run(&["create", "demo"]).bad(1);
    assert!(error.contains("Error: create sprite `demo`: a sprite named `demo` already exists"));
}

#[test]
fn a_directory_named_like_the_file_is_told_clearly() {
    let world = World::known();
    std::fs::create_dir(world.work().join(".sprite")).unwrap();
    let run = world.run(&["create", "demo"]);
    assert!(run.stderr.contains("is a directory"), "{run:?}");
    run.good();
    let error = world.run(&["use", "demo"]).bad(1);
    assert!(error.contains("is a directory") && error.contains("hint:"), "{error}");
    world.run(&["exec", "-s", "demo", "true"]).good();
}

#[test]
fn a_list_in_a_pipe_is_names_of_all_pages() {
    let world = World::known();
    assert_eq!(world.run(&["list"]).good(), "");
    for name in ["a", "b", "ca", "cb", "cc"] {
        world.server.add_sprite(name);
    }
    assert_eq!(world.run(&["ls"]).good(), "a\nb\nca\ncb\ncc\n");
    assert_eq!(world.run(&["list", "-prefix", "c"]).good(), "ca\ncb\ncc\n");
    let json = world.run(&["list", "--json"]).good();
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&json).unwrap().len(), 5);
}

#[test]
fn a_watch_prints_each_sprite_as_it_comes() {
    let world = World::known();
    world.server.add_sprite("a");
    world.server.add_sprite("b");
    let mut child = Reaped(world.command(&["list", "-w"]).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "a\trunning");
    assert_eq!(lines.next().unwrap().unwrap(), "b\trunning");
}

#[test]
fn use_writes_and_removes_the_file() {
    let world = World::known();
    world.server.add_sprite("demo");
    world.run(&["use", "demo"]).good();
    std::fs::create_dir(world.work().join("deep")).unwrap();
    let deep = world.command(&["info"]).current_dir(world.work().join("deep")).output().unwrap();
    assert!(deep.status.success());
    world.run(&["use", "--unset"]).good();
    let error = world.run(&["info"]).bad(1);
    let text = "Error: sprite name required: use -s flag or create a .sprite file";
    assert!(error.contains(text), "{error}");
    assert!(world.run(&["use", "nobody"]).bad(1).contains("sprite not found"));
}

#[test]
fn settings_are_updated() {
    let world = World::with_demo();
    world.run(&["config", "update", "--url-auth", "public"]).good();
    assert_eq!(world.server.sprite("demo")["url_settings"]["auth"], "public");
    world.run(&["url", "update", "-a", "default"]).good();
    assert_eq!(world.server.sprite("demo")["url_settings"]["auth"], "sprite");
    world.run(&["config", "update", "--private-access", "org_users"]).good();
    assert_eq!(world.server.sprite("demo")["url_settings"]["private_access"], "org_users");
    world.run(&["config", "update"]).bad(2);
}

#[test]
fn destroying_needs_a_confirmation() {
    let world = World::with_demo();
    let error = world.run(&["destroy", "demo"]).bad(2);
    assert!(error.contains("--force"), "{error}");
    assert!(world.server.has_sprite("demo"));
    let said = world.run(&["destroy", "demo", "--force"]).good();
    assert!(said.contains("Destroyed sprite demo"), "{said}");
    assert!(!world.server.has_sprite("demo") && !world.work().join(".sprite").exists());
}

#[test]
fn what_the_server_cannot_do_yet_is_passed_on() {
    let world = World::with_demo();
    for arguments in [
        &["checkpoint", "create", "--comment", "x"][..],
        &["checkpoint", "list"],
        &["restore", "v1"],
        &["proxy", "8080"],
    ] {
        let error = world.run(arguments).bad(1);
        assert!(error.contains("this server cannot do that yet"), "{arguments:?}: {error}");
    }
}

#[test]
fn completions_and_the_version_need_no_home() {
    let world = World::strange();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = world.command(&["completion", shell]).env_remove("HOME").output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{shell}");
    }
    assert!(world.run(&["version"]).good().starts_with("sprite 0."));
}
