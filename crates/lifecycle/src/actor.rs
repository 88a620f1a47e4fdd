//! The one task that owns a sprite's phase and machine.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sprite_catalog::{SpritePatch, SpriteRecord};
use sprite_link::boot::Identity;
use sprite_substrate::{Limits, Machine, MachineSpec, Owner, StopMode};
use sprite_types::{ByteSize, ErrorKind, MachineId, chain};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{Instrument, error, info, warn};

use crate::error::SpriteError;
use crate::machines::Guest;
use crate::phase::{Effect, Event, Phase};
use crate::sprites::Shared;
use crate::view::SpriteView;

/// A machine may end by itself this often within [`CRASH_WINDOW`] and be booted again at once.
const CRASHES_MAX: usize = 3;
const CRASH_WINDOW: Duration = Duration::from_secs(60);
/// Calls that may wait for one actor.
const QUEUE: usize = 256;

type Reply<T> = oneshot::Sender<Result<T, SpriteError>>;

/// What others ask of a sprite.
pub(crate) enum Command {
    /// A running machine.
    Wake(Reply<Guest>),
    /// A fresh machine.
    Restart(Reply<Guest>),
    /// No machine.
    Stop(Reply<()>),
    /// No sprite. Answered when nothing is left.
    Destroy(Reply<()>),
}

/// A sprite's actor as others see it.
#[derive(Clone)]
pub(crate) struct Actor {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<Snapshot>,
    record: Arc<Mutex<SpriteRecord>>,
}

/// What an actor shows of itself.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) phase: Phase,
    /// Why the last boot failed or the machine ended.
    pub(crate) reason: Option<String>,
    /// The machine, while there is one.
    pub(crate) machine: Option<Machine>,
}

impl Actor {
    /// Starts the actor of a sprite, with the machine it already has, if any.
    pub(crate) fn spawn(
        shared: Arc<Shared>,
        record: SpriteRecord,
        machine: Option<Machine>,
    ) -> Self {
        let (commands, inbox) = mpsc::channel(QUEUE);
        let phase = if machine.is_some() { Phase::Running } else { Phase::Cold };
        let snapshot = Snapshot { phase, reason: None, machine: machine.clone() };
        let (state_out, state) = watch::channel(snapshot);
        let span = tracing::info_span!(parent: None, "sprite", sprite_id = %record.id);
        let record = Arc::new(Mutex::new(record));
        let task = Task {
            shared,
            record: record.clone(),
            phase,
            machine,
            state: state_out,
            effect: None,
            waiting: Waiting::default(),
            crashes: Vec::new(),
            reason: None,
        };
        tokio::spawn(task.run(inbox).instrument(span));
        Self { commands, state, record }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.state.borrow().clone()
    }

    /// Returns the sprite's record as last stored.
    pub(crate) fn record(&self) -> SpriteRecord {
        self.record.lock().expect("no holder panics").clone()
    }

    /// Replaces the record after it was stored.
    pub(crate) fn set_record(&self, record: SpriteRecord) {
        *self.record.lock().expect("no holder panics") = record;
    }

    /// Asks something and waits for the answer.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, SpriteError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| SpriteError::NotFound)?;
        answer.await.map_err(|_| SpriteError::NotFound)?
    }

    /// Asks something and does not wait.
    pub(crate) fn tell<T>(&self, command: impl FnOnce(Reply<T>) -> Command) {
        // A full queue means that others already asked for much the same.
        let _ = self.commands.try_send(command(oneshot::channel().0));
    }
}

/// Callers who wait for a phase.
#[derive(Default)]
struct Waiting {
    running: Vec<Reply<Guest>>,
    /// Also want a machine, but not the one of now: its id.
    fresh: Vec<(Option<MachineId>, Reply<Guest>)>,
    stopped: Vec<Reply<()>>,
    gone: Vec<Reply<()>>,
}

/// How an effect ended.
enum Outcome {
    Booted(Machine),
    BootFailed(SpriteError),
    Stopped,
    Destroyed,
}

