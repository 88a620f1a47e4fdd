//! Restarts, interference, and leaving no trace.

use std::fs;
use std::time::{Duration, Instant};

use sprite_network::{Network, NetworkError, NetworkSettings};

use sprite_testkit::eventually;

use crate::world::*;

#[test]
fn a_restart_takes_over_running_machines_without_a_gap() {
    in_own_world("lifecycle::a_restart_takes_over_running_machines_without_a_gap", async |world| {
        let network = world.prepare(world.settings()).await;
        let (kept, gone) = (world.sprite(&network).await, world.sprite(&network).await);
        network.close().await;
        kept.must_reach(OUTSIDE, 80); // while there is no sprited
        assert!(!kept.reaches(PRIVATE, 80), "while there is no sprited");

        let network = world.prepare(world.settings()).await;
        kept.must_reach(OUTSIDE, 80); // before it was adopted
        network.adopt(&kept.spec).await.unwrap();
        eventually("names resolve", || kept.resolves_over_udp());
        assert!(!gone.resolves_over_udp(), "not adopted");
        network.prune().await.unwrap();
        kept.must_reach(OUTSIDE, 80);
        assert!(!gone.reaches(OUTSIDE, 80), "not adopted");

        let third = world.sprite(&network).await;
        assert_ne!(third.address(), kept.address());
        assert_ne!(third.address(), gone.address(), "its route is still there");
        third.must_reach(OUTSIDE, 80);
        assert_eq!(network.allocate(&kept.machine).unwrap(), kept.spec);
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_machine_of_other_settings_is_not_adopted() {
    in_own_world("lifecycle::a_machine_of_other_settings_is_not_adopted", async |world| {
        let network = world.prepare(world.settings()).await;
        let spec = network.allocate(&sprite_types::MachineId::generate()).unwrap();
        network.release(&spec).await.unwrap();
        for (what, change) in [
            ("range", ("10.78.0.2", "10.77.0.1", "spr-abcdefghij")),
            ("gateway", ("10.77.0.9", "10.77.0.3", "spr-abcdefghij")),
            ("interface", ("10.77.0.9", "10.77.0.1", "eth0")),
            ("address", ("10.77.0.9 }; flush ruleset", "10.77.0.1", "spr-abcdefghij")),
            ("name", ("10.77.0.9", "10.77.0.1", "spr-abcdef\" }")),
        ] {
            let mut spec = spec.clone();
            spec.address = change.0.to_owned();
            spec.gateway = change.1.to_owned();
            spec.host_interface = change.2.to_owned();
            let result = network.adopt(&spec).await;
            assert!(matches!(result, Err(NetworkError::Misfit { .. })), "{what}");
        }
        network.teardown().await.unwrap();
    });
}

#[test]
fn flushed_rules_come_back() {
    in_own_world("lifecycle::flushed_rules_come_back", async |world| {
        let network = world.prepare(world.settings()).await;
        let prepared = Instant::now();
        let sprite = world.sprite(&network).await;
        let flushed = prepared.elapsed();
        nft("flush ruleset\n");
        eventually("the rules come back", || ruleset().contains(&sprite.spec.host_interface));
        // Not at the next look at the host, 10 s after it was prepared. On a host so slow that
        // this does not tell, it says nothing.
        let sooner = prepared.elapsed() < Duration::from_secs(10);
        assert!(sooner || flushed > Duration::from_secs(3), "nobody noticed the flush");
        sprite.must_reach(OUTSIDE, 80);
        eventually("names resolve", || sprite.resolves_over_udp());
        assert!(!sprite.reaches(PRIVATE, 80));
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_released_sprite_is_cut_off_and_leaves_nothing() {
    in_own_world("lifecycle::a_released_sprite_is_cut_off_and_leaves_nothing", async |world| {
        let network = world.prepare(world.settings()).await;
        let before = ruleset();
        let sprite = world.sprite(&network).await;
        sprite.must_reach(OUTSIDE, 80);
        network.release(&sprite.spec).await.unwrap();
        network.release(&sprite.spec).await.unwrap();
        let counters = |text: &str| {
            let lines = text.lines().map(|line| line.split("counter packets").next().unwrap());
            lines.filter(|line| !line.contains("elements")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(counters(&ruleset()), counters(&before));
        assert!(!ruleset().contains(&sprite.spec.host_interface));
        let interface = format!("/proc/sys/net/ipv4/conf/{}", sprite.spec.host_interface);
        assert!(!fs::exists(interface).unwrap());
        network.teardown().await.unwrap();
    });
}

#[test]
fn teardown_restores_the_host() {
    in_own_world("lifecycle::teardown_restores_the_host", async |world| {
        let forwarding = |interface: &str| {
            fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/forwarding")).unwrap()
        };
        let network = world.prepare(world.settings()).await;
        let sprite = world.sprite(&network).await;
        assert_eq!(forwarding("up0"), "1\n");
        assert_eq!(forwarding("all"), "0\n");
        network.release(&sprite.spec).await.unwrap();
        network.teardown().await.unwrap();
        assert_eq!(ruleset(), "");
        assert_eq!(forwarding("up0"), "0\n");
        assert_eq!(forwarding("lan0"), "0\n");

        let again = world.prepare(world.settings()).await;
        again.teardown().await.unwrap();
    });
}

#[test]
fn two_daemons_share_a_host_and_the_last_one_restores_it() {
    let name = "lifecycle::two_daemons_share_a_host_and_the_last_one_restores_it";
    in_own_world(name, async |world| {
        let first = world.prepare(world.settings()).await;
        let refused = Network::open(world.settings()).unwrap().prepare().await;
        assert!(matches!(refused, Err(NetworkError::InUse { .. })));

        let base = NetworkSettings { allow_private: vec![], ..world.settings() };
        let second = Network::open_instance(&base).await.unwrap();
        second.prepare().await.unwrap();
        let (of_first, of_second) = (world.sprite(&first).await, world.sprite(&second).await);
        of_second.serve(80);
        of_first.must_reach(OUTSIDE, 80);
        of_second.must_reach(OUTSIDE, 80);
        assert!(!of_first.reaches(of_second.address(), 80), "neighbours, whoever made them");

        first.release(&of_first.spec).await.unwrap();
        first.teardown().await.unwrap();
        of_second.must_reach(OUTSIDE, 80);
        second.release(&of_second.spec).await.unwrap();
        second.teardown().await.unwrap();
        assert_eq!(ruleset(), "");
        let forwarding = fs::read_to_string("/proc/sys/net/ipv4/conf/up0/forwarding").unwrap();
        assert_eq!(forwarding, "0\n");
    });
}
