//! A bucket, over a real connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use sprite_s3test::{Options, Server};
use sprite_store::{
    Ambient, Backend, CreateError, Credentials, FaultRates, Key, Memory, Prefix, S3, S3Config,
    Store, StoreError, StoreSettings, seeded,
};
use sprite_types::ErrorKind;

use crate::basics::{behaves, key, prefix};
use sprite_testkit::seeds;

struct World {
    memory: Memory,
    server: Server,
}

impl World {
    async fn start(seed: u64) -> Self {
        let memory = Memory::new(Ambient::system().clock);
        let options = Options { seed, ..Options::default() };
        let server = Server::start(Arc::new(memory.clone()), options).await.unwrap();
        Self { memory, server }
    }

    fn store(&self, settings: StoreSettings) -> Store {
        store(self.server.config(), self.server.credentials(), settings)
    }
}

fn store(config: S3Config, credentials: Credentials, settings: StoreSettings) -> Store {
    let ambient = Ambient::system();
    let s3 = S3::with_credentials(config, credentials, settings.clone(), &ambient);
    Store::new(Arc::new(s3), settings, ambient)
}

/// Little patience, so that tests with faults in real time end soon.
fn hasty() -> StoreSettings {
    StoreSettings {
        attempt_timeout_ms: 400,
        backoff_first_ms: 1,
        backoff_max_ms: 5,
        attempts_max: 30,
        ..StoreSettings::default()
    }
}

#[tokio::test]
async fn a_bucket_behaves() {
    let world = World::start(0).await;
    behaves(&world.store(StoreSettings::default())).await;
}

#[tokio::test]
async fn a_folder_of_a_bucket_behaves_and_nothing_beside_it_is_seen() {
    let world = World::start(0).await;
    let beside = ["in/here-too/x", "in/x", "x"].map(key);
    for name in &beside {
        world.memory.create(name, Bytes::from_static(b"not ours")).await.unwrap();
    }
    let mut config = world.server.config();
    config.prefix = prefix("in/here/");
    let store = store(config, world.server.credentials(), StoreSettings::default());
    behaves(&store).await;
    store.probe().await.unwrap();
    let held = world.memory.snapshot();
    assert!(beside.iter().all(|name| held[name] == "not ours"));
    let ours = held.keys().filter(|name| name.is_under(&prefix("in/here/"))).count();
    assert_eq!(ours, held.len() - beside.len());
}

