//! Imports of roots that mean well, and of some that do not.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use sprite_image::{ImageError, Images, ImportFrom, Origin};
use sprite_types::ErrorKind;
use tar::{EntryType, Header};

/// A tar archive in the making; paths go in as they are, whatever the library thinks of them.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, path: &str, target: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(data.len() as u64);
        if matches!(kind, EntryType::Block | EntryType::Char) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(5).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.add(EntryType::Regular, path, "", 0o644, data.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.add(EntryType::Directory, path, "", 0o755, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, path, target, 0o777, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A small root with what an import asks for.
fn base() -> Tar {
    Tar::new()
        .dir("./")
        .dir("./bin")
        .add(EntryType::Regular, "./bin/sh", "", 0o4755, b"#!")
        .dir("./etc")
        .file("./etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        .file("./etc/group", "root:x:0:\nsudo:x:27:\n")
        .file("./etc/machine-id", "secret\n")
        .dir("./etc/ssh")
        .file("./etc/ssh/ssh_host_rsa_key", "secret\n")
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: importing an image needs root");
    }
    root
}

async fn import(dir: &Path, from: ImportFrom) -> Result<sprite_image::Image, ImageError> {
    let images = Images::open(dir.join("images")).unwrap();
    images.import(from, "test".to_owned(), |_| {}).await
}

async fn import_tar(dir: &Path, bytes: &[u8]) -> Result<sprite_image::Image, ImageError> {
    let path = dir.join("root.tar");
    fs::write(&path, bytes).unwrap();
    import(dir, ImportFrom::Tarball(path)).await
}

/// Asks `debugfs`, so that nothing is mounted.
fn debugfs(image: &Path, request: &str) -> String {
    let output = Command::new("debugfs").args(["-R", request]).arg(image).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn exists(image: &Path, path: &str) -> bool {
    !debugfs(image, &format!("stat {path}")).is_empty()
}

#[tokio::test]
async fn a_tarball_becomes_an_image_with_the_sprites_user_and_files() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let bytes = base()
        .add(EntryType::Block, "./disk", "", 0o666, b"")
        .add(EntryType::Char, "./bin/mem", "", 0o666, b"")
        .bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let image = import_tar(dir.path(), &gzip.finish().unwrap()).await.unwrap();
    assert_eq!((image.origin, image.name.as_str()), (Origin::Imported, "test"));

    let passwd = debugfs(&image.path, "cat /etc/passwd");
    assert!(passwd.contains("sprite:x:1001:1001::/home/sprite:/bin/sh"), "{passwd}");
    assert!(debugfs(&image.path, "cat /etc/group").contains("sudo:x:27:sprite"));
    assert!(debugfs(&image.path, "cat /.sprite/llm.txt").contains("sprite"));
    assert!(debugfs(&image.path, "stat /bin/sh").contains("Mode:  04755"));
    assert!(debugfs(&image.path, "stat /").contains("Mode:  0775"));
    assert!(debugfs(&image.path, "stat /home/sprite").contains("User:  1001"));
    assert_eq!(debugfs(&image.path, "cat /etc/machine-id"), "");
    for gone in ["/disk", "/bin/mem", "/etc/ssh/ssh_host_rsa_key"] {
        assert!(!exists(&image.path, gone), "{gone}");
    }
    let check = Command::new("e2fsck").arg("-fn").arg(&image.path).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

    let images = Images::open(dir.path().join("images")).unwrap();
    assert_eq!(images.find("test").unwrap().id, image.id);
    images.remove(&image.id).await.unwrap();
    assert!(images.list().unwrap().is_empty());
    assert_eq!(images.remove(&image.id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// What a hostile archive could reach outside, if anybody resolved its paths by hand.
#[tokio::test]
async fn no_path_of_an_archive_leads_outside() {
    if !is_root() {
        return;
    }
    // Not in /tmp, which an import empties.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("passwd"), "untouched").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o700)).unwrap();
    let out = outside.to_str().unwrap();
    let bytes = base()
        .dir(&format!(".{out}"))
        // Folders of ours that are links to the host's.
        .link("./home", out)
        .link("./.sprite", out)
        .link("./opt", "../../../../../../..")
        // Writing through a link, and through a link to a link.
        .link("./escape", out)
        .file("./escape/planted", "x")
        .link("./up", "../../../../../../../../..")
        .file(&format!("./up{out}/planted"), "x")
        .link("./magic", "/proc/self/root")
        // A file in the place of a link is a new file, not a write to its target.
        .link("./passwd", &format!("{out}/passwd"))
        .file("./passwd", "mine")
        .link("./etc/shadow", &format!("{out}/passwd"))
        .bytes();
    let image = import_tar(dir.path(), &bytes).await.unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "something was planted");
    assert_eq!(fs::read_to_string(outside.join("passwd")).unwrap(), "untouched");
    let meta = fs::metadata(&outside).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o700, 0));
    // The paths mean the same inside, as they would at run time.
    assert!(exists(&image.path, &format!("{out}/planted")));
    assert_eq!(debugfs(&image.path, "cat /passwd"), "mine");
}

#[tokio::test]
async fn archives_that_mean_harm_or_nonsense_are_refused_and_leave_nothing() {
    if !is_root() {
        return;
    }
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("leads up", base().file("./../../planted", "x").bytes()),
        (
            "hard link to the host",
            base().add(EntryType::Link, "./x", "../../etc/passwd", 0o644, b"").bytes(),
        ),
        (
            "hard link to nothing",
            base().add(EntryType::Link, "./x", "etc/nothing", 0o644, b"").bytes(),
        ),
        ("hard link to a folder", base().add(EntryType::Link, "./x", "etc", 0o644, b"").bytes()),
        ("link loop", base().link("./a", "b").link("./b", "a").file("./a/x", "x").bytes()),
        ("not a root", Tar::new().file("./readme", "x").bytes()),
        ("foreign 1001", base().file("./etc/passwd", "bob:x:1001:1001::/:/bin/sh\n").bytes()),
        ("truncated", base().bytes()[..1000].to_vec()),
        ("noise", (0..5000u32).map(|n| (n * 7 % 251) as u8).collect()),
        ("bad gzip", [&[0x1f, 0x8b][..], &[9; 100]].concat()),
        ("bad zstd", [&[0x28, 0xb5, 0x2f, 0xfd][..], &[9; 100]].concat()),
    ];
    for (what, bytes) in bad {
        let dir = tempfile::tempdir().unwrap();
        let error = import_tar(dir.path(), &bytes).await;
        assert!(error.is_err(), "{what}: {error:?}");
        let left: Vec<_> = fs::read_dir(dir.path().join("images"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "lock")
            .collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

/// Writes a blob; returns its digest.
fn blob(layout: &Path, bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(layout.join("blobs/sha256").join(&hex), bytes).unwrap();
    format!("sha256:{hex}")
}

/// An OCI layout of these layers, behind one more index, as builders for several platforms do.
fn layout(dir: &Path, layers: &[Vec<u8>]) -> PathBuf {
    let layout = dir.join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let layers: Vec<_> = layers
        .iter()
        .map(|bytes| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": blob(&layout, bytes), "size": bytes.len(),
            })
        })
        .collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "layers": layers}).to_string();
    let manifest = blob(&layout, manifest.as_bytes());
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let inner = serde_json::json!({"manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest,
         "platform": {"os": "linux", "architecture": arch}},
        {"digest": "sha256:none", "platform": {"os": "linux", "architecture": "s390x"}},
    ]});
    let inner = blob(&layout, inner.to_string().as_bytes());
    let outer = serde_json::json!({"manifests": [
        {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": inner},
    ]});
    fs::write(layout.join("index.json"), outer.to_string()).unwrap();
    layout
}

