//! Files in both directions.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::harness::World;

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn a_file_goes_there_and_back() {
    let world = World::with_demo();
    let local = world.write("run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(&local, PermissionsExt::from_mode(0o755)).unwrap();
    world.run(&["cp", "run.sh", ":/home/sprite/there.sh"]).good();
    let remote = world.server.path("/home/sprite/there.sh");
    assert_eq!(std::fs::read_to_string(&remote).unwrap(), "#!/bin/sh\n");
    assert_eq!(mode(&remote), 0o755);
    // Into a directory, from home, and by name.
    world.run(&["cp", "run.sh", "demo:"]).good();
    assert!(world.server.path("/home/sprite/run.sh").exists());
    world.run(&["cp", ":there.sh", "back.sh"]).good();
    assert_eq!(world.read("back.sh"), "#!/bin/sh\n");
    assert_eq!(mode(&world.work().join("back.sh")) & 0o700, 0o700);
    world.run(&["file", "pull", "/home/sprite/there.sh", "."]).good();
    assert_eq!(world.read("there.sh"), "#!/bin/sh\n");
}

#[test]
fn streams_are_copied_too() {
    let world = World::with_demo();
    let input = vec![b'x'; 300_000];
    world.run_with(&["cp", "-", ":big"], &input).good();
    assert_eq!(std::fs::read(world.server.path("/home/sprite/big")).unwrap(), input);
    assert_eq!(world.run(&["cp", ":big", "-"]).good().len(), input.len());
}

#[test]
fn a_tree_goes_there_and_back_with_modes_and_links() {
    let world = World::with_demo();
    world.write("tree/a/run", "go");
    world.write("tree/b", "bee");
    let tree = world.work().join("tree");
    std::fs::set_permissions(tree.join("a/run"), PermissionsExt::from_mode(0o750)).unwrap();
    symlink("a/run", tree.join("link")).unwrap();
    let error = world.run(&["cp", "tree", ":"]).bad(1);
    assert!(error.contains("is a directory") && error.contains("hint: -r"), "{error}");
    world.run(&["cp", "-r", "tree", ":"]).good();
    let there = world.server.path("/home/sprite/tree");
    assert_eq!(std::fs::read_to_string(there.join("link")).unwrap(), "go");
    assert_eq!(mode(&there.join("a/run")), 0o750);
    // To a new name, and its content into an existing directory.
    world.run(&["file", "push", "-r", "tree", "other"]).good();
    assert!(world.server.path("/home/sprite/other/b").exists());
    world.run(&["cp", "-r", "tree/.", ":other/a"]).good();
    assert!(world.server.path("/home/sprite/other/a/b").exists());

    world.run(&["cp", "-r", ":tree", "copy"]).good();
    assert_eq!(world.read("copy/b"), "bee");
    let copy = world.work().join("copy");
    assert!(copy.join("link").is_symlink());
    assert_eq!(mode(&copy.join("a/run")), 0o750);
    world.run(&["cp", "-r", ":tree", "copy"]).good();
    assert_eq!(world.read("copy/tree/b"), "bee");
}

#[test]
fn nothing_of_another_kind_is_replaced() {
    let world = World::with_demo();
    world.write("file", "mine");
    world.write("dir/x", "x");
    std::fs::create_dir(world.server.path("/home/sprite/file")).unwrap();
    std::fs::write(world.server.path("/home/sprite/dir"), "theirs").unwrap();
    for arguments in [
        &["cp", "file", ":"][..],
        &["cp", "-r", "dir", ":"],
        &["cp", "-r", "dir", ":dir"],
        &["cp", ":dir", "."],
        &["cp", "-r", ":file", "file"],
        &["cp", "-", ":file"],
    ] {
        let error = world.run(arguments).bad(1);
        let told = error.contains("is a directory") || error.contains("is a file");
        assert!(told, "{arguments:?}: {error}");
    }
    assert_eq!(world.read("file"), "mine");
    assert_eq!(std::fs::read_to_string(world.server.path("/home/sprite/dir")).unwrap(), "theirs");
}

#[test]
fn missing_things_are_named_and_parents_made_when_asked() {
    let world = World::with_demo();
    world.write("file", "x");
    let error = world.run(&["cp", "file", ":a/b/c"]).bad(1);
    assert!(error.contains("no such file") && error.contains("--parents"), "{error}");
    world.run(&["cp", "-p", "file", ":a/b/c"]).good();
    world.run(&["cp", "-p", "file", ":d/"]).good();
    assert!(world.server.path("/home/sprite/d/file").exists());
    let error = world.run(&["cp", ":nothing", "."]).bad(1);
    assert!(error.contains("`nothing`: no such file or directory in `demo`"), "{error}");
    let error = world.run(&["cp", "nothing", ":"]).bad(1);
    assert!(error.contains("read `nothing`: No such file"), "{error}");
    let error = world.run(&["cp", "file", "nobody:x"]).bad(1);
    assert!(error.contains("sprite not found"), "{error}");
    world.run(&["cp", "file", "other"]).bad(2);
}

#[test]
fn what_tar_complains_about_is_told() {
    let world = World::with_demo();
    world.write("tree/x/y", "");
    std::fs::create_dir_all(world.server.path("/home/sprite/tree")).unwrap();
    std::fs::write(world.server.path("/home/sprite/tree/x"), "a file").unwrap();
    std::fs::create_dir_all(world.server.path("/home/sprite/t2/x/y/z")).unwrap();
    let error = world.run(&["cp", "-r", "tree/.", ":t2"]).bad(1);
    assert!(error.contains("Error: copy in `demo`: tar: "), "{error}");
    assert!(world.server.path("/home/sprite/t2/x/y/z").is_dir());
}

#[test]
fn an_edited_file_is_written_back_with_its_mode() {
    let mut world = World::with_demo();
    let remote = world.server.path("/home/sprite/notes.txt");
    std::fs::write(&remote, "old\n").unwrap();
    std::fs::set_permissions(&remote, PermissionsExt::from_mode(0o600)).unwrap();
    world.env.push(("EDITOR".into(), "sed -i s/old/new/".into()));
    world.run(&["file", "edit", "notes.txt"]).good();
    assert_eq!(std::fs::read_to_string(&remote).unwrap(), "new\n");
    assert_eq!(mode(&remote), 0o600);
    let run = world.run(&["file", "edit", "notes.txt"]);
    assert!(run.stderr.contains("Nothing was changed"), "{run:?}");
}
