//! `sprited up`: opens everything, serves, closes it again.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use sprite_lifecycle::{DiskGuard, ImageState};
use sprite_server::{Readiness, Server, ServerSettings};
use sprite_types::SystemClock;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin;
use crate::cli::UpArgs;
use crate::config::Config;
use crate::sprites::{self, Parts};

/// Why `up` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A signal: machines go on, the next start finds them.
    Leave,
    /// `sprited stop`: machines end too.
    Stop,
}

pub(crate) async fn run(mut config: Config, args: UpArgs) -> anyhow::Result<ExitCode> {
    if args.print_config {
        print!("{}", config.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    let root = rustix::process::geteuid().is_root();
    if config.substrate == "namespaces" && !root {
        bail!("sprited makes namespaces, mounts and cgroups and needs root: sudo sprited up");
    }
    let temporary = if args.ephemeral {
        let dir = tempfile::Builder::new().prefix("sprites-").tempdir();
        let dir = dir.context("make a temporary data folder")?;
        config.data_dir = dir.path().to_owned();
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Some(dir)
    } else {
        None
    };
    // Signals count from here on: an early one still takes down what was set up.
    let (end_out, end) = watch::channel(None);
    watch_signals(end_out.clone())?;
    let result = serve(&config, args.ephemeral, end_out, end).await;
    if let Some(dir) = temporary {
        dir.close().context("remove the temporary data folder")?;
    }
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(
    config: &Config,
    ephemeral: bool,
    end_out: watch::Sender<Option<End>>,
    mut end: watch::Receiver<Option<End>>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("listen on {}: is another sprited running? (--listen HOST:PORT)", config.listen)
    })?;
    let address = listener.local_addr().context("read our own address")?;
    let parts = sprites::open(config, address.port(), !ephemeral).await?;
    if let Some(disks) = parts.disks.clone() {
        let policy = sprite_disk::Policy::default();
        tokio::spawn(DiskGuard::new(parts.sprites.clone(), disks, policy).run());
    }
    let admin = admin::Admin {
        catalog: parts.catalog.clone(),
        sprites: parts.sprites.clone(),
        end: end_out,
    };
    let admin_task = admin::serve(&config.admin_socket(), admin)?;
    let readiness = readiness(parts.image.clone());
    let settings = ServerSettings {
        sprite_domain: config.domain.clone(),
        api_hosts: Vec::new(),
        connections_max: ServerSettings::CONNECTIONS_MAX,
        readiness,
        clock: Arc::new(SystemClock),
    };
    let shutdown = CancellationToken::new();
    let server = Server::new(settings, parts.catalog.clone(), parts.sprites.clone());
    let mut served = tokio::spawn(server.serve(listener, shutdown.clone()));
    info!(%address, data_dir = %config.data_dir.display(), substrate = config.substrate, "up");
    if ephemeral {
        let announced = announce(&parts, address, parts.image.clone());
        tokio::select! {
            result = announced => result?,
            _ = end.wait_for(Option::is_some) => {}
        }
    }
    let how = tokio::select! {
        how = end.wait_for(Option::is_some) => {
            how.ok().and_then(|how| *how).unwrap_or(End::Leave)
        }
        result = &mut served => {
            result.context("the API's task ended")?;
            End::Leave
        }
    };
    info!(?how, "shutting down");
    shutdown.cancel();
    if how == End::Stop || ephemeral {
        parts.sprites.stop_all().await;
    }
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), served).await;
    admin_task.abort();
    let _ = std::fs::remove_file(config.admin_socket());
    close(parts, how == End::Stop || ephemeral).await;
    info!("down");
    Ok(())
}

/// Closes what does not close by itself.
async fn close(parts: Parts, for_good: bool) {
    if let Some(disks) = parts.disks {
        let _ = tokio::task::spawn_blocking(move || disks.close()).await;
    }
    let Some(network) = parts.network else { return };
    if !for_good {
        network.close().await;
    } else if let Err(error) = network.teardown().await {
        tracing::warn!(%error, "the host's network is not as it was");
    }
}

/// Prints what a test needs, once sprites can be made.
async fn announce(
    parts: &Parts,
    address: SocketAddr,
    mut image: watch::Receiver<ImageState>,
) -> anyhow::Result<()> {
    let state = image.wait_for(|state| *state != ImageState::Preparing).await?.clone();
    if let ImageState::Failed(reason) = state {
        bail!("there is no base image: {reason}");
    }
    let slug = "test".parse().expect("a constant name is valid");
    let org = parts.catalog.ensure_org(&slug).await?;
    let (_, token) = parts.catalog.create_token(&org.id, "ephemeral").await?;
    println!("SPRITES_API_URL=http://{address}\nSPRITE_TOKEN={token}");
    Ok(())
}

/// Turns the image's state into what `/healthz` says.
fn readiness(mut image: watch::Receiver<ImageState>) -> watch::Receiver<Readiness> {
    let text = |state: &ImageState| match state {
        ImageState::Preparing => Readiness::Waiting("the base image is being prepared".to_owned()),
        ImageState::Ready(_) => Readiness::Ready,
        ImageState::Failed(reason) => {
            Readiness::Waiting(format!("there is no base image: {reason}"))
        }
    };
    let (ready_out, ready) = watch::channel(text(&image.borrow_and_update()));
    tokio::spawn(async move {
        while image.changed().await.is_ok() {
            ready_out.send_replace(text(&image.borrow_and_update()));
        }
        // Keeps the last state readable for as long as anybody asks.
        ready_out.closed().await;
    });
    ready
}

fn watch_signals(end: watch::Sender<Option<End>>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            end.send_if_modified(|how| how.is_none().then(|| *how = Some(End::Leave)).is_some());
        }
    });
    Ok(())
}
