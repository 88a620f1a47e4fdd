//! Makes an image of a root file system made elsewhere, without running anything of it.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use sprite_types::{ByteSize, ImageId};

use crate::accounts::Accounts;
use crate::build::{PATH, find_program};
use crate::error::ImageError;
use crate::extract::{Budget, Mode, unpack};
use crate::progress::Steps;
use crate::root::{Attributes, Root};
use crate::{mkfs, oci, overlay};

/// Size of the file system of an imported image.
const IMAGE_SIZE: ByteSize = ByteSize::gib(100);
/// More files than a usual disk has room for names.
const ENTRIES_MAX: u64 = 4_000_000;
/// Largest account file that is read.
const ACCOUNTS_BYTES_MAX: u64 = 1 << 20;

/// What an image can be made of.
#[derive(Clone, Debug)]
pub enum ImportFrom {
    /// A tar archive of a root file system: plain, gzip, xz or zstd.
    Tarball(PathBuf),
    /// A folder with an OCI image layout; the image for this host's architecture is taken.
    OciLayout(PathBuf),
}

/// Imports into the ext4 file `out`, working in the folder `work`; returns the id.
pub(crate) fn import(
    from: &ImportFrom,
    work: &Path,
    out: &Path,
    steps: &mut Steps,
    cancel: &AtomicBool,
) -> Result<ImageId, ImageError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ImageError::NotRoot);
    }
    let root_path = work.join("root");
    fs::create_dir(&root_path).map_err(|e| ImageError::io("make a folder", e))?;
    let digest = unpack_source(from, &root_path, steps, cancel)?;
    steps.begin("add the sprite's files");
    let name = "imported";
    prepare(&Root::open(&root_path).map_err(|e| ImageError::io("open the new root", e))?, name)?;
    steps.begin("write the file system");
    make_ext4(&root_path, out, steps, cancel)?;
    steps.end();
    Ok(ImageId::from_digest(&digest))
}

/// Unpacks the source into the folder and returns a digest of everything that decides what is
/// in the image.
pub(crate) fn unpack_source(
    from: &ImportFrom,
    root_path: &Path,
    steps: &mut Steps,
    cancel: &AtomicBool,
) -> Result<Vec<u8>, ImageError> {
    let root = Root::open(root_path).map_err(|e| ImageError::io("open the new root", e))?;
    let free = rustix::fs::statvfs(root_path)
        .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
        .map_err(|e| ImageError::io("find the free space", e.into()))?;
    // The root and the file system of it exist side by side for a while.
    let mut budget = Budget { bytes: free / 5 * 2, entries: ENTRIES_MAX };
    let mut id = Sha256::new();
    id.update(mkfs::FEATURES);
    for entry in overlay::entries("imported") {
        id.update(entry.describe());
    }
    match from {
        ImportFrom::Tarball(path) => {
            // The caller may name the archive by a link; what it leads to is then read.
            let path = fs::canonicalize(path)
                .map_err(|e| ImageError::io(format!("find `{}`", path.display()), e))?;
            steps.begin("read the archive");
            id.update(digest_of(&path, cancel)?);
            steps.begin("unpack the archive");
            unpack_file(&path, &root, Mode::Plain, &mut budget, cancel)?;
        }
        ImportFrom::OciLayout(path) => {
            let layers = oci::layers(path, architecture())?;
            let count = layers.len();
            for (number, layer) in layers.iter().enumerate() {
                steps.begin(&format!("unpack layer {} of {count}", number + 1));
                if layer.media_type.contains("encrypted") {
                    return Err(ImageError::Invalid { what: "a layer is encrypted".to_owned() });
                }
                let digest = digest_of(&layer.path, cancel)?;
                if layer.digest != format!("sha256:{}", oci::hex(&digest)) {
                    let what = format!("`{}` is damaged: its digest differs", layer.path.display());
                    return Err(ImageError::Invalid { what });
                }
                id.update(digest);
                unpack_file(&layer.path, &root, Mode::Whiteouts, &mut budget, cancel)?;
                unpack_file(&layer.path, &root, Mode::Layer, &mut budget, cancel)?;
            }
        }
    }
    Ok(id.finalize().to_vec())
}

/// Returns this host's architecture as OCI names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest_of(path: &Path, cancel: &AtomicBool) -> Result<Vec<u8>, ImageError> {
    let mut file = oci::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(ImageError::Cancelled);
        }
        let count = file
            .read(&mut buffer)
            .map_err(|source| ImageError::io(format!("read `{}`", path.display()), source))?;
        if count == 0 {
            return Ok(hash.finalize().to_vec());
        }
        hash.update(&buffer[..count]);
    }
}

