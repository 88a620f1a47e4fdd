//! The guest agent of a machine. Started by `sprited`, which writes its boot spec to standard
//! input; not for people.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use sprite_container::Launcher;
use sprite_guestd::{End, HELPERS};
use sprite_link::boot::BootSpec;

const SPEC_MAX: u64 = 4 * 1024 * 1024;

fn main() -> ExitCode {
    match start() {
        Ok(end) => ExitCode::from(end as u8),
        Err(error) => {
            eprintln!("sprite-guestd: {error:#}");
            ExitCode::from(End::Failed as u8)
        }
    }
}

fn start() -> anyhow::Result<End> {
    // First of all: it forks, which only a process without threads and secrets may do.
    let launcher = Launcher::fork(HELPERS).context("fork the launcher")?;
    sprite_telemetry::init(&sprite_telemetry::LogSettings::default())?;
    let mut text = Vec::new();
    std::io::stdin().take(SPEC_MAX).read_to_end(&mut text).context("read the boot spec")?;
    let spec: BootSpec = serde_json::from_slice(&text).context("read the boot spec")?;
    // Two workers: one may be busy copying output while another answers.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(sprite_guestd::run(spec, launcher))
}
