//! The guest's end: proves who it is, answers HTTP on every stream.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use sprite_link::frame::{Hello, agree};
use sprite_link::{PROTOCOL_MAX, PROTOCOL_MIN};
use sprite_types::{BootId, MachineId};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::epoch::Shared;
use crate::{HELLO_TIMEOUT, Io, mux};

/// Who answers.
#[derive(Clone)]
pub struct GuestIdentity {
    /// The machine.
    pub machine_id: MachineId,
    /// This start of it.
    pub boot_id: BootId,
    /// Shared secret, as in the boot spec.
    pub secret: String,
}

/// The guest's end of a link. Clones share the epoch: a newer connection ends an older one.
#[derive(Clone)]
pub struct GuestLink {
    identity: Arc<GuestIdentity>,
    /// Newest epoch that a host began with a valid hello.
    epoch: Arc<watch::Sender<u32>>,
    highest: Arc<AtomicU32>,
}

impl GuestLink {
    /// Makes the guest's end; nothing happens before one of the `serve` calls.
    #[must_use]
    pub fn new(identity: GuestIdentity) -> Self {
        Self {
            identity: Arc::new(identity),
            epoch: Arc::new(watch::channel(0).0),
            highest: Arc::new(AtomicU32::new(0)),
        }
    }

    /// Tells which epoch is in force; 0 before the first host. Changes at each (re)connection.
    #[must_use]
    pub fn epochs(&self) -> watch::Receiver<u32> {
        self.epoch.subscribe()
    }

    /// Serves every connection to `listener`, for ever.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn serve_listener<S, B>(&self, listener: UnixListener, service: S) -> io::Result<()>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        B: http_body_util::BodyExt + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        loop {
            let (io, _) = listener.accept().await?;
            let (link, service) = (self.clone(), service.clone());
            tokio::spawn(async move {
                if let Err(error) = link.serve_io(io, service).await {
                    debug!(%error, "link connection ended");
                }
            });
        }
    }

    /// Serves one byte stream through all its epochs, until it ends.
    ///
    /// # Errors
    /// The stream failed, or no valid hello came in time.
    pub async fn serve_io<T, S, B>(&self, io: T, service: S) -> io::Result<()>
    where
        T: Io,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        B: http_body_util::BodyExt + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let shared = Shared::new(io);
        let mut first = true;
        loop {
            let hello = shared.hello();
            let (epoch, hello) = if first {
                tokio::time::timeout(HELLO_TIMEOUT, hello).await??
            } else {
                hello.await?
            };
            if !self.trusts(&hello) {
                warn!("hello with a wrong machine or secret");
                shared.distrust();
                if first {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                continue;
            }
            first = false;
            let versions = (hello.protocol_min, hello.protocol_max);
            if agree((PROTOCOL_MIN, PROTOCOL_MAX), versions).is_none() {
                // Answer anyway: the host then says which versions do not meet.
                shared.send_hello(epoch, &self.hello()).await?;
                return Err(io::ErrorKind::Unsupported.into());
            }
            let before = self.highest.fetch_max(epoch, Ordering::SeqCst);
            if epoch <= before {
                // The host does not know how far we are: name the lowest epoch it may begin.
                let lowest = before.saturating_add(1);
                shared.send_hello(lowest, &self.hello()).await?;
                shared.distrust();
                continue;
            }
            let mut superseded = self.epoch.subscribe();
            self.epoch.send_replace(epoch);
            shared.send_hello(epoch, &self.hello()).await?;
            info!(epoch, "link up");
            let io = shared.epoch(epoch);
            let run = mux::run_server(io, |stream| {
                let service = service.clone();
                tokio::spawn(async move {
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                    if let Err(error) = served {
                        debug!(%error, "link stream ended");
                    }
                });
            });
            tokio::select! {
                () = run => {}
                _ = superseded.wait_for(|&newest| newest > epoch) => return Ok(()),
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            machine_id: self.identity.machine_id.clone(),
            boot_id: Some(self.identity.boot_id.clone()),
            secret: self.identity.secret.clone(),
        }
    }

    fn trusts(&self, hello: &Hello) -> bool {
        same_secret(&hello.secret, &self.identity.secret)
            && hello.machine_id == self.identity.machine_id
    }
}

/// Compares without telling by its duration how much was right.
pub(crate) fn same_secret(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y)) == 0
}
