//! What a sprite can reach, and what can reach it.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use sprite_network::NetworkSettings;

use sprite_testkit::eventually;

use crate::world::*;

/// The table in the crate's documentation, row by row.
#[test]
fn a_sprite_reaches_the_outside_and_nothing_private() {
    in_own_world("isolation::a_sprite_reaches_the_outside_and_nothing_private", async |world| {
        let network = world.prepare(world.settings()).await;
        let (sprite, neighbour) = (world.sprite(&network).await, world.sprite(&network).await);
        neighbour.serve(80);
        sprite.serve(80);
        assert_eq!(sprite.spec.mtu, 1400, "that of the way to the outside");

        sprite.must_reach(OUTSIDE, 80);
        let peer = world.peer.lock().unwrap().unwrap();
        assert_eq!(peer.ip(), HOST_UPLINK, "seen from outside, it is the host");

        eventually("it does listen", || {
            neighbour.namespace.run(|| reaches((neighbour.address(), 80)))
        });
        eventually("it does listen", || world.outside.run(|| reaches((PRIVATE, 80))));
        for (what, address, port) in [
            ("neighbour", neighbour.address(), 80),
            ("private network", PRIVATE, 80),
            ("the host's network", LAN, 80),
            ("metadata", METADATA, 80),
            ("carrier-grade NAT", CGNAT, 80),
            ("gateway ssh", GATEWAY, 22),
            ("host by its uplink", HOST_UPLINK, 8080),
            ("host by a public address", HOST_PUBLIC, 8080),
            ("an address of nobody", Ipv4Addr::new(10, 77, 9, 9), 80),
        ] {
            assert!(!sprite.reaches(address, port), "{what}");
        }
        eventually("the host still reaches itself", || reaches((HOST_UPLINK, 8080)));

        let sprite_address = sprite.address();
        assert!(!world.outside.run(|| reaches((sprite_address, 80))), "from the outside");
        assert!(!world.lan.run(|| reaches((sprite_address, 80))), "from the host's network");
        eventually("the host reaches its sprites", || reaches((sprite_address, 80)));
        network.teardown().await.unwrap();
    });
}

#[test]
fn names_resolve_through_a_resolver_that_sprites_cannot_reach() {
    let name = "isolation::names_resolve_through_a_resolver_that_sprites_cannot_reach";
    in_own_world(name, async |world| {
        let network = world.prepare(world.settings()).await;
        let (first, second) = (world.sprite(&network).await, world.sprite(&network).await);
        eventually("names resolve", || first.resolves_over_udp());
        eventually("names resolve", || first.resolves_over_tcp());
        assert!(world.dns_queries.load(std::sync::atomic::Ordering::SeqCst) >= 2);
        // Each link has the gateway's address; one that goes must not take the others' along.
        network.release(&first.spec).await.unwrap();
        drop(first);
        eventually("names resolve", || second.resolves_over_udp());
        second.must_reach(OUTSIDE, 80);
        network.teardown().await.unwrap();
    });
}

/// The user is root in there, so addresses and routes are the user's to choose.
#[test]
fn forged_sources_go_nowhere() {
    in_own_world("isolation::forged_sources_go_nowhere", async |world| {
        let network = world.prepare(world.settings()).await;
        let (sprite, neighbour) = (world.sprite(&network).await, world.sprite(&network).await);
        let stranger = Ipv4Addr::new(203, 0, 113, 77);
        // The kernel's own check of sources would hide ours.
        for name in ["all", &sprite.spec.host_interface] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
        }
        for forged in [neighbour.address(), stranger, HOST_UPLINK] {
            sprite.namespace.ip(&format!("address add {forged}/32 dev eth0\n"));
            sprite.send_from(forged);
        }
        // Packets keep their order, so when this one is there the others would be too.
        let (honest, heard) = (sprite.address(), world.heard.clone());
        eventually("the honest packet arrives", || {
            sprite.send_from(honest);
            !heard.lock().unwrap().is_empty()
        });
        assert_eq!(heard.lock().unwrap()[0], honest.to_string());
        network.teardown().await.unwrap();
    });
}

