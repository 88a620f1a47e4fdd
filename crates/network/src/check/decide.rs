//! What the facts mean.

use super::Check;
use super::facts::Facts;
use super::firewall;
use crate::cidr::Cidr;
use crate::settings::{FAMILY, NetworkSettings};

/// Ranges to suggest, off the ones that routers, VPNs and container tools come with.
const ALTERNATIVES: &[&str] =
    &["10.77.0.0/16", "10.131.0.0/16", "10.213.0.0/16", "172.29.0.0/16", "100.113.0.0/16"];

/// Every finding, in the order a person would mend them.
pub(crate) fn all(settings: &NetworkSettings, facts: &Facts) -> Vec<Check> {
    let mut checks = vec![tools(facts)];
    if facts.is_root && facts.missing.is_empty() {
        checks.push(kernel(facts));
    }
    checks.extend([
        range(settings, facts),
        uplink(facts),
        firewall::forward(settings, facts),
        firewall::input(settings, facts),
        resolver(settings, facts),
    ]);
    if settings.dns {
        checks.push(port_53(settings, facts));
    }
    checks
}

fn tools(facts: &Facts) -> Check {
    let (id, title) = ("network.tools", "network tools");
    if facts.missing.is_empty() {
        return Check::ok(id, title, "nft and ip are installed");
    }
    let names: Vec<_> = facts.missing.iter().map(|(name, _)| *name).collect();
    let packages: Vec<_> = facts.missing.iter().map(|(_, package)| *package).collect();
    let detail = format!("not installed: {}", names.join(", "));
    Check::fail(id, title, detail, format!("apt-get install {}", packages.join(" ")))
}

fn kernel(facts: &Facts) -> Check {
    let (id, title) = ("network.kernel", "network in the kernel");
    if let (None, None, Some(refusal)) =
        (&facts.rules_refused, &facts.veth_refused, &facts.limit_refused)
    {
        let detail = format!(
            "one sprite can open as many connections as all share, since the kernel cannot count \
             them: {refusal}"
        );
        let fix = "modprobe nft_connlimit (Ubuntu: apt-get install linux-modules-extra-$(uname -r)), \
                   then restart sprited";
        return Check::warn(id, title, detail, fix);
    }
    let (what, refusal) = match (&facts.rules_refused, &facts.veth_refused) {
        (Some(refusal), _) => ("firewall rules cannot be loaded", refusal),
        (None, Some(refusal)) => ("no veth pair can be made", refusal),
        (None, None) => {
            return Check::ok(id, title, "firewall rules load, veth pairs can be made");
        }
    };
    let fix = "modprobe -a nf_tables nf_conntrack nft_ct nft_masq nft_chain_nat nft_reject_inet \
               nft_connlimit veth\nIf modprobe finds none of them, the running kernel is older \
               than the installed one (reboot), or was built without them (use the \
               distribution's kernel)";
    Check::fail(id, title, format!("{what}: {refusal}"), fix)
}

fn range(settings: &NetworkSettings, facts: &Facts) -> Check {
    let (id, title) = ("network.range", "address range of sprites");
    let range = settings.range;
    // VPNs replace the default route by two halves of the world.
    let others = || {
        facts
            .routes
            .iter()
            .filter(|route| route.network.prefix_len() > 1 && !route.interface.starts_with(FAMILY))
    };
    let Some(route) = others().find(|route| route.network.overlaps(range)) else {
        return Check::ok(id, title, format!("{range} is used by nobody else"));
    };
    let free = ALTERNATIVES
        .iter()
        .filter_map(|text| text.parse::<Cidr>().ok())
        .find(|free| !free.overlaps(range) && !others().any(|route| route.network.overlaps(*free)));
    let fix = match free {
        Some(free) => format!("--network-range {free}, or range = \"{free}\" under [network]"),
        None => "choose a free range: --network-range, or range under [network]".to_owned(),
    };
    let detail = format!(
        "{range} overlaps {}, which this host reaches through `{}` (a VPN or another network): \
         addresses that sprites have cannot be reached there",
        route.network, route.interface
    );
    Check::warn(id, title, detail, fix)
}

fn uplink(facts: &Facts) -> Check {
    let (id, title) = ("network.uplink", "way to the outside");
    let defaults: Vec<_> =
        facts.routes.iter().filter(|route| route.network.prefix_len() <= 1).collect();
    if defaults.is_empty() {
        let detail = "this host has no default route, so sprites reach nothing outside";
        return Check::warn(id, title, detail, "connect the host; sprited notices within 10 s");
    }
    let closed = defaults.iter().find(|route| facts.closed_uplinks.contains(&route.interface));
    match closed {
        // Somebody's wish: the host is a router, but not there.
        Some(route) if facts.is_router => {
            let interface = &route.interface;
            let detail = format!(
                "forwarding is on for this host but off for `{interface}`: answers to sprites \
                 are lost there, and sprited does not overrule it"
            );
            let fix = format!("sysctl -w net.ipv4.conf.{interface}.forwarding=1");
            Check::warn(id, title, detail, fix)
        }
        _ => {
            let mut names: Vec<_> = defaults.iter().map(|route| &*route.interface).collect();
            names.dedup();
            Check::ok(id, title, format!("through {}", names.join(", ")))
        }
    }
}

