//! What the kernel says about routes and interfaces, and the switches we turn in it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cidr::Cidr;
use crate::command::{self, Tool};
use crate::error::NetworkError;
use crate::settings::FAMILY;

/// What Ethernet carries.
const MTU_DEFAULT: u32 = 1500;
/// Every IPv4 host takes packets of this size. Source: RFC 791, 3.1.
const MTU_MIN: u32 = 576;
/// The longest IPv4 packet.
const MTU_MAX: u32 = 65_535;

/// A unicast route, one per interface it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) network: Cidr,
    pub(crate) interface: String,
}

/// As `ip -j route` prints it.
#[derive(Deserialize)]
struct IpRoute {
    dst: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    dev: Option<String>,
    #[serde(default)]
    nexthops: Vec<IpNextHop>,
}

#[derive(Deserialize)]
struct IpNextHop {
    dev: Option<String>,
}

/// Returns the routes of every table: VPNs like to have their own.
pub(crate) async fn routes() -> Result<Vec<Route>, NetworkError> {
    let what = "list routes";
    let text =
        command::run(Tool::Ip, &["-j", "-4", "route", "show", "table", "all"], "", what).await?;
    parse_routes(&text).map_err(|error| NetworkError::Command {
        program: "ip",
        what,
        message: format!("unexpected output: {error}"),
    })
}

/// Reads the output of `ip -j -4 route show table all`, leaving out what is no unicast route.
pub(crate) fn parse_routes(text: &str) -> Result<Vec<Route>, serde_json::Error> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let parsed: Vec<IpRoute> = serde_json::from_str(text)?;
    let unicast = parsed.into_iter().filter(|r| r.kind.as_deref().is_none_or(|k| k == "unicast"));
    Ok(unicast
        .filter_map(|route| {
            let network = if route.dst == "default" { "0.0.0.0/0" } else { &route.dst };
            let network: Cidr = network.parse().ok()?;
            let hops = route.nexthops.into_iter().filter_map(|hop| hop.dev);
            Some((network, route.dev.into_iter().chain(hops)))
        })
        .flat_map(|(network, interfaces)| {
            interfaces.map(move |interface| Route { network, interface })
        })
        .collect())
}

/// Returns the interfaces that lead outside.
pub(crate) fn uplinks(routes: &[Route]) -> BTreeSet<String> {
    let outside = routes.iter().filter(|r| r.interface != "lo" && !r.interface.starts_with(FAMILY));
    outside.map(|route| route.interface.clone()).collect()
}

/// Returns single addresses of `range` that are routed already.
pub(crate) fn routed_hosts(routes: &[Route], range: Cidr) -> Vec<Ipv4Addr> {
    let hosts = routes.iter().filter(|route| route.network.prefix_len() == 32);
    hosts.map(|route| route.network.first()).filter(|address| range.contains(*address)).collect()
}

/// As `ip -j link` prints it.
#[derive(Deserialize)]
struct IpLink {
    ifname: String,
    mtu: u32,
}

/// Returns the MTU, in bytes, of the way to the outside.
pub(crate) async fn outside_mtu(routes: &[Route]) -> Result<u32, NetworkError> {
    let links = links().await?;
    let defaults = routes.iter().filter(|route| route.network.prefix_len() == 0);
    let mtus = defaults.filter_map(|route| {
        let link = links.iter().find(|link| link.ifname == route.interface)?;
        Some(link.mtu.clamp(MTU_MIN, MTU_MAX))
    });
    Ok(mtus.min().unwrap_or(MTU_DEFAULT))
}

/// Says whether an interface begins with `prefix`.
pub(crate) async fn has_interfaces(prefix: &str) -> Result<bool, NetworkError> {
    Ok(links().await?.iter().any(|link| link.ifname.starts_with(prefix)))
}

async fn links() -> Result<Vec<IpLink>, NetworkError> {
    let text = command::run(Tool::Ip, &["-j", "link", "show"], "", "list interfaces").await?;
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// Returns the switch that makes the kernel pass on what comes in through `interface`
/// (`all` for every one at once). Interface names hold no `/`, and dots are no matter here.
pub(crate) fn forwarding_path(interface: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv4/conf").join(interface).join("forwarding")
}

/// Says whether forwarding is on; `None` if there is no such interface.
pub(crate) fn is_forwarding(interface: &str) -> Result<Option<bool>, NetworkError> {
    let path = forwarding_path(interface);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim() != "0")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NetworkError::File { what: "read", path, source }),
    }
}

/// Turns forwarding on or off. An interface that is gone is fine.
pub(crate) fn set_forwarding(interface: &str, on: bool) -> Result<(), NetworkError> {
    let path = forwarding_path(interface);
    match fs::write(&path, if on { "1" } else { "0" }) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::File { what: "write", path, source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = r#"[
        {"dst":"default","gateway":"192.0.2.1","dev":"eth0","flags":[]},
        {"dst":"10.8.0.0/24","dev":"tun0","table":"51820","scope":"link","flags":[]},
        {"dst":"default","flags":[],"nexthops":[{"dev":"wlan0","weight":1},{"dev":"eth0"}]},
        {"dst":"10.77.0.9","dev":"spr-abcdefghij","scope":"link","flags":[]},
        {"type":"blackhole","dst":"10.9.0.0/16","flags":[]},
        {"type":"local","dst":"127.0.0.1","dev":"lo","table":"local","flags":[]}
    ]"#;

    #[test]
    fn uplinks_are_what_leads_outside() {
        let routes = parse_routes(ROUTES).unwrap();
        assert_eq!(uplinks(&routes).into_iter().collect::<Vec<_>>(), ["eth0", "tun0", "wlan0"]);
        let range = "10.77.0.0/16".parse().unwrap();
        assert_eq!(routed_hosts(&routes, range), [Ipv4Addr::new(10, 77, 0, 9)]);
        assert!(parse_routes("").unwrap().is_empty());
        assert!(parse_routes("nonsense").is_err());
    }
}
