//! A tree as the host sees it, and as we read it: they must be equal.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use sprite_fsview::{FileSystem, Kind, Limits};

use sprite_testkit::Rng;

/// What counts of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) owner: (u32, u32),
    pub(crate) seconds: i64,
    pub(crate) links: u64,
    pub(crate) target: Vec<u8>,
    pub(crate) content: Vec<u8>,
}

pub(crate) type Tree = BTreeMap<Vec<u8>, Seen>;

/// Looks at a folder of the host.
pub(crate) fn of_host(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![top.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            let mut seen = Seen {
                kind: Kind::File,
                mode: (metadata.mode() & 0o7777) as u16,
                owner: (metadata.uid(), metadata.gid()),
                seconds: metadata.mtime(),
                links: metadata.nlink(),
                target: Vec::new(),
                content: Vec::new(),
            };
            if kind.is_dir() {
                seen.kind = Kind::Directory;
                // Not every file system counts the folders in a folder.
                seen.links = 0;
                folders.push(path.clone());
            } else if kind.is_symlink() {
                seen.kind = Kind::Symlink;
                seen.target = fs::read_link(&path).unwrap().into_os_string().into_vec();
            } else if kind.is_fifo() {
                seen.kind = Kind::Fifo;
            } else if kind.is_char_device() {
                seen.kind = Kind::CharDevice;
            } else {
                seen.content = fs::read(&path).unwrap();
            }
            let below = path.strip_prefix(top).unwrap().as_os_str().as_bytes();
            tree.insert([b"/", below].concat(), seen);
        }
    }
    tree
}

/// Walks an image. What `mkfs` adds is left out.
pub(crate) fn of_image(fs: &FileSystem) -> Tree {
    let mut tree = Tree::new();
    let mut last: Vec<Vec<u8>> = Vec::new();
    for entry in fs.walk(b"/", Limits::default()).unwrap() {
        let entry = entry.unwrap();
        let parts: Vec<Vec<u8>> = entry.path.split(|&b| b == b'/').map(<[u8]>::to_vec).collect();
        assert!(last < parts, "sorted, part by part");
        last = parts;
        if entry.path == b"/lost+found" {
            continue;
        }
        let mut content = Vec::new();
        if entry.metadata.kind == Kind::File {
            fs.read_entry(&entry).unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(content.len() as u64, entry.metadata.size_bytes);
        }
        let is_folder = entry.metadata.kind == Kind::Directory;
        let seen = Seen {
            kind: entry.metadata.kind,
            mode: entry.metadata.mode,
            owner: (entry.metadata.uid, entry.metadata.gid),
            seconds: entry.metadata.mtime.seconds,
            links: if is_folder { 0 } else { u64::from(entry.metadata.links) },
            target: entry.link_target.unwrap_or_default(),
            content,
        };
        tree.insert(entry.path, seen);
    }
    tree
}

/// Compares; only names that differ are printed.
#[track_caller]
pub(crate) fn assert_same(left: &Tree, right: &Tree, what: &str) {
    let name = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    let only = |a: &Tree, b: &Tree| -> Vec<String> {
        a.keys().filter(|path| !b.contains_key(*path)).map(name).collect()
    };
    assert_eq!((only(left, right), only(right, left)), Default::default(), "{what}");
    for (path, seen) in left {
        let other = &right[path];
        let brief = |seen: &Seen| Seen { content: Vec::new(), ..seen.clone() };
        assert_eq!(brief(seen), brief(other), "{what}: {}", name(path));
        let same = seen.content.iter().zip(&other.content).take_while(|(a, b)| a == b).count();
        let len = seen.content.len();
        let what = format!("{what}: {}", name(path));
        assert_eq!((same, other.content.len()), (len, len), "{what}: content differs");
    }
}

/// Fills a folder with about `count` random entries.
pub(crate) fn grow(rng: &mut Rng, top: &Path, count: u64) {
    let mut folders = vec![top.to_path_buf()];
    let mut files = Vec::new();
    for number in 0..count {
        let folder = &folders[rng.below(folders.len() as u64) as usize];
        let path = folder.join(OsStr::from_bytes(&name(rng, number)));
        match rng.below(10) {
            0..=2 => {
                fs::create_dir(&path).unwrap();
                folders.push(path);
            }
            3 => {
                let len = [1, 59, 60, 61, 400][rng.below(5) as usize];
                symlink(OsStr::from_bytes(&vec![b'x'; len]), &path).unwrap();
            }
            4 if !files.is_empty() => {
                let old: &std::path::PathBuf = &files[rng.below(files.len() as u64) as usize];
                fs::hard_link(old, &path).unwrap();
            }
            _ => {
                write(rng, &path);
                let mode = rng.below(0o10000) as u32 | 0o400;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                files.push(path);
            }
        }
    }
}

/// A name that `number` makes unique; some are long, some are no text.
fn name(rng: &mut Rng, number: u64) -> Vec<u8> {
    let mut name = format!("{number}").into_bytes();
    if rng.one_in(8) {
        name.resize(255, b'n');
    }
    if rng.one_in(8) {
        name = [name.as_slice(), b"\xFF \n"].concat();
        name.truncate(255);
    }
    name
}

/// Writes a file: empty, short, long, or with holes, some of them with many.
pub(crate) fn write(rng: &mut Rng, path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let len = [0, 1, 59, 100, 4096, 5000, 70_000][rng.below(7) as usize];
    file.write_all(&rng.bytes(len)).unwrap();
    if rng.one_in(4) {
        let pieces = [1, 30, 400][rng.below(3) as usize];
        for piece in 1..=pieces {
            file.seek(SeekFrom::Start(piece * 12288)).unwrap();
            file.write_all(&rng.bytes(10)).unwrap();
        }
        // No hole at the end: `mkfs.ext4` 1.47.0 cuts it off in file systems with inline data.
    }
}
