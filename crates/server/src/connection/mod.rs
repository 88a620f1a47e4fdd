//! One client connection: bytes in, requests out.
//!
//! [`adapter`] reads heads before the HTTP library does, [`service`] is what the library calls;
//! the two share a [`signal`].

mod adapter;
mod body;
mod head;
mod service;
mod signal;
mod unread;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

pub(crate) use adapter::Timeouts;
pub(crate) use service::FullQuery;

use adapter::HeadAdapter;
use signal::Signal;

/// Serves one connection until it closes. When `closing` is cancelled, finishes the current
/// answer and then closes.
pub(crate) async fn serve<IO>(
    io: IO,
    router: Router,
    timeouts: Timeouts,
    closing: CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let signal = Signal::new();
    let adapter = HeadAdapter::new(io, signal.clone(), timeouts);
    let service =
        service_fn(move |request| service::answer(request, signal.clone(), router.clone()));
    let connection =
        http1::Builder::new().serve_connection(TokioIo::new(adapter), service).with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, "connection ended early");
    }
}

#[cfg(test)]
mod tests;
