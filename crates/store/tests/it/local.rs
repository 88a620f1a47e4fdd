//! What only a folder of this host can get wrong.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sprite_store::{Ambient, CreateError, LocalFolder, Prefix};
use sprite_types::{Clock, ErrorKind, ManualClock, SystemClock};

use crate::basics::{key, local, prefix, store};

fn staged(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("store/.staging")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn links_are_refused_and_nothing_outside_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let store = local(&dir);
    store.create(&key("a/inside"), Bytes::from_static(b"1")).await.unwrap();
    let root = dir.path().join("store");
    symlink(&outside, root.join("folder")).unwrap();
    symlink(outside.join("secret"), root.join("file")).unwrap();
    symlink(root.join("a/inside"), root.join("within")).unwrap();
    symlink("nowhere", root.join("broken")).unwrap();

    for name in ["folder/secret", "file", "within", "broken"] {
        let name = key(name);
        assert_eq!(store.get(&name).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(store.head(&name).await.unwrap_err().kind(), ErrorKind::Invalid);
        let error = store.create(&name, Bytes::from_static(b"2")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
    }
    assert!(store.create(&key("folder/new"), Bytes::new()).await.is_err());
    assert!(store.overwrite(&key("folder/secret"), Bytes::new()).await.is_err());
    assert!(store.delete(&key("folder/secret")).await.is_err());
    // A listing shows files only, and an overwritten name is a file afterwards.
    assert_eq!(store.list(&Prefix::root()).await.unwrap().len(), 1);
    assert!(store.list(&prefix("folder/")).await.is_err());
    store.overwrite(&key("file"), Bytes::from_static(b"mine")).await.unwrap();
    assert_eq!(store.get(&key("file")).await.unwrap(), "mine");
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test]
async fn unfinished_files_are_never_objects_and_go_after_an_hour() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    drop(local(&dir));
    fs::write(root.join(".staging/99-old"), "half").unwrap();
    fs::write(root.join(".hidden"), "x").unwrap();
    let listed = local(&dir).list(&Prefix::root()).await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
    assert_eq!(staged(dir.path()), ["99-old"], "it may belong to a write under way");

    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let ambient = Ambient { clock: clock.clone(), ..Ambient::system() };
    clock.advance(Duration::from_secs(3500));
    LocalFolder::open(&root, &ambient).unwrap();
    assert_eq!(staged(dir.path()).len(), 1);
    clock.advance(Duration::from_secs(200));
    LocalFolder::open(&root, &ambient).unwrap();
    assert!(staged(dir.path()).is_empty());
    assert!(root.join(".hidden").exists());
}

#[tokio::test]
async fn a_finished_or_refused_write_leaves_no_hidden_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = local(&dir);
    store.create(&key("a/b"), Bytes::from_static(b"1")).await.unwrap();
    store.create(&key("a/b"), Bytes::from_static(b"2")).await.unwrap_err();
    store.overwrite(&key("a/b"), Bytes::from_static(b"3")).await.unwrap();
    store.overwrite(&key("a"), Bytes::from_static(b"4")).await.unwrap_err();
    assert!(staged(dir.path()).is_empty());
}

#[tokio::test]
async fn special_files_and_damaged_names_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let store = local(&dir);
    let root = dir.path().join("store");
    let path = root.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    fs::write(root.join("with space"), "x").unwrap();
    fs::create_dir(root.join("folder with ü")).unwrap();
    assert!(store.list(&Prefix::root()).await.unwrap().is_empty());
    assert_eq!(store.get(&key("pipe")).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(store.create(&key("pipe"), Bytes::new()).await.is_err());
}

#[tokio::test]
async fn times_of_objects_are_the_file_systems() {
    let dir = tempfile::tempdir().unwrap();
    let store = local(&dir);
    store.create(&key("x"), Bytes::new()).await.unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
    let file = fs::File::options().write(true).open(dir.path().join("store/x")).unwrap();
    file.set_modified(then).unwrap();
    let listed = store.list(&Prefix::root()).await.unwrap();
    assert_eq!(listed[0].modified.as_micros(), 1_700_000_000_123_456);
    assert_eq!(store.head(&key("x")).await.unwrap(), listed[0]);
}

/// Two handles share nothing but the folder, as two processes do.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_writers_one_wins_each_name() {
    let dir = tempfile::tempdir().unwrap();
    let open = || store(LocalFolder::open(dir.path().join("store"), &Ambient::system()).unwrap());
    let handles = [open(), open()];
    for round in 0..30 {
        let name = key(&format!("r/{round}/x"));
        let writers = (0..8_u8).map(|writer| {
            let (store, name) = (handles[usize::from(writer % 2)].clone(), name.clone());
            tokio::spawn(async move { store.create(&name, vec![writer; 1000].into()).await })
        });
        let results = futures::future::join_all(writers).await;
        let mut winners = Vec::new();
        for (writer, result) in results.into_iter().enumerate() {
            match result.unwrap() {
                Ok(()) => winners.push(writer),
                Err(CreateError::Taken { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let held = handles[0].get(&name).await.unwrap();
        assert_eq!(held, vec![u8::try_from(winners[0]).unwrap(); 1000]);
    }
}
