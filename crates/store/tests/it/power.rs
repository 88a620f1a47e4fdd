//! What a power cut leaves of a local folder.
//!
//! The folder is on an ext4 on a loop device. A copy of the device's file holds what reached the
//! device and nothing that only the kernel's memory had, which is what a cut leaves. The file
//! system is told not to commit its journal by itself, so whatever nobody synced is missing.
//! One sync of ext4's commits all folders, so syncs of the folders above cannot be missed here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use sprite_store::{Ambient, CreateError, Key, LocalFolder, Prefix, Store, seeded};

use crate::basics::{key, store};

/// A file system in a file.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn format(dir: &Path) -> Self {
        let image = dir.join("disk.ext4");
        fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", path(&image)]);
        Self::mount(image, dir.join("live"))
    }

    fn mount(image: PathBuf, mount: PathBuf) -> Self {
        fs::create_dir_all(&mount).unwrap();
        run("mount", &["-o", "loop,commit=3600", path(&image), path(&mount)]);
        Self { image, mount }
    }

    /// Returns what would be there if the power failed now.
    fn after_cut(&self, dir: &Path, round: u32) -> Self {
        let copy = dir.join(format!("copy-{round}"));
        run("cp", &["--sparse=always", path(&self.image), path(&copy)]);
        Self::mount(copy, dir.join(format!("cut-{round}")))
    }

    fn store(&self) -> Store {
        store(LocalFolder::open(self.mount.join("store"), &Ambient::system()).unwrap())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        let done = umount.arg(&self.mount).status().is_ok_and(|status| status.success());
        if !done {
            let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
}

fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !can {
        println!("skipped: needs root and loop devices");
    }
    can
}

/// Cuts the power and compares with what was answered for. Returns whether the cut was a real
/// one: if somebody synced all file systems of the host meanwhile, it shows nothing.
async fn check(disk: &Disk, dir: &Path, round: u32, acknowledged: &BTreeMap<Key, Bytes>) -> bool {
    let unsynced = format!("unsynced-{round}");
    fs::write(disk.mount.join(&unsynced), "never synced").unwrap();
    let cut = disk.after_cut(dir, round);
    let after = cut.store();
    for (name, bytes) in acknowledged {
        let found = after.get(name).await;
        assert_eq!(found.ok().as_ref(), Some(bytes), "round {round}: {name} is not there");
    }
    // What was not answered for may be there, but then whole.
    for object in after.list(&Prefix::root()).await.unwrap() {
        assert!(acknowledged.contains_key(&object.key), "round {round}: {}", object.key);
    }
    !cut.mount.join(&unsynced).exists()
}

#[tokio::test]
async fn what_was_answered_for_survives_a_power_cut() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::format(dir.path());
    let stores = [disk.store(), disk.store()];
    let random = seeded(1);
    let mut acknowledged = BTreeMap::new();
    let mut real = 0;
    for round in 0..9 {
        let bytes: Bytes = vec![u8::try_from(random() % 256).unwrap(); 10_000].into();
        let name = key(&format!("orgs/{}/{round}/x", random() % 3));
        stores[0].create(&name, bytes.clone()).await.unwrap();
        let rival = stores[1].create(&name, Bytes::from_static(b"other")).await;
        assert!(matches!(rival, Err(CreateError::Taken { .. })));
        acknowledged.insert(name.clone(), bytes);
        // Each sync makes everything before it durable, so each kind of call is the last once.
        match round % 3 {
            0 => {
                let bytes: Bytes = format!("round {round}").into();
                let name = key(&format!("orgs/last-{round}"));
                stores[1].create(&name, bytes.clone()).await.unwrap();
                acknowledged.insert(name, bytes);
            }
            1 => {
                let bytes: Bytes = format!("round {round}").into();
                let hint = key("orgs/hint.json");
                stores[0].overwrite(&hint, bytes.clone()).await.unwrap();
                acknowledged.insert(hint, bytes);
            }
            _ => {
                stores[1].delete(&name).await.unwrap();
                acknowledged.remove(&name);
            }
        }
        real += u32::from(check(&disk, dir.path(), round, &acknowledged).await);
    }
    assert!(real > 0, "the host synced all its file systems each time");
}

/// Another process has given an object its name, in a folder that is as new, and was stopped
/// before it synced either. Whoever finds the object and says "it is mine" answers for it.
#[tokio::test]
async fn an_object_found_there_is_durable_before_it_is_answered_for() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::format(dir.path());
    let store = disk.store();
    let root = disk.mount.join("store");
    let mut acknowledged = BTreeMap::new();
    let mut real = 0;
    for round in 0..4 {
        // In a folder that this process knows, and in one that it does not.
        let known = key(&format!("known/{round}"));
        let new = key(&format!("new-{round}/a/b"));
        if round == 0 {
            let first = key("known/first");
            store.create(&first, Bytes::new()).await.unwrap();
            acknowledged.insert(first, Bytes::new());
        }
        let name = if round % 2 == 0 { known } else { new };
        let bytes = Bytes::from(format!("content {round}"));
        let staged = disk.mount.join(format!("staged-{round}"));
        fs::write(&staged, &bytes).unwrap();
        fs::File::open(&staged).unwrap().sync_all().unwrap();
        let object = root.join(name.as_str());
        fs::create_dir_all(object.parent().unwrap()).unwrap();
        fs::hard_link(&staged, &object).unwrap();
        store.create(&name, bytes.clone()).await.unwrap();
        acknowledged.insert(name, bytes);
        real += u32::from(check(&disk, dir.path(), round, &acknowledged).await);
    }
    assert!(real > 0, "the host synced all its file systems each time");
}
