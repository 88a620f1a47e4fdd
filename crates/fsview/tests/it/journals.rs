//! Disks that were cut while they were mounted, as checkpoints are.

use std::fs;
use std::path::Path;

use crate::images::{Bench, FLAVOURS, make, open, run};
use crate::tree::{assert_same, of_host, of_image};

/// Mounts `image`, runs `work` in the mounted folder, and copies image and folder, in a mount
/// namespace that ends with the script: whatever happens, no mount and no loop device stay.
fn cut_while_mounted(image: &Path, options: &str, work: &str, cut: &Path, expected: &Path) {
    let script = r#"
        image=$1 options=$2 work=$3 cut=$4 expected=$5 point=$6
        mount -o "loop,$options" "$image" "$point"
        cd "$point"
        eval "$work"
        rm -rf lost+found
        sync -f .
        cp --sparse=always "$image" "$cut"
        cp -a . "$expected"
        cd /
        umount "$point"
    "#;
    let point = cut.with_extension("point");
    fs::create_dir(&point).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let arguments = ["--mount", "--propagation", "private", "bash", "-ec", script, "bash"];
    let values =
        [text(image), options.into(), work.into(), text(cut), text(expected), text(&point)];
    let arguments: Vec<&str> =
        arguments.into_iter().chain(values.iter().map(String::as_str)).collect();
    run("unshare", &arguments);
}

const WORK: &str = r#"
    # A folder large enough for a hash tree, then half of it goes.
    mkdir -p big/deep; for i in $(seq 800); do echo $i > big/name-$i; done
    rm big/name-*[02468]
    # A transaction of its own; blocks of folders and extent trees become content.
    sync -f .
    mkdir old; target=$(printf 't%.0s' $(seq 80)); for i in $(seq 100); do ln -s $target old/$i; done
    sync -f .
    rm -r old; sync -f .
    for i in $(seq 40); do head -c 40000 /dev/urandom > big/deep/$i; done
    # Content that looks like a block of the journal's own.
    for i in 1 2 3; do printf '\300\073\071\230' > big/magic$i; head -c 9000 /dev/zero >> big/magic$i; done
    mv big/deep big/moved; ln big/name-1 hard; chmod 4711 hard
    fallocate -l 100000 unwritten; truncate -s 5M sparse; echo x >> sparse; truncate -s 6M sparse
"#;

#[test]
fn what_was_synced_is_read_from_a_dirty_journal() {
    if !sprite_testkit::is_root("mounts need root") {
        return;
    }
    let modes =
        [("ours", "data=ordered"), ("ours", "data=journal"), ("no checksums", "data=journal")];
    for (flavour, options) in modes.into_iter().chain([("meta_bg, small blocks", "data=ordered")]) {
        let flavour = FLAVOURS.iter().find(|f| f.name == flavour).unwrap();
        let bench = Bench::new();
        let image = bench.path("image");
        make(&image, "64M", &bench.folder("empty"), flavour);
        let (cut, expected) = (bench.path("cut"), bench.folder("expected"));
        cut_while_mounted(&image, options, WORK, &cut, &expected);
        let header = run("dumpe2fs", &["-h", cut.to_str().unwrap()]);
        assert!(header.contains("needs_recovery"), "the cut has a dirty journal");
        let fs = open(&cut);
        assert_eq!(fs.notes(), [""; 0]);
        let what = format!("{}, {options}", flavour.name);
        assert_same(&of_host(&expected), &of_image(&fs), &what);
        // And what `e2fsck` makes of it is the same.
        let _ = std::process::Command::new("/usr/sbin/e2fsck").arg("-fy").arg(&cut).output();
        assert_same(&of_host(&expected), &of_image(&open(&cut)), &what);
    }
}
