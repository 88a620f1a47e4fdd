//! What is the case on this host.

use std::fs;
use std::net::IpAddr;

use serde_json::Value;

use crate::command::{self, Tool};
use crate::dns::parse_resolv_conf;
use crate::kernel::{self, Route};
use crate::rules;
use crate::settings::{NetworkSettings, UPLINKS_TABLE};

/// A chain of nftables that the kernel asks by itself. What iptables-nft, ufw and firewalld set
/// shows here too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BaseChain {
    pub(crate) family: String,
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) hook: String,
    pub(crate) drops: bool,
}

/// Everything the decisions need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) is_root: bool,
    /// Program and Debian package of what is not installed.
    pub(crate) missing: Vec<(&'static str, &'static str)>,
    /// Why our rules cannot be loaded, or a veth pair made; tried in a namespace of their own.
    pub(crate) rules_refused: Option<String>,
    /// Why connections cannot be limited, although the other rules load.
    pub(crate) limit_refused: Option<String>,
    pub(crate) veth_refused: Option<String>,
    pub(crate) routes: Vec<Route>,
    pub(crate) chains: Vec<BaseChain>,
    /// Chains of the old iptables whose policy is `DROP`: `FORWARD`, `INPUT`.
    pub(crate) legacy_drops: Vec<String>,
    pub(crate) docker_user: bool,
    pub(crate) ufw: bool,
    pub(crate) firewalld: bool,
    /// Whether the settings' file of resolvers could be read, and what it names.
    pub(crate) resolv_conf_read: bool,
    pub(crate) resolvers: Vec<IpAddr>,
    /// Somebody listens on port 53 of every address.
    pub(crate) port_53_taken: bool,
    /// The host passes packets on for everybody.
    pub(crate) is_router: bool,
    /// Uplinks without forwarding.
    pub(crate) closed_uplinks: Vec<String>,
}

pub(crate) async fn gather(settings: &NetworkSettings) -> Facts {
    let is_root = rustix::process::geteuid().is_root();
    let missing = [Tool::Nft, Tool::Ip].into_iter().filter(|tool| !tool.exists());
    let missing: Vec<_> = missing.map(|tool| (tool.name(), tool.package())).collect();
    let routes = kernel::routes().await.unwrap_or_default();
    let resolv_conf = fs::read_to_string(&settings.resolv_conf);
    let is_router = kernel::is_forwarding("all").ok().flatten() == Some(true);
    let closed_uplinks = kernel::uplinks(&routes)
        .into_iter()
        .filter(|uplink| kernel::is_forwarding(uplink).ok().flatten() == Some(false))
        .collect();
    let (mut rules_refused, mut limit_refused, mut veth_refused) = (None, None, None);
    if is_root && missing.is_empty() {
        let nft = ["nft", "-f", "-"];
        let unlimited = NetworkSettings { connections_max: 0, ..settings.clone() };
        rules_refused = refusal(&nft, &rules::table(&unlimited)).await;
        limit_refused = refusal(&nft, &rules::table(settings)).await;
        let veth = "link add spr-a type veth peer name spr-b\n";
        veth_refused = refusal(&["ip", "-batch", "-"], veth).await;
    }
    let chains = output(Tool::Nft, &["-j", "list", "chains"]).await.unwrap_or_default();
    Facts {
        is_root,
        missing,
        rules_refused,
        limit_refused,
        veth_refused,
        chains: parse_chains(&chains),
        legacy_drops: legacy_drops().await,
        docker_user: output(Tool::Iptables, &["-w", "-S", "DOCKER-USER"]).await.is_some(),
        ufw: fs::read_to_string("/etc/ufw/ufw.conf")
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "ENABLED=yes")),
        firewalld: fs::exists("/run/firewalld").unwrap_or(false),
        resolv_conf_read: resolv_conf.is_ok(),
        resolvers: parse_resolv_conf(&resolv_conf.unwrap_or_default()),
        port_53_taken: ["udp", "udp6", "tcp", "tcp6"].iter().any(|protocol| {
            fs::read_to_string(format!("/proc/net/{protocol}"))
                .is_ok_and(|text| listens_everywhere(&text, protocol.starts_with("tcp")))
        }),
        is_router,
        closed_uplinks,
        routes,
    }
}

