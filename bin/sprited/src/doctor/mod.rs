//! What may be wrong with this host, and how to mend it.
//!
//! `facts` looks, `system` and `cgroups` decide what it means, without looking again; the
//! network's part is in its crate. Nothing is changed. A check that cannot be made (no root, no
//! such file) is left out or says so; it never fails the others.

mod cgroups;
mod elf;
mod facts;
mod report;
mod system;

use std::process::ExitCode;

use sprite_network::{Check, NetworkSettings, network_checks};

use crate::config::Config;
use facts::Facts;
use report::Report;

/// Checks the host and prints the findings to standard output. The exit code is 1 if one of
/// them keeps sprites from working at all.
///
/// # Errors
/// The findings cannot be printed.
pub async fn run(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let facts = Facts::gather(&config.data_dir);
    let mut checks = system::checks(&facts);
    checks.extend(cgroups::checks(&facts));
    match network_settings(config) {
        Ok(settings) => checks.extend(network_checks(&settings).await),
        Err(message) => checks.push(Check::fail(
            "network.settings",
            "network settings",
            message,
            "correct range and allow_private under [network], or their flags",
        )),
    }
    let report = Report::new(checks);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The part of the settings that the network's checks look at.
fn network_settings(config: &Config) -> Result<NetworkSettings, String> {
    let network = &config.network;
    let range = network.range.parse().map_err(|error| format!("range: {error}"))?;
    let allow_private =
        network.allow_private.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    Ok(NetworkSettings {
        range,
        allow_private: allow_private.map_err(|error| format!("allow_private: {error}"))?,
        upstreams: network.resolvers.clone(),
        ..NetworkSettings::default()
    })
}
