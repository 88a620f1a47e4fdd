//! All sessions of a machine: creating, finding, listing and ending them.
//!
//! # Invariants
//! - A session id is never given out twice, and a request id starts at most one process.
//! - The lock is held for look-ups only, never across an await.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use sprite_link::guest::{SessionCreate, SessionCreated, SessionView};
use sprite_link::session::AttachQuery;
use sprite_types::{Clock, ErrorKind, SessionId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::core::{AttachError, Core};
use crate::environment::{self, Defaults};
use crate::info::SessionInfo;
use crate::kill::{self, KillError, KillStep};
use crate::memory::Memory;
use crate::requests::{Outcome, Requests};
use crate::spawn::{SpawnFailure, SpawnRequest, Spawned, Spawner, Stdio};
use crate::task::{Command, ProcessIo, SessionTask};

/// Live sessions at a time.
pub const SESSIONS_MAX: usize = 4096;
/// What is kept of a command line for people to see, in bytes.
const COMMAND_MAX: usize = 8 * 1024;
/// How long an ended session is told from one that never was.
const ENDED_KEPT: Duration = Duration::from_secs(120);
const ENDED_MAX: usize = 8192;
/// How long a command without a terminal runs on after its last client left.
const MAX_RUN_UNATTENDED: Duration = Duration::from_secs(10);

/// Why a session was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// [`SESSIONS_MAX`] run already.
    #[error("{SESSIONS_MAX} sessions run already")]
    TooMany,
    /// Neither a command nor a program.
    #[error("no command specified")]
    NoCommand,
    /// The request is malformed.
    #[error("invalid command: {0}")]
    Invalid(&'static str),
    /// The process could not be tried.
    #[error("start command")]
    Spawn(#[source] SpawnFailure),
    /// An earlier request of the same id failed; ask again with another.
    #[error("the request of this id failed before")]
    FailedBefore,
}

impl CreateError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooMany => ErrorKind::Limited,
            Self::NoCommand | Self::Invalid(_) => ErrorKind::Invalid,
            Self::Spawn(failure) => failure.kind(),
            Self::FailedBefore => ErrorKind::Unavailable,
        }
    }
}

/// How sessions are run.
#[derive(Debug)]
pub struct Settings {
    /// Where processes are started.
    pub spawner: Spawner,
    /// The default environment.
    pub defaults: Defaults,
}

#[derive(Clone, Debug)]
struct Handle {
    info: Arc<SessionInfo>,
    commands: mpsc::Sender<Command>,
    exited: watch::Receiver<Option<i32>>,
}

impl Handle {
    fn is_live(&self) -> bool {
        self.exited.borrow().is_none()
    }
}

#[derive(Debug, Default)]
struct Registry {
    next_id: u64,
    sessions: BTreeMap<SessionId, Handle>,
    ended: VecDeque<(SessionId, Instant)>,
    requests: Requests,
    environment: Arc<Vec<(String, String)>>,
}

struct Inner {
    settings: Settings,
    clock: Arc<dyn Clock>,
    registry: Mutex<Registry>,
    /// How many processes run; for those who act only while there are any.
    live: watch::Sender<usize>,
    /// How many streams follow them.
    attached: watch::Sender<usize>,
    memory: Memory,
}

