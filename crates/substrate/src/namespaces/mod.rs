//! Machines made of namespaces, cgroups and a routed veth pair on this host's kernel.
//!
//! The agent (`sprite-guestd`) is a root process of the host with a mount namespace of its own;
//! it makes the inner container. When it ends, however it ends, the container and every mount
//! and interface of the machine end with it. What is left to this module is what the kernel
//! does not remove by itself: cgroups, the firewall's admission, and the machine's folder.

mod adopt;
mod agent;
mod folder;
mod ids;
mod sys;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::Empty;
use sprite_container::cgroup::{self, Hierarchies, MachineCgroup};
use sprite_link::boot::{BootSpec, NetworkSpec, Tool};
use sprite_linkmux::{HostIdentity, HostLink, LinkError, Unix};
use sprite_network::Network;
use sprite_types::{BootId, MachineId};
use tracing::{debug, warn};

use crate::error::BootError;
use crate::machine::{Inner, Kind, Machine, MachineSpec, StopMode};
use agent::Agent;
use folder::{Folder, Record};
use ids::IdRanges;

/// How long an agent has to answer for the first time. Generous: emulated hosts are slow.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an orderly stop may take: the agent gives processes 5 s, then syncs the disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long killed processes have to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a freeze may take before it is reported.
const FREEZE_TIMEOUT: Duration = Duration::from_millis(500);

/// Settings of the substrate. Since 0.1.
#[derive(Clone, Debug)]
pub struct NamespacesSettings {
    /// Folder with one folder per machine; only root may enter it.
    pub machines_dir: PathBuf,
    /// The agent's program.
    pub guestd: PathBuf,
    /// Programs offered inside every sprite.
    pub tools: Vec<Tool>,
    /// First of the host's user ids that machines get, 65,536 each.
    pub id_base: u32,
}

/// The substrate. Cheap to clone.
#[derive(Clone)]
pub struct Namespaces {
    settings: Arc<NamespacesSettings>,
    cgroups: Arc<Hierarchies>,
    network: Network,
    ids: Arc<IdRanges>,
}

/// What a machine of this substrate is made of.
pub(crate) struct Parts {
    agent: Agent,
    folder: Folder,
    cgroup: MachineCgroup,
    network: NetworkSpec,
    id_base: u32,
    /// One stop at a time; the second finds nothing left.
    stopping: tokio::sync::Mutex<bool>,
}

impl Namespaces {
    /// Makes the substrate.
    #[must_use]
    pub fn new(settings: NamespacesSettings, cgroups: Hierarchies, network: Network) -> Self {
        let ids = Arc::new(IdRanges::new(settings.id_base));
        Self { settings: Arc::new(settings), cgroups: Arc::new(cgroups), network, ids }
    }

    pub(crate) async fn boot(&self, spec: MachineSpec) -> Result<Machine, BootError> {
        let id_base = self.ids.take().ok_or(BootError::NoIds)?;
        let limits = cgroup::Limits {
            memory: spec.limits.memory,
            cpus: spec.limits.cpus,
            pids: spec.limits.pids,
            strict: false,
        };
        let machine_id = spec.machine_id.clone();
        let result = self.boot_with(spec, id_base, &limits).await;
        if result.is_err() {
            self.ids.give_back(id_base);
            debug!(%machine_id, "failed boot cleaned up");
        }
        result
    }

    async fn boot_with(
        &self,
        spec: MachineSpec,
        id_base: u32,
        limits: &cgroup::Limits,
    ) -> Result<Machine, BootError> {
        let id = &spec.machine_id;
        // Before anything else, so that the next `sprited` knows of the machine, whenever this
        // one ends.
        let folder = Folder::new(&self.settings.machines_dir, id);
        folder
            .create()
            .map_err(|source| BootError::Io { path: folder.path().to_owned(), source })?;
        let cgroup = match self.cgroups.create(id, limits) {
            Ok(cgroup) => cgroup,
            Err(error) => {
                let _ = folder.remove();
                return Err(BootError::Cgroup(error));
            }
        };
        for missing in cgroup.unapplied() {
            warn!(limit = missing.limit, reason = missing.reason, fix = missing.fix, "no limit");
        }
        let network = match self.network.allocate(id) {
            Ok(network) => network,
            Err(error) => {
                remove_cgroup(&cgroup).await;
                let _ = folder.remove();
                return Err(BootError::Network(error));
            }
        };
        let started = self.start(&spec, id_base, &cgroup, &network, &folder).await;
        if started.is_err() {
            self.sweep(&cgroup, &network, &folder).await;
        }
        started
    }

    async fn start(
        &self,
        spec: &MachineSpec,
        id_base: u32,
        cgroup: &MachineCgroup,
        network: &NetworkSpec,
        folder: &Folder,
    ) -> Result<Machine, BootError> {
        self.network.admit(network).await.map_err(BootError::Network)?;
        let boot = BootSpec {
            machine_id: spec.machine_id.clone(),
            boot_id: BootId::generate(),
            link_secret: new_secret(),
            link_socket: folder.socket(),
            root_device: spec.root_device.clone(),
            id_base,
            cgroup_dirs: cgroup.dirs(),
            cgroup2_dir: cgroup.cgroup2_dir(),
            network: Some(network.clone()),
            tools: self.settings.tools.clone(),
            allow_netfilter: false,
            identity: spec.identity.clone(),
        };
        let (agent, stdin) = Agent::spawn(&self.settings.guestd, &folder.log())
            .map_err(|source| BootError::Spawn { program: self.settings.guestd.clone(), source })?;
        let record = Record {
            machine_id: spec.machine_id.clone(),
            boot_id: boot.boot_id.clone(),
            owner: spec.owner.clone(),
            link_secret: boot.link_secret.clone(),
            process: agent.process(),
            id_base,
            cgroup_dirs: cgroup.dirs(),
            cgroup2_dir: cgroup.cgroup2_dir(),
            network: network.clone(),
        };
        // Before the agent is told anything: from here on a new `sprited` finds the machine.
        let told = match folder.write(&record) {
            Ok(()) => agent.tell(stdin, &boot).await,
            Err(error) => Err(error),
        };
        let result = match told {
            Ok(()) => self.await_link(&spec.machine_id, &boot.link_secret, &agent, folder).await,
            Err(source) => Err(BootError::Io { path: folder.path().to_owned(), source }),
        };
        match result {
            Ok(link) => Ok(machine(record, link, agent, folder.clone(), cgroup.clone())),
            Err(error) => {
                agent.kill();
                let _ = tokio::time::timeout(KILL_TIMEOUT, agent.ended()).await;
                Err(error)
            }
        }
    }

