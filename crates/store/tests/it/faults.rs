//! Create and read under faults, against what the store really holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use sprite_store::{
    Ambient, CreateError, FaultRates, Faults, Key, Memory, Operation, Prefix, Random, Store,
    StoreError, StoreSettings, When, seeded,
};
use sprite_testkit::seeds;
use sprite_types::{ErrorKind, ManualClock, Timestamp};

use crate::basics::{behaves, key};

struct World {
    memory: Memory,
    faults: Faults,
    store: Store,
}

fn world(seed: u64, settings: StoreSettings) -> World {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_700_000_000_000_000)));
    let memory = Memory::new(clock.clone());
    let faults = Faults::new(Arc::new(memory.clone()), seed);
    let ambient = Ambient { clock, random: seeded(seed ^ 0x5eed) };
    let store = Store::new(Arc::new(faults.clone()), settings, ambient);
    World { memory, faults, store }
}

/// A body that tells its writer; long enough that two damaged reads differ.
fn body(random: &Random, writer: u64) -> Bytes {
    let len = 64 + random() % 64;
    let mut bytes: Vec<u8> = (0..len).map(|_| random().to_le_bytes()[0]).collect();
    bytes[..8].copy_from_slice(&writer.to_le_bytes());
    bytes.into()
}

/// Several writers want the same names, each request may fail in every way, reads of a taken
/// name may be damaged. Whatever a writer is told must be true in the end.
#[tokio::test(start_paused = true)]
async fn what_create_says_is_true_whatever_fails() {
    let (mut won, mut taken, mut unknown) = (0, 0, 0);
    for seed in seeds(400) {
        let random = seeded(seed.wrapping_mul(77));
        let settings = StoreSettings {
            attempts_max: 1 + u32::try_from(random() % 8).unwrap(),
            ..StoreSettings::default()
        };
        let World { memory, faults, store } = world(seed, settings);
        let rate = u32::try_from(random() % 200).unwrap();
        faults.set_rates(FaultRates {
            hang: rate / 4,
            wrong_bytes: rate,
            ..FaultRates::survivable(rate)
        });
        let names: Vec<Key> = (0..4).map(|i| key(&format!("map/{i}"))).collect();
        let mut writers = Vec::new();
        for writer in 0..3_u64 {
            for name in &names {
                let (store, name, bytes) = (store.clone(), name.clone(), body(&random, writer));
                let start = Duration::from_millis(random() % 3000);
                writers.push(async move {
                    tokio::time::sleep(start).await;
                    let result = store.create(&name, bytes.clone()).await;
                    (name, bytes, result)
                });
            }
        }
        let results = join_all(writers).await;
        let at_once = memory.snapshot();
        faults.settle().await;
        let held = memory.snapshot();
        let mut winners: BTreeMap<Key, u32> = BTreeMap::new();
        for (name, bytes, result) in results {
            match result {
                Ok(()) => {
                    won += 1;
                    *winners.entry(name.clone()).or_default() += 1;
                    assert_eq!(at_once.get(&name), Some(&bytes), "seed {seed}: {name} is not ours");
                    assert_eq!(held.get(&name), Some(&bytes), "seed {seed}: {name} was replaced");
                }
                Err(CreateError::Taken { .. }) => {
                    taken += 1;
                    let found = at_once.get(&name);
                    assert!(found.is_some(), "seed {seed}: {name} was said to be taken");
                    assert_ne!(found, Some(&bytes), "seed {seed}: {name} is ours");
                    assert_ne!(held.get(&name), Some(&bytes), "seed {seed}: {name} became ours");
                }
                Err(CreateError::Store(error)) => {
                    unknown += 1;
                    assert!(error.may_retry(), "seed {seed}: {error:?}");
                }
            }
        }
        assert!(winners.values().all(|count| *count == 1), "seed {seed}: {winners:?}");
    }
    println!("{won} won, {taken} taken, {unknown} unknown");
    assert!(won > 100 && taken > 100 && unknown > 0, "the faults were too mild or too harsh");
}

/// With patience every writer learns how it went, and each name has exactly one winner.
#[tokio::test(start_paused = true)]
async fn with_patience_each_name_has_one_winner() {
    for seed in seeds(100) {
        let settings = StoreSettings { attempts_max: 200, ..StoreSettings::default() };
        let World { faults, store, .. } = world(seed, settings);
        faults.set_rates(FaultRates { wrong_bytes: 100, ..FaultRates::survivable(100) });
        let random = seeded(seed);
        let name = key("generations/1.json");
        let bodies: Vec<Bytes> = (0..5).map(|writer| body(&random, writer)).collect();
        let results = join_all(bodies.iter().map(|b| store.create(&name, b.clone()))).await;
        let won = results.iter().filter(|result| result.is_ok()).count();
        let taken = results.iter().filter(|r| matches!(r, Err(CreateError::Taken { .. }))).count();
        assert_eq!((won, taken), (1, 4), "seed {seed}: {results:?}");
        faults.settle().await;
    }
}

