//! What every back end does, asked of each.

use std::sync::Arc;

use bytes::Bytes;
use sprite_store::{
    Ambient, Backend, CreateError, Key, LocalFolder, Memory, Prefix, Store, StoreError,
    StoreSettings,
};
use sprite_types::ErrorKind;

pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(crate) fn store(backend: impl Backend) -> Store {
    Store::new(Arc::new(backend), StoreSettings::default(), Ambient::system())
}

pub(crate) fn memory() -> Store {
    store(Memory::new(Ambient::system().clock))
}

pub(crate) fn local(dir: &tempfile::TempDir) -> Store {
    store(LocalFolder::open(dir.path().join("store"), &Ambient::system()).unwrap())
}

/// All of it, so that each back end answers alike.
pub(crate) async fn behaves(store: &Store) {
    let (a, b) = (Bytes::from_static(b"alpha"), Bytes::from_static(b"beta!"));
    let name = key("orgs/o/map/0000/f.ltx");

    // Nothing there.
    assert_eq!(store.get(&name).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.head(&name).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.get_range(&name, 0..1).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!store.exists(&name).await.unwrap());
    assert!(store.list(&prefix("orgs/")).await.unwrap().is_empty());
    assert!(store.list_folders(&Prefix::root()).await.unwrap().is_empty());
    store.delete(&name).await.unwrap();

    // The first content stays; to write it again is no conflict.
    store.create(&name, a.clone()).await.unwrap();
    store.create(&name, a.clone()).await.unwrap();
    for other in [b.clone(), Bytes::new(), Bytes::from_static(b"alphabet")] {
        let error = store.create(&name, other).await.unwrap_err();
        assert!(matches!(error, CreateError::Taken { .. }), "{error:?}");
    }
    assert_eq!(store.get(&name).await.unwrap(), a);
    assert_eq!(store.head(&name).await.unwrap().size, 5);

    // Ranges are exact.
    assert_eq!(store.get_range(&name, 1..3).await.unwrap(), &a[1..3]);
    assert_eq!(store.get_range(&name, 0..5).await.unwrap(), a);
    for range in [0..6, 5..6, 9..12] {
        let error = store.get_range(&name, range).await.unwrap_err();
        assert!(matches!(error, StoreError::OutOfRange { .. }), "{error:?}");
    }
    let error = store.get_range(&name, 2..2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);

    // Empty objects, and one that is replaced.
    let empty = key("orgs/o/empty");
    store.create(&empty, Bytes::new()).await.unwrap();
    assert_eq!(store.get(&empty).await.unwrap(), Bytes::new());
    let hint = key("orgs/o/map/hint.json");
    for bytes in [a.clone(), b.clone(), b.clone()] {
        store.overwrite(&hint, bytes.clone()).await.unwrap();
        assert_eq!(store.get(&hint).await.unwrap(), bytes);
    }

    // Listings: sorted by key, whatever is below, and folders.
    let many: Vec<Key> = (0..30).map(|i| key(&format!("orgs/o/map/0001/{i:02}-x"))).collect();
    for name in many.iter().rev() {
        store.create(name, a.clone()).await.unwrap();
    }
    store.create(&key("orgs/o2/file"), a.clone()).await.unwrap();
    let listed = store.list(&prefix("orgs/o/map/0001/")).await.unwrap();
    assert_eq!(listed.iter().map(|o| o.key.clone()).collect::<Vec<_>>(), many);
    assert!(listed.iter().all(|object| object.size == 5 && object.modified.as_secs() > 0));
    let all = store.list(&Prefix::root()).await.unwrap();
    assert_eq!(all.len(), 34);
    assert!(all.is_sorted_by(|a, b| a.key < b.key));
    let folders = store.list_folders(&prefix("orgs/o/map/")).await.unwrap();
    assert_eq!(folders, [prefix("orgs/o/map/0000/"), prefix("orgs/o/map/0001/")]);
    let folders = store.list_folders(&prefix("orgs/")).await.unwrap();
    assert_eq!(folders, [prefix("orgs/o/"), prefix("orgs/o2/")]);

    // Gone is gone, and the name is free.
    store.delete(&name).await.unwrap();
    store.delete(&name).await.unwrap();
    assert_eq!(store.get(&name).await.unwrap_err().kind(), ErrorKind::NotFound);
    store.create(&name, b.clone()).await.unwrap();
    assert_eq!(store.get(&name).await.unwrap(), b);
}

#[tokio::test]
async fn memory_behaves() {
    behaves(&memory()).await;
}

#[tokio::test]
async fn a_local_folder_behaves() {
    let dir = tempfile::tempdir().unwrap();
    behaves(&local(&dir)).await;
}

