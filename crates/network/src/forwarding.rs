//! Letting packets through between sprites and the outside, without making the host a router
//! for anybody else.
//!
//! The kernel passes a packet on if forwarding is on for the interface it came in through. That
//! is the veth (for what a sprite sends; the guest agent turns it on) and the uplink (for the
//! answers). So the global switch stays as it is; uplinks on which we turn forwarding on are
//! *guarded*: what comes in there for anybody but a sprite is dropped, as before.
//!
//! The set of guarded uplinks in the kernel is also our memory of what to restore. It survives
//! us, is shared by every `sprited` of the host, and goes at a reboot together with the switches.

use std::collections::BTreeSet;

use serde_json::Value;
use tracing::{info, warn};

use crate::command::{self, Tool, nft};
use crate::error::NetworkError;
use crate::kernel::{self, Route};
use crate::rules;
use crate::settings::UPLINKS_TABLE;

/// Turns forwarding on where it is needed and guards those uplinks. Repeat it when routes change.
pub(crate) async fn ensure(routes: &[Route]) -> Result<(), NetworkError> {
    let uplinks = kernel::uplinks(routes);
    let guarded = guarded().await?;
    if kernel::is_forwarding("all")? == Some(true) {
        // Somebody made the host a router, docker for one. Then our guard is in the way, and
        // there is nothing to restore.
        if !guarded.is_empty() {
            info!("the host became a router: uplinks are not guarded any more");
            nft(&rules::guard([]), "lift the guard").await?;
            nft(&format!("flush set inet {UPLINKS_TABLE} guarded\n"), "lift the guard").await?;
        }
        for uplink in &uplinks {
            if kernel::is_forwarding(uplink)? == Some(false) {
                warn!(interface = uplink, "forwarding is off for this interface alone: left so");
            }
        }
        return Ok(());
    }
    let mut wanted = BTreeSet::new();
    for uplink in &uplinks {
        if kernel::is_forwarding(uplink)? == Some(false) {
            wanted.insert(uplink.as_str());
        }
    }
    if wanted.is_empty() && !guarded.is_empty() {
        return Ok(());
    }
    // Guard first: there is no moment in which the host routes for others.
    nft(&rules::guard(wanted.iter().copied()), "guard the uplinks").await?;
    for uplink in wanted {
        info!(interface = uplink, "forwarding turned on, for sprites only");
        kernel::set_forwarding(uplink, true)?;
    }
    Ok(())
}

/// Restores what was before, unless another `sprited` still needs it; says whether it did.
pub(crate) async fn restore() -> Result<bool, NetworkError> {
    let tables = command::run(Tool::Nft, &["list", "tables"], "", "list tables").await?;
    if others(&tables) {
        return Ok(false);
    }
    let guarded = guarded().await?;
    if kernel::is_forwarding("all")? == Some(false) {
        for uplink in &guarded {
            kernel::set_forwarding(uplink, false)?;
        }
    }
    nft(&rules::remove(UPLINKS_TABLE), "remove the guard").await?;
    Ok(true)
}

/// Says whether a table of some `sprited` is among the listed ones.
fn others(tables: &str) -> bool {
    tables.lines().filter_map(|line| line.strip_prefix("table inet ")).any(|name| {
        let name = name.trim();
        name.starts_with("sprites") && name != UPLINKS_TABLE
    })
}

async fn guarded() -> Result<BTreeSet<String>, NetworkError> {
    let elements = elements(UPLINKS_TABLE, "guarded").await?;
    let elements = elements.unwrap_or_default();
    Ok(elements.into_iter().filter_map(|e| e.as_str().map(str::to_owned)).collect())
}

/// Returns the elements of a set, as `nft -j` prints them; `None` if there is no such set.
pub(crate) async fn elements(
    table: &str,
    set: &'static str,
) -> Result<Option<Vec<Value>>, NetworkError> {
    let listed =
        command::run(Tool::Nft, &["-j", "list", "set", "inet", table, set], "", "list a set").await;
    match listed {
        Ok(text) => Ok(Some(parse_elements(&text))),
        Err(NetworkError::Command { message, .. }) if message.contains("No such file") => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_elements(text: &str) -> Vec<Value> {
    let Ok(listing) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let objects = listing["nftables"].as_array().cloned().unwrap_or_default();
    let set = objects.into_iter().find_map(|object| object.get("set").cloned());
    set.and_then(|set| set["elem"].as_array().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_in_a_listing() {
        let text = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"set": {"name": "guarded", "elem": ["eth0", "wlan0"]}}]}"#;
        assert_eq!(parse_elements(text), ["eth0", "wlan0"]);
        assert!(parse_elements(r#"{"nftables": [{"set": {"name": "guarded"}}]}"#).is_empty());
        assert!(parse_elements("").is_empty());
    }

    #[test]
    fn the_last_one_out_restores() {
        assert!(!others("table inet filter\ntable inet sprites_uplinks\n"));
        assert!(others("table inet sprites_uplinks\ntable inet sprites_0a\n"));
        assert!(others("table inet sprites\n"));
    }
}
