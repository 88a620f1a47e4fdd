//! Answers: JSON bodies, event streams, and the one error object.

use axum::Json;
use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use sprite_api::{ApiError, status_of};
use sprite_types::ErrorKind;

/// Seconds after which a client should ask again when a sprite cannot be made ready.
const RETRY_SECS: u64 = 5;

/// An answer that is not a success.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    body: Box<ApiError>,
    retry_after_secs: Option<u64>,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, error: &str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::from_u16(status_of(kind))
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            body: Box::new(ApiError::new(error, message)),
            retry_after_secs: None,
        }
    }

    /// The request is wrong. The text stands in both forms that clients read.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        let text = text.into();
        let mut failure = Self::new(ErrorKind::Invalid, &text, text.clone());
        failure.body.errors = vec![text];
        failure
    }

    pub(crate) fn unauthorized() -> Self {
        let text = "a valid token is needed: `Authorization: Bearer <token>`";
        Self::new(ErrorKind::Unauthorized, "unauthorized", text)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, "forbidden", message)
    }

    /// Also the answer for a sprite of another org, which must not show that it exists.
    pub(crate) fn sprite_not_found() -> Self {
        Self::new(ErrorKind::NotFound, "sprite not found", "")
    }

    pub(crate) fn session_not_found(id: &str) -> Self {
        let id: String = id.chars().take(80).collect();
        Self::new(ErrorKind::NotFound, &format!("session not found: {id}"), "")
    }

    pub(crate) fn no_such_route() -> Self {
        Self::new(ErrorKind::NotFound, "not found", "no such route")
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::with_status(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", "")
    }

    pub(crate) fn too_large(limit_bytes: usize) -> Self {
        let text = format!("the body is longer than {limit_bytes} bytes");
        Self::with_status(StatusCode::PAYLOAD_TOO_LARGE, "body too large", text)
    }

    pub(crate) fn too_slow() -> Self {
        let text = "the body did not arrive in time";
        Self::with_status(StatusCode::REQUEST_TIMEOUT, "request timeout", text)
    }

    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, "not_implemented", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        let mut failure = Self::new(ErrorKind::Unavailable, "sprite_unavailable", message);
        failure.retry_after_secs = Some(RETRY_SECS);
        failure
    }

    pub(crate) fn internal() -> Self {
        let text = "something went wrong on the server; its log has more under this request's id";
        Self::new(ErrorKind::Internal, "internal error", text)
    }

    /// A request that was not even HTTP.
    pub(crate) fn refused_head(status: u16, text: String) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        Self::with_status(status, "bad request", text)
    }

    pub(crate) fn upgrade_required(message: &str) -> Self {
        let status = StatusCode::UPGRADE_REQUIRED;
        Self::with_status(status, "upgrade required", message)
    }

    /// An error of the guest, passed on as it is.
    pub(crate) fn from_guest(status: StatusCode, body: ApiError) -> Self {
        Self { status, body: Box::new(body), retry_after_secs: None }
    }

    fn with_status(status: StatusCode, error: &str, message: impl Into<String>) -> Self {
        Self { status, body: Box::new(ApiError::new(error, message)), retry_after_secs: None }
    }

    pub(crate) fn retry_after(mut self, secs: u64) -> Self {
        self.retry_after_secs = Some(secs);
        self.body.retry_after_seconds = i64::try_from(secs).ok();
        self
    }

    pub(crate) fn limited(mut self, limit: u64, current: u64) -> Self {
        self.body.limit = i64::try_from(limit).ok();
        self.body.current_count = i64::try_from(current).ok();
        self
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// What a person should read: the message, or the code if there is none.
    pub(crate) fn text(&self) -> &str {
        if self.body.message.is_empty() { &self.body.error } else { &self.body.message }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        let mut response = (self.status, Json(*self.body)).into_response();
        if let Some(secs) = self.retry_after_secs {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

impl From<Failure> for Response<Body> {
    fn from(failure: Failure) -> Self {
        failure.into_response()
    }
}

/// Starts an answer of JSON lines.
pub(crate) fn ndjson(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Encodes one line of an event stream.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("answers are plain data");
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_the_contracts_status_and_type() {
        let response = Failure::unavailable("x").into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "5");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(Failure::not_implemented("x").into_response().status(), 501);
    }
}
