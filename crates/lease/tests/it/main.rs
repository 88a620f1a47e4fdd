//! Claims over a store that fails.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sprite_lease::{Claim, ClaimError, ClaimState, Claimant, Heart, Leases, Watch};
use sprite_store::{Ambient, FaultRates, Faults, Memory, Prefix, Store, StoreSettings, seeded};
use sprite_types::{Generation, ManualClock, Timestamp};

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

fn claimant(index: u8) -> Claimant {
    let letter = char::from(b'a' + index);
    let host = format!("host-{}", letter.to_string().repeat(10)).parse().unwrap();
    Claimant { host, host_boot: "boot".to_owned() }
}

fn folder() -> Prefix {
    "orgs/org-aaaaaaaa/volumes/vol-aaaaaaaaaaaaaaaa/generations/".parse().unwrap()
}

fn stores(seed: u64) -> (Store, Faults, Memory) {
    let ambient =
        Ambient { clock: Arc::new(ManualClock::at(NOW)), random: seeded(seed.wrapping_mul(31)) };
    let memory = Memory::new(Arc::new(ManualClock::at(NOW)));
    let faults = Faults::new(Arc::new(memory.clone()), seed);
    let store = Store::new(Arc::new(faults.clone()), StoreSettings::default(), ambient);
    (store, faults, memory)
}

fn held(newest: Option<&Claim>, by: u8, nonce: u64) -> Claim {
    Leases::next(newest, claimant(by), None, NOW, nonce)
}

#[tokio::test(start_paused = true)]
async fn claims_count_up_and_a_release_is_one_of_them() {
    let (store, _, memory) = stores(1);
    let leases = Leases::new(store, folder());
    assert_eq!(leases.newest(Generation(0)).await.unwrap(), None);
    let first = held(None, 0, 1);
    leases.grant(&first).await.unwrap();
    leases.grant(&first).await.expect("an answer may have been lost: the same claim again");
    assert!(leases.is_newest(&first).await.unwrap());
    let released = leases.release(&first, NOW, 2).await.unwrap();
    assert_eq!((released.generation, released.state), (Generation(2), ClaimState::Released));
    assert!(!leases.is_newest(&first).await.unwrap());
    let second = held(Some(&released), 1, 3);
    leases.grant(&second).await.unwrap();
    assert_eq!(leases.newest(Generation(0)).await.unwrap(), Some(second));
    let names: Vec<String> = memory.snapshot().keys().map(|key| key.file_name().into()).collect();
    assert_eq!(names, ["0000000000000001.json", "0000000000000002.json", "0000000000000003.json"]);
}

#[tokio::test(start_paused = true)]
async fn the_newest_is_found_from_anywhere_also_from_a_wrong_hint() {
    let (store, _, _) = stores(2);
    let leases = Leases::new(store, folder());
    let mut newest = None;
    for number in 1..=150 {
        let next = held(newest.as_ref(), 0, number);
        leases.grant(&next).await.unwrap();
        newest = Some(next);
        for from in [0, 1, number / 2, number, number + 1, 1 << 40] {
            assert_eq!(leases.newest(Generation(from)).await.unwrap(), newest, "from {from}");
        }
    }
}

/// Whoever reads garbage for "nobody" takes a volume from somebody who is writing it.
#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_read_is_not_absent() {
    let (store, _, memory) = stores(3);
    let leases = Leases::new(store.clone(), folder());
    leases.grant(&held(None, 0, 1)).await.unwrap();
    let key = folder().key("0000000000000001.json").unwrap();
    memory.tamper(&key, |bytes| bytes.truncate(20));
    let error = leases.newest(Generation(0)).await.unwrap_err();
    assert!(matches!(error, ClaimError::Unreadable { .. }), "{error}");
    let other = folder().key("0000000000000002.json").unwrap();
    store.create(&other, Bytes::from_static(b"{\"version\":9}")).await.unwrap();
    let error = leases.newest(Generation(2)).await.unwrap_err();
    assert!(matches!(error, ClaimError::Unreadable { .. }), "{error}");
}

/// Six writers race for every generation over a store that loses answers, answers late, and
/// carries writes out after they were given up. Who was told that a generation is theirs is alone,
/// and what the bucket holds says the same.
#[tokio::test(start_paused = true)]
async fn a_generation_is_granted_once_whatever_the_store_does() {
    let (mut granted_in_all, mut lost_in_all) = (0, 0);
    for seed in sprite_testkit::seeds(40) {
        let (store, faults, memory) = stores(seed);
        faults.set_rates(FaultRates::survivable(120));
        let writers = (0..6u8).map(|writer| {
            let leases = Leases::new(store.clone(), folder());
            tokio::spawn(async move {
                let mut granted = Vec::new();
                let mut lost = 0;
                for round in 0..8 {
                    let Ok(newest) = leases.newest(Generation(0)).await else { continue };
                    let claim = held(newest.as_ref(), writer, round << 8 | u64::from(writer));
                    for _ in 0..4 {
                        match leases.grant(&claim).await {
                            Ok(()) => {
                                granted.push(claim.clone());
                                break;
                            }
                            Err(ClaimError::Lost { .. }) => {
                                lost += 1;
                                break;
                            }
                            Err(_) => tokio::time::sleep(Duration::from_secs(30)).await,
                        }
                    }
                }
                (granted, lost)
            })
        });
        let mut holders: BTreeMap<Generation, Claim> = BTreeMap::new();
        for writer in writers.collect::<Vec<_>>() {
            let (granted, lost) = writer.await.unwrap();
            lost_in_all += lost;
            for claim in granted {
                granted_in_all += 1;
                let before = holders.insert(claim.generation, claim);
                assert_eq!(before, None, "seed {seed}: two holders of one generation");
            }
        }
        faults.set_rates(FaultRates::default());
        for (generation, claim) in &holders {
            let key = folder().key(&format!("{}.json", generation.to_hex())).unwrap();
            assert_eq!(memory.snapshot()[&key], claim.encode(), "seed {seed}");
        }
        // None is left out.
        let names: Vec<Bytes> = memory.snapshot().into_values().collect();
        for (index, bytes) in names.iter().enumerate() {
            Claim::decode(bytes, Generation(index as u64 + 1)).expect("claims are contiguous");
        }
    }
    assert!(granted_in_all > 0 && lost_in_all > 0, "{granted_in_all} granted, {lost_in_all} lost");
}

#[tokio::test(start_paused = true)]
async fn a_heart_beats_where_others_see_it() {
    let (store, _, memory) = stores(5);
    let heart = Heart::new(store, &claimant(0).host).unwrap();
    let mut watch = Watch::default();
    assert_eq!(heart.read().await.unwrap(), None);
    for (counter, now) in [(1, 10), (1, 20), (2, 30)] {
        heart.beat(counter, &claimant(0), NOW).await.unwrap();
        watch.saw(heart.read().await.unwrap().as_ref(), Duration::from_secs(now));
    }
    assert_eq!(watch.silent_for(), Some(Duration::ZERO));
    let key = "hosts/host-aaaaaaaaaa.json".parse().unwrap();
    memory.tamper(&key, Vec::clear);
    assert!(heart.read().await.is_err(), "silence is one thing, garbage another");
}
