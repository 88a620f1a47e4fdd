//! The firewall's rules, as text for `nft -f -`.
//!
//! A sprite's user is root in its network namespace, so every rule lives on our side of the
//! veth pair and assumes that anything may come out of it.
//!
//! # Invariants
//! - Whatever comes from one of our interfaces and is not admitted is dropped, before the kernel
//!   keeps any state for it. An interface that nobody knows is not admitted.
//! - Applying the text replaces every rule at once and keeps the elements of `sources`, so that
//!   a new `sprited` takes over running machines without a gap.
//! - `accept` here ends our table only: another table's rules still count.
//! - What is refused is refused at once. TCP hears a reset: the kernel sends no more than a few
//!   ICMP errors per second to one address, and programs wait for those it leaves out.

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::cidr::Cidr;
use crate::settings::{FAMILY, NetworkSettings, UPLINKS_TABLE};

/// What a sprite has no business with: networks of the host's surroundings, and addresses that
/// clouds serve machine secrets on. From IANA's special-purpose registry, less the ranges for
/// documentation (nobody routes them) and 192.88.99.0/24 (retired).
const PRIVATE: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
    // Azure's host services: a public address with private things behind it.
    "168.63.129.16/32",
];

/// Returns the transaction that makes our table what it should be.
pub(crate) fn table(settings: &NetworkSettings) -> String {
    let NetworkSettings { table, interface_prefix: prefix, range, .. } = settings;
    let gateway = settings.gateway();
    let (flows_set, flows_rule) = flows(settings.connections_max);
    let private = PRIVATE.iter().map(|&text| text.to_owned()).chain([range.to_string()]);
    let private = private.collect::<Vec<_>>().join(", ");
    let mut text = format!(
        r#"add table inet {table}
flush table inet {table}
table inet {table} {{
	set sources {{
		type ifname . ipv4_addr
	}}
	set private {{
		type ipv4_addr
		flags interval
		auto-merge
	}}
	set allowed {{
		type ipv4_addr
		flags interval
		auto-merge
	}}
{flows_set}
	chain from_sprite {{
		meta nfproto != ipv4 counter drop
		iifname . ip saddr @sources accept
		counter drop
	}}
	chain to_host {{
		ct state established,related accept
		ip daddr {gateway} udp dport 53 accept
		ip daddr {gateway} tcp dport 53 accept
		ip daddr {gateway} icmp type echo-request accept
		counter drop
	}}
	chain refuse {{
		meta l4proto tcp counter reject with tcp reset
		counter reject with icmpx admin-prohibited
	}}
	chain to_sprite {{
		iifname "{FAMILY}*" goto refuse
		ct state established,related accept
		counter drop
	}}
	chain to_outside {{
		ip daddr {range} goto refuse
		ip daddr @allowed accept
		ip daddr @private goto refuse
{flows_rule}		accept
	}}

	chain prerouting {{
		type filter hook prerouting priority -310; policy accept;
		iifname "{prefix}*" jump from_sprite
	}}
	chain input {{
		type filter hook input priority 0; policy accept;
		iifname "{prefix}*" jump to_host
	}}
	chain forward {{
		type filter hook forward priority 0; policy accept;
		oifname "{prefix}*" jump to_sprite
		iifname "{prefix}*" jump to_outside
	}}
	chain postrouting {{
		type nat hook postrouting priority 100; policy accept;
		ip saddr {range} oifname != "{FAMILY}*" masquerade
	}}
}}
flush set inet {table} private
flush set inet {table} allowed
add element inet {table} private {{ {private} }}
"#
    );
    if !settings.allow_private.is_empty() {
        let allowed: Vec<_> = settings.allow_private.iter().map(Cidr::to_string).collect();
        let _ = writeln!(text, "add element inet {table} allowed {{ {} }}", allowed.join(", "));
    }
    text
}

/// The limit of connections per sprite: its set and its rule.
fn flows(connections_max: u32) -> (String, String) {
    if connections_max == 0 {
        return (String::new(), String::new());
    }
    let set = "\tset flows {\n\t\ttype ipv4_addr\n\t\tsize 65535\n\t\tflags dynamic\n\t}\n";
    let rule = format!(
        "\t\tct state new add @flows {{ ip saddr ct count over {connections_max} }} \
         goto refuse\n"
    );
    (set.to_owned(), rule)
}

/// Returns the transaction that admits these pairs of interface and address.
pub(crate) fn admit<'a>(
    table: &str,
    pairs: impl IntoIterator<Item = (&'a str, Ipv4Addr)>,
) -> String {
    let mut text = String::new();
    for (interface, address) in pairs {
        let element = format!("{{ \"{interface}\" . {address} }}");
        let _ = writeln!(text, "add element inet {table} sources {element}");
    }
    text
}

/// Returns the transaction that expels these pairs, whether or not they were admitted.
pub(crate) fn expel<'a>(
    table: &str,
    pairs: impl IntoIterator<Item = (&'a str, Ipv4Addr)>,
) -> String {
    let mut text = String::new();
    for (interface, address) in pairs {
        let element = format!("{{ \"{interface}\" . {address} }}");
        // Deleting what is not there would undo the whole transaction.
        let _ = writeln!(text, "add element inet {table} sources {element}");
        let _ = writeln!(text, "delete element inet {table} sources {element}");
    }
    text
}

/// Returns the transaction that deletes the table, whether or not it is there.
pub(crate) fn remove(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Returns the transaction that keeps the host from routing for others what comes in through
/// `interfaces`, on which we turn forwarding on.
///
/// Only new connections are refused: if somebody makes the host a router meanwhile, theirs are
/// cut for no longer than it takes us to notice.
pub(crate) fn guard<'a>(interfaces: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = format!(
        r#"add table inet {UPLINKS_TABLE}
flush table inet {UPLINKS_TABLE}
table inet {UPLINKS_TABLE} {{
	set guarded {{
		type ifname
	}}
	chain forward {{
		type filter hook forward priority 0; policy accept;
		iifname @guarded oifname != "{FAMILY}*" ct state != established,related counter drop
	}}
}}
"#
    );
    for interface in interfaces {
        let _ = writeln!(text, "add element inet {UPLINKS_TABLE} guarded {{ \"{interface}\" }}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read it like a contract: a change here is a change of what sprites may reach.
    #[test]
    fn the_rules_are_those_of_the_golden_file() {
        let settings = NetworkSettings {
            allow_private: vec!["10.1.0.0/24".parse().unwrap(), "192.168.1.9/32".parse().unwrap()],
            ..NetworkSettings::default()
        };
        let golden = include_str!("../tests/golden/rules.nft");
        assert_eq!(table(&settings), golden, "\n{}", table(&settings));
    }

    #[test]
    fn without_a_limit_no_connections_are_counted() {
        let settings = NetworkSettings { connections_max: 0, ..NetworkSettings::default() };
        assert!(!table(&settings).contains("flows"));
        assert!(!table(&settings).contains("add element inet sprites allowed"));
    }
}
