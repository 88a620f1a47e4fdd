//! Writes messages to one client's socket, keeps it alive, and notices when it stops reading.

use std::time::Duration;

use futures::{Sink, SinkExt as _};
use sprite_api::exec::ServerMessage;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::translate;

/// Silence after which a keepalive text is sent; the JavaScript SDK gives up after 45 s.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Time between WebSocket pings.
const PING: Duration = Duration::from_secs(18);
/// A client that takes nothing for this long is dropped.
const STALL: Duration = Duration::from_secs(30);
/// Messages written before they are flushed together.
const BATCH: usize = 16;

/// A message and how much output has been delivered with it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) message: Message,
    /// Offset behind the last output byte in it, if it has any.
    pub(crate) end: Option<u64>,
}

impl From<Message> for Outgoing {
    fn from(message: Message) -> Self {
        Self { message, end: None }
    }
}

/// Why a socket can no longer be written to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("client took nothing for {} s", STALL.as_secs())]
    Stalled,
    #[error(transparent)]
    Socket(#[from] Error),
}

/// Writes what comes through `queue` until it is closed or a close frame was written, and tells
/// through `delivered` how much output has left.
pub(crate) async fn run(
    mut sink: impl Sink<Message, Error = Error> + Unpin,
    mut queue: mpsc::Receiver<Outgoing>,
    delivered: watch::Sender<u64>,
) -> Result<(), WriteError> {
    let mut keepalive_at = Instant::now() + KEEPALIVE;
    let mut ping_at = Instant::now() + PING;
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        tokio::select! {
            biased;
            count = queue.recv_many(&mut batch, BATCH) => if count == 0 { return Ok(()) },
            () = sleep_until(keepalive_at) => {
                batch.push(translate::text(&ServerMessage::Keepalive).into());
            }
            () = sleep_until(ping_at) => batch.push(Message::Ping(bytes::Bytes::new()).into()),
        }
        let mut end = None;
        let mut closed = false;
        for outgoing in batch {
            match outgoing.message {
                Message::Ping(_) => ping_at = Instant::now() + PING,
                _ => keepalive_at = Instant::now() + KEEPALIVE,
            }
            closed |= outgoing.message.is_close();
            end = outgoing.end.or(end);
            in_time(sink.feed(outgoing.message)).await?;
        }
        in_time(sink.flush()).await?;
        if let Some(end) = end {
            delivered.send_replace(end);
        }
        if closed {
            return Ok(());
        }
    }
}

async fn in_time(write: impl Future<Output = Result<(), Error>>) -> Result<(), WriteError> {
    Ok(timeout(STALL, write).await.map_err(|_| WriteError::Stalled)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_with_keepalives_and_pings() {
        let (sink, mut stream) = futures::channel::mpsc::unbounded();
        let sink = sink.sink_map_err(|_| Error::ConnectionClosed);
        let (queue, messages) = mpsc::channel(4);
        let writer = tokio::spawn(run(sink, messages, watch::channel(0).0));
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(futures::StreamExt::next(&mut stream).await.unwrap());
        }
        let texts = seen.iter().filter(|message| message.is_text()).count();
        assert_eq!((texts, seen.len() - texts), (3, 2), "{seen:?}");
        assert_eq!(seen[0], Message::text(r#"{"type":"keepalive"}"#));
        drop(queue);
        writer.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (sink, _stream) = futures::channel::mpsc::channel(0);
        let sink = sink.sink_map_err(|_| Error::ConnectionClosed);
        let (queue, messages) = mpsc::channel(4);
        for _ in 0..3 {
            queue.send(Message::text("x").into()).await.unwrap();
        }
        let end = run(sink, messages, watch::channel(0).0).await;
        assert!(matches!(end, Err(WriteError::Stalled)), "{end:?}");
    }
}
