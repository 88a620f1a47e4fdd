//! Everything the agent knows and holds.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sprite_exec::{Defaults, PlainSpawner, Sessions, Settings, Spawner};
use sprite_files::{Files, Runner};
use sprite_link::boot::{Identity, NetworkSpec};
use sprite_link::guest::PortEvent;
use sprite_types::{BootId, Clock, MachineId, SystemClock};
use tokio::sync::watch;

use crate::inside::{self, Naming};
use crate::ports::Ports;

/// How long sessions have to notice that their process ended with the container.
const TELLING: Duration = Duration::from_millis(500);
/// How long processes have to end before they are made to.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What a [`Guest`] is made of.
pub struct GuestSettings {
    /// The machine.
    pub machine_id: MachineId,
    /// This start of the agent.
    pub boot_id: BootId,
    /// Name and environment.
    pub identity: Identity,
    /// Where commands run.
    pub spawner: Spawner,
    /// The default environment of commands.
    pub defaults: Defaults,
    /// Where file calls are carried out.
    pub files: Files,
    /// Listening ports; absent: none are seen.
    pub ports: Option<Ports>,
    /// The machine's address and resolver, if it has a network.
    pub network: Option<NetworkSpec>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl GuestSettings {
    /// A guest without any isolation: commands and file calls are carried out on this host as
    /// the current user, with `home` as the home directory. For tests and the fake substrate.
    #[must_use]
    pub fn plain(
        machine_id: MachineId,
        boot_id: BootId,
        identity: Identity,
        home: PathBuf,
    ) -> Self {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into());
        let user = std::env::var("USER").unwrap_or_else(|_| "root".into());
        let defaults = Defaults {
            home: home.to_string_lossy().into_owned(),
            user,
            shell: "/bin/sh".into(),
            path,
            ..Defaults::default()
        };
        let spawner = Spawner::Plain(PlainSpawner { home: Some(home) });
        let files = Files::new(Runner::Plain);
        let clock = Arc::new(SystemClock);
        Self {
            machine_id,
            boot_id,
            identity,
            spawner,
            defaults,
            files,
            ports: None,
            network: None,
            clock,
        }
    }
}

struct Inner {
    machine_id: MachineId,
    boot_id: BootId,
    identity: Mutex<Identity>,
    sessions: Sessions,
    files: Files,
    ports: Option<Ports>,
    network: Option<NetworkSpec>,
    clock: Arc<dyn Clock>,
    shutting_down: AtomicBool,
    down: watch::Sender<bool>,
}

/// The agent. Cheap to clone.
#[derive(Clone)]
pub struct Guest(Arc<Inner>);

impl Guest {
    /// Makes an agent; call inside a tokio runtime.
    #[must_use]
    pub fn new(settings: GuestSettings) -> Self {
        let exec = Settings { spawner: settings.spawner, defaults: settings.defaults };
        // Different at each start, small enough to type: an id kept from before the machine
        // bounced should find nothing rather than a stranger's command.
        let tail = settings.boot_id.tail().bytes();
        let first = tail.fold(7_u64, |hash, byte| hash.wrapping_mul(31) + u64::from(byte));
        let sessions = Sessions::new(exec, settings.clock.clone(), (first % 900 + 1) * 1000);
        let guest = Self(Arc::new(Inner {
            machine_id: settings.machine_id,
            boot_id: settings.boot_id,
            identity: Mutex::new(Identity::default()),
            sessions,
            files: settings.files,
            ports: settings.ports,
            network: settings.network,
            clock: settings.clock,
            shutting_down: AtomicBool::new(false),
            down: watch::channel(false).0,
        }));
        guest.keep_identity(settings.identity);
        guest
    }

    /// Returns the machine's id.
    #[must_use]
    pub fn machine_id(&self) -> &MachineId {
        &self.0.machine_id
    }

    /// Returns the id of this start of the agent.
    #[must_use]
    pub fn boot_id(&self) -> &BootId {
        &self.0.boot_id
    }

    /// Returns the sessions.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// Returns what carries out file calls.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.0.files
    }

    /// Returns the clock.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    /// Returns who this machine is at present.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.0.identity.lock().expect("no panic while it is copied").clone()
    }

    /// Makes this machine somebody's: commands that start from now on see the new name and
    /// environment.
    pub async fn set_identity(&self, identity: Identity) {
        if let Spawner::Container(launcher) = self.0.sessions.spawner() {
            let naming = Naming::of(&identity, self.0.network.as_ref());
            if let Err(error) = inside::set_naming(launcher, &naming).await {
                tracing::warn!(%error, "the sprite does not know its name");
            }
        }
        self.keep_identity(identity);
    }

    fn keep_identity(&self, identity: Identity) {
        let mut environment = Vec::new();
        if !identity.url.is_empty() {
            environment.push(("SPRITE_URL".to_owned(), identity.url.clone()));
        }
        environment.extend(identity.environment.iter().cloned());
        self.0.sessions.set_environment(environment);
        *self.0.identity.lock().expect("no panic while it is copied") = identity;
    }

    /// Returns the listening ports.
    pub async fn ports(&self) -> Vec<PortEvent> {
        let guest = self.clone();
        let list = move || guest.0.ports.as_ref().map(Ports::list).unwrap_or_default();
        tokio::task::spawn_blocking(list).await.unwrap_or_default()
    }

    /// Tells sessions about their ports, for as long as it is polled.
    pub(crate) async fn watch_ports(&self) {
        if let Some(ports) = &self.0.ports {
            ports.watch(&self.0.sessions).await;
        }
    }

    /// Ends every process. Returns when they have ended and the disk is written out.
    pub async fn shut_down(&self) {
        self.0.shutting_down.store(true, Ordering::SeqCst);
        match self.0.sessions.spawner() {
            Spawner::Plain(_) => self.0.sessions.end_all(SHUTDOWN_GRACE).await,
            Spawner::Container(launcher) => {
                if let Err(error) = launcher.stop(SHUTDOWN_GRACE).await {
                    tracing::warn!(%error, "container did not stop in order");
                }
                // Those who follow a session hear of its end.
                let mut live = self.0.sessions.live();
                let told = live.wait_for(|live| *live == 0);
                let _ = tokio::time::timeout(TELLING, told).await;
            }
        }
        self.0.down.send_replace(true);
    }

    /// Returns whether [`Guest::shut_down`] has begun.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.0.shutting_down.load(Ordering::SeqCst)
    }

    /// Waits until [`Guest::shut_down`] is done.
    pub async fn wait_down(&self) {
        let mut down = self.0.down.subscribe();
        // The sender lives in `self`, so there is no error.
        let _ = down.wait_for(|down| *down).await;
    }
}
