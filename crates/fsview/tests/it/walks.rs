//! What is read is what is there.

use std::fs;
use std::io::Read;

use sprite_fsview::{FsError, Kind, Limits};

use crate::for_each_seed;
use crate::images::{Bench, FLAVOURS, edit, make, open, run};
use crate::tree::{assert_same, grow, of_host, of_image};

#[test]
fn a_random_tree_reads_as_it_was_written_in_every_flavour() {
    for_each_seed(FLAVOURS.len() as u64, |seed, rng| {
        let flavour = &FLAVOURS[seed as usize % FLAVOURS.len()];
        let bench = Bench::new();
        let tree = bench.folder("tree");
        grow(rng, &tree, 60);
        let image = bench.path("image");
        make(&image, "64M", &tree, flavour);
        assert_same(&of_host(&tree), &of_image(&open(&image)), flavour.name);
    });
}

/// Names and links of our own host disks, and what `debugfs` can make that `mkfs` cannot.
#[test]
fn nodes_owners_times_and_attributes_are_read() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::write(tree.join("file"), "content").unwrap();
    let image = bench.path("image");
    make(&image, "16M", &tree, &FLAVOURS[0]);
    edit(
        &image,
        "set_inode_field /file uid 100000\nset_inode_field /file gid 4000000000\n\
         set_inode_field /file mtime @0x80000000\n\
         mknod node c 5 1\nmknod pipe p\n\
         ea_set /file user.note hello\nea_set /file security.selinux label\n",
    );
    let long = "v".repeat(2000);
    fs::write(bench.path("value"), &long).unwrap();
    edit(&image, &format!("ea_set -f {} /file user.long\n", bench.path("value").display()));
    let fs = open(&image);
    let file = fs.entry(b"/file").unwrap();
    assert_eq!((file.metadata.uid, file.metadata.gid), (100_000, 4_000_000_000));
    assert_eq!(file.metadata.kind, Kind::File);
    let node = fs.entry(b"node").unwrap();
    assert_eq!((node.metadata.kind, node.metadata.device), (Kind::CharDevice, Some((5, 1))));
    assert_eq!(fs.entry(b"/pipe").unwrap().metadata.kind, Kind::Fifo);
    let xattrs = fs.xattrs(b"/file").unwrap();
    let pairs: Vec<_> = xattrs.iter().map(|x| (x.name.as_slice(), x.value.as_slice())).collect();
    assert_eq!(
        pairs,
        [
            (b"security.selinux".as_slice(), b"label".as_slice()),
            (b"user.long", long.as_bytes()),
            (b"user.note", b"hello"),
        ]
    );
}

#[test]
fn a_range_of_a_file_is_read_and_its_holes_are_known() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    let file = fs::File::create(tree.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 1 << 30).unwrap();
    let image = bench.path("image");
    make(&image, "16M", &tree, &FLAVOURS[0]);
    let fs = open(&image);
    let mut reader = fs.read_file(b"/sparse").unwrap();
    assert_eq!(reader.next_piece().unwrap(), Some((false, 1 << 30)));
    reader.skip(1 << 30);
    assert_eq!(reader.next_piece().unwrap(), Some((true, 3)));
    let mut text = Vec::new();
    fs.read_file(b"/sparse")
        .unwrap()
        .range((1 << 30) - 2..u64::MAX)
        .read_to_end(&mut text)
        .unwrap();
    assert_eq!(text, b"\0\0end");
    text.clear();
    fs.read_file(b"/sparse").unwrap().range(u64::MAX - 1..u64::MAX).read_to_end(&mut text).unwrap();
    assert_eq!(text, b"");
}