fn unpack_file(
    path: &Path,
    root: &Root,
    mode: Mode,
    budget: &mut Budget,
    cancel: &AtomicBool,
) -> Result<(), ImageError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::Interrupted if cancel.load(Ordering::Relaxed) => ImageError::Cancelled,
        _ => ImageError::io(format!("unpack `{}`", path.display()), source),
    };
    let mut file = oci::open(path)?;
    let mut magic = [0; 6];
    let count = read_start(&mut file, &mut magic).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let file = BufReader::with_capacity(1 << 20, file);
    match &magic[..count] {
        [0x1f, 0x8b, ..] => {
            let stream = flate2::bufread::MultiGzDecoder::new(file);
            unpack(stream, root, mode, budget, cancel).map_err(failed)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut stream = Unpacker::start("zstd", "zstd", path)?;
            unpack(&mut stream, root, mode, budget, cancel).map_err(failed)?;
            stream.finish(path)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let mut stream = Unpacker::start("xz", "xz-utils", path)?;
            unpack(&mut stream, root, mode, budget, cancel).map_err(failed)?;
            stream.finish(path)
        }
        _ => unpack(file, root, mode, budget, cancel).map_err(failed),
    }
}

/// Fills the buffer as far as there is something to read.
fn read_start(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// A program that unpacks a file to its standard output; killed when dropped.
struct Unpacker(Child);

impl Unpacker {
    fn start(
        program: &'static str,
        package: &'static str,
        path: &Path,
    ) -> Result<Self, ImageError> {
        let child = Command::new(find_program(program, package)?)
            .arg("-dc")
            .stdin(oci::open(path)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| ImageError::io(format!("start `{program}`"), source))?;
        Ok(Self(child))
    }

    /// Reads the rest and checks that the program was content.
    fn finish(mut self, path: &Path) -> Result<(), ImageError> {
        let damaged = |source| ImageError::io(format!("unpack `{}`", path.display()), source);
        io::copy(&mut self, &mut io::sink()).map_err(damaged)?;
        match self.0.wait().map_err(damaged)? {
            status if status.success() => Ok(()),
            status => Err(ImageError::Invalid {
                what: format!("`{}` is damaged: unpacking ended with {status}", path.display()),
            }),
        }
    }
}

impl Read for Unpacker {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.stdout.as_mut().map_or(Ok(0), |stdout| stdout.read(buffer))
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Adds what makes a root a sprite's: the user, our files, no secrets of whoever made it.
pub(crate) fn prepare(root: &Root, name: &str) -> Result<(), ImageError> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |source: io::Error| ImageError::io(doing.clone(), source)
    };
    let text = |path: &str| -> Result<Option<String>, ImageError> {
        let bytes = root.read(path, ACCOUNTS_BYTES_MAX).map_err(failed(path))?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let shell = if root.stat("bin/bash").is_ok() { "/bin/bash" } else { "/bin/sh" };
    if root.stat(&shell[1..]).is_err() {
        let what = "this is not a root file system: it has no /bin/sh".to_owned();
        return Err(ImageError::Invalid { what });
    }
    let accounts = Accounts {
        passwd: text("etc/passwd")?.unwrap_or_default(),
        group: text("etc/group")?.unwrap_or_default(),
        shadow: text("etc/shadow")?,
        gshadow: text("etc/gshadow")?,
    }
    .with_sprite(shell)?;

    let archive = overlay::archive(name, 0).map_err(failed("pack our files"))?;
    let mut budget = Budget { bytes: u64::MAX / 2, entries: ENTRIES_MAX };
    unpack(archive.as_slice(), root, Mode::Plain, &mut budget, &AtomicBool::new(false))
        .map_err(failed("add our files"))?;

    let write = |path: &str, mode: u32, gid: u32, text: &str| {
        let attributes = Attributes { mode, uid: 0, gid, mtime: 0 };
        let place = root.place(Path::new(path), true).map_err(failed(path))?;
        let place = place.expect("no path below is the root's own");
        root.make_file(&place, attributes, &[], &mut text.as_bytes()).map_err(failed(path))
    };
    let group_of = |path: &str| root.stat(path).map_or(0, |stat| stat.st_gid);
    write("etc/passwd", 0o644, 0, &accounts.passwd)?;
    write("etc/group", 0o644, 0, &accounts.group)?;
    for (path, text) in [("etc/shadow", &accounts.shadow), ("etc/gshadow", &accounts.gshadow)] {
        if let Some(text) = text {
            write(path, 0o640, group_of(path), text)?;
        }
    }
    write("etc/machine-id", 0o444, 0, "")?;
    write("etc/resolv.conf", 0o644, 0, "# Written when the sprite starts.\n")?;
    shims(root)?;
    clean(root)
}

/// Links the languages that the root brings to where sprites have them.
fn shims(root: &Root) -> Result<(), ImageError> {
    let failed = |source| ImageError::io("link the root's languages", source);
    let sprite =
        Attributes { mode: 0o777, uid: overlay::SPRITE_ID, gid: overlay::SPRITE_ID, mtime: 0 };
    for (shim, program) in [
        ("python3", "python3"),
        ("python", "python3"),
        ("pip3", "pip3"),
        ("pip", "pip3"),
        ("node", "node"),
        ("npm", "npm"),
        ("npx", "npx"),
        ("uv", "uv"),
    ] {
        let found = ["usr/local/bin", "usr/bin", "bin"]
            .map(|dir| format!("{dir}/{program}"))
            .into_iter()
            .find(|path| root.stat(path).is_ok());
        let Some(found) = found else { continue };
        let place = root.place(&Path::new(".sprite/bin").join(shim), true).map_err(failed)?;
        let place = place.expect("a shim is not the root itself");
        root.make_link(&place, format!("/{found}").as_ref(), sprite).map_err(failed)?;
    }
    Ok(())
}

/// Removes what must differ between machines, and what is mounted over anyway.
fn clean(root: &Root) -> Result<(), ImageError> {
    let failed = |source| ImageError::io("tidy the new root", source);
    for dir in ["dev", "proc", "sys", "run", "tmp"] {
        let attributes = Attributes {
            mode: if dir == "tmp" { 0o1777 } else { 0o755 },
            uid: 0,
            gid: 0,
            mtime: 0,
        };
        let place = root.place(Path::new(dir), true).map_err(failed)?;
        if let Some(place) = &place {
            root.remove(place).map_err(failed)?;
        }
        root.make_dir(place.as_ref(), attributes, false).map_err(failed)?;
    }
    for kind in ["rsa", "ecdsa", "ed25519", "dsa"] {
        for ending in ["", ".pub"] {
            let path = format!("etc/ssh/ssh_host_{kind}_key{ending}");
            if let Ok(Some(place)) = root.place(Path::new(&path), false) {
                root.remove(&place).map_err(failed)?;
            }
        }
    }
    for minor in 8..30 {
        let path = format!("usr/lib/python3.{minor}/EXTERNALLY-MANAGED");
        if let Ok(Some(place)) = root.place(Path::new(&path), false) {
            root.remove(&place).map_err(failed)?;
        }
    }
    Ok(())
}

/// Makes a durable ext4 file of a folder.
fn make_ext4(
    root: &Path,
    out: &Path,
    steps: &mut Steps,
    cancel: &AtomicBool,
) -> Result<(), ImageError> {
    let doing = "write the file system";
    let file = File::create_new(out).map_err(|e| ImageError::io(doing, e))?;
    file.set_len(IMAGE_SIZE.0).map_err(|e| ImageError::io(doing, e))?;
    let log_path = out.with_extension("log");
    let log = File::create(&log_path).map_err(|e| ImageError::io(doing, e))?;
    let mut child = Command::new(find_program("mkfs.ext4", "e2fsprogs")?)
        .env("PATH", PATH)
        .args(mkfs::OPTIONS)
        .args(["-m", "0", "-O", mkfs::FEATURES, "-d"])
        .arg(root)
        .arg(out)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|source| ImageError::io("start `mkfs.ext4`", source))?;
    let status = loop {
        match child.try_wait().map_err(|e| ImageError::io(doing, e))? {
            Some(status) => break status,
            None if cancel.load(Ordering::Relaxed) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(ImageError::Cancelled);
            }
            None => {
                steps.tick();
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    };
    if !status.success() {
        let text = fs::read_to_string(&log_path).unwrap_or_default();
        let last = text.lines().last().unwrap_or_default();
        let what = format!("write the file system: `mkfs.ext4` ended with {status}: {last}");
        return Err(ImageError::Invalid { what });
    }
    let commands = out.with_extension("debugfs");
    fs::write(&commands, mkfs::ROOT_FIELDS).map_err(|e| ImageError::io(doing, e))?;
    let output = Command::new(find_program("debugfs", "e2fsprogs")?)
        .arg("-w")
        .arg("-f")
        .arg(&commands)
        .arg(out)
        .output()
        .map_err(|source| ImageError::io("start `debugfs`", source))?;
    if !output.status.success() {
        let what = format!("write the file system: `debugfs` ended with {}", output.status);
        return Err(ImageError::Invalid { what });
    }
    file.sync_all().map_err(|e| ImageError::io("flush the image to the disk", e))
}
