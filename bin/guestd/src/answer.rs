//! Bodies in and out: JSON, and the one error object.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sprite_api::ApiError;
use sprite_types::ErrorKind;

/// An error on its way out.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) body: Box<ApiError>,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, error: impl Into<String>, message: &str) -> Self {
        let status = StatusCode::from_u16(sprite_api::status_of(kind));
        Self {
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            body: Box::new(ApiError::new(error, message)),
        }
    }

    pub(crate) fn invalid(message: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Invalid, "invalid_request", message.as_ref())
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        json(self.status, &*self.body)
    }
}

/// Answers with JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read_body(body: Body, limit: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let text = format!("the body is longer than {limit} bytes");
            Err(Failure::invalid(text).with_status(StatusCode::PAYLOAD_TOO_LARGE))
        }
        Err(_) => Err(Failure::invalid("the body broke off")),
    }
}

/// Reads a JSON body, whatever its `Content-Type`.
pub(crate) async fn read_json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, Failure> {
    let body = read_body(body, limit).await?;
    serde_json::from_slice(&body)
        .map_err(|error| Failure::invalid(format!("the body is not valid: {error}")))
}