#[tokio::test]
async fn later_layers_replace_and_remove_what_earlier_ones_brought() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let first = base()
        .dir("./data")
        .file("./data/old", "1")
        .file("./kept", "1")
        .file("./gone", "1")
        .dir("./tree")
        .dir("./tree/below")
        .file("./tree/below/leaf", "1")
        .file("./kind", "a file")
        .bytes();
    let second = Tar::new()
        .file("./data/new", "2")
        // Opaque after the new file: it hides only what is below.
        .file("./data/.wh..wh..opq", "")
        .file("./.wh.gone", "")
        .file("./.wh.tree", "")
        .file("./.wh.never-was", "")
        .file("./no/such/.wh.folder", "")
        .file("./.wh...", "")
        .dir("./kind")
        .file("./kind/inside", "2")
        .bytes();
    let from = ImportFrom::OciLayout(layout(dir.path(), &[first, second]));
    let image = import(dir.path(), from).await.unwrap();
    for there in ["/data/new", "/kept", "/kind/inside", "/bin/sh"] {
        assert!(exists(&image.path, there), "{there}");
    }
    for gone in ["/data/old", "/gone", "/tree", "/data/.wh..wh..opq"] {
        assert!(!exists(&image.path, gone), "{gone}");
    }
}

#[tokio::test]
async fn a_whiteout_does_not_reach_outside() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "x").unwrap();
    let first = base().link("./link", outside.to_str().unwrap()).bytes();
    let second = Tar::new()
        .file("./link/.wh.kept", "")
        .file("./link/.wh..wh..opq", "")
        .file("./.wh.link", "")
        .bytes();
    let from = ImportFrom::OciLayout(layout(dir.path(), &[first, second]));
    import(dir.path(), from).await.unwrap();
    assert!(outside.join("kept").exists());
}

#[tokio::test]
async fn damaged_and_foreign_layouts_are_refused() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path(), &[base().bytes()]);
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, damaged).unwrap();
        let error = import(dir.path(), ImportFrom::OciLayout(layout.clone())).await.unwrap_err();
        assert!(error.to_string().contains("digest differs"), "{error}");
        fs::write(&path, whole).unwrap();
    }
    for index in [
        "",
        "[]",
        r#"{"manifests":[]}"#,
        r#"{"manifests":[{"digest":"sha256:../../../../etc/passwd"}]}"#,
        r#"{"manifests":[{"digest":"md5:00"}]}"#,
        r#"{"manifests":[{"digest":"x","platform":{"os":"linux","architecture":"s390x"}}]}"#,
    ] {
        fs::write(layout.join("index.json"), index).unwrap();
        let error = import(dir.path(), ImportFrom::OciLayout(layout.clone())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{index}: {error}");
    }
}

#[tokio::test]
async fn what_is_not_a_regular_file_is_refused_without_waiting_for_it() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [fifo, dir.path().to_owned(), PathBuf::from("/dev/zero")] {
        let error = import(dir.path(), ImportFrom::Tarball(path)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

#[tokio::test]
async fn an_import_that_nobody_waits_for_ends_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Reading a file this long takes a while, though there is nothing in it.
    let path = dir.path().join("root.tar");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let importing = import(dir.path(), ImportFrom::Tarball(path));
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(200), importing).await;
    assert!(given_up.is_err());
    let images = dir.path().join("images");
    let started = std::time::Instant::now();
    let left = || {
        fs::read_dir(&images).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "lock").count()
    };
    while left() > 0 {
        assert!(started.elapsed().as_secs() < 30, "the import goes on");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
