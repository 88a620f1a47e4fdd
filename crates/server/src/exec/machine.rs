//! A sprite's running machine, and starting commands on it.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sprite_api::ApiError;
use sprite_api::session::ExecRequest;
use sprite_link::guest::{SessionCreate, SessionCreated};
use sprite_linkmux::{HostLink, LinkError};
use sprite_types::SessionId;

use crate::answer::Failure;

/// Largest JSON answer taken from a guest, in bytes.
const ANSWER_MAX: usize = 4 * 1024 * 1024;
/// How long the link may stay down while a request that is safe to repeat waits for it.
const RETRY_FOR: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A running machine. Its link is closed for good when the machine is gone.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) link: HostLink,
}

impl Machine {
    /// Starts a command. Safe against a breaking link: the guest knows a repeated request.
    ///
    /// [`LinkError::Closed`] means that the command was certainly not started.
    pub(crate) async fn create_session(
        &self,
        create: &SessionCreate,
    ) -> Result<SessionCreated, CallError> {
        let deadline = tokio::time::Instant::now() + RETRY_FOR;
        let mut broken = None;
        loop {
            match self.post_json("/v1/sessions", create).await {
                Err(CallError::Link(error @ LinkError::Broken(_))) => broken = Some(error),
                Err(CallError::Link(LinkError::Down)) => {}
                Err(CallError::Link(LinkError::Closed)) => {
                    return Err(CallError::Link(broken.unwrap_or(LinkError::Closed)));
                }
                answer => return answer,
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(CallError::Link(broken.unwrap_or(LinkError::Down)));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body).expect("requests are plain data");
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .expect("paths are valid");
        self.json(request).await
    }

    /// Sends a `GET` and reads the JSON answer. Repeats it once if the link breaks.
    pub(crate) async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let request = || Request::get(path).body(Body::empty()).expect("paths are valid");
        match self.json(request()).await {
            Err(CallError::Link(LinkError::Broken(_))) => self.json(request()).await,
            answer => answer,
        }
    }

    async fn json<T: DeserializeOwned>(&self, request: Request<Body>) -> Result<T, CallError> {
        let response = self.link.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(CallError::Refused(Refusal::read(response).await));
        }
        let body = read_body(response).await?;
        serde_json::from_slice(&body).map_err(|_| CallError::Garbled)
    }
}

/// A session that runs.
pub(crate) struct Started {
    pub(crate) machine: Machine,
    pub(crate) session_id: SessionId,
}

/// Why there is no session.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The command could not be run; the shell's code and words for it.
    Failed { exit_code: u8, message: String },
    /// It did not come to that.
    Refused(Failure),
}

/// A command that is being started.
pub(crate) type Starting = BoxFuture<'static, Result<Started, StartError>>;

/// Reads a guest's whole answer, up to a limit.
async fn read_body(response: Response<Incoming>) -> Result<Bytes, CallError> {
    match Limited::new(response.into_body(), ANSWER_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(CallError::Garbled),
        Err(error) => Err(CallError::Link(LinkError::Broken(error))),
    }
}

/// An answer of the guest that is not a success.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    body: Option<ApiError>,
}

impl Refusal {
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let status = response.status();
        let body = read_body(response).await.ok();
        Self { status, body: body.and_then(|body| serde_json::from_slice(&body).ok()) }
    }
}

/// Why a call to the guest failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the machine's agent answered {}", .0.status)]
    Refused(Refusal),
    #[error("the machine's agent answered something unreadable")]
    Garbled,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        CallError::Refused(refusal).into()
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Link(error) => Self::unavailable(error.to_string()),
            CallError::Refused(Refusal { status, body: Some(body) }) => {
                Self::from_guest(status, body)
            }
            error @ (CallError::Refused(_) | CallError::Garbled) => {
                tracing::warn!(%error, "guest call failed");
                Self::internal()
            }
        }
    }
}

/// Makes the guest's form of a request. `request_id` makes repeating it harmless.
pub(crate) fn session_create(request: ExecRequest, request_id: String) -> SessionCreate {
    SessionCreate {
        request_id,
        argv: request.argv,
        path: request.path,
        env: request.env,
        dir: request.dir,
        tty: request.tty,
        cols: request.size.cols,
        rows: request.size.rows,
        stdin: request.stdin,
        detachable: request.detachable,
        max_run_after_disconnect_ms: request
            .max_run_after_disconnect
            .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// Returns 128 bits of randomness as text: names that nobody can guess.
///
/// # Panics
/// If the kernel has no randomness to give.
pub(crate) fn unguessable() -> String {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the kernel's random source answers");
    format!("{:032x}", u128::from_le_bytes(random))
}