fn resolver(settings: &NetworkSettings, facts: &Facts) -> Check {
    let (id, title) = ("network.resolver", "name resolution");
    if !settings.dns {
        return Check::ok(id, title, "switched off in the settings");
    }
    if !settings.upstreams.is_empty() {
        return Check::ok(id, title, "resolvers are given in the settings");
    }
    if !facts.resolv_conf_read {
        let path = settings.resolv_conf.display();
        let detail = format!("`{path}` cannot be read: names resolve neither here nor in sprites");
        return Check::warn(
            id,
            title,
            detail,
            "write a line `nameserver ADDRESS` there, or set resolvers under [network]",
        );
    }
    let list: Vec<_> = facts.resolvers.iter().map(ToString::to_string).collect();
    let list = list.join(", ");
    let detail = if facts.resolvers.iter().all(std::net::IpAddr::is_loopback) {
        format!(
            "{list} is on this host, out of sprites' reach; that is fine: they ask {} and \
             sprited passes it on",
            settings.gateway()
        )
    } else {
        format!("sprites ask {}, sprited passes it on to {list}", settings.gateway())
    };
    Check::ok(id, title, detail)
}

fn port_53(settings: &NetworkSettings, facts: &Facts) -> Check {
    let (id, title) = ("network.port53", "port 53 of the gateway");
    let gateway = settings.gateway();
    if facts.port_53_taken {
        let detail = format!(
            "a name server listens on every address of this host, so sprited cannot on {gateway}"
        );
        let fix = "find it with `ss -lnp sport = :53` and give it the addresses to listen on: \
                   dnsmasq: bind-dynamic and except-interface=spr*; bind9: listen-on; unbound: \
                   interface";
        return Check::fail(id, title, detail, fix);
    }
    Check::ok(id, title, "free, or ours")
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::kernel::Route;

    fn healthy() -> Facts {
        let route = |network: &str, interface: &str| Route {
            network: network.parse().unwrap(),
            interface: interface.into(),
        };
        Facts {
            is_root: true,
            routes: vec![
                route("0.0.0.0/0", "eth0"),
                route("192.0.2.0/24", "eth0"),
                route("10.77.0.9/32", "spr-abcdefghij"),
            ],
            resolv_conf_read: true,
            resolvers: vec!["127.0.0.53".parse().unwrap()],
            ..Facts::default()
        }
    }

    fn find(facts: &Facts, id: &str) -> Check {
        let checks = all(&NetworkSettings::default(), facts);
        checks.into_iter().find(|check| check.id == id).unwrap()
    }

    #[test]
    fn a_healthy_host_has_nothing_to_mend() {
        let checks = all(&NetworkSettings::default(), &healthy());
        assert_eq!(checks.len(), 8);
        for check in checks {
            assert_eq!((check.status, check.fix), (Status::Ok, None), "{}", check.id);
        }
        assert!(find(&healthy(), "network.resolver").detail.contains("that is fine"));
    }

    #[test]
    fn a_vpn_on_our_range_gets_another_one_suggested() {
        let mut facts = healthy();
        let vpn =
            |network: &str| Route { network: network.parse().unwrap(), interface: "tun0".into() };
        facts.routes.extend([vpn("0.0.0.0/1"), vpn("128.0.0.0/1")]);
        assert_eq!(find(&facts, "network.range").status, Status::Ok);
        facts.routes.extend([vpn("10.0.0.0/8"), vpn("172.16.0.0/12")]);
        let check = find(&facts, "network.range");
        assert_eq!(check.status, Status::Warn);
        assert!(check.detail.contains("`tun0`"));
        assert!(check.fix.unwrap().contains("100.113.0.0/16"));
    }

    #[test]
    fn every_other_trouble_is_named_with_its_fix() {
        type Break = fn(&mut Facts);
        let troubles: [(&str, Status, Break, &str); 8] = [
            ("network.kernel", Status::Warn, |f| f.limit_refused = Some("x".into()), "connlimit"),
            ("network.tools", Status::Fail, |f| f.missing.push(("nft", "nftables")), "nftables"),
            ("network.kernel", Status::Fail, |f| f.rules_refused = Some("x".into()), "modprobe"),
            ("network.kernel", Status::Fail, |f| f.veth_refused = Some("x".into()), "modprobe"),
            ("network.uplink", Status::Warn, |f| f.routes.clear(), "connect"),
            (
                "network.uplink",
                Status::Warn,
                |f| {
                    f.is_router = true;
                    f.closed_uplinks.push("eth0".into());
                },
                "net.ipv4.conf.eth0.forwarding=1",
            ),
            ("network.resolver", Status::Warn, |f| f.resolv_conf_read = false, "nameserver"),
            ("network.port53", Status::Fail, |f| f.port_53_taken = true, "ss -lnp"),
        ];
        for (id, status, break_it, fix) in troubles {
            let mut facts = healthy();
            break_it(&mut facts);
            let check = find(&facts, id);
            assert_eq!(check.status, status, "{id}");
            assert!(check.fix.unwrap().contains(fix), "{id}");
        }
    }
}
