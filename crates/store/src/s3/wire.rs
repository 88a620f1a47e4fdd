//! Connections to a bucket's endpoint: TCP, TLS if the URL says so, kept open between requests.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use sprite_tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Stores close connections that are quiet for longer than some tens of seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
const IDLE_MAX: usize = 64;

/// Any byte stream to the store.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, encrypted or not.
struct Wire(Box<dyn Io>);

/// Sends requests, reusing connections. A request is sent again by itself only if the reused
/// connection turned out to be closed before any of it was sent.
#[derive(Clone)]
pub(super) struct Http {
    send: Arc<Sender>,
}

type Answer = Result<http::Response<hyper::body::Incoming>, Error>;
type Sender = dyn Fn(http::Request<Full<Bytes>>) -> Pin<Box<dyn Future<Output = Answer> + Send>>
    + Send
    + Sync;

impl Http {
    pub(super) fn new() -> Self {
        let tls = Arc::new(Tls::default());
        let connector = tower::service_fn(move |uri: Uri| {
            let tls = tls.clone();
            Box::pin(async move {
                let attempt = tokio::time::timeout(CONNECT_TIMEOUT, connect(uri, tls));
                attempt.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            })
        });
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .build::<_, Full<Bytes>>(connector);
        Self { send: Arc::new(move |request| Box::pin(client.request(request))) }
    }

    /// Sends a request and returns the head of the answer.
    ///
    /// # Cancel safety
    /// Dropped, the connection is closed; the store may still carry the request out.
    pub(super) async fn send(&self, request: http::Request<Full<Bytes>>) -> Answer {
        (self.send)(request).await
    }
}

async fn connect(uri: Uri, tls: Arc<Tls>) -> io::Result<TokioIo<Wire>> {
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(15))?;
    if !secure {
        return Ok(TokioIo::new(Wire(Box::new(stream))));
    }
    Ok(TokioIo::new(Wire(Box::new(tls.connect(host, stream).await?))))
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
