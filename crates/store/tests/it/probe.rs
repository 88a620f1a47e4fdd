//! Which stores are refused, and in which words.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use sprite_s3test::{Options, Quirks, Server};
use sprite_store::{
    Ambient, Attempt, Backend, Body, FaultRates, Faults, Key, LocalFolder, Memory, ObjectInfo,
    Page, Prefix, ProbeError, Requirement, S3, Store, StoreSettings,
};
use sprite_types::ErrorKind;

use crate::basics::{key, local, memory, store};

/// A back end that does one thing wrong.
#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    /// Looks whether the name is free, and writes a moment later.
    Racy,
    /// Returns what was there when it was first read.
    Cached,
    /// Lists what was there when it was first listed.
    ListsCached,
    /// Sends the beginning of the object whatever the range.
    OtherRange,
}

struct Bad {
    inner: Memory,
    old: Memory,
    wrong: Wrong,
}

impl Bad {
    fn store(wrong: Wrong) -> Store {
        let clock = Ambient::system().clock;
        store(Bad { inner: Memory::new(clock.clone()), old: Memory::new(clock), wrong })
    }
}

impl Backend for Bad {
    fn create<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()> {
        if self.wrong != Wrong::Racy {
            return self.inner.create(key, bytes);
        }
        async move {
            if self.inner.head(key).await.is_ok() {
                return Err(sprite_store::Failure::Taken);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.inner.overwrite(key, bytes).await
        }
        .boxed()
    }

    fn overwrite<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()> {
        async move {
            let _ = self.old.create(key, bytes.clone()).await;
            self.inner.overwrite(key, bytes).await
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a Key, bytes_max: u64) -> Attempt<'a, Body> {
        let from = if self.wrong == Wrong::Cached { &self.old } else { &self.inner };
        from.get(key, bytes_max)
    }

    fn get_range<'a>(&'a self, key: &'a Key, start: u64, len: u64) -> Attempt<'a, Body> {
        let start = if self.wrong == Wrong::OtherRange { 0 } else { start };
        self.inner.get_range(key, start, len)
    }

    fn head<'a>(&'a self, key: &'a Key) -> Attempt<'a, ObjectInfo> {
        self.inner.head(key)
    }

    fn list<'a>(&'a self, p: &'a Prefix, shallow: bool, n: Option<&'a str>) -> Attempt<'a, Page> {
        let from = if self.wrong == Wrong::ListsCached { &self.old } else { &self.inner };
        from.list(p, shallow, n)
    }

    fn delete<'a>(&'a self, key: &'a Key) -> Attempt<'a, ()> {
        self.inner.delete(key)
    }
}

fn requirement(result: Result<(), ProbeError>) -> Requirement {
    match result {
        Err(error @ ProbeError::Unfit { requirement, .. }) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(!error.hint().is_empty());
            requirement
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn stores_that_break_a_requirement_are_refused_by_its_name() {
    for (wrong, expected) in [
        (Wrong::Racy, Requirement::OneWinner),
        (Wrong::Cached, Requirement::ReadAfterWrite),
        (Wrong::ListsCached, Requirement::ListAfterWrite),
        (Wrong::OtherRange, Requirement::Ranges),
    ] {
        assert_eq!(requirement(Bad::store(wrong).probe().await), expected);
    }
}

/// As two of five servers do that were tried: they answer 200 and replace the object.
#[tokio::test]
async fn servers_that_ignore_what_is_asked_are_refused() {
    let ambient = Ambient::system();
    let backend = Arc::new(Memory::new(ambient.clock.clone()));
    let server = Server::start(backend, Options::default()).await.unwrap();
    let settings = StoreSettings::default();
    let (config, credentials) = (server.config(), server.credentials());
    let s3 = S3::with_credentials(config, credentials, settings.clone(), &ambient);
    let store = Store::new(Arc::new(s3), settings, ambient);
    store.probe().await.unwrap();
    server.set_quirks(Quirks { ignores_conditions: true, ..Quirks::default() });
    let error = store.probe().await;
    let text = error.as_ref().unwrap_err().to_string();
    assert!(
        text.contains("`If-None-Match: *`") && text.contains("it replaced the object"),
        "{text}"
    );
    assert_eq!(requirement(error), Requirement::CreateOnly);
    server.set_quirks(Quirks { ignores_ranges: true, ..Quirks::default() });
    assert_eq!(requirement(store.probe().await), Requirement::Ranges);
}

#[tokio::test]
async fn good_stores_pass_and_nothing_is_left_there() {
    let dir = tempfile::tempdir().unwrap();
    for store in [memory(), local(&dir)] {
        let other = key("orgs/x");
        store.create(&other, Bytes::new()).await.unwrap();
        store.probe().await.unwrap();
        let left = store.list(&Prefix::root()).await.unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

/// The answers that a good store loses on the way do not make it a bad one.
#[tokio::test(start_paused = true)]
async fn a_good_store_behind_a_bad_network_passes() {
    for seed in sprite_testkit::seeds(60) {
        let ambient = Ambient::system();
        let faults = Faults::new(Arc::new(Memory::new(ambient.clock.clone())), seed);
        // Writes that come late are left out: an overwrite that comes after its repetition is
        // what `overwrite` warns of, and looks like a cache.
        faults.set_rates(FaultRates { late: 0, ..FaultRates::survivable(50) });
        let settings = StoreSettings { attempts_max: 50, ..StoreSettings::default() };
        let store = Store::new(Arc::new(faults.clone()), settings, ambient);
        if let Err(error) = store.probe().await {
            panic!("seed {seed}: {error:?}");
        }
        faults.settle().await;
    }
}

/// Leftovers of a probe that was killed go, those of one that may be running stay.
#[tokio::test]
async fn old_leftovers_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let folder = LocalFolder::open(&root, &Ambient::system()).unwrap();
    let store = store(folder);
    for name in ["probe/0/old", "probe/1/new"] {
        store.create(&key(name), Bytes::new()).await.unwrap();
    }
    let old = std::fs::File::options().write(true).open(root.join("probe/0/old")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    store.probe().await.unwrap();
    let left = store.list(&Prefix::root()).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].key, key("probe/1/new"));
}

#[tokio::test]
async fn a_store_that_is_away_is_not_called_unfit() {
    let ambient = Ambient::system();
    let backend = Arc::new(Memory::new(ambient.clock.clone()));
    let server = Server::start(backend, Options::default()).await.unwrap();
    let (config, credentials) = (server.config(), server.credentials());
    drop(server);
    let settings =
        StoreSettings { attempts_max: 2, backoff_first_ms: 1, ..StoreSettings::default() };
    let s3 = S3::with_credentials(config, credentials, settings.clone(), &ambient);
    let error = Store::new(Arc::new(s3), settings, ambient).probe().await.unwrap_err();
    assert!(matches!(error, ProbeError::Store(_)), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
