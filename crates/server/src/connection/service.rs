//! What every request goes through, whatever its route: its id, its span, its query.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt as _;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use sprite_api::query::Query;
use sprite_types::{RUNTIME_VERSION, RequestId};
use tower::ServiceExt as _;
use tracing::Instrument as _;

use super::signal::{InFlight, Parked, Signal};
use super::unread::Unread;
use crate::answer::Failure;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a path in log lines.
const LOGGED_PATH_MAX: usize = 200;
const SPRITE_VERSION: HeaderName = HeaderName::from_static("sprite-version");

/// The request's query, however long. Handlers take it from here alone: the URI's own may be
/// a mark of ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct FullQuery(Arc<Query>);

impl FullQuery {
    /// Decodes a query string.
    #[must_use]
    pub(crate) fn parse(raw: &str) -> Self {
        Self(Arc::new(Query::parse(raw)))
    }
}

impl std::ops::Deref for FullQuery {
    type Target = Query;

    fn deref(&self) -> &Query {
        &self.0
    }
}

impl<S: Sync> axum::extract::FromRequestParts<S> for FullQuery {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _: &S,
    ) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// Answers one request. Whatever happens, there is an answer and it carries a request id.
pub(super) async fn answer(
    request: Request<Incoming>,
    signal: Arc<Signal>,
    router: Router,
) -> Result<Response<Body>, Infallible> {
    let in_flight = InFlight(signal.clone());
    let request_id = RequestId::generate();
    let path = request.uri().path();
    let below_sprite = is_below_sprite(path);
    // The path alone, and not all of a long one: queries carry commands and environment values.
    let shown: String = path.chars().take(LOGGED_PATH_MAX).collect();
    let span =
        tracing::info_span!("request", %request_id, method = %request.method(), path = shown);

    let response = async {
        let response = match signal.take(request.uri().query()) {
            Some(Parked::Refused(error)) => {
                let mut response = Failure::refused_head(error.status(), error.to_string()).into();
                close_after(&mut response);
                response
            }
            Some(Parked::Query(query)) => routed(request, &query, &router).await,
            None => {
                let query = request.uri().query().unwrap_or_default().to_owned();
                routed(request, &query, &router).await
            }
        };
        tracing::debug!(status = response.status().as_u16(), "request answered");
        response
    };
    let mut response = response.instrument(span).await;

    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        signal.switch();
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
    if below_sprite {
        headers.insert(SPRITE_VERSION, HeaderValue::from_static(RUNTIME_VERSION));
    }
    Ok(response.map(|body| Body::new(Guarded { body, _in_flight: in_flight })))
}

async fn routed(request: Request<Incoming>, query: &str, router: &Router) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(FullQuery::parse(query));
    let expects_continue = parts.headers.contains_key(EXPECT);
    let unread = Unread::default();
    let request = Request::from_parts(parts, Body::new(unread.watch(body)));
    let mut response = match AssertUnwindSafe(router.clone().oneshot(request)).catch_unwind().await
    {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        // The panic hook has logged it.
        Err(_) => Failure::internal().into(),
    };
    let is_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if !is_switched && !unread.finish(expects_continue).await {
        close_after(&mut response);
    }
    response
}

fn close_after(response: &mut Response<Body>) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

/// `/v1/sprites/{name}` and everything below it.
fn is_below_sprite(path: &str) -> bool {
    path.strip_prefix("/v1/sprites/").is_some_and(|rest| !rest.is_empty())
}

/// A body that keeps the connection's gate closed until it was sent or given up.
struct Guarded {
    body: Body,
    _in_flight: InFlight,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sprite_version_is_for_sprites() {
        assert!(is_below_sprite("/v1/sprites/a"));
        assert!(is_below_sprite("/v1/sprites/a/exec"));
        assert!(!is_below_sprite("/v1/sprites"));
        assert!(!is_below_sprite("/v1/sprites/"));
    }
}
