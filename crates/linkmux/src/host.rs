//! The host's end: dials, keeps the link up, asks.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use sprite_link::frame::{Hello, agree};
use sprite_link::{PROTOCOL_MAX, PROTOCOL_MIN};
use sprite_types::{BootId, ErrorKind, MachineId};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, warn};

use crate::epoch::Shared;
use crate::guest::same_secret;
use crate::mux::{MuxStream, Open};
use crate::{HELLO_TIMEOUT, Io, mux};

/// How long a request waits for a link that is being restarted.
const RELINK_WAIT: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// What [`Dial::dial`] returns.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

/// Makes new byte streams to one guest.
pub trait Dial: Send + Sync + 'static {
    /// Opens a byte stream, or says why not.
    fn dial(&self) -> Dialing<'_>;
}

/// Dials a unix socket.
pub struct Unix(pub PathBuf);

impl Dial for Unix {
    fn dial(&self) -> Dialing<'_> {
        Box::pin(async { Ok(Box::new(UnixStream::connect(&self.0).await?) as Box<dyn Io>) })
    }
}

/// Whom to talk to.
#[derive(Clone)]
pub struct HostIdentity {
    /// The machine.
    pub machine_id: MachineId,
    /// Shared secret, as in the boot spec.
    pub secret: String,
}

/// State of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not now; the link tries again by itself.
    Down,
    /// The guest answers.
    Up {
        /// Counts connections.
        epoch: u32,
        /// Which start of the guest agent answers; another one means its sessions are gone.
        boot_id: BootId,
    },
    /// [`HostLink::close`] was called: the machine is gone.
    Closed,
}

/// Why a request to the guest did not get an answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The link is down and did not come back in time. Retry, if the request may run twice.
    #[error("the machine's agent does not answer")]
    Down,
    /// The machine is gone. Wake the sprite again.
    #[error("the machine has ended")]
    Closed,
    /// The link broke while the request was under way; it may or may not have been carried out.
    #[error("the link to the machine's agent broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl LinkError {
    /// Says what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }
}

/// An upgraded stream and the answer that came before it.
pub struct Upgraded {
    /// The stream's bytes.
    pub io: TokioIo<hyper::upgrade::Upgraded>,
    /// Head of the 101 answer.
    pub head: http::response::Parts,
}

/// The host's end of a link. Clones share it; it lives until the last clone is dropped or
/// [`HostLink::close`] is called.
#[derive(Clone)]
pub struct HostLink {
    shared: Arc<Handle>,
}

struct Handle {
    machine_id: MachineId,
    opens: watch::Receiver<Option<mpsc::Sender<Open>>>,
    state: watch::Receiver<LinkState>,
    close: watch::Sender<bool>,
}

impl HostLink {
    /// Starts to keep a link up. Needs a tokio runtime.
    #[must_use]
    pub fn connect(identity: HostIdentity, dial: impl Dial) -> Self {
        let (opens_out, opens) = watch::channel(None);
        let (state_out, state) = watch::channel(LinkState::Down);
        let (close, closed) = watch::channel(false);
        let machine_id = identity.machine_id.clone();
        let keeper = Keeper { identity, dial: Box::new(dial), opens: opens_out, state: state_out };
        tokio::spawn(keeper.run(closed));
        Self { shared: Arc::new(Handle { machine_id, opens, state, close }) }
    }

    /// Returns the machine at the other end.
    #[must_use]
    pub fn machine_id(&self) -> &MachineId {
        &self.shared.machine_id
    }

