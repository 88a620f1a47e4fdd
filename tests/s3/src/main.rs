//! Runs the test server for scripts: prints its endpoint on the first line, ends on SIGTERM
//! or SIGINT.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use sprite_s3test::{Options, Server};
use sprite_store::{Ambient, Backend, FaultRates, LocalFolder, Memory};
use tokio::signal::unix::{SignalKind, signal};

/// A small S3 server for tests. Its access key is `test`, the secret `test-secret`.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Its only bucket.
    #[arg(long, default_value = "test")]
    bucket: String,
    /// Keep objects in this folder instead of memory.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Delay of each request, in ms.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// How often, in thousandths, each of the faults that a client survives happens.
    #[arg(long, default_value_t = 0)]
    faults: u32,
    /// What faults depend on.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let ambient = Ambient::system();
    let backend: Arc<dyn Backend> = match &args.folder {
        Some(folder) => Arc::new(LocalFolder::open(folder, &ambient)?),
        None => Arc::new(Memory::new(ambient.clock.clone())),
    };
    let options =
        Options { listen: args.listen, bucket: args.bucket, seed: args.seed, ..Options::default() };
    let server = Server::start(backend, options).await.context("listen")?;
    server.set_rates(FaultRates { delay_ms: args.delay_ms, ..FaultRates::survivable(args.faults) });
    println!("{}", server.endpoint());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
