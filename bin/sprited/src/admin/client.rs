//! The asking side.

use std::path::{Path, PathBuf};

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sprite_api::ApiError;
use tokio::net::UnixStream;

/// Largest answer, in bytes.
const ANSWER_MAX: usize = 16 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No `sprited` runs on this data folder.
    #[error("no sprited runs here")]
    NotRunning,
    /// It refused.
    #[error("{0}")]
    Refused(String),
    /// The connection failed.
    #[error("talk to sprited over `{}`", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Calls a running `sprited`.
pub struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// Makes a client of the `sprited` behind a socket; connects at each call.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends one request; an empty answer reads as `null`.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, AdminError> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        let stream = match UnixStream::connect(&self.socket).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => {
                return Err(AdminError::NotRunning);
            }
            Err(error) => return Err(self.broken(error)),
        };
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.broken(error))?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "sprited")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|error| self.broken(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let bytes =
            body.map_err(|source| AdminError::Broken { path: self.socket.clone(), source })?;
        let bytes = bytes.to_bytes();
        if !status.is_success() {
            let text = match serde_json::from_slice::<ApiError>(&bytes) {
                Ok(error) => error.message,
                Err(_) => format!("sprited answered {status}"),
            };
            return Err(AdminError::Refused(text));
        }
        let text: &[u8] =
            if bytes.is_empty() || status == StatusCode::NO_CONTENT { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|error| self.broken(error))
    }

    fn broken(&self, error: impl std::error::Error + Send + Sync + 'static) -> AdminError {
        AdminError::Broken { path: self.socket.clone(), source: Box::new(error) }
    }
}
