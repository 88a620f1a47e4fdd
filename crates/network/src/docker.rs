//! Getting past docker's `FORWARD DROP`.
//!
//! Docker sets the policy of iptables' `FORWARD` chain to `DROP`, which also stops our packets.
//! It keeps the chain `DOCKER-USER` for the administrator's own rules and never changes it; two
//! rules there let our interfaces through. They end iptables' say only: our own table still
//! decides what a sprite may reach. Other `DROP` policies (ufw, a hand-written one) are the
//! administrator's word; `doctor` shows what to add.

use crate::command::{self, Tool};
use crate::error::NetworkError;

const CHAIN: &str = "DOCKER-USER";

/// Adds our rules if docker's chain is there and they are not.
pub(crate) async fn ensure(interface_prefix: &str) -> Result<(), NetworkError> {
    if !is_there().await {
        return Ok(());
    }
    for rule in rules(interface_prefix) {
        if iptables("-C", &rule).await.is_err() {
            iptables("-I", &rule).await?;
        }
    }
    Ok(())
}

/// Removes our rules, if they are there.
pub(crate) async fn remove(interface_prefix: &str) {
    if !is_there().await {
        return;
    }
    for rule in rules(interface_prefix) {
        while iptables("-C", &rule).await.is_ok() && iptables("-D", &rule).await.is_ok() {}
    }
}

async fn is_there() -> bool {
    Tool::Iptables.exists()
        && command::run(Tool::Iptables, &["-w", "-S", CHAIN], "", "list docker's chain")
            .await
            .is_ok()
}

async fn iptables(action: &str, rule: &[String]) -> Result<(), NetworkError> {
    let mut arguments = vec!["-w", action, CHAIN];
    arguments.extend(rule.iter().map(String::as_str));
    command::run(Tool::Iptables, &arguments, "", "let sprites pass docker's firewall")
        .await
        .map(drop)
}

/// What goes out of a sprite, and the answers to it.
pub(crate) fn rules(interface_prefix: &str) -> [Vec<String>; 2] {
    let words = |text: String| text.split(' ').map(str::to_owned).collect();
    let comment = "-m comment --comment sprites";
    [
        words(format!("-i {interface_prefix}+ {comment} -j ACCEPT")),
        words(format!(
            "-o {interface_prefix}+ -m conntrack --ctstate RELATED,ESTABLISHED {comment} -j ACCEPT"
        )),
    ]
}
