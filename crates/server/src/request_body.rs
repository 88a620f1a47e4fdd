//! JSON bodies of requests: small, and read whatever their `Content-Type`.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::answer::Failure;

/// Longest JSON body, in bytes.
const JSON_MAX: usize = 1024 * 1024;

/// How long a small body may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a small body.
pub(crate) async fn read(body: Body) -> Result<Bytes, Failure> {
    let collected = timeout(READ_TIMEOUT, Limited::new(body, JSON_MAX).collect()).await;
    match collected.map_err(|_| Failure::too_slow())? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::too_large(JSON_MAX)),
        Err(_) => Err(Failure::invalid("the body ended early")),
    }
}

/// Reads a JSON body.
pub(crate) async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Failure> {
    parse(&read(body).await?)
}

/// Reads a JSON body that may be empty.
pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(
    body: Body,
) -> Result<T, Failure> {
    let bytes = read(body).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    parse(&bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    // Derived code takes a list of values for an object.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Failure::invalid("the body must be a JSON object"));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::invalid(format!("the body is not valid: {error}")))
}
