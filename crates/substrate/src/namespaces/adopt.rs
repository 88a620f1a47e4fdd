//! Finds the machines of an earlier `sprited`.

use std::time::Duration;

use sprite_container::cgroup::MachineCgroup;
use sprite_linkmux::{HostIdentity, HostLink, LinkError, Unix};
use tracing::{info, warn};

use super::agent::Agent;
use super::folder::Folder;
use super::{Namespaces, machine, remove_cgroup};
use crate::machine::Machine;

/// How long a machine that runs has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl Namespaces {
    pub(crate) async fn adopt(&self) -> Vec<Machine> {
        let folders = match Folder::all(&self.settings.machines_dir) {
            Ok(folders) => folders,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                warn!(%error, "machines' folders cannot be listed");
                Vec::new()
            }
        };
        let found = folders.into_iter().map(|(id, folder)| async move {
            let machine = self.adopt_one(&folder).await;
            match &machine {
                Some(_) => info!(machine_id = %id, "machine found running"),
                None => info!(machine_id = %id, "remains of a machine removed"),
            }
            machine
        });
        futures::future::join_all(found).await.into_iter().flatten().collect()
    }

    async fn adopt_one(&self, folder: &Folder) -> Option<Machine> {
        let id = folder.path().file_name()?.to_str()?.parse().ok()?;
        let record = match folder.read() {
            Ok(record) => record,
            Err(error) => {
                // A boot that was cut short before the agent was told anything.
                warn!(machine_id = %id, %error, "machine without a record");
                if let Some(cgroup) = self.cgroups.open(&id) {
                    remove_cgroup(&cgroup).await;
                }
                let _ = folder.remove();
                return None;
            }
        };
        let cgroup = MachineCgroup::from_dirs(&record.cgroup_dirs, record.cgroup2_dir.as_deref());
        if let Some(agent) = Agent::find(record.process) {
            let identity = HostIdentity { machine_id: id, secret: record.link_secret.clone() };
            let link = HostLink::connect(identity, Unix(folder.socket()));
            let answer = tokio::select! {
                answer = link.wait_up(ANSWER_TIMEOUT) => answer,
                // A boot that our predecessor's end cut short fails by itself.
                _ = agent.ended() => Err(LinkError::Closed),
            };
            let network = self.network.adopt(&record.network).await;
            match (answer, network) {
                (Ok((_, boot_id)), Ok(())) if boot_id == record.boot_id => {
                    self.ids.mark(record.id_base);
                    return Some(machine(record, link, agent, folder.clone(), cgroup));
                }
                (answer, network) => {
                    warn!(machine_id = %record.machine_id, ?answer, ?network, "machine given up");
                    link.close();
                    agent.kill();
                    let _ = tokio::time::timeout(super::KILL_TIMEOUT, agent.ended()).await;
                }
            }
        }
        remove_cgroup(&cgroup).await;
        if let Err(error) = self.network.release(&record.network).await {
            warn!(%error, "firewall keeps a machine");
        }
        let _ = folder.remove();
        None
    }
}
