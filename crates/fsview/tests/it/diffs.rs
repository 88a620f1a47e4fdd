//! The differences found are those that were made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sprite_fsview::{
    BlockSource, Change, ChangedRanges, Diff, DiffOptions, Difference, FileSource, FileSystem,
    Kind, Limits,
};

use crate::images::{Bench, FLAVOURS, edit, make, open};
use crate::journals::cut_while_mounted;
use sprite_testkit::Rng;

use crate::for_each_seed;
use crate::tree::{Tree, grow, of_host, of_image, write};

/// What is expected of a path, as a word.
fn expected(before: &Tree, after: &Tree) -> BTreeMap<Vec<u8>, &'static str> {
    let mut words = BTreeMap::new();
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        words.insert(path.clone(), "removed");
    }
    for (path, new) in after {
        let word = match before.get(path) {
            None => "added",
            Some(old) if old.kind != new.kind => "kind",
            Some(old) if old.content != new.content => "content",
            Some(old) if old.target != new.target => "target",
            Some(old) if (old.mode, old.owner) != (new.mode, new.owner) => "mode or owner",
            Some(_) => continue,
        };
        words.insert(path.clone(), word);
    }
    words
}

fn found(diff: Diff<'_>) -> BTreeMap<Vec<u8>, &'static str> {
    let mut words = BTreeMap::new();
    let mut last: Vec<Vec<u8>> = Vec::new();
    for difference in diff {
        let Difference::Change(change) = difference else { panic!("{difference:?}") };
        let parts: Vec<Vec<u8>> = change.path().split(|&b| b == b'/').map(<[u8]>::to_vec).collect();
        assert!(last < parts, "sorted, part by part");
        last = parts;
        let word = match &change {
            Change::Added(_) => "added",
            Change::Removed(_) => "removed",
            Change::Changed { changes, .. } => match changes {
                changes if changes.kind => "kind",
                changes if changes.content => "content",
                changes if changes.link_target => "target",
                changes if changes.mode || changes.owner => "mode or owner",
                changes if changes.xattrs => "xattrs",
                other => panic!("{other:?}"),
            },
        };
        words.insert(change.path().to_vec(), word);
    }
    words
}

/// Changes some of what is in a folder.
fn disturb(rng: &mut Rng, top: &Path) {
    let mut folders = vec![top.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            match rng.below(8) {
                0 if kind.is_dir() => fs::remove_dir_all(&path).unwrap(),
                0 => fs::remove_file(&path).unwrap(),
                1 if kind.is_file() => {
                    write(rng, &path);
                    // `mkfs.ext4 -d` keeps whole seconds. Within one, a file of the same length
                    // would be the twin that only a thorough comparison tells apart.
                    let written = fs::metadata(&path).unwrap().modified().unwrap();
                    let later = written + std::time::Duration::from_secs(2);
                    fs::File::options()
                        .write(true)
                        .open(&path)
                        .unwrap()
                        .set_modified(later)
                        .unwrap();
                }
                2 if !kind.is_dir() => {
                    fs::remove_file(&path).unwrap();
                    fs::create_dir(&path).unwrap();
                    write(rng, &path.join("inside"));
                }
                3 if kind.is_file() => {
                    use std::os::unix::fs::PermissionsExt;
                    let mode = 0o400 | rng.below(0o400) as u32;
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                }
                _ if kind.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    write(rng, &top.join("new"));
}

/// Two images that have nothing in common but the paths.
#[test]
fn random_edits_between_two_images_are_found() {
    for_each_seed(6, |seed, rng| {
        let bench = Bench::new();
        let tree = bench.folder("tree");
        grow(rng, &tree, 40);
        let flavours =
            [seed as usize, rng.below(8) as usize].map(|at| &FLAVOURS[at % FLAVOURS.len()]);
        let before = of_host(&tree);
        make(&bench.path("a"), "64M", &tree, flavours[0]);
        disturb(rng, &tree);
        let after = of_host(&tree);
        make(&bench.path("b"), "64M", &tree, flavours[1]);
        let (a, b) = (open(&bench.path("a")), open(&bench.path("b")));
        let what = format!("{} to {}", flavours[0].name, flavours[1].name);
        assert_eq!(
            found(Diff::new(&a, &b, DiffOptions::default())),
            expected(&before, &after),
            "{what}"
        );
        assert!(
            found(Diff::new(&a, &a, DiffOptions { is_thorough: true, ..DiffOptions::default() }))
                .is_empty()
        );
    });
}

/// Where two files differ, in units of `unit` bytes: as a block map knows it.
fn changed_ranges(a: &Path, b: &Path, unit: u64) -> ChangedRanges {
    let (a, b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    let pairs = a.chunks(unit as usize).zip(b.chunks(unit as usize)).enumerate();
    let differing = pairs.filter(|(_, (a, b))| a != b);
    ChangedRanges::new(differing.map(|(at, _)| at as u64 * unit..(at as u64 + 1) * unit))
}

/// Edits by `debugfs`, with and without the hint, and what the content of the later one says.
/// It gives a new file the inode, the blocks and (to the second) the times of a removed one,
/// which no kernel does; without a hint only another time tells them apart.
#[test]
fn edits_of_one_disk_are_found_by_hint_and_by_times() {
    for_each_seed(6, |seed, rng| {
        let bench = Bench::new();
        let tree = bench.folder("tree");
        grow(rng, &tree, 40);
        for name in ["one", "two", "three"] {
            fs::write(tree.join(name), rng.bytes(100_000)).unwrap();
        }
        let (a, b) = (bench.path("a"), bench.path("b"));
        make(&a, "64M", &tree, &FLAVOURS[[0, 1, 3][seed as usize % 3]]);
        fs::copy(&a, &b).unwrap();
        let source = bench.path("source");
        fs::write(&source, rng.bytes(100_000)).unwrap();
        let source = source.display();
        edit(
            &b,
            &format!(
                "rm /one\nwrite {source} /one\nset_inode_field /one ctime @1000000000\nmkdir /fresh\nwrite {source} fresh/file\nrm /two\n\
             symlink /two elsewhere\nset_inode_field /three mode 0100600\nset_inode_field /three uid 77\n"
            ),
        );
        let ranges = changed_ranges(&a, &b, 65536);
        let (a, b) = (open(&a), open(&b));
        let expected = expected(&of_image(&a), &of_image(&b));
        assert!(expected.len() >= 4);
        for options in [
            DiffOptions::default(),
            DiffOptions { is_thorough: true, ..DiffOptions::default() },
            DiffOptions { changed: Some(ranges), ..DiffOptions::default() },
        ] {
            assert_eq!(found(Diff::new(&a, &b, options)), expected);
        }
    });
}

/// A root that sets every time back is found out by the hint, not by the times.
#[test]
fn content_changed_in_place_is_found_with_a_hint() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::write(tree.join("file"), vec![1; 50_000]).unwrap();
    let (a, b) = (bench.path("a"), bench.path("b"));
    make(&a, "16M", &tree, &FLAVOURS[0]);
    fs::copy(&a, &b).unwrap();
    let place =
        fs::read(&a).unwrap().chunks(4096).position(|block| block == [1; 4096]).unwrap() as u64;
    let file = fs::OpenOptions::new().write(true).open(&b).unwrap();
    file.write_all_at(b"!", place * 4096 + 9000).unwrap();
    let ranges = changed_ranges(&a, &b, 65536);
    let (a, b) = (open(&a), open(&b));
    assert!(found(Diff::new(&a, &b, DiffOptions::default())).is_empty());
    let thorough = DiffOptions { is_thorough: true, ..DiffOptions::default() };
    let hinted = DiffOptions { changed: Some(ranges), ..DiffOptions::default() };
    for options in [thorough, hinted] {
        let words = found(Diff::new(&a, &b, options));
        assert_eq!(words, BTreeMap::from([(b"/file".to_vec(), "content")]));
    }
}

/// A disk that counts what is read of it.
struct Counting(FileSource, &'static Mutex<Vec<u64>>, &'static AtomicU64);

impl BlockSource for Counting {
    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.1.lock().unwrap().push(offset);
        self.2.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_at(offset, buf)
    }
}

#[test]
fn a_hint_spares_reading_what_did_not_change() {
    static PLACES: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    static BYTES: AtomicU64 = AtomicU64::new(0);
    let bench = Bench::new();
    let tree = bench.folder("tree");
    for number in 0..100 {
        fs::write(tree.join(format!("{number}")), vec![number; 200_000]).unwrap();
    }
    let (a, b) = (bench.path("a"), bench.path("b"));
    make(&a, "64M", &tree, &FLAVOURS[0]);
    fs::copy(&a, &b).unwrap();
    edit(&b, "rm /5\nset_inode_field /7 mode 0100600\n");
    let ranges = changed_ranges(&a, &b, 4096);
    let open = |path| {
        let source = FileSource::new(File::open(path).unwrap()).unwrap();
        FileSystem::open(Counting(source, &PLACES, &BYTES)).unwrap()
    };
    let (a, b) = (open(&a), open(&b));
    let options = DiffOptions { changed: Some(ranges), ..DiffOptions::default() };
    assert_eq!(found(Diff::new(&a, &b, options)).len(), 2);
    let read = BYTES.load(Ordering::Relaxed);
    assert!(read < 400_000, "{read} bytes in {} reads", PLACES.lock().unwrap().len());
}

#[test]
fn a_limit_on_content_is_told_and_a_damaged_folder_invents_nothing() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::create_dir(tree.join("d")).unwrap();
    fs::write(tree.join("d/x"), "x").unwrap();
    fs::write(tree.join("file"), vec![1; 50_000]).unwrap();
    let (a, b) = (bench.path("a"), bench.path("b"));
    make(&a, "16M", &tree, &FLAVOURS[0]);
    make(&b, "16M", &tree, &FLAVOURS[0]);
    let folder = crate::images::run("debugfs", &["-R", "bmap /d 0", b.to_str().unwrap()]);
    let at = folder.trim().parse::<u64>().unwrap() * 4096;
    let file = fs::OpenOptions::new().write(true).open(&b).unwrap();
    file.write_all_at(&[0xFF; 40], at).unwrap();
    let (a, b) = (open(&a), open(&b));
    let limits = Limits { content_bytes_max: 1000, ..Limits::default() };
    let options = DiffOptions { limits, is_thorough: true, ..DiffOptions::default() };
    let all: Vec<_> = Diff::new(&a, &b, options).collect();
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(matches!(&all[0], Difference::Unread { error, .. } if error.path == b"/d"));
    let Difference::Change(Change::Changed { after, changes, .. }) = &all[1] else {
        panic!("{all:?}")
    };
    assert_eq!((after.metadata.kind, changes.content_unknown), (Kind::File, true));
}

/// Two cuts of one disk while it was mounted: each has its newest metadata in its journal.
#[test]
fn differences_of_two_checkpoints_are_found_by_hint_and_by_times() {
    if !sprite_testkit::is_root("mounts need root") {
        return;
    }
    let first = "mkdir d e; for i in $(seq 200); do head -c 9000 /dev/urandom > d/$i; done; sync -f .; \
        for i in $(seq 20); do head -c 70000 /dev/urandom > e/$i; done; chmod 700 e/3";
    let second = "rm d/*7; echo more >> d/11; mv d/22 e/moved; chown 5:6 e/1; chmod 600 e/2; ln -sf x e/4; \
        head -c 5000 /dev/urandom | dd of=e/5 bs=1000 seek=20 conv=notrunc status=none; \
        touch -r e/6 stamp; echo y | dd of=e/6 conv=notrunc status=none; touch -r stamp e/6; \
        setfattr -n user.note -v new e/7 2>/dev/null || true; mkdir -p f/g; cp e/8 f/g/";
    let bench = Bench::new();
    let image = bench.path("image");
    make(&image, "64M", &bench.folder("empty"), &FLAVOURS[0]);
    cut_while_mounted(&image, "data=ordered", first, &bench.path("a"), &bench.folder("was"));
    // Unmounted in order: what the next cut changes is at first in its journal only.
    fs::copy(&image, bench.path("next")).unwrap();
    let next = bench.path("next");
    cut_while_mounted(&next, "data=ordered", second, &bench.path("b"), &bench.folder("is"));
    let expected = expected(&of_host(&bench.path("was")), &of_host(&bench.path("is")));
    assert!(expected.len() > 25);
    for before in ["a", "image"] {
        let ranges = changed_ranges(&bench.path(before), &bench.path("b"), 4096);
        let (a, b) = (open(&bench.path(before)), open(&bench.path("b")));
        for options in [
            DiffOptions::default(),
            DiffOptions { is_thorough: true, ..DiffOptions::default() },
            DiffOptions { changed: Some(ranges), ..DiffOptions::default() },
        ] {
            let mut words = found(Diff::new(&a, &b, options));
            // Shown if the host has a program that sets attributes.
            words.retain(|path, word| !(path == b"/e/7" && *word == "xattrs"));
            assert_eq!(words, expected, "from {before}");
        }
    }
}