    async fn await_link(
        &self,
        id: &MachineId,
        secret: &str,
        agent: &Agent,
        folder: &Folder,
    ) -> Result<HostLink, BootError> {
        let identity = HostIdentity { machine_id: id.clone(), secret: secret.to_owned() };
        let link = HostLink::connect(identity, Unix(folder.socket()));
        let result = tokio::select! {
            up = link.wait_up(BOOT_TIMEOUT) => up.map_err(|_| BootError::Silent {
                seconds: BOOT_TIMEOUT.as_secs(), log: folder.log_tail(),
            }),
            status = agent.ended() => {
                Err(BootError::Ended { status, log: folder.log_tail() })
            }
        };
        result.map(|_| link)
    }

    pub(crate) async fn stop(&self, machine: &Machine, mode: StopMode) {
        let Kind::Namespaces(parts) = &machine.0.kind else { return };
        let mut stopped = parts.stopping.lock().await;
        if *stopped {
            return;
        }
        if mode == StopMode::Orderly {
            // A frozen machine could not end.
            let _ = parts.cgroup.thaw();
            let orderly = async {
                match shut_down(&machine.0.link).await {
                    Ok(()) => drop(parts.agent.ended().await),
                    Err(error) => {
                        warn!(machine_id = %machine.0.id, %error, "machine not asked to stop");
                    }
                }
            };
            if tokio::time::timeout(STOP_TIMEOUT, orderly).await.is_err() {
                warn!(machine_id = %machine.0.id, "machine did not stop in time; killed");
            }
        }
        machine.0.link.close();
        parts.agent.kill();
        if tokio::time::timeout(KILL_TIMEOUT, parts.agent.ended()).await.is_err() {
            warn!(machine_id = %machine.0.id, "the machine's agent survives being killed");
        }
        self.sweep(&parts.cgroup, &parts.network, &parts.folder).await;
        self.ids.give_back(parts.id_base);
        *stopped = true;
    }

    /// Removes what the kernel does not remove with the agent.
    async fn sweep(&self, cgroup: &MachineCgroup, network: &NetworkSpec, folder: &Folder) {
        remove_cgroup(cgroup).await;
        if let Err(error) = self.network.release(network).await {
            warn!(%error, interface = network.host_interface, "firewall keeps a machine");
        }
        if let Err(error) = folder.remove() {
            warn!(%error, path = %folder.path().display(), "machine's folder not removed");
        }
    }
}

fn machine(
    record: Record,
    link: HostLink,
    agent: Agent,
    folder: Folder,
    cgroup: MachineCgroup,
) -> Machine {
    let (ended_out, ended) = tokio::sync::watch::channel(None);
    let (watched, link_of, stats) = (agent.clone(), link.clone(), cgroup.clone());
    tokio::spawn(async move {
        let mut how = watched.ended().await;
        if stats.stats().oom_kills.is_some_and(|count| count > 0) {
            how.push_str("; processes were killed for want of memory");
        }
        link_of.close();
        ended_out.send_replace(Some(how));
    });
    let parts = Parts {
        agent,
        folder,
        cgroup,
        network: record.network,
        id_base: record.id_base,
        stopping: tokio::sync::Mutex::new(false),
    };
    let (id, owner, kind) = (record.machine_id, record.owner, Kind::Namespaces(Box::new(parts)));
    Machine(Arc::new(Inner { id, owner, link, ended, kind }))
}

/// Asks the agent to end everything in order.
async fn shut_down(link: &HostLink) -> Result<(), LinkError> {
    let request = Request::post("/v1/shutdown").body(Empty::<bytes::Bytes>::new());
    let response = link.send(request.expect("a constant request is well-formed")).await?;
    debug!(status = %response.status(), "machine asked to stop");
    Ok(())
}

/// Kills what is left in a machine's cgroups and removes them.
async fn remove_cgroup(cgroup: &MachineCgroup) {
    let cgroup = cgroup.clone();
    let removed = tokio::task::spawn_blocking(move || {
        let _ = cgroup.thaw();
        if !cgroup.is_empty() {
            cgroup.kill_all()?;
        }
        cgroup.remove()
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "cgroup not removed"),
        Err(error) => warn!(%error, "cgroup not removed"),
    }
}

pub(crate) fn freeze(machine: &Machine) -> io::Result<()> {
    match &machine.0.kind {
        Kind::Namespaces(parts) => parts.cgroup.freeze(FREEZE_TIMEOUT).map_err(io::Error::other),
        Kind::Fake(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

pub(crate) fn thaw(machine: &Machine) -> io::Result<()> {
    match &machine.0.kind {
        Kind::Namespaces(parts) => parts.cgroup.thaw().map_err(io::Error::other),
        Kind::Fake(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Makes a secret of 256 random bits, as hex digits.
fn new_secret() -> String {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