#[tokio::test]
async fn a_folder_is_opened_by_its_url_and_made_if_it_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/not%20yet/there", dir.path().display());
    let open = || Store::open(&url, StoreSettings::default(), Ambient::system());
    behaves(&open().await.unwrap()).await;
    assert_eq!(open().await.unwrap().list(&Prefix::root()).await.unwrap().len(), 34);
    assert!(dir.path().join("not yet/there/orgs/o").is_dir());
    std::fs::write(dir.path().join("file"), "").unwrap();
    let url = format!("file://{}/file", dir.path().display());
    assert!(Store::open(&url, StoreSettings::default(), Ambient::system()).await.is_err());
}

#[tokio::test]
async fn a_name_is_an_object_or_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    for store in [memory(), local(&dir)] {
        store.create(&key("a/b"), Bytes::from_static(b"1")).await.unwrap();
        for name in ["a", "a/b/c"] {
            let error = store.create(&key(name), Bytes::new()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error:?}");
            let error = store.overwrite(&key(name), Bytes::new()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error:?}");
            assert_eq!(store.get(&key(name)).await.unwrap_err().kind(), ErrorKind::NotFound);
            store.delete(&key(name)).await.unwrap();
        }
        assert_eq!(store.get(&key("a/b")).await.unwrap(), "1");
    }
}

#[tokio::test]
async fn a_scope_keeps_writes_in_its_folder_and_reads_in_the_named_ones() {
    let store = memory();
    let mine = store.scoped(prefix("v/1/"), [prefix("v/0/packs/")]);
    let (own, parents, others) = (key("v/1/x"), key("v/0/packs/p"), key("v/2/x"));
    for name in [&parents, &others] {
        store.create(name, Bytes::from_static(b"!")).await.unwrap();
        let error = mine.create(name, Bytes::new()).await.unwrap_err();
        assert!(matches!(error, CreateError::Store(StoreError::OutsideScope { .. })));
        assert!(matches!(
            mine.overwrite(name, Bytes::new()).await,
            Err(StoreError::OutsideScope { .. })
        ));
        assert!(matches!(mine.delete(name).await, Err(StoreError::OutsideScope { .. })));
    }
    mine.create(&own, Bytes::from_static(b"own")).await.unwrap();
    assert_eq!(mine.get(&own).await.unwrap(), "own");
    assert_eq!(mine.get(&parents).await.unwrap(), "!");
    assert!(mine.list(&prefix("v/0/packs/")).await.is_ok());
    for error in [
        mine.get(&others).await.unwrap_err(),
        mine.get_range(&others, 0..1).await.unwrap_err(),
        mine.head(&others).await.unwrap_err(),
        mine.list(&prefix("v/")).await.unwrap_err(),
        mine.list(&Prefix::root()).await.unwrap_err(),
        mine.list_folders(&prefix("v/0/")).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::OutsideScope { .. }), "{error:?}");
    }
    // A scope within a scope cannot widen it.
    let wider = mine.scoped(Prefix::root(), []);
    assert!(wider.create(&others, Bytes::new()).await.is_err());
    assert!(wider.get(&others).await.is_err());
    assert_eq!(wider.get(&own).await.unwrap(), "own");
}

#[tokio::test]
async fn sizes_have_limits() {
    let dir = tempfile::tempdir().unwrap();
    let folder = LocalFolder::open(dir.path(), &Ambient::system()).unwrap();
    let backends: [Arc<dyn Backend>; 2] =
        [Arc::new(folder), Arc::new(Memory::new(Ambient::system().clock))];
    for backend in backends {
        let settings = StoreSettings {
            get_bytes_max: 10,
            put_bytes_max: 20,
            list_objects_max: 1,
            ..StoreSettings::default()
        };
        let store = Store::new(backend, settings, Ambient::system());
        store.create(&key("a"), vec![1; 20].into()).await.unwrap();
        let error = store.get(&key("a")).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { size: 20, size_max: 10, .. }), "{error:?}");
        let error = store.get_range(&key("a"), 0..11).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { size: 11, size_max: 10, .. }), "{error:?}");
        assert_eq!(store.get_range(&key("a"), 10..20).await.unwrap().len(), 10);
        assert!(store.create(&key("b"), vec![1; 21].into()).await.is_err());
        assert!(store.overwrite(&key("b"), vec![1; 21].into()).await.is_err());
        store.create(&key("b"), Bytes::new()).await.unwrap();
        let error = store.list(&Prefix::root()).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { size: 2, size_max: 1, .. }), "{error:?}");
    }
}
