//! Disks that were cut while they were mounted, as checkpoints are.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::images::{Bench, FLAVOURS, Flavour, edit, make, open, run};
use crate::tree::{assert_same, of_host, of_image};

/// Mounts `image`, runs `work` in the mounted folder, and copies image and folder, in a mount
/// namespace that ends with the script: whatever happens, no mount and no loop device stay.
pub(crate) fn cut_while_mounted(
    image: &Path,
    options: &str,
    work: &str,
    cut: &Path,
    expected: &Path,
) {
    let script = r#"
        image=$1 options=$2 work=$3 cut=$4 expected=$5 point=$6
        mount -o "loop,$options" "$image" "$point"
        cd "$point"
        eval "$work"
        rm -rf lost+found
        # Not `sync -f`: that also writes metadata to its place, and the journal says nothing new.
        find . -type f -exec sync {} +
        date +%N > last; sync last
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
    # Enough transactions that the log goes around its end.
    mkdir turns; for i in $(seq 250); do echo $i > turns/$i; sync turns/$i; done
    # A block of a link's target, and content, that looks like one of the journal's own.
    ln -s "$(printf '\300\073\071\230')$target" magic
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
        // The many turns are for the journal's sake, and cost most of the time.
        let is_first = (flavour.name, options) == ("ours", "data=ordered");
        let work = WORK.replace("seq 250", if is_first { "seq 250" } else { "seq 5" });
        cut_while_mounted(&image, options, &work, &cut, &expected);
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

/// Makes an image with a file of three blocks, `aaa`, and these transactions in its journal:
/// `b` over the second block and what looks like the journal's own over the third; a revocation
/// of the second; `d` over the first; `e` over the second if `is_again`.
pub(crate) fn with_transactions(bench: &Bench, flavour: &Flavour, is_again: bool) -> Vec<u8> {
    let tree = bench.folder("tree");
    fs::write(tree.join("file"), vec![b'a'; 3072]).unwrap();
    let image = bench.path("image");
    make(&image, "16M", &tree, flavour);
    let blocks = run("debugfs", &["-R", "blocks /file", image.to_str().unwrap()]);
    let blocks: Vec<&str> = blocks.split_whitespace().collect();
    let mut commands = match flavour.name {
        "no checksums" => "jo\n".to_owned(),
        _ => "jo -c -v 3\n".to_owned(),
    };
    let write = |content: &[u8], block: &str| {
        let path = bench.path(&format!("content-{}", content[8] as char));
        fs::write(&path, content).unwrap();
        format!("jw -b {block} {}\n", path.display())
    };
    let magic = [b"\xC0\x3B\x39\x98".as_slice(), &[b'c'; 1020]].concat();
    commands += &write(&[b'b'; 1024], blocks[1]);
    commands += &write(&magic, blocks[2]);
    commands += &format!("jw -r {}\n", blocks[1]);
    commands += &write(&[b'd'; 1024], blocks[0]);
    if is_again {
        commands += &write(&[b'e'; 1024], blocks[1]);
    }
    edit(&image, &(commands + "jc\n"));
    fs::read(image).unwrap()
}

/// Returns the first letters of the file's three blocks.
fn letters(image: Vec<u8>) -> String {
    let fs = sprite_fsview::FileSystem::open(image).unwrap();
    let mut content = Vec::new();
    fs.read_file(b"/file").unwrap().read_to_end(&mut content).unwrap();
    content.chunks(1024).map(|block| block[0] as char).collect()
}

/// The flavours of 1 KiB blocks: with checksums, and without.
const SMALL: [usize; 2] = [1, 3];

#[test]
fn copies_count_until_a_later_transaction_revokes_them() {
    for flavour in SMALL.map(|at| &FLAVOURS[at]) {
        let once = with_transactions(&Bench::new(), flavour, false);
        assert_eq!(letters(once), "da\u{C0}", "{}", flavour.name);
        let again = with_transactions(&Bench::new(), flavour, true);
        assert_eq!(letters(again), "de\u{C0}", "{}", flavour.name);
    }
}

/// A power cut may tear any block of the last transaction.
#[test]
fn a_transaction_without_its_end_never_happened() {
    for flavour in SMALL.map(|at| &FLAVOURS[at]) {
        let bench = Bench::new();
        let image = with_transactions(&bench, flavour, true);
        let own = [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0];
        let commits: Vec<usize> = (0..image.len())
            .step_by(1024)
            .filter(|&at| image[at..].starts_with(&own) && image[at + 7] == 2)
            .collect();
        assert_eq!(commits.len(), 5);
        for (kept, expected) in
            ["aaa", "aba", "ab\u{C0}", "aa\u{C0}", "da\u{C0}"].iter().enumerate()
        {
            let file = fs::OpenOptions::new().write(true).open(bench.path("image")).unwrap();
            file.write_all_at(&image, 0).unwrap();
            file.write_all_at(&[0; 512], commits[kept] as u64).unwrap();
            let torn = fs::read(bench.path("image")).unwrap();
            assert_eq!(letters(torn), *expected, "{}, {kept} transactions", flavour.name);
        }
    }
}

/// With checksums, a copy that rotted is told; the block's older content is what there is.
#[test]
fn a_rotten_copy_in_the_journal_is_noted() {
    let bench = Bench::new();
    let mut image = with_transactions(&bench, &FLAVOURS[1], false);
    let copy = image.windows(1024).step_by(1024).position(|block| block == [b'd'; 1024]).unwrap();
    image[copy * 1024 + 500] ^= 1;
    let fs = sprite_fsview::FileSystem::open(image.clone()).unwrap();
    assert_eq!(fs.notes(), ["copies in the journal with a wrong checksum: 1"]);
    assert_eq!(letters(image), "aa\u{C0}");
}