#[tokio::test]
async fn listings_of_many_pages_are_whole() {
    let world = World::start(0).await;
    let names: Vec<Key> = (0..2500).map(|i| key(&format!("p/{}/{i:04}", i % 3))).collect();
    for name in &names {
        world.memory.create(name, Bytes::new()).await.unwrap();
    }
    let store = world.store(StoreSettings::default());
    let listed = store.list(&Prefix::root()).await.unwrap();
    assert_eq!(listed.len(), names.len());
    assert!(listed.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(world.server.count(&Method::GET), 3);
    let folders = store.list_folders(&prefix("p/")).await.unwrap();
    assert_eq!(folders, [prefix("p/0/"), prefix("p/1/"), prefix("p/2/")]);
}

/// Times in a listing and in a HEAD are one object's, up to the second that headers have.
#[tokio::test]
async fn times_are_the_stores() {
    let world = World::start(0).await;
    let store = world.store(StoreSettings::default());
    store.create(&key("a"), Bytes::from_static(b"x")).await.unwrap();
    let listed = store.list(&Prefix::root()).await.unwrap();
    let looked = store.head(&key("a")).await.unwrap();
    assert_eq!(listed[0].modified.as_secs(), looked.modified.as_secs());
    assert_eq!((listed[0].size, looked.size), (1, 1));
}

#[tokio::test]
async fn strangers_are_told_so_and_secrets_are_not_repeated() {
    let world = World::start(0).await;
    let name = key("a");
    world.memory.create(&name, Bytes::new()).await.unwrap();
    for (access_key, secret_key) in [("test", "hunter2"), ("hunter2", "test-secret")] {
        let credentials = Credentials::new(access_key, secret_key, Some("hunter2".to_owned()));
        let store = store(world.server.config(), credentials, hasty());
        let error = store.get(&name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        assert!(!format!("{error} {error:?} {store:?}").contains("hunter2"));
        let error = store.create(&name, Bytes::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden);
    }
    let text = world.store(hasty()).get(&name).await;
    assert!(text.is_ok());
}

/// Keys are replaced in the file first and revoked then, or the other way round.
#[tokio::test]
async fn replaced_credentials_are_used_at_once() {
    let world = World::start(0).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials");
    let write = |secret: &str| {
        let text = format!("[p]\naws_access_key_id=test\naws_secret_access_key={secret}\n");
        std::fs::write(&path, text).unwrap();
    };
    let mut config = world.server.config();
    (config.credentials_file, config.profile) = (Some(path.clone()), Some("p".to_owned()));
    write("revoked");
    let s3 = S3::new(config, &|_| None, hasty(), &Ambient::system()).unwrap();
    let store = Store::new(Arc::new(s3), hasty(), Ambient::system());
    let error = store.create(&key("a"), Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    write("test-secret");
    store.create(&key("a"), Bytes::new()).await.unwrap();
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_not_an_empty_one() {
    let world = World::start(0).await;
    let mut config = world.server.config();
    config.bucket = "other".to_owned();
    let store = store(config, world.server.credentials(), hasty());
    for error in [
        store.get(&key("a")).await.unwrap_err(),
        store.list(&Prefix::root()).await.unwrap_err(),
        store.overwrite(&key("a"), Bytes::new()).await.unwrap_err(),
        store.delete(&key("a")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "there is no such bucket");
    }
}

/// Writers over real connections that break, answer late or wrongly: as with the wrapped back
/// end, but through our client's own handling of answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_create_says_is_true_over_a_bad_network() {
    let mut won = 0;
    for seed in seeds(4) {
        let world = World::start(seed).await;
        let rates = FaultRates {
            wrong_bytes: 60,
            late_ms_max: 50,
            slow_ms_max: 20,
            hang: 2,
            ..FaultRates::survivable(60)
        };
        world.server.set_rates(rates);
        let stores = [world.store(hasty()), world.store(hasty())];
        let random = seeded(seed);
        let mut writers = Vec::new();
        for round in 0..10 {
            for store in &stores {
                let bytes: Bytes = (0..400).map(|_| random().to_le_bytes()[0]).collect();
                let name = key(&format!("map/{round}"));
                writers.push(async move {
                    let result = store.create(&name, bytes.clone()).await;
                    (name, bytes, result)
                });
            }
        }
        let results = join_all(writers).await;
        let held = world.memory.snapshot();
        let mut winners: BTreeMap<Key, u32> = BTreeMap::new();
        for (name, bytes, result) in results {
            match result {
                Ok(()) => {
                    assert_eq!(held.get(&name), Some(&bytes), "seed {seed}: {name}");
                    *winners.entry(name).or_default() += 1;
                }
                Err(CreateError::Taken { .. }) => {
                    assert!(held.get(&name).is_some_and(|found| *found != bytes), "seed {seed}");
                }
                Err(CreateError::Store(error)) => assert!(error.may_retry(), "{error:?}"),
            }
        }
        assert!(winners.values().all(|count| *count == 1), "seed {seed}: {winners:?}");
        won += winners.len();
        world.server.set_rates(FaultRates { wrong_bytes: 0, ..rates });
        for (name, bytes) in &held {
            match stores[0].get(name).await {
                Ok(got) => assert_eq!(got, bytes, "seed {seed}: {name}"),
                Err(error) => assert!(error.may_retry(), "{error:?}"),
            }
        }
    }
    assert!(won > 0, "the faults were too harsh");
}

/// A body that breaks off is an error of the connection, never a short object.
#[tokio::test]
async fn torn_bodies_are_asked_for_again() {
    let world = World::start(0).await;
    let store = world.store(StoreSettings { attempts_max: 3, ..hasty() });
    let bytes: Bytes = vec![7; 100_000].into();
    store.create(&key("a"), bytes.clone()).await.unwrap();
    world.server.set_rates(FaultRates { torn_body: 1000, ..FaultRates::default() });
    let error = store.get(&key("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { attempts: 3, .. }), "{error:?}");
    assert!(store.get_range(&key("a"), 5..60_000).await.is_err());
    assert!(store.list(&Prefix::root()).await.unwrap_err().may_retry());
    world.server.set_rates(FaultRates::default());
    assert_eq!(store.get(&key("a")).await.unwrap(), bytes);
}

/// Silence is noticed in the time of an answer, not in that of the largest object.
#[tokio::test]
async fn a_store_that_says_nothing_is_given_up_soon() {
    let world = World::start(0).await;
    let settings = StoreSettings {
        attempts_max: 1,
        attempt_timeout_ms: 50,
        // The largest object would get more than a day.
        get_bytes_max: 1 << 40,
        throughput_min_bytes_per_s: 1 << 20,
        ..StoreSettings::default()
    };
    let store = world.store(settings);
    store.create(&key("a"), Bytes::new()).await.unwrap();
    world.server.set_rates(FaultRates { hang: 1000, ..FaultRates::default() });
    let error = store.get(&key("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}

/// A connection that the store closed while nobody used it is no failure.
#[tokio::test]
async fn a_restarted_store_is_found_again() {
    let memory = Memory::new(Ambient::system().clock);
    let server = Server::start(Arc::new(memory.clone()), Options::default()).await.unwrap();
    let config = server.config();
    let store = store(config, server.credentials(), hasty());
    store.create(&key("a"), Bytes::from_static(b"1")).await.unwrap();
    let listen = server.endpoint().trim_start_matches("http://").parse().unwrap();
    drop(server);
    let options = Options { listen, ..Options::default() };
    // The port is free again as soon as the listener is gone.
    let server = loop {
        match Server::start(Arc::new(memory.clone()), options.clone()).await {
            Ok(server) => break server,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(store.get(&key("a")).await.unwrap(), "1");
    assert!(server.count(&Method::GET) >= 1);
}
