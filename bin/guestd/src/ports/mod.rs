//! Listening ports of the sprite: who listens where, told to those who follow its sessions.
//!
//! The kernel names the cgroup of whoever made a socket, and every session has a cgroup of its
//! own; so a poll costs one netlink dump, and `/proc` is looked at for new listeners only.

mod diag;
mod processes;
mod socket;
mod watch;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use sprite_exec::Sessions;
use sprite_link::guest::PortEvent;
use sprite_types::SessionId;

use diag::Listener;
use socket::DiagSocket;
use watch::{PortWatch, event};

/// How often is looked, while anybody follows a session.
const POLL_EVERY: Duration = Duration::from_millis(250);

/// The sprite's listening ports.
#[derive(Debug)]
pub struct Ports {
    socket: DiagSocket,
    /// The container's cgroup2 directory on the host, whose children are the sessions' leaves.
    cgroup: Option<PathBuf>,
}

impl Ports {
    /// Watches the network namespace given. Without `cgroup`, ports are listed but belong to no
    /// session.
    ///
    /// # Errors
    /// The kernel gave no netlink socket there.
    pub fn new(network: OwnedFd, cgroup: Option<PathBuf>) -> std::io::Result<Self> {
        Ok(Self { socket: DiagSocket::open(Some(network))?, cgroup })
    }

    /// Returns all listening ports.
    pub(crate) fn list(&self) -> Vec<PortEvent> {
        let mut ports: Vec<PortEvent> = Vec::new();
        for listener in self.listeners() {
            let pid = self.cgroup.as_deref().map_or(0, |all| {
                // The leaf that it came from holds few processes; the whole sprite may hold many.
                let leaf = self.leaf_of(listener.cgroup);
                processes::holder(leaf.as_deref().unwrap_or(all), listener.inode)
            });
            ports.push(event("port_opened", listener.port, listener.address, pid));
        }
        ports.sort_by(|a, b| (a.port, &a.address).cmp(&(b.port, &b.address)));
        ports.dedup();
        ports
    }

    fn listeners(&self) -> Vec<Listener> {
        self.socket.listeners().unwrap_or_else(|error| {
            tracing::warn!(%error, "listening ports are not known");
            Vec::new()
        })
    }

    fn leaf_of(&self, inode: u64) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.cgroup.as_ref()?).ok()?.flatten();
        let mut dirs = entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.find(|entry| entry.metadata().is_ok_and(|meta| meta.ino() == inode))
            .map(|entry| entry.path())
    }

    /// Tells sessions about their ports, for as long as it is polled.
    pub(crate) async fn watch(&self, sessions: &Sessions) {
        let Some(cgroup) = &self.cgroup else { return };
        let mut attached = sessions.attached();
        let mut watch = PortWatch::default();
        let mut inodes: HashMap<SessionId, u64> = HashMap::new();
        loop {
            if attached.wait_for(|count| *count > 0).await.is_err() {
                return;
            }
            let leaves = sessions.leaves();
            inodes.retain(|known, _| leaves.iter().any(|(id, _)| id == known));
            for (id, leaf) in &leaves {
                if !inodes.contains_key(id)
                    && let Ok(meta) = std::fs::metadata(cgroup.join(leaf))
                {
                    inodes.insert(*id, meta.ino());
                }
            }
            let owner = |inode| inodes.iter().find(|(_, i)| **i == inode).map(|(id, _)| *id);
            let pid_of = |listener: &Listener| {
                let leaf = self.leaf_of(listener.cgroup);
                leaf.map_or(0, |leaf| processes::holder(&leaf, listener.inode))
            };
            for (session, event) in watch.update(&self.listeners(), owner, pid_of) {
                let json = serde_json::to_vec(&event).expect("an event is plain data");
                sessions.port(session, Bytes::from(json));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}
