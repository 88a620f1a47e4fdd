//! Disks on a real file system and, as root, real loop devices.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sprite_disk::{AttachError, CreateError, Disks, Settings};
use sprite_types::{ErrorKind, VolumeId};

const IMAGE_BYTES: u64 = 1 << 30;

/// An image of 1 GiB with 4 MiB of data.
fn image(dir: &Path) -> PathBuf {
    let path = dir.join("image.ext4");
    let file = fs::File::create(&path).unwrap();
    file.set_len(IMAGE_BYTES).unwrap();
    file.write_all_at(&vec![7; 4 << 20], 8 << 20).unwrap();
    path
}

fn open(dir: &Path, ready_copies: usize) -> Disks {
    Disks::open(Settings { ready_copies, ..Settings::new(dir.join("disks")) }).unwrap()
}

fn ready_copies(dir: &Path) -> usize {
    let Ok(pools) = fs::read_dir(dir.join("disks/ready")) else { return 0 };
    pools
        .flat_map(|pool| fs::read_dir(pool.unwrap().path()).unwrap())
        .filter(|copy| !copy.as_ref().unwrap().file_name().to_string_lossy().starts_with("tmp-"))
        .count()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: loop devices need root");
    }
    root
}

#[tokio::test]
async fn a_new_disk_is_the_image_and_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let disks = open(dir.path(), 0);
    let (id, image) = (VolumeId::generate(), image(dir.path()));
    disks.create(&id, &image).await.unwrap();
    let meta = fs::metadata(disks.path(&id)).unwrap();
    assert_eq!(meta.len(), IMAGE_BYTES);
    assert!(meta.blocks() * 512 < 16 << 20);
    assert_eq!(disks.list().unwrap(), std::slice::from_ref(&id));

    let again = disks.create(&id, &image).await.unwrap_err();
    assert!(matches!(again, CreateError::Exists { .. }));
    disks.destroy(&id).await.unwrap();
    disks.destroy(&id).await.unwrap();
    assert!(disks.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_create_takes_a_ready_copy_which_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let disks = open(dir.path(), 2);
    let image = image(dir.path());
    disks.prepare(&image);
    wait_for("two ready copies", || ready_copies(dir.path()) == 2);
    let inodes = |dir: &Path| -> Vec<u64> {
        let pool = fs::read_dir(dir.join("disks/ready")).unwrap().next().unwrap().unwrap();
        fs::read_dir(pool.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().ino()).collect()
    };
    let ready = inodes(dir.path());
    let id = VolumeId::generate();
    disks.create(&id, &image).await.unwrap();
    assert!(ready.contains(&fs::metadata(disks.path(&id)).unwrap().ino()));
    wait_for("a new ready copy", || ready_copies(dir.path()) == 2);
    let again = disks.create(&id, &image).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn creates_at_once_get_a_disk_each() {
    let dir = tempfile::tempdir().unwrap();
    let disks = open(dir.path(), 2);
    let image = image(dir.path());
    let tasks: Vec<_> = (0..12)
        .map(|_| {
            let (disks, image) = (disks.clone(), image.clone());
            tokio::spawn(async move { disks.create(&VolumeId::generate(), &image).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(disks.list().unwrap().len(), 12);
}

#[tokio::test]
async fn a_changed_image_does_not_use_copies_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let disks = open(dir.path(), 1);
    let path = image(dir.path());
    disks.prepare(&path);
    wait_for("a ready copy", || ready_copies(dir.path()) == 1);
    disks.close();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "other").unwrap();
    let id = VolumeId::generate();
    disks.create(&id, &path).await.unwrap();
    assert_eq!(fs::read(disks.path(&id)).unwrap(), b"other");
    disks.prepare(&path);
    assert_eq!(ready_copies(dir.path()), 0, "copies of the old image stay");
}

#[tokio::test]
async fn a_start_removes_what_a_crash_left_half_made() {
    let dir = tempfile::tempdir().unwrap();
    let pool = dir.path().join("disks/ready/1-2-3.4");
    fs::create_dir_all(&pool).unwrap();
    fs::write(pool.join("tmp-1"), "half").unwrap();
    fs::write(pool.join("17-1"), "whole").unwrap();
    fs::write(dir.path().join("disks/vol-aaaaaaaaaaaaaaaa.unfinished"), "half").unwrap();
    let disks = open(dir.path(), 2);
    assert!(disks.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(&pool).unwrap().count(), 1);
    assert!(!dir.path().join("disks/vol-aaaaaaaaaaaaaaaa.unfinished").exists());
}

#[tokio::test]
async fn a_missing_image_is_named_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let disks = open(dir.path(), 2);
    let error = disks.create(&VolumeId::generate(), Path::new("/no/such")).await.unwrap_err();
    let chain = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(chain.contains("/no/such"), "{chain}");
    assert!(matches!(disks.attach(&VolumeId::generate()).await, Err(AttachError::Missing { .. })));
}

#[tokio::test]
async fn a_device_shows_the_disk_and_goes_with_its_handle() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disks = open(dir.path(), 0);
    let id = VolumeId::generate();
    disks.create(&id, &image(dir.path())).await.unwrap();

    let attached = disks.attach(&id).await.unwrap();
    let device = fs::File::options().read(true).write(true).open(&attached.device).unwrap();
    let mut byte = [0; 1];
    device.read_exact_at(&mut byte, 8 << 20).unwrap();
    assert_eq!(byte, [7]);
    device.write_all_at(&[9; 4096], 0).unwrap();
    device.sync_all().unwrap();
    drop(device);
    disks.detach(&id, attached).await.unwrap();
    fs::File::open(disks.path(&id)).unwrap().read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [9]);
}

#[tokio::test]
async fn a_disk_has_one_device_even_after_its_attacher_is_gone() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disks = open(dir.path(), 0);
    let id = VolumeId::generate();
    disks.create(&id, &image(dir.path())).await.unwrap();
    let Attached { device, fd } = attach(&disks, &id).await;
    // A mount, say: the device has another user when its attacher dies.
    let user = fs::File::open(&device).unwrap();
    drop(fd);
    let state = disks.wait_released(&id, Duration::ZERO).await;
    assert!(matches!(state, Err(AttachError::Busy { .. })), "{state:?}");
    drop(user);
    disks.wait_released(&id, Duration::from_secs(10)).await.unwrap();
    let attached = disks.attach(&id).await.unwrap();
    disks.detach(&id, attached).await.unwrap();
}

struct Attached {
    device: PathBuf,
    fd: std::os::fd::OwnedFd,
}

async fn attach(disks: &Disks, id: &VolumeId) -> Attached {
    let sprite_disk::Attached { device, fd, .. } = disks.attach(id).await.unwrap();
    Attached { device, fd }
}

#[tokio::test]
async fn devices_attached_at_once_are_different_ones() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disks = open(dir.path(), 0);
    let image = image(dir.path());
    let mut tasks = Vec::new();
    for _ in 0..10 {
        let id = VolumeId::generate();
        disks.create(&id, &image).await.unwrap();
        let disks = disks.clone();
        tasks.push(tokio::spawn(async move { (disks.attach(&id).await.unwrap(), id) }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    let mut names: Vec<_> = all.iter().map(|(attached, _)| attached.device.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 10);
    for (attached, id) in all {
        disks.detach(&id, attached).await.unwrap();
    }
}
