//! Machines without isolation: the agent runs in this process, commands as plain processes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sprite_guestd::{Guest, GuestSettings, router};
use sprite_linkmux::{Dial, Dialing, GuestIdentity, GuestLink, HostIdentity, HostLink, Io};
use sprite_types::BootId;
use tokio::sync::watch;

use crate::error::BootError;
use crate::machine::{Inner, Kind, Machine, MachineSpec};

/// The fake substrate. Each machine has a folder of its own as home; that is all it has.
#[derive(Clone, Debug)]
pub struct Fake {
    homes: PathBuf,
    /// Cut each link after this time, over and over.
    cut_every: Option<Duration>,
    cuts: Arc<AtomicU64>,
}

/// What a fake machine is made of.
pub(crate) struct FakeParts {
    guest: Guest,
    ended: watch::Sender<Option<String>>,
    home: PathBuf,
}

impl Fake {
    /// Makes a substrate whose machines have their homes below `homes`.
    #[must_use]
    pub fn new(homes: impl Into<PathBuf>) -> Self {
        Self { homes: homes.into(), cut_every: None, cuts: Arc::default() }
    }

    /// Cuts every link after `period`, whatever is under way on it; the host connects anew.
    #[must_use]
    pub fn cutting_links_every(mut self, period: Duration) -> Self {
        self.cut_every = Some(period);
        self
    }

    /// Counts the links that were cut.
    #[must_use]
    pub fn links_cut(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    pub(crate) async fn boot(&self, spec: MachineSpec) -> Result<Machine, BootError> {
        let home = self.homes.join(spec.owner.sprite_id.as_str());
        std::fs::create_dir_all(&home)
            .map_err(|source| BootError::Io { path: home.clone(), source })?;
        let boot_id = BootId::generate();
        let settings = GuestSettings::plain(
            spec.machine_id.clone(),
            boot_id.clone(),
            spec.identity,
            home.clone(),
        );
        let guest = Guest::new(settings);
        // Nobody else can reach an in-memory link; the secret is only part of the protocol.
        let secret = "0".repeat(64);
        let identity =
            GuestIdentity { machine_id: spec.machine_id.clone(), boot_id, secret: secret.clone() };
        let cut_after = self.cut_every.map(|period| (period, self.cuts.clone()));
        let dial = InMemory { link: GuestLink::new(identity), guest: guest.clone(), cut_after };
        let identity = HostIdentity { machine_id: spec.machine_id.clone(), secret };
        let link = HostLink::connect(identity, dial);
        let (ended_out, ended) = watch::channel(None);
        let parts = FakeParts { guest, ended: ended_out, home };
        let (id, owner, kind) = (spec.machine_id, spec.owner, Kind::Fake(parts));
        Ok(Machine(Arc::new(Inner { id, owner, link, ended, kind })))
    }

    pub(crate) async fn stop(&self, machine: &Machine) {
        let Kind::Fake(parts) = &machine.0.kind else { return };
        machine.0.link.close();
        parts.guest.shut_down().await;
        parts.ended.send_replace(Some("stopped".to_owned()));
        if !self.homes.exists() {
            let _ = std::fs::remove_dir_all(&parts.home);
        }
    }
}

/// Dials an agent in this process.
struct InMemory {
    link: GuestLink,
    guest: Guest,
    cut_after: Option<(Duration, Arc<AtomicU64>)>,
}

impl Dial for InMemory {
    fn dial(&self) -> Dialing<'_> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (link, guest) = (self.link.clone(), self.guest.clone());
        let cut_after = self.cut_after.clone();
        tokio::spawn(async move {
            let service = hyper_util::service::TowerToHyperService::new(router(guest));
            let serve = link.serve_io(theirs, service);
            match cut_after {
                // What was in flight, in both directions, is lost.
                Some((period, cuts)) => {
                    if tokio::time::timeout(period, serve).await.is_err() {
                        cuts.fetch_add(1, Ordering::Relaxed);
                    }
                }
                None => drop(serve.await),
            }
        });
        Box::pin(async { Ok(Box::new(ours) as Box<dyn Io>) })
    }
}