#[test]
fn links_on_the_way_are_not_followed() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::create_dir(tree.join("real")).unwrap();
    fs::write(tree.join("real/file"), "x").unwrap();
    std::os::unix::fs::symlink("real", tree.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("out")).unwrap();
    let image = bench.path("image");
    make(&image, "16M", &tree, &FLAVOURS[1]);
    let fs = open(&image);
    assert!(fs.entry(b"/real/file").is_ok());
    assert!(matches!(fs.entry(b"/link/file"), Err(FsError::NotADirectory)));
    assert!(matches!(fs.entry(b"/real/../real"), Err(FsError::NotFound)));
    assert!(matches!(fs.entry(b"/real/none"), Err(FsError::NotFound)));
    assert!(matches!(fs.read_file(b"/out"), Err(FsError::NotAFile)));
    assert_eq!(fs.entry(b"/out").unwrap().link_target.unwrap(), b"/etc/passwd");
}

/// `debugfs` gives a folder a second name inside of itself and another elsewhere.
#[test]
fn folders_in_a_circle_are_entered_once() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    fs::write(tree.join("a/b/file"), "x").unwrap();
    let image = bench.path("image");
    make(&image, "16M", &tree, &FLAVOURS[0]);
    edit(&image, "link /a /a/b/c/again\nlink /a/b /z\n");
    let fs = open(&image);
    let (good, bad): (Vec<_>, Vec<_>) =
        fs.walk(b"/", Limits::default()).unwrap().partition(Result::is_ok);
    assert_eq!(good.len(), 7, "{good:?}");
    let bad: Vec<_> = bad.into_iter().map(|error| error.unwrap_err().path).collect();
    assert_eq!(bad, [b"/a/b/c/again".to_vec(), b"/z".to_vec()]);
}

#[test]
fn limits_are_errors_with_a_path_and_the_rest_goes_on() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::create_dir_all(tree.join("a/b/c/d")).unwrap();
    fs::write(tree.join("z"), "x").unwrap();
    let image = bench.path("image");
    make(&image, "16M", &tree, &FLAVOURS[0]);
    let fs = open(&image);
    let walk = |limits| {
        let items = fs.walk(b"/", limits).unwrap();
        let texts = items.map(|item| match item {
            Ok(entry) => String::from_utf8(entry.path).unwrap(),
            Err(error) => format!("{error}: {}", error.source),
        });
        texts.filter(|text| !text.contains("/lost+found")).collect::<Vec<_>>()
    };
    let deep = walk(Limits { depth_max: 2, ..Limits::default() });
    assert_eq!(deep, ["/a", "/a/b", "`/a/b`: more than 2 folders in each other", "/z"]);
    let long = walk(Limits { path_bytes_max: 4, ..Limits::default() });
    assert_eq!(long, ["/a", "/a/b", "`/a/b/c`: more than 4 bytes of path", "/z"]);
    let many = walk(Limits { entries_max: 3, ..Limits::default() });
    assert_eq!(many, ["/a", "`/a`: more than 3 entries", "/z"]);
    let names = walk(Limits { names_bytes_max: 0, ..Limits::default() });
    assert_eq!(names, ["`/`: more than 0 bytes of names in open folders"]);
}

/// A folder with wrong bytes is an error; its neighbours are listed.
#[test]
fn a_damaged_folder_does_not_hide_the_others() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    for folder in ["a", "b", "c"] {
        fs::create_dir(tree.join(folder)).unwrap();
        fs::write(tree.join(folder).join("file"), folder).unwrap();
    }
    let image = bench.path("image");
    make(&image, "16M", &tree, &FLAVOURS[0]);
    let block: u64 =
        run("debugfs", &["-R", "bmap /b 0", image.to_str().unwrap()]).trim().parse().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xFF; 100], block * 4096 + 30).unwrap();
    let fs = open(&image);
    let (good, bad): (Vec<_>, Vec<_>) =
        fs.walk(b"/", Limits::default()).unwrap().partition(Result::is_ok);
    let bad: Vec<_> = bad.into_iter().map(|error| error.unwrap_err().path).collect();
    assert_eq!(bad, [b"/b".to_vec()]);
    assert!(good.into_iter().any(|entry| entry.unwrap().path == b"/c/file"));
}
