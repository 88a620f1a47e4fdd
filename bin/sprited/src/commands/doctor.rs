//! `sprited doctor`.

use std::process::ExitCode;

use crate::cli::DoctorArgs;
use crate::config::Config;

pub(crate) async fn doctor(config: &Config, args: DoctorArgs) -> anyhow::Result<ExitCode> {
    crate::doctor::run(config, args.json).await
}
