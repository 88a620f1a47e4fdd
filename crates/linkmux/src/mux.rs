//! Drives one `yamux` connection and hands out its streams.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// Most streams open at once on one link. An exec needs one, plus one for a moment.
const STREAMS_MAX: usize = 4096;
/// Payload of one multiplexer frame, in bytes: large enough that headers cost nothing.
const SPLIT: usize = 64 * 1024 - 64;

fn config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_connection_receive_window(Some(STREAMS_MAX * 256 * 1024));
    config.set_max_num_streams(STREAMS_MAX);
    config.set_split_send_size(SPLIT);
    config
}

/// One stream of a link, good for one HTTP exchange. Ends when its epoch does.
pub struct MuxStream(Compat<yamux::Stream>);

impl MuxStream {
    fn new(stream: yamux::Stream) -> Self {
        Self(stream.compat())
    }
}

impl tokio::io::AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for MuxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A request for an outbound stream.
pub(crate) type Open = oneshot::Sender<io::Result<MuxStream>>;

/// Runs the asking side until the connection ends; its end drops every stream.
pub(crate) async fn run_client<T>(io: T, mut opens: mpsc::Receiver<Open>) -> yamux::ConnectionError
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut connection = yamux::Connection::new(io, config(), yamux::Mode::Client);
    let mut waiting: Option<Open> = None;
    let mut closed = false;
    std::future::poll_fn(|cx| {
        loop {
            if waiting.is_none() && !closed {
                match opens.poll_recv(cx) {
                    Poll::Ready(Some(open)) => waiting = Some(open),
                    Poll::Ready(None) => closed = true,
                    Poll::Pending => {}
                }
            }
            if let Some(open) = waiting.take_if(|open| open.is_closed()) {
                drop(open);
                continue;
            }
            if waiting.is_some() {
                match connection.poll_new_outbound(cx) {
                    Poll::Ready(result) => {
                        let open = waiting.take().expect("checked above");
                        let result = result.map(MuxStream::new).map_err(io::Error::other);
                        let failed = result.is_err();
                        // The asker may have gone; the stream then closes by being dropped.
                        let _ = open.send(result);
                        if failed {
                            return Poll::Ready(yamux::ConnectionError::Closed);
                        }
                        continue;
                    }
                    Poll::Pending => {}
                }
            }
            return match connection.poll_next_inbound(cx) {
                // The guest never opens streams; an unexpected one is dropped, which resets it.
                Poll::Ready(Some(Ok(_))) => continue,
                Poll::Ready(Some(Err(error))) => Poll::Ready(error),
                Poll::Ready(None) => Poll::Ready(yamux::ConnectionError::Closed),
                Poll::Pending => Poll::Pending,
            };
        }
    })
    .await
}

/// Runs the answering side until the connection ends, giving each new stream to `accept`.
pub(crate) async fn run_server<T>(io: T, mut accept: impl FnMut(MuxStream))
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut connection = yamux::Connection::new(io, config(), yamux::Mode::Server);
    while let Some(Ok(stream)) = std::future::poll_fn(|cx| connection.poll_next_inbound(cx)).await {
        accept(MuxStream::new(stream));
    }
}
