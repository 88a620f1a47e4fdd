//! Opens a WebSocket with a request target of any length.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::connect::Stream;
use crate::target::Target;
use crate::wire::{self, Head};
use crate::{Client, Error};

/// How long the handshake may take; waking a sprite may be part of it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest message accepted, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(crate) type Socket = WebSocketStream<Stream>;

/// Connects and shakes hands. Returns the answer's head too.
pub(crate) async fn open(
    client: &Client,
    what: &str,
    target: &Target,
) -> Result<(Socket, Head), Error> {
    let begin = Instant::now();
    let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, attempt(client, what, target)).await;
    let result = result.unwrap_or_else(|_| {
        Err(Error::Timeout { what: what.to_owned(), seconds: HANDSHAKE_TIMEOUT.as_secs() })
    });
    let elapsed_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = match &result {
        Ok(_) => 101,
        Err(error) => error.status().unwrap_or(0),
    };
    tracing::debug!(path = target.path(), status, elapsed_ms, "websocket answered");
    result
}

async fn attempt(client: &Client, what: &str, target: &Target) -> Result<(Socket, Head), Error> {
    let mut stream = client.connector().connect().await?;
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| Error::transport(what, error.to_string()))?;
    let key = STANDARD.encode(nonce);
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key.as_str()),
        ("User-Agent", client.user_agent()),
    ];
    let request = wire::request_head("GET", client.endpoint(), target, client.token(), &headers);
    let broken = |error| Error::transport(what, error);
    let mut buffer = BytesMut::with_capacity(4096);
    // A server may refuse a long target before it has read all of it.
    let written = stream.write_all(&request).await;
    let head = match (wire::read_head(&mut stream, &mut buffer).await, written) {
        (Ok(head), _) => head,
        (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(broken(error)),
    };
    if head.status != 101 {
        let refusal = wire::read_refusal(&mut stream, &mut buffer, &head).await;
        return Err(Error::refused(what, refusal));
    }
    if !head.text("upgrade").eq_ignore_ascii_case("websocket")
        || head.text("sec-websocket-accept") != derive_accept_key(key.as_bytes())
    {
        return Err(Error::protocol(what, "the server's WebSocket handshake is wrong"));
    }
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MESSAGE_BYTES_MAX);
    config.max_frame_size = Some(MESSAGE_BYTES_MAX);
    let socket =
        WebSocketStream::from_partially_read(stream, buffer.to_vec(), Role::Client, Some(config))
            .await;
    Ok((socket, head))
}
