//! The agent of a machine of namespaces, from its boot spec to its end.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sprite_container::{Container, ContainerExit, ContainerSpec, Launcher, RootDisk, Tool};
use sprite_exec::{Defaults, Spawner};
use sprite_files::{Files, Runner};
use sprite_link::boot::BootSpec;
use sprite_linkmux::{GuestIdentity, GuestLink};
use sprite_types::SystemClock;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::guest::{Guest, GuestSettings};
use crate::inside::{self, Naming};
use crate::ports::Ports;
use crate::{local_api, network, router};

/// How long the answer to a shutdown has to reach the host before the agent ends.
const FAREWELL: Duration = Duration::from_millis(200);

/// How the agent ends; also its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    ShutDown = 0,
    /// It could not begin; the log says why.
    Failed = 1,
    /// The container ended by itself, or was killed: boot the machine anew.
    ContainerLost = 10,
    /// Somebody inside asked for a restart.
    Reboot = 11,
    /// Somebody inside asked to be switched off.
    PowerOff = 12,
}

/// Starts the machine, serves it, and returns how it ended.
///
/// # Errors
/// The machine could not be started; what was made of it goes with this process.
pub async fn run(spec: BootSpec, launcher: Launcher) -> anyhow::Result<End> {
    raise_descriptor_limit();
    let mut terminate = signal(SignalKind::terminate())?;
    let work_dir = spec.link_socket.with_file_name("work");
    match std::fs::create_dir(&work_dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("create `{}`", work_dir.display()));
        }
        _ => {}
    }
    let container =
        launcher.start(container_spec(&spec, work_dir)).await.context("start the container")?;
    for warning in &container.warnings {
        tracing::warn!(warning, "the container is not as it should be");
    }
    let mut exited = launcher.container_exited();
    let served = serve(&spec, &launcher, container);
    let (guest, listener, link) = tokio::select! {
        served = served => served?,
        exit = container_exit(&mut exited) => return Ok(explain(exit, &spec)),
    };
    let service = TowerToHyperService::new(router(guest.clone()));
    tracing::info!(machine_id = %spec.machine_id, "machine ready");
    tokio::select! {
        result = link.serve_listener(listener, service) => {
            result.context("listen for the host")?;
            Ok(End::Failed)
        }
        () = guest.wait_down() => {
            tokio::time::sleep(FAREWELL).await;
            tracing::info!("machine shut down");
            Ok(End::ShutDown)
        }
        exit = container_exit(&mut exited) => {
            if guest.is_shutting_down() {
                // Not by itself, then.
                guest.wait_down().await;
                tokio::time::sleep(FAREWELL).await;
                return Ok(End::ShutDown);
            }
            Ok(explain(exit, &spec))
        }
        _ = terminate.recv() => {
            guest.shut_down().await;
            Ok(End::ShutDown)
        }
    }
}

fn container_spec(spec: &BootSpec, work_dir: PathBuf) -> ContainerSpec {
    let tool = |tool: &sprite_link::boot::Tool| Tool {
        source: tool.source.clone(),
        target: tool.target.clone(),
    };
    ContainerSpec {
        root: RootDisk::Device(spec.root_device.clone()),
        work_dir,
        id_base: spec.id_base,
        cgroup_dirs: spec.cgroup_dirs.clone(),
        cgroup2_dir: spec.cgroup2_dir.clone(),
        hostname: spec.identity.hostname.clone(),
        tools: spec.tools.iter().map(tool).collect(),
        allow_netfilter: spec.allow_netfilter,
    }
}

/// Makes everything around a container that runs, up to the socket the host waits for.
async fn serve(
    spec: &BootSpec,
    launcher: &Launcher,
    container: Container,
) -> anyhow::Result<(Guest, UnixListener, GuestLink)> {
    let cgroup = spec.cgroup2_dir.as_ref().map(|dir| dir.join("box"));
    let ports = Ports::new(container.network.try_clone()?, cgroup).context("watch ports")?;
    let guest = Guest::new(GuestSettings {
        machine_id: spec.machine_id.clone(),
        boot_id: spec.boot_id.clone(),
        identity: spec.identity.clone(),
        spawner: Spawner::Container(launcher.clone()),
        defaults: Defaults::default(),
        files: Files::new(Runner::Container(launcher.clone())),
        ports: Some(ports),
        network: spec.network.clone(),
        clock: Arc::new(SystemClock),
    });
    let network = async {
        let Some(network) = spec.network.clone() else { return Ok(()) };
        let (pid, namespace) = (container.init_pid, container.network);
        tokio::task::spawn_blocking(move || network::connect(&network, pid, namespace))
            .await?
            .context("connect the network")
    };
    let naming = Naming::of(&spec.identity, spec.network.as_ref());
    let (connected, named, bound) = tokio::join!(
        network,
        inside::set_naming(launcher, &naming),
        inside::bind_api_socket(launcher),
    );
    connected?;
    // A user may have made these impossible; the sprite must start all the same.
    if let Err(error) = named {
        tracing::warn!(%error, "the sprite does not know its name");
    }
    match bound.and_then(into_tokio) {
        Ok(listener) => {
            tokio::spawn(local_api::serve(listener, guest.clone()));
        }
        Err(error) => tracing::warn!(%error, "no management socket in the sprite"),
    }
    let watcher = guest.clone();
    tokio::spawn(async move { watcher.watch_ports().await });
    let listener = bind(&spec.link_socket)
        .with_context(|| format!("listen on `{}`", spec.link_socket.display()))?;
    let link = GuestLink::new(GuestIdentity {
        machine_id: spec.machine_id.clone(),
        boot_id: spec.boot_id.clone(),
        secret: spec.link_secret.clone(),
    });
    Ok((guest, listener, link))
}

fn into_tokio(listener: std::os::unix::net::UnixListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Binds the link's socket; whoever is to find it there may use it at once.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

async fn container_exit(exited: &mut watch::Receiver<Option<ContainerExit>>) -> ContainerExit {
    match exited.wait_for(Option::is_some).await {
        Ok(exit) => (*exit).unwrap_or(ContainerExit::LauncherLost),
        Err(_) => ContainerExit::LauncherLost,
    }
}

/// Logs why the container ended, and says what that means for the machine.
fn explain(exit: ContainerExit, spec: &BootSpec) -> End {
    let oom_kills = oom_kills(&spec.cgroup_dirs);
    match exit {
        ContainerExit::Init { signal: Some(1), .. } => {
            tracing::info!("restart asked for inside");
            End::Reboot
        }
        ContainerExit::Init { signal: Some(2), .. } => {
            tracing::info!("power-off asked for inside");
            End::PowerOff
        }
        exit => {
            tracing::error!(?exit, oom_kills, "container ended by itself");
            End::ContainerLost
        }
    }
}

/// Counts processes of the machine that were killed for want of memory.
fn oom_kills(cgroup_dirs: &[PathBuf]) -> u64 {
    let count = |dir: &PathBuf| {
        ["memory.events", "memory.oom_control"].iter().find_map(|file| {
            let text = std::fs::read_to_string(dir.join(file)).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
        })
    };
    cgroup_dirs.iter().find_map(count).unwrap_or(0)
}

/// Thousands of sessions need thousands of descriptors.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "few descriptors");
    }
}