struct Task {
    shared: Arc<Shared>,
    record: Arc<Mutex<SpriteRecord>>,
    phase: Phase,
    machine: Option<Machine>,
    state: watch::Sender<Snapshot>,
    effect: Option<JoinHandle<Outcome>>,
    waiting: Waiting,
    /// When the machine ended by itself.
    crashes: Vec<Instant>,
    reason: Option<String>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while self.phase != Phase::Gone {
            let busy = self.effect.is_some();
            let effect = self.effect.as_mut();
            let machine = self.machine.as_ref();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.command(command),
                    // The host is shutting down; machines live on.
                    None => return,
                },
                outcome = async { effect.expect("guarded").await }, if busy => {
                    self.effect = None;
                    match outcome {
                        Ok(outcome) => self.outcome(outcome).await,
                        Err(error) => {
                            error!(%error, "an effect panicked");
                            let message = "the host failed; see its log".into();
                            let outcome = match self.phase {
                                Phase::Stopping { .. } => Outcome::Stopped,
                                Phase::Destroying => Outcome::Destroyed,
                                _ => Outcome::BootFailed(SpriteError::Internal { message }),
                            };
                            self.outcome(outcome).await;
                        }
                    }
                }
                end = async { machine.expect("guarded").ended().await },
                    if self.phase == Phase::Running && self.machine.is_some() =>
                {
                    warn!(%end, "machine ended by itself");
                    self.reason = Some(end);
                    let now = Instant::now();
                    self.crashes.retain(|&at| now.duration_since(at) < CRASH_WINDOW);
                    self.crashes.push(now);
                    let again = self.crashes.len() <= CRASHES_MAX;
                    self.event(Event::Ended { again });
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Wake(reply) => {
                if let (Phase::Running, Some(machine)) = (self.phase, &self.machine) {
                    let _ = reply.send(Ok(Guest::new(machine, self.view())));
                    return;
                }
                self.waiting.running.push(reply);
                self.event(Event::Wake);
            }
            Command::Restart(reply) => {
                let old = self.machine.as_ref().map(|machine| machine.id().clone());
                self.waiting.fresh.push((old, reply));
                self.event(Event::Restart);
            }
            Command::Stop(reply) => {
                self.waiting.stopped.push(reply);
                self.event(Event::Stop);
            }
            Command::Destroy(reply) => {
                self.waiting.gone.push(reply);
                // Whoever talks to it must hear at once that it is gone.
                if let Some(machine) = &self.machine {
                    machine.link().close();
                }
                self.event(Event::Destroy);
            }
        }
    }

    async fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Booted(machine) => {
                self.machine = Some(machine);
                self.reason = None;
                self.stamp_running().await;
                self.event(Event::Booted);
            }
            Outcome::BootFailed(error) => {
                self.machine = None;
                self.reason = Some(error.to_string());
                self.fail_waiters(&error);
                self.event(Event::BootFailed);
            }
            Outcome::Stopped => {
                self.machine = None;
                self.event(Event::Stopped);
            }
            Outcome::Destroyed => {
                self.machine = None;
                self.event(Event::Destroyed);
            }
        }
    }

    /// Records that the sprite runs, for `last_running_at`.
    async fn stamp_running(&mut self) {
        let (org, id) = {
            let record = self.record.lock().expect("no holder panics");
            (record.org.clone(), record.id.clone())
        };
        let now = self.shared.clock.now();
        let patch = SpritePatch { last_running_at: Some(now), ..SpritePatch::default() };
        match self.shared.catalog.update_sprite(&org, &id, patch).await {
            Ok(record) => *self.record.lock().expect("no holder panics") = record,
            // Destroyed while it booted.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => warn!(error = %chain(&error), "last run not recorded"),
        }
    }

    fn event(&mut self, event: Event) {
        let before = self.phase;
        let (phase, effect) = before.step(event);
        self.phase = phase;
        if before != phase {
            info!(?event, from = ?before, to = ?phase, "phase changed");
        }
        if let Some(effect) = effect {
            self.start(effect);
        }
        self.publish();
        self.serve_waiters();
    }

    fn start(&mut self, effect: Effect) {
        let shared = self.shared.clone();
        let record = self.record.lock().expect("no holder panics").clone();
        let machine = self.machine.take();
        let span = tracing::Span::current();
        let run = async move {
            match effect {
                Effect::Boot => match boot(&shared, &record, machine).await {
                    Ok(machine) => Outcome::Booted(machine),
                    Err(error) => Outcome::BootFailed(error),
                },
                Effect::Stop => {
                    if let Some(machine) = machine {
                        shared.substrate.stop(&machine, StopMode::Orderly).await;
                        shared.storage.wait_released(&record.volume_id).await;
                    }
                    Outcome::Stopped
                }
                Effect::Destroy => {
                    destroy(&shared, &record, machine).await;
                    Outcome::Destroyed
                }
            }
        };
        self.effect = Some(tokio::spawn(run.instrument(span)));
    }

    fn publish(&self) {
        self.state.send_replace(Snapshot {
            phase: self.phase,
            reason: self.reason.clone(),
            machine: self.machine.clone(),
        });
        let view = (!matches!(self.phase, Phase::Destroying | Phase::Gone)).then(|| self.view());
        let record = self.record.lock().expect("no holder panics");
        self.shared.changed(&record.org, &record.name, view);
    }

    fn serve_waiters(&mut self) {
        match self.phase {
            Phase::Running => {
                let Some(machine) = self.machine.clone() else { return };
                let view = self.view();
                for reply in self.waiting.running.drain(..) {
                    let _ = reply.send(Ok(Guest::new(&machine, view.clone())));
                }
                let fresh = |(old, _): &mut (Option<MachineId>, Reply<Guest>)| {
                    old.as_ref() != Some(machine.id())
                };
                for (_, reply) in self.waiting.fresh.extract_if(.., fresh) {
                    let _ = reply.send(Ok(Guest::new(&machine, view.clone())));
                }
                for reply in self.waiting.stopped.drain(..) {
                    let message = "somebody needed the sprite meanwhile";
                    let _ = reply.send(Err(SpriteError::unavailable(message)));
                }
            }
            Phase::Cold | Phase::Failed => {
                for reply in self.waiting.stopped.drain(..) {
                    let _ = reply.send(Ok(()));
                }
            }
            Phase::Destroying => self.fail_waiters(&SpriteError::NotFound),
            Phase::Gone => {
                self.fail_waiters(&SpriteError::NotFound);
                for reply in self.waiting.gone.drain(..) {
                    let _ = reply.send(Ok(()));
                }
            }
            Phase::Booting { .. } | Phase::Stopping { .. } => {}
        }
        if self.phase == Phase::Failed {
            let reason = self.reason.clone().unwrap_or_else(|| "its machine ended".into());
            let message = format!("the sprite's machine does not run: {reason}");
            self.fail_waiters(&SpriteError::unavailable(message));
        }
    }

    fn fail_waiters(&mut self, error: &SpriteError) {
        let fresh = self.waiting.fresh.drain(..).map(|(_, reply)| reply);
        for reply in self.waiting.running.drain(..).chain(fresh) {
            let _ = reply.send(Err(error.clone()));
        }
        // Who waits for its end waits for the end of its destruction too.
        if self.phase == Phase::Gone {
            for reply in self.waiting.stopped.drain(..) {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }

    fn view(&self) -> SpriteView {
        let record = self.record.lock().expect("no holder panics").clone();
        self.shared.view(record, self.phase)
    }
}

/// Makes a machine for a sprite, after cleaning up the one before.
async fn boot(
    shared: &Shared,
    record: &SpriteRecord,
    old: Option<Machine>,
) -> Result<Machine, SpriteError> {
    let _permit = shared.boots.acquire().await.expect("the semaphore is never closed");
    if let Some(old) = old {
        shared.substrate.stop(&old, StopMode::AtOnce).await;
        shared.storage.wait_released(&record.volume_id).await;
    }
    let started = Instant::now();
    let device = shared.storage.attach(&record.volume_id).await?;
    let spec = spec(shared, record, device.path.clone());
    let machine_id = spec.machine_id.clone();
    let machine = shared.substrate.boot(spec).await.map_err(|error| {
        error!(%machine_id, error = %chain(&error), "boot failed");
        SpriteError::Unavailable { message: error.public().to_owned(), retry_after_s: 5 }
    })?;
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    info!(machine_id = %machine.id(), elapsed_ms, "machine booted");
    Ok(machine)
}

fn spec(shared: &Shared, record: &SpriteRecord, root_device: std::path::PathBuf) -> MachineSpec {
    let settings = &shared.settings;
    let positive =
        |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).filter(|&v| v > 0);
    let memory = positive(record.config.ram_mb).map_or(settings.memory_default, ByteSize::mib);
    let cpus = positive(record.config.cpus).map(|count| count as f64).or(settings.cpus_default);
    MachineSpec {
        machine_id: MachineId::generate(),
        owner: Owner {
            org: record.org.clone(),
            sprite_id: record.id.clone(),
            volume_id: record.volume_id.clone(),
        },
        root_device,
        limits: Limits { memory: Some(memory), cpus, pids: Some(settings.pids_max) },
        identity: Identity {
            hostname: record.name.to_string(),
            sprite_id: record.id.to_string(),
            sprite_name: record.name.to_string(),
            org: shared.org_slug(&record.org),
            url: shared.url(record),
            environment: record.environment.clone().into_iter().collect(),
        },
    }
}

async fn destroy(shared: &Shared, record: &SpriteRecord, machine: Option<Machine>) {
    if let Some(machine) = machine {
        shared.substrate.stop(&machine, StopMode::AtOnce).await;
        shared.storage.wait_released(&record.volume_id).await;
    }
    // What fails here stays as a tombstone and is tried again at the next start.
    if shared.storage.destroy(&record.volume_id).await.is_ok()
        && let Err(error) = shared.catalog.end_destroy(&record.org, &record.id).await
    {
        warn!(error = %chain(&error), "tombstone not removed");
    }
    shared.forget(&record.id);
}