/// Runs a program in a network namespace of its own and returns what it complains of.
async fn refusal(program: &[&str], input: &str) -> Option<String> {
    let arguments = [&["--net", "--"], program].concat();
    let result = command::run(Tool::Unshare, &arguments, input, "try").await;
    result.err().map(|error| error.to_string())
}

async fn output(tool: Tool, arguments: &[&str]) -> Option<String> {
    if !tool.exists() {
        return None;
    }
    command::run(tool, arguments, "", "look").await.ok()
}

/// Asks the old iptables, but only where the kernel uses it: asking would load it.
async fn legacy_drops() -> Vec<String> {
    let tables = fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    if !tables.lines().any(|line| line == "filter") {
        return Vec::new();
    }
    let rules = output(Tool::IptablesLegacy, &["-w", "-S"]).await.unwrap_or_default();
    parse_policies(&rules)
}

fn parse_policies(rules: &str) -> Vec<String> {
    let policies = rules.lines().filter_map(|line| line.strip_prefix("-P ")?.strip_suffix(" DROP"));
    policies.map(str::to_owned).collect()
}

/// Reads `nft -j list chains`, leaving out ours.
fn parse_chains(text: &str) -> Vec<BaseChain> {
    let Ok(listing) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let objects = listing["nftables"].as_array().cloned().unwrap_or_default();
    objects
        .iter()
        .filter_map(|object| {
            let chain = object.get("chain")?;
            let word = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
            let base = BaseChain {
                family: word("family"),
                table: word("table"),
                name: word("name"),
                hook: chain["hook"].as_str()?.to_owned(),
                drops: chain["policy"] == "drop",
            };
            let is_ours = base.table.starts_with("sprites") || base.table == UPLINKS_TABLE;
            (!is_ours).then_some(base)
        })
        .collect()
}

/// Reads `/proc/net/udp` or `tcp`: whether port 53 of every address is taken.
fn listens_everywhere(text: &str, is_tcp: bool) -> bool {
    text.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().and_then(|word| word.rsplit_once(':'));
        let state = words.nth(1);
        local.is_some_and(|(address, port)| port == "0035" && address.bytes().all(|b| b == b'0'))
            && (!is_tcp || state == Some("0A"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_others_are_read() {
        let text = r#"{"nftables": [{"metainfo": {}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1,
                       "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER", "handle": 2}},
            {"chain": {"family": "inet", "table": "sprites", "name": "forward", "handle": 2,
                       "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}}]}"#;
        let chains = parse_chains(text);
        assert_eq!(chains.len(), 1);
        assert!(chains[0].drops);
        assert_eq!(chains[0].name, "FORWARD");
        assert!(parse_chains("").is_empty());
    }

    #[test]
    fn only_a_listener_on_every_address_is_in_the_way() {
        let udp = |address: &str| {
            format!("  sl  local_address rem_address   st\n  7: {address} 00000000:0000 07 0:0\n")
        };
        assert!(listens_everywhere(&udp("00000000:0035"), false));
        assert!(!listens_everywhere(&udp("3500007F:0035"), false), "systemd-resolved");
        assert!(!listens_everywhere(&udp("00000000:0043"), false), "another port");
        assert!(!listens_everywhere(&udp("00000000:0035"), true), "not listening");
        assert!(!listens_everywhere("", true));
    }

    #[test]
    fn policies_of_the_old_iptables_are_read() {
        let rules = "-P INPUT ACCEPT\n-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n";
        assert_eq!(parse_policies(rules), ["FORWARD"]);
    }
}