/// All sessions of a machine. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    /// Starts without sessions. Ids count from somewhere after `first_id`: pass something
    /// different at each start of a machine, lest an old id finds a new session.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>, first_id: u64) -> Self {
        let registry = Registry { next_id: first_id, ..Registry::default() };
        let registry = Mutex::new(registry);
        let (live, attached) = (watch::channel(0).0, watch::channel(0).0);
        let memory = Memory::default();
        Self(Arc::new(Inner { settings, clock, registry, live, attached, memory }))
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().expect("no panic while the registry is locked")
    }

    /// Sets the sprite's own environment, for commands that start from now on.
    pub fn set_environment(&self, environment: Vec<(String, String)>) {
        self.registry().environment = Arc::new(environment);
    }

    /// Returns a watch of how many processes run.
    #[must_use]
    pub fn live(&self) -> watch::Receiver<usize> {
        self.0.live.subscribe()
    }

    /// Returns a watch of how many streams follow sessions.
    #[must_use]
    pub fn attached(&self) -> watch::Receiver<usize> {
        self.0.attached.subscribe()
    }

    /// Returns where processes are started.
    #[must_use]
    pub fn spawner(&self) -> &Spawner {
        &self.0.settings.spawner
    }

    /// Starts a command. The same `request_id` again gives the same answer and starts nothing.
    ///
    /// # Errors
    /// See [`CreateError`]. A command that cannot be started is no error but an answer.
    ///
    /// # Cancel safety
    /// A request once begun is carried out even if the caller leaves; it can ask again.
    pub async fn create(&self, create: SessionCreate) -> Result<SessionCreated, CreateError> {
        check(&create)?;
        let (tell, outcome) = watch::channel(None);
        if let Some(mut known) = self.enter(&create.request_id, outcome)? {
            let known = known.wait_for(Option::is_some).await;
            let known = known.map_err(|_| CreateError::FailedBefore)?;
            return known.clone().ok_or(CreateError::FailedBefore);
        }
        let sessions = self.clone();
        let work = tokio::spawn(async move {
            let request_id = create.request_id.clone();
            match sessions.start(create).await {
                Ok(created) => {
                    tell.send_replace(Some(created.clone()));
                    Ok(created)
                }
                Err(failure) => {
                    sessions.registry().requests.forget(&request_id);
                    Err(CreateError::Spawn(failure))
                }
            }
        });
        work.await.unwrap_or_else(|error| {
            let detail = error.to_string();
            Err(CreateError::Spawn(SpawnFailure::Internal { detail }))
        })
    }

    /// Registers a request, or returns the outcome of an earlier one of the same id.
    fn enter(&self, request_id: &str, new: Outcome) -> Result<Option<Outcome>, CreateError> {
        let mut registry = self.registry();
        if let Some(known) = registry.requests.get(request_id) {
            return Ok(Some(known));
        }
        // Counted only when it may matter: the ended ones of the last minutes are here, too.
        let live = || registry.sessions.values().filter(|session| session.is_live()).count();
        if registry.sessions.len() >= SESSIONS_MAX && live() >= SESSIONS_MAX {
            return Err(CreateError::TooMany);
        }
        registry.requests.enter(request_id, new);
        Ok(None)
    }

    async fn start(&self, create: SessionCreate) -> Result<SessionCreated, SpawnFailure> {
        let (id, sprite) = {
            let mut registry = self.registry();
            registry.next_id += 1;
            (SessionId(registry.next_id), registry.environment.clone())
        };
        let leaf = format!("s-{id}");
        let size = create.tty.then(|| (create.cols.unwrap_or(80), create.rows.unwrap_or(24)));
        let stdio = match size {
            Some((cols, rows)) => Stdio::Terminal { cols, rows },
            None => Stdio::Pipes { stdin: create.stdin },
        };
        let env = environment::build(&self.0.settings.defaults, &sprite, &create.env, create.tty);
        let path = create.path.clone().filter(|path| !path.is_empty());
        let argv = if create.argv.is_empty() {
            path.clone().into_iter().collect()
        } else {
            create.argv.clone()
        };
        let dir = create.dir.clone().filter(|dir| !dir.is_empty());
        let request = SpawnRequest { argv, path, env, dir, stdio, leaf: leaf.clone() };
        let words: Vec<String> = request.argv.iter().skip(1).cloned().collect();
        let spawned = match self.0.settings.spawner.spawn(request).await {
            Ok(spawned) => spawned,
            Err(SpawnFailure::Command { exit_code, message }) => {
                return Ok(SessionCreated::Failed { exit_code, message });
            }
            Err(failure) => return Err(failure),
        };
        let command = std::iter::once(spawned.program.clone()).chain(words);
        let mut command = command.collect::<Vec<_>>().join(" ");
        if command.len() > COMMAND_MAX {
            let cut = (0..=COMMAND_MAX).rev().find(|&at| command.is_char_boundary(at));
            command.truncate(cut.unwrap_or(0));
        }
        let info = Arc::new(SessionInfo::new(
            id,
            command,
            spawned.dir.clone(),
            self.0.clock.now(),
            size,
            (spawned.pid, leaf),
        ));
        let limit = match create.max_run_after_disconnect_ms {
            Some(0) => None,
            Some(ms) => Some(Duration::from_millis(ms)),
            None if create.tty || create.detachable => None,
            None => Some(MAX_RUN_UNATTENDED),
        };
        let input = create.tty || create.stdin;
        let core = Core::new(id.to_string(), create.tty, input, limit, Instant::now());
        let session = self.adopt(core, info, spawned)?;
        Ok(SessionCreated::Started { session })
    }

    /// Makes a session of a process that runs.
    fn adopt(
        &self,
        core: Core,
        info: Arc<SessionInfo>,
        spawned: Spawned,
    ) -> Result<SessionView, SpawnFailure> {
        let Spawned { stdin, stdout, stderr, exit, .. } = spawned;
        let io = ProcessIo::new(stdin, stdout, stderr).map_err(|error| SpawnFailure::Internal {
            detail: format!("watch the process's streams: {error}"),
        })?;
        let (exited_sender, exited) = watch::channel(None);
        let (sender, receiver) = mpsc::channel(64);
        let handle = Handle { info: info.clone(), commands: sender.clone(), exited };
        self.registry().sessions.insert(info.id, handle.clone());
        self.0.live.send_modify(|live| *live += 1);
        let task = SessionTask::new(
            core,
            info.clone(),
            io,
            exit,
            exited_sender,
            (sender, receiver),
            self.spawner().clone(),
            self.0.clock.clone(),
            self.0.attached.clone(),
            self.0.memory.share(),
        );
        let view = info.view(&*self.0.clock);
        tokio::spawn(self.clone().note_exit(handle));
        let sessions = self.clone();
        tokio::spawn(async move {
            task.run().await;
            sessions.registry().sessions.remove(&info.id);
        });
        Ok(view)
    }

    async fn note_exit(self, mut handle: Handle) {
        // The task tells the code before it ends.
        let _ = handle.exited.wait_for(Option::is_some).await;
        self.0.live.send_modify(|live| *live -= 1);
        let now = Instant::now();
        let mut registry = self.registry();
        while registry.ended.len() >= ENDED_MAX
            || registry.ended.front().is_some_and(|(_, at)| now - *at > ENDED_KEPT)
        {
            registry.ended.pop_front();
        }
        registry.ended.push_back((handle.info.id, now));
    }

    /// Returns the sessions whose process runs, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<SessionView> {
        let handles: Vec<Handle> = self.registry().sessions.values().cloned().collect();
        let live = handles.iter().filter(|handle| handle.is_live());
        live.map(|handle| handle.info.view(&*self.0.clock)).collect()
    }

    /// Returns a session whose process runs.
    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<SessionView> {
        let handle = self.find(id).filter(Handle::is_live)?;
        Some(handle.info.view(&*self.0.clock))
    }

    fn find(&self, id: SessionId) -> Option<Handle> {
        self.registry().sessions.get(&id).cloned()
    }

    /// Follows a session: a new client, or one whose stream broke.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn attach(
        &self,
        id: SessionId,
        query: AttachQuery,
    ) -> Result<Connection, AttachError> {
        let not_found = || AttachError::NotFound { id: id.to_string() };
        let handle = self.find(id).ok_or_else(not_found)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Attach { query, reply };
        handle.commands.send(command).await.map_err(|_| not_found())?;
        answer.await.map_err(|_| not_found())?
    }

    /// Signals a session's process group, waits up to `timeout` for its end and then insists
    /// with SIGKILL; a zero `timeout` sends the signal and is done. The steps are told as they
    /// happen.
    ///
    /// # Errors
    /// See [`KillError`].
    pub fn kill(
        &self,
        id: SessionId,
        signal: i32,
        timeout: Duration,
    ) -> Result<mpsc::Receiver<KillStep>, KillError> {
        if !(1..=64).contains(&signal) {
            return Err(KillError::BadSignal(signal));
        }
        let handle = match self.find(id) {
            Some(handle) if handle.is_live() => handle,
            Some(_) => return Err(KillError::Ended(id)),
            None if self.has_ended(id) => return Err(KillError::Ended(id)),
            None => return Err(KillError::NotFound(id)),
        };
        let (steps, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            let send = |number| {
                let commands = handle.commands.clone();
                async move {
                    let (reply, done) = oneshot::channel();
                    if commands.send(Command::Signal { number, reply }).await.is_ok() {
                        // Without an answer the session is over.
                        let _ = done.await;
                    }
                }
            };
            kill::run(id, signal, timeout, handle.exited.clone(), steps, send).await;
        });
        Ok(receiver)
    }

    fn has_ended(&self, id: SessionId) -> bool {
        self.registry().ended.iter().any(|(ended, _)| *ended == id)
    }

    /// Returns the sessions whose process runs, with the name of their cgroup leaf.
    #[must_use]
    pub fn leaves(&self) -> Vec<(SessionId, String)> {
        let registry = self.registry();
        let live = registry.sessions.values().filter(|session| session.is_live());
        live.map(|session| (session.info.id, session.info.leaf.clone())).collect()
    }

    /// Tells everybody who follows a session about a port; `event` is a JSON `PortEvent`.
    pub fn port(&self, id: SessionId, event: Bytes) {
        if let Some(handle) = self.find(id) {
            // A session too busy to hear of it misses it; its terminal matters more.
            let _ = handle.commands.try_send(Command::Port { event });
        }
    }

    /// Asks every process to end, waits up to `grace`, and then makes them.
    pub async fn end_all(&self, grace: Duration) {
        let handles: Vec<Handle> = self.registry().sessions.values().cloned().collect();
        let signal = async |number| {
            for handle in handles.iter().filter(|handle| handle.is_live()) {
                let (reply, done) = oneshot::channel();
                if handle.commands.send(Command::Signal { number, reply }).await.is_ok() {
                    let _ = done.await;
                }
            }
        };
        let mut live = self.live();
        signal(libc::SIGTERM).await;
        if tokio::time::timeout(grace, live.wait_for(|live| *live == 0)).await.is_err() {
            signal(libc::SIGKILL).await;
            let _ = tokio::time::timeout(grace, live.wait_for(|live| *live == 0)).await;
        }
    }
}

/// Refuses what no kernel would accept, before it is half done.
fn check(create: &SessionCreate) -> Result<(), CreateError> {
    let path = create.path.as_deref().unwrap_or_default();
    if path.is_empty() && create.argv.first().is_none_or(String::is_empty) {
        return Err(CreateError::NoCommand);
    }
    let texts = create.argv.iter().map(String::as_str).chain([path]).chain(create.dir.as_deref());
    let env = create.env.iter();
    if texts.chain(env.clone().flat_map(|(k, v)| [k.as_str(), v])).any(|t| t.contains('\0')) {
        return Err(CreateError::Invalid("NUL byte"));
    }
    if env.clone().any(|(key, _)| key.is_empty() || key.contains('=')) {
        return Err(CreateError::Invalid("variable without a name"));
    }
    Ok(())
}
