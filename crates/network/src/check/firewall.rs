//! Other firewalls on this host.
//!
//! Our rules can only forbid: a packet must please every table of the host. Where another one
//! drops by default we say what to add, and add nothing ourselves, except for docker, whose
//! chain for such rules is made for it (see `docker`).

use super::Check;
use super::facts::{BaseChain, Facts};
use crate::settings::NetworkSettings;

/// A firewall that drops what none of its rules accept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocker<'a> {
    /// Managed by ufw.
    Ufw,
    /// Managed by firewalld, whose chains reject in their last rule.
    Firewalld,
    /// Iptables, old or new, managed by hand or by docker.
    Iptables,
    /// A table of nftables.
    Nft(&'a BaseChain),
}

fn blockers<'a>(facts: &'a Facts, hook: &str, legacy: &str) -> Vec<Blocker<'a>> {
    let mut found = Vec::new();
    if facts.firewalld {
        found.push(Blocker::Firewalld);
    }
    let dropping = facts.chains.iter().filter(|chain| {
        // Sprites have no IPv6, so what happens to it does not matter.
        chain.hook == hook && chain.drops && matches!(&*chain.family, "ip" | "inet")
    });
    for chain in dropping {
        let is_iptables = chain.family == "ip" && chain.table == "filter" && chain.name == legacy;
        match (is_iptables, facts.ufw) {
            (true, true) => found.push(Blocker::Ufw),
            (true, false) => found.push(Blocker::Iptables),
            (false, _) if chain.table == "firewalld" => {}
            (false, _) => found.push(Blocker::Nft(chain)),
        }
    }
    if facts.legacy_drops.iter().any(|chain| chain == legacy) {
        found.push(if facts.ufw { Blocker::Ufw } else { Blocker::Iptables });
    }
    found.dedup_by(|a, b| a == b);
    found
}

