//! Images for tests: made by `mkfs.ext4 -d` from a folder, which needs no root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use sprite_fsview::{FileSource, FileSystem};

/// Options of `mkfs.ext4` that make file systems of different shape.
pub(crate) struct Flavour {
    pub(crate) name: &'static str,
    options: &'static [&'static str],
}

/// The features of `sprite-image`, with a small journal.
const OURS: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,\
    sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

pub(crate) const FLAVOURS: [Flavour; 8] = [
    Flavour {
        name: "ours",
        options: &["-O", OURS, "-b", "4096", "-I", "256", "-E", "packed_meta_blocks=1"],
    },
    Flavour { name: "default", options: &[] },
    Flavour {
        name: "sparse_super2",
        options: &["-O", "sparse_super2,^resize_inode", "-E", "packed_meta_blocks=1"],
    },
    Flavour { name: "no checksums", options: &["-O", "^metadata_csum,^64bit"] },
    Flavour {
        name: "meta_bg, small blocks",
        options: &["-O", "meta_bg,^resize_inode", "-b", "1024"],
    },
    Flavour { name: "inline data", options: &["-O", "inline_data"] },
    Flavour { name: "like ext2", options: &["-O", "^extent,^64bit,^metadata_csum,^has_journal"] },
    Flavour { name: "small inodes", options: &["-I", "128"] },
];

/// Runs a program of the system; `/usr/sbin` is not in everybody's `PATH`.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| panic!("run {program}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes an image of `size` (as `mkfs.ext4` takes it) that holds what is in `tree`.
pub(crate) fn make(image: &Path, size: &str, tree: &Path, flavour: &Flavour) {
    let (image, tree) = (image.to_str().unwrap(), tree.to_str().unwrap());
    let mut arguments = vec!["-q", "-F", "-L", "sprite"];
    if !flavour.options.iter().any(|option| option.contains("^has_journal")) {
        arguments.extend(["-J", "size=4"]);
    }
    arguments.extend(flavour.options);
    arguments.extend(["-d", tree, image, size]);
    run("mkfs.ext4", &arguments);
}

/// Runs commands in `debugfs`, which writes the image and its checksums.
pub(crate) fn edit(image: &Path, commands: &str) {
    let script = image.with_extension("debugfs");
    std::fs::write(&script, commands).unwrap();
    run("debugfs", &["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()]);
}

pub(crate) fn open(image: &Path) -> FileSystem {
    FileSystem::open(FileSource::new(File::open(image).unwrap()).unwrap()).unwrap()
}

/// A folder for one test.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        // In memory, if the host has such a place: images are synced many times.
        let dir = match Path::new("/dev/shm").is_dir() {
            true => tempfile::tempdir_in("/dev/shm").unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes an empty folder.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}
