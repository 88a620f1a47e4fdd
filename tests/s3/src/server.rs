//! Accepts connections and hands requests on.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sprite_store::{Backend, Credentials, FaultRates, Random, S3Config, seeded};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::reply::{Refusal, Reply};
use crate::{auth, faults, list, objects};

/// Largest body that is accepted, in bytes.
const BODY_BYTES_MAX: usize = 512 << 20;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen. Default `127.0.0.1:0`, a free port.
    pub listen: SocketAddr,
    /// Its only bucket. Default `test`.
    pub bucket: String,
    /// Who may use it. Default `test` with secret `test-secret`.
    pub access_key: String,
    /// The secret of that key.
    pub secret_key: String,
    /// What faults depend on.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            bucket: "test".to_owned(),
            access_key: "test".to_owned(),
            secret_key: "test-secret".to_owned(),
            seed: 0,
        }
    }
}

/// What some servers that call themselves S3 do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quirks {
    /// Replaces what is there although `If-None-Match: *` was sent.
    pub ignores_conditions: bool,
    /// Sends the whole object although a range was asked for.
    pub ignores_ranges: bool,
}

/// A running server; ends when dropped.
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

pub(crate) struct State {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) options: Options,
    pub(crate) random: Random,
    changing: Mutex<Changing>,
}

#[derive(Default)]
struct Changing {
    rates: FaultRates,
    quirks: Quirks,
    counts: BTreeMap<String, u64>,
}

impl Server {
    /// Listens and serves.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub async fn start(backend: Arc<dyn Backend>, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let random = seeded(options.seed);
        let state = Arc::new(State { backend, options, random, changing: Mutex::default() });
        let task = tokio::spawn(accept(listener, state.clone()));
        Ok(Self { address, state, task })
    }

    /// Returns the endpoint, such as `http://127.0.0.1:40000`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns where the bucket is.
    ///
    /// # Panics
    /// If the options hold an impossible name.
    #[must_use]
    pub fn config(&self) -> S3Config {
        let bucket = &self.state.options.bucket;
        S3Config::at_endpoint(bucket, &self.endpoint()).expect("a bucket's name")
    }

    /// Returns who may use it.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        let Options { access_key, secret_key, .. } = &self.state.options;
        Credentials::new(access_key, secret_key, None)
    }

    /// Sets how often what fails from now on.
    pub fn set_rates(&self, rates: FaultRates) {
        self.state.lock().rates = rates;
    }

    /// Sets how it misbehaves from now on.
    pub fn set_quirks(&self, quirks: Quirks) {
        self.state.lock().quirks = quirks;
    }

    /// Returns how many requests with a method came here.
    #[must_use]
    pub fn count(&self, method: &Method) -> u64 {
        self.state.lock().counts.get(method.as_str()).copied().unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rates(&self) -> FaultRates {
        self.lock().rates
    }

    pub(crate) fn quirks(&self) -> Quirks {
        self.lock().quirks
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Aborted with this task, so that no connection outlives the server.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, state.clone()));
            }
            // Out of descriptors, most likely; some will be closed.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    // Without it small answers wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(request, state.clone()));
    // Ends with an error when a fault closes the connection.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> io::Result<Reply> {
    *state.lock().counts.entry(request.method().to_string()).or_default() += 1;
    faults::around(request, state).await
}

/// Reads a request to its end and carries it out.
pub(crate) async fn carry_out(request: Request<Incoming>, state: &State) -> io::Result<Reply> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body: Bytes = body.map_err(io::Error::other)?.to_bytes();
    Ok(match route(&head, body, state).await {
        Ok(reply) => reply,
        Err(refusal) => refusal.reply(&head.method),
    })
}

/// Carries out a request whose client is gone.
pub(crate) async fn carry_out_late(head: http::request::Parts, body: Bytes, state: &State) {
    // Nobody is there to be told.
    let _ = route(&head, body, state).await;
}

async fn route(head: &http::request::Parts, body: Bytes, state: &State) -> Result<Reply, Refusal> {
    auth::check(head, &body, &state.options)?;
    let path = percent_encoding::percent_decode_str(head.uri.path()).decode_utf8();
    let path = path.map_err(|_| Refusal::new(400, "InvalidURI"))?;
    let place = path.trim_start_matches('/');
    let (bucket, key) = place.split_once('/').unwrap_or((place, ""));
    if bucket != state.options.bucket {
        return Err(Refusal::new(404, "NoSuchBucket"));
    }
    if key.is_empty() {
        return list::bucket(head, state).await;
    }
    let key = key.parse().map_err(|_| Refusal::new(400, "InvalidArgument"))?;
    objects::object(head, &key, body, state).await
}
