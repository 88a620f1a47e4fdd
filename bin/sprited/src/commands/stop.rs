//! `sprited stop`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use http::Method;

use super::NOTHING;
use crate::admin::{AdminClient, AdminError};
use crate::config::Config;
use crate::sprites;

/// How long a stop may take in all: machines stop side by side.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Ends the running `sprited` and its machines, or the machines that one left running.
pub(crate) async fn stop(config: &Config) -> anyhow::Result<ExitCode> {
    let client = AdminClient::new(&config.admin_socket());
    match client.call::<()>(Method::POST, "/v1/stop", NOTHING).await {
        Ok(()) => {
            eprintln!("Stopping …");
            let deadline = tokio::time::Instant::now() + TIMEOUT;
            while config.admin_socket().exists() {
                if tokio::time::Instant::now() > deadline {
                    bail!("sprited has not stopped after {} s; see its log", TIMEOUT.as_secs());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Err(AdminError::NotRunning) => {
            let machines = config.data_dir.join("machines");
            let left = std::fs::read_dir(&machines).map_or(0, |entries| entries.count());
            if left == 0 {
                eprintln!("Nothing runs on `{}`.", config.data_dir.display());
                return Ok(ExitCode::SUCCESS);
            }
            eprintln!("No sprited runs; stopping {left} machines it left …");
            let parts = sprites::open(config, config.listen.port(), true).await?;
            parts.sprites.stop_all().await;
            if let Some(network) = parts.network {
                network.teardown().await?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    eprintln!("Stopped.");
    Ok(ExitCode::SUCCESS)
}
