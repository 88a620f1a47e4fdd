//! What is extracted is what was there.

use std::fs;
use std::io::{self, Write};
use std::process::{Command, Stdio};

use sprite_fsview::{ExtractError, Item, Limits, Skipped, extract_tar};

use crate::for_each_seed;
use crate::images::{Bench, FLAVOURS, edit, make, open};
use crate::tree::{assert_same, grow, of_host};

#[test]
fn a_tar_stream_unpacks_to_the_same_tree() {
    for_each_seed(4, |seed, rng| {
        let bench = Bench::new();
        let tree = bench.folder("tree");
        let top = tree.join("top");
        fs::create_dir(&top).unwrap();
        grow(rng, &top, 50);
        std::os::unix::fs::symlink("a//b/./../c/", top.join("odd")).unwrap();
        let image = bench.path("image");
        make(&image, "64M", &tree, &FLAVOURS[seed as usize % 4]);
        let out = bench.folder("out");
        let mut tar = Command::new("tar")
            .args(["-x", "-p", "--same-owner", "-C"])
            .arg(&out)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let fs = open(&image);
        let stream = io::BufWriter::new(tar.stdin.take().unwrap());
        extract_tar(&fs, b"/top", Limits::default(), stream, |skipped| panic!("{skipped:?}"))
            .unwrap();
        assert!(tar.wait().unwrap().success());
        // Who is not root cannot give files away, and the tree is its own anyway.
        assert_same(&of_host(&top), &of_host(&out.join("top")), FLAVOURS[seed as usize % 4].name);
    });
}

#[test]
fn attributes_and_nodes_in_a_tar_stream() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::write(tree.join("file"), "content").unwrap();
    let image = bench.path("image");
    make(&image, "16M", &tree, &FLAVOURS[0]);
    edit(
        &image,
        "mknod node b 8 1\nea_set /file user.note hello\nset_inode_field /file mtime @0xffffffff\nset_inode_field /file mtime_extra 0\n",
    );
    let fs = open(&image);
    let (mut stream, mut skipped) = (Vec::new(), Vec::new());
    extract_tar(&fs, b"/", Limits::default(), &mut stream, |what| skipped.push(what.to_string()))
        .unwrap();
    assert_eq!(skipped, ["`/node` is a device, pipe or socket"]);
    let mut archive = tar::Archive::new(stream.as_slice());
    let mut records = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path_bytes().as_ref() == b"file" {
            for record in entry.pax_extensions().unwrap().unwrap() {
                let record = record.unwrap();
                records.push(format!("{}={}", record.key().unwrap(), record.value().unwrap()));
            }
        }
    }
    assert_eq!(records, ["mtime=-1.000000000", "SCHILY.xattr.user.note=hello"]);
}

#[test]
fn one_file_is_extracted_and_what_is_missing_is_an_error() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), vec![7; 10_000]).unwrap();
    let image = bench.path("image");
    make(&image, "16M", &tree, &FLAVOURS[0]);
    let fs = open(&image);
    let mut items = Vec::new();
    let take = |item: Item<'_>| {
        if let Item::File(entry, _, mut reader) = item {
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content)?;
            items.push((String::from_utf8_lossy(&entry.path).into_owned(), content));
        }
        Ok(())
    };
    fs.extract(b"/a/b/file", Limits::default(), take, |skipped| panic!("{skipped:?}")).unwrap();
    assert_eq!(items, [("file".to_owned(), vec![7; 10_000])]);
    let nothing = |_: Item<'_>| Ok(());
    let missing = fs.extract(b"/a/c", Limits::default(), nothing, |_: Skipped| {});
    assert!(matches!(missing, Err(ExtractError::Find(_))));
    let small = Limits { content_bytes_max: 9_999, ..Limits::default() };
    let large = fs.extract(b"/a", small, nothing, |_| {});
    assert!(matches!(large, Err(ExtractError::TooLarge { path, .. }) if path == b"/a/b/file"));
}

/// Fails after some bytes, as a connection does.
struct Breaks(usize, Vec<u8>);

impl Write for &mut Breaks {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.1.len() + buf.len() > self.0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.1.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_broken_stream_ends_without_an_end_mark() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::write(tree.join("a"), vec![7; 100_000]).unwrap();
    let image = bench.path("image");
    make(&image, "16M", &tree, &FLAVOURS[0]);
    let mut stream = Breaks(60_000, Vec::new());
    let result = extract_tar(&open(&image), b"/a", Limits::default(), &mut stream, |_| {});
    assert!(matches!(result, Err(ExtractError::Write { .. })));
    assert!(!stream.1.ends_with(&[0; 1024]), "no end mark");
}
