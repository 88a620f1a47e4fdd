//! What becomes of a request's body that no handler has read to its end.
//!
//! The HTTP library closes the connection after such a request, but has promised by then to
//! keep it. A client that sends its next request at that moment loses it, and the official SDKs
//! do not try again. So the rest of a small body is read before the answer is sent, and for any
//! other the answer says that the connection closes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

/// Most that is read for nobody, in bytes.
const REST_MAX: usize = 64 * 1024;
/// How long that may take; normally it is there already.
const REST_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a body goes whose reader lost interest.
#[derive(Clone, Default)]
pub(super) struct Unread(Arc<Mutex<Option<Rest>>>);

struct Rest {
    body: Incoming,
    was_wanted: bool,
}

impl Unread {
    /// Wraps a request's body.
    pub(super) fn watch(&self, body: Incoming) -> Watched {
        Watched { body: Some(body), is_wanted: false, unread: self.clone() }
    }

    /// Reads what is left of a small body. Returns false if the connection cannot be used again.
    pub(super) async fn finish(&self, expects_continue: bool) -> bool {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // None: it was read, or is still being read.
        let Some(Rest { body, was_wanted }) = left else { return true };
        // Reading would ask the client for a body that nobody wants.
        if (expects_continue && !was_wanted) || body.size_hint().lower() > REST_MAX as u64 {
            return false;
        }
        let rest = Limited::new(body, REST_MAX).collect();
        timeout(REST_TIMEOUT, rest).await.is_ok_and(|rest| rest.is_ok())
    }
}

/// A request's body on its way to a handler.
pub(super) struct Watched {
    body: Option<Incoming>,
    /// Somebody has begun to read it.
    is_wanted: bool,
    unread: Unread,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.is_wanted = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            // A chunked body does not know by itself that it has ended.
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            let rest = Rest { body, was_wanted: self.is_wanted };
            *self.unread.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
        }
    }
}