    /// Follows the state of the link.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.state.clone()
    }

    /// Ends the link for good; every stream ends.
    pub fn close(&self) {
        self.shared.close.send_replace(true);
    }

    /// Waits until the guest answers.
    ///
    /// # Errors
    /// The link was closed, or did not come up within `timeout`.
    pub async fn wait_up(&self, timeout: Duration) -> Result<(u32, BootId), LinkError> {
        let mut state = self.state();
        let up = state.wait_for(|state| !matches!(state, LinkState::Down));
        match tokio::time::timeout(timeout, up).await {
            Ok(Ok(state)) => match &*state {
                LinkState::Up { epoch, boot_id } => Ok((*epoch, boot_id.clone())),
                LinkState::Closed | LinkState::Down => Err(LinkError::Closed),
            },
            Ok(Err(_)) => Err(LinkError::Closed),
            Err(_) => Err(LinkError::Down),
        }
    }

    /// Opens a stream, waiting a few seconds for a link that is being restarted.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn open(&self) -> Result<MuxStream, LinkError> {
        let deadline = tokio::time::Instant::now() + RELINK_WAIT;
        loop {
            self.wait_up(deadline.saturating_duration_since(tokio::time::Instant::now())).await?;
            let opens = self.shared.opens.borrow().clone();
            if let Some(opens) = opens {
                let (reply, answer) = oneshot::channel();
                if opens.send(reply).await.is_ok()
                    && let Ok(Ok(stream)) = answer.await
                {
                    return Ok(stream);
                }
            }
            // The epoch ended under us; the next one has another sender.
            if tokio::time::Instant::now() >= deadline {
                return Err(LinkError::Down);
            }
            tokio::time::sleep(BACKOFF_FIRST).await;
        }
    }

    /// Sends a request and returns the answer's head with its body still to come.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn send<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, LinkError>
    where
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.open().await?;
        let broken = |error: hyper::Error| LinkError::Broken(Box::new(error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, "link stream ended");
            }
        });
        request
            .headers_mut()
            .entry(http::header::HOST)
            .or_insert(http::HeaderValue::from_static("guest"));
        sender.send_request(request).await.map_err(broken)
    }

    /// Sends a request that asks for an upgrade; the caller has set the `Upgrade` header.
    ///
    /// # Errors
    /// The outer error is the link's; the inner one is an answer other than 101.
    pub async fn upgrade<B>(
        &self,
        mut request: Request<B>,
    ) -> Result<Result<Upgraded, Response<Incoming>>, LinkError>
    where
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let upgrade = http::HeaderValue::from_static("upgrade");
        request.headers_mut().insert(http::header::CONNECTION, upgrade);
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Err(response));
        }
        let (head, body) = response.into_parts();
        let upgrade = hyper::upgrade::on(Response::from_parts(head.clone(), body));
        let io = upgrade.await.map_err(|error| LinkError::Broken(Box::new(error)))?;
        Ok(Ok(Upgraded { io: TokioIo::new(io), head }))
    }
}

/// The task that owns the connection.
struct Keeper {
    identity: HostIdentity,
    dial: Box<dyn Dial>,
    opens: watch::Sender<Option<mpsc::Sender<Open>>>,
    state: watch::Sender<LinkState>,
}

impl Keeper {
    async fn run(self, mut closed: watch::Receiver<bool>) {
        let ended = async {
            // Also ends when the last handle is dropped.
            let _ = closed.wait_for(|&closed| closed).await;
        };
        tokio::select! {
            () = ended => {}
            () = self.keep_up() => {}
        }
        self.opens.send_replace(None);
        self.state.send_replace(LinkState::Closed);
    }

    async fn keep_up(&self) {
        let mut epoch = 0;
        let mut backoff = BACKOFF_FIRST;
        loop {
            match self.connect_once(&mut epoch).await {
                Ok(()) => backoff = BACKOFF_FIRST,
                Err(error) => debug!(%error, "link not up"),
            }
            self.opens.send_replace(None);
            self.state.send_replace(LinkState::Down);
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Dials, agrees on an epoch and serves it until it ends. `Ok` if it was up.
    async fn connect_once(&self, epoch: &mut u32) -> io::Result<()> {
        let io = tokio::time::timeout(HELLO_TIMEOUT, self.dial.dial()).await??;
        let shared = Shared::new(io);
        let boot_id = tokio::time::timeout(HELLO_TIMEOUT, self.agree(&shared, epoch)).await??;
        let (opens, requests) = mpsc::channel(64);
        self.opens.send_replace(Some(opens));
        self.state.send_replace(LinkState::Up { epoch: *epoch, boot_id });
        let error = mux::run_client(shared.epoch(*epoch), requests).await;
        debug!(%error, epoch, "link ended");
        Ok(())
    }

    async fn agree(&self, shared: &Shared<Box<dyn Io>>, epoch: &mut u32) -> io::Result<BootId> {
        loop {
            *epoch = epoch.saturating_add(1);
            let ours = Hello {
                protocol_min: PROTOCOL_MIN,
                protocol_max: PROTOCOL_MAX,
                machine_id: self.identity.machine_id.clone(),
                boot_id: None,
                secret: self.identity.secret.clone(),
            };
            shared.send_hello(*epoch, &ours).await?;
            let (their_epoch, hello) = shared.hello().await?;
            let known = same_secret(&hello.secret, &self.identity.secret)
                && hello.machine_id == self.identity.machine_id;
            let (true, Some(boot_id)) = (known, hello.boot_id) else {
                warn!(machine_id = %self.identity.machine_id, "another machine answered the link");
                return Err(io::ErrorKind::PermissionDenied.into());
            };
            let theirs = (hello.protocol_min, hello.protocol_max);
            if agree((PROTOCOL_MIN, PROTOCOL_MAX), theirs).is_none() {
                warn!(?theirs, "no common version of the link protocol");
                return Err(io::ErrorKind::Unsupported.into());
            }
            if their_epoch == *epoch {
                return Ok(boot_id);
            }
            // The guest has seen higher epochs (of an earlier `sprited`) and names the lowest
            // one it accepts.
            *epoch = (*epoch).max(their_epoch.saturating_sub(1));
        }
    }
}