fn names(blockers: &[Blocker<'_>]) -> String {
    let names: Vec<String> = blockers
        .iter()
        .map(|blocker| match blocker {
            Blocker::Ufw => "ufw".to_owned(),
            Blocker::Firewalld => "firewalld".to_owned(),
            Blocker::Iptables => "iptables".to_owned(),
            Blocker::Nft(chain) => format!("nftables (table {} {})", chain.family, chain.table),
        })
        .collect();
    names.join(", ")
}

/// Whether packets of sprites get through the host.
pub(crate) fn forward(settings: &NetworkSettings, facts: &Facts) -> Check {
    let (id, title) = ("network.forward", "firewall, forwarding");
    let (range, prefix) = (settings.range, &settings.interface_prefix);
    let mut blockers = blockers(facts, "forward", "FORWARD");
    let docker = facts.docker_user;
    if docker {
        // Rules in its chain are asked before anything that ufw or others have there.
        blockers.retain(|blocker| !matches!(blocker, Blocker::Ufw | Blocker::Iptables));
    }
    if blockers.is_empty() {
        let detail = if docker {
            "docker drops forwarded packets; sprited lets sprites pass in its chain DOCKER-USER"
        } else {
            "no other firewall drops forwarded packets by default"
        };
        return Check::ok(id, title, detail);
    }
    let fixes = blockers.iter().map(|blocker| match blocker {
        Blocker::Ufw => format!("ufw route allow from {range}"),
        Blocker::Firewalld => firewalld_fix(settings),
        Blocker::Iptables => format!(
            "iptables -I FORWARD -i {prefix}+ -j ACCEPT\n\
             iptables -I FORWARD -o {prefix}+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             and the same in whatever restores your rules at boot"
        ),
        Blocker::Nft(BaseChain { family, table, name, .. }) => format!(
            "nft insert rule {family} {table} {name} iifname '\"{prefix}*\"' accept\n\
             nft insert rule {family} {table} {name} oifname '\"{prefix}*\"' ct state related,established accept\n\
             and the same in /etc/nftables.conf"
        ),
    });
    let fix = fixes.collect::<Vec<_>>().join("\n");
    let names = names(&blockers);
    let detail = format!(
        "{names} drops forwarded packets unless a rule accepts them: sprites may reach nothing. \
         What sprites may reach is still decided by sprited's own rules"
    );
    Check::warn(id, title, detail, fix)
}

/// Whether sprites' DNS queries get to the host.
pub(crate) fn input(settings: &NetworkSettings, facts: &Facts) -> Check {
    let (id, title) = ("network.input", "firewall, name resolution");
    let (range, gateway) = (settings.range, settings.gateway());
    let blockers = blockers(facts, "input", "INPUT");
    if !settings.dns {
        return Check::ok(id, title, "sprites are not to ask this host for names");
    }
    if blockers.is_empty() {
        return Check::ok(id, title, "no other firewall drops incoming packets by default");
    }
    let fixes = blockers.iter().map(|blocker| match blocker {
        Blocker::Ufw => format!("ufw allow from {range} to {gateway} port 53"),
        Blocker::Firewalld => firewalld_fix(settings),
        Blocker::Iptables => format!(
            "for p in udp tcp; do iptables -I INPUT -s {range} -d {gateway} -p $p --dport 53 -j ACCEPT; done\n\
             and the same in whatever restores your rules at boot"
        ),
        Blocker::Nft(BaseChain { family, table, name, .. }) => format!(
            "nft insert rule {family} {table} {name} ip saddr {range} ip daddr {gateway} \
             meta l4proto '{{ tcp, udp }}' th dport 53 accept\n\
             and the same in /etc/nftables.conf"
        ),
    });
    let fix = fixes.collect::<Vec<_>>().join("\n");
    let names = names(&blockers);
    let detail = format!(
        "{names} drops incoming packets unless a rule accepts them: names may not resolve in sprites"
    );
    Check::warn(id, title, detail, fix)
}

fn firewalld_fix(settings: &NetworkSettings) -> String {
    format!(
        "firewall-cmd --permanent --zone=trusted --add-source={} && firewall-cmd --reload",
        settings.range
    )
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn chain(family: &str, table: &str, name: &str, hook: &str) -> BaseChain {
        BaseChain {
            family: family.into(),
            table: table.into(),
            name: name.into(),
            hook: hook.into(),
            drops: true,
        }
    }

    fn settings() -> NetworkSettings {
        NetworkSettings::default()
    }

    fn iptables() -> Facts {
        let chains = vec![
            chain("ip", "filter", "FORWARD", "forward"),
            chain("ip6", "filter", "FORWARD", "forward"),
        ];
        Facts { chains, ..Facts::default() }
    }

    #[test]
    fn a_host_without_another_firewall_is_fine() {
        assert_eq!(forward(&settings(), &Facts::default()).status, Status::Ok);
        assert_eq!(input(&settings(), &Facts::default()).status, Status::Ok);
        let v6 = Facts { chains: iptables().chains.split_off(1), ..Facts::default() };
        assert_eq!(forward(&settings(), &v6).status, Status::Ok, "sprites have no IPv6");
    }

    #[test]
    fn dockers_drop_is_taken_care_of() {
        let facts = Facts { docker_user: true, ..iptables() };
        let check = forward(&settings(), &facts);
        assert_eq!(check.status, Status::Ok);
        assert!(check.detail.contains("DOCKER-USER"));
    }

    #[test]
    fn each_firewall_gets_its_own_words() {
        let fix = |facts: &Facts| {
            let check = forward(&settings(), facts);
            assert_eq!(check.status, Status::Warn);
            check.fix.unwrap()
        };
        assert_eq!(fix(&Facts { ufw: true, ..iptables() }), "ufw route allow from 10.77.0.0/16");
        assert!(fix(&iptables()).starts_with("iptables -I FORWARD -i spr-+ -j ACCEPT\n"));
        let legacy = Facts { legacy_drops: vec!["FORWARD".into()], ..Facts::default() };
        assert!(fix(&legacy).starts_with("iptables -I FORWARD -i spr-+ -j ACCEPT\n"));
        let nft = vec![chain("inet", "filter", "forward", "forward")];
        let nft = Facts { chains: nft, docker_user: true, ..Facts::default() };
        assert!(fix(&nft).starts_with("nft insert rule inet filter forward iifname"));
        assert!(fix(&Facts { firewalld: true, ..Facts::default() }).contains("--zone=trusted"));
    }

    #[test]
    fn a_closed_input_is_about_names() {
        let chains = vec![chain("ip", "filter", "INPUT", "input")];
        let facts = Facts { chains, ufw: true, ..Facts::default() };
        let check = input(&settings(), &facts);
        assert_eq!(check.fix.unwrap(), "ufw allow from 10.77.0.0/16 to 10.77.0.1 port 53");
        let without_dns = NetworkSettings { dns: false, ..settings() };
        assert_eq!(input(&without_dns, &facts).status, Status::Ok);
        assert_eq!(forward(&settings(), &facts).status, Status::Ok);
    }
}