#[test]
fn nothing_goes_over_ipv6() {
    in_own_world("isolation::nothing_goes_over_ipv6", async |world| {
        if !fs::exists("/proc/sys/net/ipv6").unwrap() {
            return eprintln!("skipped: this kernel has no IPv6");
        }
        let network = world.prepare(world.settings()).await;
        let sprite = world.sprite(&network).await;
        // As hostile as can be: the host's end has IPv6 after all, and the sprite knows it.
        let interface = &sprite.spec.host_interface;
        fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "0").unwrap();
        ip(&format!("address add fd00::1/64 dev {interface} nodad\n"));
        sprite.namespace.run(|| {
            for name in ["all", "eth0"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0").unwrap();
            }
        });
        sprite.namespace.ip("address add fd00::2/64 dev eth0 nodad\n");
        let listener = std::net::TcpListener::bind("[::]:8081").unwrap();
        std::thread::spawn(move || listener.incoming().flatten().for_each(drop));
        assert!(connect((Ipv6Addr::LOCALHOST, 8081)).is_ok(), "it does listen");
        let gateway: Ipv6Addr = "fd00::1".parse().unwrap();
        assert!(sprite.namespace.run(|| connect((gateway, 8081)).is_err()));
        network.teardown().await.unwrap();
    });
}

/// Forwarding must be on for the uplink, or answers would not come back. That must not make
/// the host a router between its other networks.
#[test]
fn the_host_does_not_become_a_router() {
    in_own_world("isolation::the_host_does_not_become_a_router", async |world| {
        assert!(!world.lan.run(|| reaches((OUTSIDE, 80))));
        let network = world.prepare(world.settings()).await;
        let sprite = world.sprite(&network).await;
        sprite.must_reach(OUTSIDE, 80);
        assert!(!world.lan.run(|| reaches((OUTSIDE, 80))));
        assert!(!world.outside.run(|| reaches((LAN, 80))));

        // Docker or the administrator makes it one: then we must not be in the way.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        network.reconcile().await.unwrap();
        eventually("it is routed", || world.lan.run(|| reaches((OUTSIDE, 80))));
        sprite.must_reach(OUTSIDE, 80);
        assert!(!sprite.reaches(LAN, 80));
        network.teardown().await.unwrap();
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/conf/up0/forwarding").unwrap(), "1\n");
    });
}

#[test]
fn a_private_network_can_be_allowed() {
    in_own_world("isolation::a_private_network_can_be_allowed", async |world| {
        let allow_private = vec!["10.9.9.0/24".parse().unwrap(), "10.77.0.0/16".parse().unwrap()];
        let settings = NetworkSettings { allow_private, ..world.settings() };
        let network = world.prepare(settings).await;
        let (sprite, neighbour) = (world.sprite(&network).await, world.sprite(&network).await);
        neighbour.serve(80);
        sprite.must_reach(PRIVATE, 80);
        assert!(!sprite.reaches(METADATA, 80));
        assert!(!sprite.reaches(neighbour.address(), 80), "neighbours are never allowed");
        network.teardown().await.unwrap();
    });
}

#[test]
fn one_sprite_cannot_take_all_connections() {
    in_own_world("isolation::one_sprite_cannot_take_all_connections", async |world| {
        let settings = NetworkSettings { connections_max: 5, ..world.settings() };
        let network = world.prepare(settings).await;
        let (sprite, neighbour) = (world.sprite(&network).await, world.sprite(&network).await);
        let patience = std::time::Duration::from_secs(20);
        let open = |_| connect_within(patience, (OUTSIDE, 80));
        let streams: Vec<_> = sprite.namespace.run(|| (0..9).map(open).collect());
        assert_eq!(streams.iter().filter(|stream| stream.is_ok()).count(), 5);
        neighbour.must_reach(OUTSIDE, 80);
        network.teardown().await.unwrap();
    });
}

/// Docker drops forwarded packets, unless its chain for the administrator's rules accepts them.
#[test]
fn dockers_firewall_lets_sprites_pass() {
    in_own_world("isolation::dockers_firewall_lets_sprites_pass", async |world| {
        let iptables = |rule: &str| {
            let words: Vec<_> = rule.split(' ').collect();
            std::process::Command::new("iptables").args(words).output()
        };
        if iptables("--version").is_err() {
            return eprintln!("skipped: iptables is not installed");
        }
        for rule in ["-P FORWARD DROP", "-N DOCKER-USER", "-I FORWARD -j DOCKER-USER"] {
            assert!(iptables(rule).unwrap().status.success(), "{rule}");
        }
        let network = world.prepare(world.settings()).await;
        let (sprite, neighbour) = (world.sprite(&network).await, world.sprite(&network).await);
        neighbour.serve(80);
        sprite.must_reach(OUTSIDE, 80);
        assert!(!sprite.reaches(PRIVATE, 80));
        assert!(!sprite.reaches(neighbour.address(), 80));
        network.reconcile().await.unwrap();
        let rules = |chain: &str| {
            let output = iptables(&format!("-S {chain}")).unwrap();
            String::from_utf8(output.stdout).unwrap().matches("sprites").count()
        };
        assert_eq!(rules("DOCKER-USER"), 2, "once, however often it is looked at");
        network.teardown().await.unwrap();
        assert_eq!(rules("DOCKER-USER"), 0);
    });
}
