//! Plain HTTP calls: one request, one answer, connections kept for the next call.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use crate::connect::Connector;
use crate::target::Target;
use crate::{Endpoint, Error, Refusal, Token};

/// Largest JSON answer accepted, in bytes.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a usual call may wait for its answer's head; waking a sprite is part of it.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle connections kept at most.
const IDLE_MAX: usize = 8;

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A client of one API server with one token. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Connector,
    token: Token,
    user_agent: String,
    idle: Mutex<Vec<http1::SendRequest<Body>>>,
}

/// One call: what it is (for errors), and how to make it.
pub(crate) struct Call {
    pub(crate) what: String,
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: Vec<(header::HeaderName, HeaderValue)>,
    pub(crate) body: Body,
    /// How long to wait for the answer's head.
    pub(crate) timeout: Duration,
}

impl Call {
    pub(crate) fn new(what: impl Into<String>, method: Method, target: Target) -> Self {
        Self {
            what: what.into(),
            method,
            target,
            headers: Vec::new(),
            body: empty(),
            timeout: ANSWER_TIMEOUT,
        }
    }

    pub(crate) fn json(mut self, body: &impl serde::Serialize) -> Self {
        let bytes = serde_json::to_vec(body).expect("API bodies have text keys only");
        self.body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
        self.headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub(crate) fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

pub(crate) fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync()
}

impl Client {
    /// Makes a client. Connects at the first call.
    #[must_use]
    pub fn new(endpoint: Endpoint, token: Token) -> Self {
        let user_agent = concat!("sprite-client/", env!("CARGO_PKG_VERSION")).to_owned();
        let inner = Inner {
            connector: Connector::new(endpoint),
            token,
            user_agent,
            idle: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns the address of the API.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        self.inner.connector.endpoint()
    }

    /// Returns the calls below `/v1/sprites/{name}`.
    #[must_use]
    pub fn sprite(&self, name: &str) -> SpriteClient {
        SpriteClient { client: self.clone(), name: name.to_owned() }
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.inner.connector
    }

    pub(crate) fn token(&self) -> &Token {
        &self.inner.token
    }

    pub(crate) fn user_agent(&self) -> &str {
        &self.inner.user_agent
    }

    /// Makes a call and returns its answer if that is a success.
    pub(crate) async fn call(&self, call: Call) -> Result<Response<Incoming>, Error> {
        let Call { what, method, target, headers, body, timeout } = call;
        let uri = format!("{}{}", self.endpoint().prefix, target.as_str());
        let mut request = Request::builder()
            .method(&method)
            .uri(uri)
            .header(header::HOST, &self.endpoint().authority)
            .header(header::AUTHORIZATION, self.secret_header())
            .header(header::USER_AGENT, self.user_agent())
            .body(body)
            .map_err(|error| Error::transport(&what, error))?;
        request.headers_mut().extend(headers.into_iter().map(|(name, value)| (Some(name), value)));

        let begin = Instant::now();
        let answer = tokio::time::timeout(timeout, self.send(&what, request)).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(Error::Timeout { what: what.clone(), seconds: timeout.as_secs() })
        });
        let elapsed_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
        tracing::debug!(%method, path = target.path(), status, elapsed_ms, "request answered");

        let answer = answer?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, 64 * 1024).collect();
        let body = tokio::time::timeout(Duration::from_secs(5), body).await;
        let body = body.ok().and_then(Result::ok).map(|all| all.to_bytes()).unwrap_or_default();
        Err(Error::refused(&what, Refusal::read(head.status.as_u16(), &head.headers, &body)))
    }

    /// Makes a call and reads its JSON answer.
    pub(crate) async fn call_json<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        let (what, timeout) = (call.what.clone(), call.timeout);
        let answer = self.call(call).await?;
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
        let body = tokio::time::timeout(timeout, body)
            .await
            .map_err(|_| Error::Timeout { what: what.clone(), seconds: timeout.as_secs() })?
            .map_err(|error| Error::transport(&what, error))?;
        serde_json::from_slice(&body.to_bytes())
            .map_err(|error| Error::protocol(&what, format!("unexpected answer: {error}")))
    }

    /// Makes a call whose answer has no body worth reading.
    pub(crate) async fn call_empty(&self, call: Call) -> Result<(), Error> {
        let answer = self.call(call).await?;
        // Reading the body lets the connection serve the next call.
        let _ = Limited::new(answer.into_body(), 64 * 1024).collect().await;
        Ok(())
    }

    fn secret_header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&self.inner.token.header())
            .expect("a token has visible ASCII only");
        value.set_sensitive(true);
        value
    }

    async fn send(
        &self,
        what: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Error> {
        while let Some(mut sender) = self.take_idle() {
            match sender.try_send_request(request).await {
                Ok(answer) => {
                    self.keep(sender);
                    return Ok(answer);
                }
                // The server had closed it; nothing was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Error::transport(what, error.into_error())),
                },
            }
        }
        let stream = self.connector().connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Error::transport(what, error))?;
        // Ends when the connection closes or the last sender is dropped.
        tokio::spawn(connection);
        let answer =
            sender.send_request(request).await.map_err(|error| Error::transport(what, error))?;
        self.keep(sender);
        Ok(answer)
    }

    fn take_idle(&self) -> Option<http1::SendRequest<Body>> {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        let ready = idle.iter().position(http1::SendRequest::is_ready)?;
        Some(idle.swap_remove(ready))
    }

    fn keep(&self, sender: http1::SendRequest<Body>) {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(sender);
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({}, {:?})", self.endpoint(), self.inner.token)
    }
}

/// The calls of one sprite.
#[derive(Clone, Debug)]
pub struct SpriteClient {
    pub(crate) client: Client,
    pub(crate) name: String,
}

impl SpriteClient {
    /// Returns the sprite's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the target `/v1/sprites/{name}`.
    pub(crate) fn target(&self) -> Target {
        Target::new("/v1/sprites").segment(&self.name)
    }
}
