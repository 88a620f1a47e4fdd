//! `--debug`: what the client does, on stderr or in a file. Tokens and queries (they hold
//! environment values) are never logged, so there is nothing to mask.

use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use anyhow::Context;
use tracing_subscriber::filter::EnvFilter;

/// Value of a bare `--debug`.
pub(crate) const STDERR: &str = "-";

/// Begins logging if asked to.
pub(crate) fn start(target: Option<&str>) -> anyhow::Result<()> {
    let Some(target) = target else { return Ok(()) };
    let filter = EnvFilter::new("off,sprite_cli=debug,sprite_client=debug");
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    if target == STDERR {
        builder.with_writer(std::io::stderr).init();
        return Ok(());
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(target);
    let file = file.with_context(|| format!("open the debug log `{target}`"))?;
    builder.with_writer(Mutex::new(file)).init();
    Ok(())
}
