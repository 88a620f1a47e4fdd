//! Measures a running `sprited` through its public API, with our own client.
//!
//! Started by `script/bench`, which starts the daemon too. Prints a table on standard error and
//! JSON on standard output; never fails because something was slow.

mod host;
mod measure;
mod stats;

use anyhow::Context;
use clap::Parser;
use sprite_client::{Client, Token};

use measure::Bench;

/// Measures a running `sprited`; see `script/bench`.
#[derive(Debug, Parser)]
struct Args {
    /// Samples of a no-op command.
    #[arg(long, default_value_t = 500)]
    execs: usize,
    /// Samples of create to first output, one after the other.
    #[arg(long, default_value_t = 100)]
    creates: usize,
    /// Bytes of the throughput measurements, in MiB.
    #[arg(long, default_value_t = 1024)]
    stream_mib: u64,
    /// Samples of each throughput measurement.
    #[arg(long, default_value_t = 5)]
    streams: usize,
    /// Seconds without work before memory is measured.
    #[arg(long, default_value_t = 60)]
    idle_s: u64,
    /// Process id of the daemon.
    #[arg(long)]
    sprited_pid: u32,
    /// What was measured, for the record: the command line of the script.
    #[arg(long, default_value = "script/bench")]
    command: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let url = std::env::var("SPRITES_API_URL").context("SPRITES_API_URL is not set")?;
    let token = std::env::var("SPRITE_TOKEN").context("SPRITE_TOKEN is not set")?;
    let client = Client::new(url.parse().context("SPRITES_API_URL")?, Token::new(&token)?);
    let machine = host::describe();
    let bench = Bench { client, sprited_pid: args.sprited_pid };
    let mut rows = Vec::new();
    rows.extend(bench.execs(args.execs).await?);
    rows.extend(bench.streams(args.streams, args.stream_mib).await?);
    rows.extend(bench.creates(args.creates).await?);
    rows.extend(bench.memory(args.idle_s).await?);
    for row in &rows {
        eprintln!("{row}");
    }
    let report = serde_json::json!({ "command": args.command, "machine": machine, "rows": rows });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