/// Whatever fails on the way: what is read is what was written.
#[tokio::test(start_paused = true)]
async fn reads_are_whole_or_fail() {
    for seed in seeds(100) {
        let settings = StoreSettings { attempts_max: 4, ..StoreSettings::default() };
        let World { memory, faults, store } = world(seed, settings);
        let random = seeded(seed);
        let written: BTreeMap<Key, Bytes> =
            (0..20).map(|i| (key(&format!("packs/{i:02}")), body(&random, i))).collect();
        for (name, bytes) in &written {
            store.create(name, bytes.clone()).await.unwrap();
        }
        faults.set_rates(FaultRates { hang: 50, ..FaultRates::survivable(100) });
        for (name, bytes) in &written {
            match store.get(name).await {
                Ok(got) => assert_eq!(got, bytes, "seed {seed}"),
                Err(error) => assert!(error.may_retry(), "seed {seed}: {error:?}"),
            }
            let end = 1 + random() % bytes.len() as u64;
            let start = random() % end;
            match store.get_range(name, start..end).await {
                Ok(got) => assert_eq!(got, bytes[start as usize..end as usize], "seed {seed}"),
                Err(error) => assert!(error.may_retry(), "seed {seed}: {error:?}"),
            }
            match store.head(name).await {
                Ok(info) => assert_eq!(info.size, bytes.len() as u64, "seed {seed}"),
                Err(error) => assert!(error.may_retry(), "seed {seed}: {error:?}"),
            }
        }
        match store.list(&Prefix::root()).await {
            Ok(listed) => assert!(listed.iter().map(|o| &o.key).eq(written.keys()), "seed {seed}"),
            Err(error) => assert!(error.may_retry(), "seed {seed}: {error:?}"),
        }
        assert_eq!(memory.snapshot(), written);
    }
}

#[tokio::test(start_paused = true)]
async fn without_faults_the_wrapper_changes_nothing() {
    let World { store, .. } = world(1, StoreSettings::default());
    behaves(&store).await;
}

/// A PUT that its writer gave up lands an hour later, and finds that it is too late.
#[tokio::test(start_paused = true)]
async fn a_stopped_put_that_lands_later_takes_nothing_from_the_winner() {
    let World { memory, faults, store } = world(2, StoreSettings::default());
    let (name, ours, theirs) =
        (key("map/0000/7.ltx"), Bytes::from_static(b"ours"), Bytes::from_static(b"theirs"));
    let mut pause = faults.pause(Operation::Create, Some(&name), When::Before);
    let zombie = tokio::spawn({
        let (store, name, ours) = (store.clone(), name.clone(), ours.clone());
        async move { store.create(&name, ours).await }
    });
    pause.reached().await;
    zombie.abort();
    assert!(memory.snapshot().is_empty());
    store.create(&name, theirs.clone()).await.unwrap();
    pause.release();
    faults.settle().await;
    assert_eq!(store.get(&name).await.unwrap(), theirs);
}

/// The same, without a rival: the name is not free when the next writer comes.
#[tokio::test(start_paused = true)]
async fn a_stopped_put_can_land_after_its_writer_is_gone() {
    let World { faults, store, .. } = world(3, StoreSettings::default());
    let name = key("map/0000/7.ltx");
    let mut pause = faults.pause(Operation::Create, None, When::Before);
    let zombie = tokio::spawn({
        let (store, name) = (store.clone(), name.clone());
        async move { store.create(&name, Bytes::from_static(b"late")).await }
    });
    pause.reached().await;
    zombie.abort();
    assert!(!store.exists(&name).await.unwrap());
    pause.release();
    faults.settle().await;
    let error = store.create(&name, Bytes::from_static(b"next")).await.unwrap_err();
    assert!(matches!(error, CreateError::Taken { .. }));
}

/// Stopped after it was carried out, the writer's second attempt finds its own bytes.
#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_settled_by_reading_back() {
    let World { memory, faults, store } = world(4, StoreSettings::default());
    let name = key("x");
    let pause = faults.pause(Operation::Create, Some(&name), When::After);
    store.create(&name, Bytes::from_static(b"ours")).await.unwrap();
    assert_eq!(faults.count(Operation::Create), 2);
    assert_eq!(faults.count(Operation::Get), 1);
    assert_eq!(memory.snapshot().len(), 1);
    drop(pause);
    faults.settle().await;
}

#[tokio::test(start_paused = true)]
async fn stale_listings_come_from_the_past() {
    let World { faults, store, .. } = world(5, StoreSettings::default());
    for i in 0..20 {
        store.create(&key(&format!("m/{i:02}")), Bytes::new()).await.unwrap();
    }
    store.delete(&key("m/03")).await.unwrap();
    faults.set_rates(FaultRates { stale_list: 1000, ..FaultRates::default() });
    let listed = store.list(&Prefix::root()).await.unwrap();
    let names: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
    assert!(names.contains(&"m/03"), "the deletion is not seen: {names:?}");
    assert!(names.is_sorted());
    faults.set_rates(FaultRates::default());
    assert_eq!(store.list(&Prefix::root()).await.unwrap().len(), 19);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_asked_as_often_as_the_settings_say() {
    let settings = StoreSettings { attempts_max: 5, ..StoreSettings::default() };
    let World { faults, store, .. } = world(6, settings);
    faults.set_rates(FaultRates { unreachable: 1000, ..FaultRates::default() });
    let error = store.get(&key("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { attempts: 5, .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(faults.count(Operation::Get), 5);
    assert_eq!(error.to_string(), "get `a`, 5 attempts");
}

/// More callers than the limit: the others wait, and nobody waits for ever.
#[tokio::test(start_paused = true)]
async fn no_more_requests_are_under_way_than_the_settings_say() {
    let settings = StoreSettings { requests_max: 3, ..StoreSettings::default() };
    let World { faults, store, .. } = world(7, settings);
    faults.set_rates(FaultRates { delay_ms: 100, ..FaultRates::default() });
    let started = tokio::time::Instant::now();
    let reads = (0..30).map(|_| async { store.exists(&key("a")).await.unwrap() });
    join_all(reads).await;
    // Paused time is exact: ten rounds of three.
    assert_eq!(started.elapsed(), Duration::from_millis(1000));
}
