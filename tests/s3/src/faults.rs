//! What goes wrong on the way, and in the store before it does anything.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::reply::{Refusal, Reply, torn, with_body};
use crate::server::{State, carry_out};

/// Carries out a request as the rates have it. An error closes the connection.
pub(crate) async fn around(request: Request<Incoming>, state: Arc<State>) -> io::Result<Reply> {
    let rates = state.rates();
    let chance = |rate: u32| rate > 0 && (state.random)() % 1000 < u64::from(rate);
    let up_to = |ms_max: u64| Duration::from_millis((state.random)() % ms_max.max(1));
    let closed = || Err(io::Error::other("an injected fault"));
    let method = request.method().clone();
    let mut delay = Duration::from_millis(rates.delay_ms);
    if chance(rates.slow) {
        delay += up_to(rates.slow_ms_max);
    }
    tokio::time::sleep(delay).await;
    if chance(rates.unreachable) {
        return closed();
    }
    if chance(rates.hang) {
        return std::future::pending().await;
    }
    if chance(rates.server_error) {
        return Ok(Refusal::new(500, "InternalError").reply(&method));
    }
    if chance(rates.throttled) {
        return Ok(Refusal::new(503, "SlowDown").with_header("retry-after", "1").reply(&method));
    }
    if chance(rates.lost_answer) {
        carry_out(request, &state).await?;
        return closed();
    }
    if matches!(method, Method::PUT | Method::DELETE) && chance(rates.late) {
        late(request, &state, up_to(rates.late_ms_max)).await?;
        return closed();
    }
    let reply = carry_out(request, &state).await?;
    if method != Method::GET || !reply.status().is_success() {
        return Ok(reply);
    }
    if chance(rates.torn_body) {
        return tear(reply, |len| (state.random)() % len).await;
    }
    if chance(rates.wrong_bytes) {
        return flip(reply, |len| (state.random)() % len).await;
    }
    Ok(reply)
}

/// Reads the request, and carries it out when its client has given up.
async fn late(request: Request<Incoming>, state: &Arc<State>, delay: Duration) -> io::Result<()> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let state = state.clone();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        crate::server::carry_out_late(head, body, &state).await;
    });
    Ok(())
}

async fn tear(reply: Reply, random: impl Fn(u64) -> u64) -> io::Result<Reply> {
    let (head, bytes) = take(reply).await?;
    if bytes.is_empty() {
        return Ok(rebuild(head, bytes));
    }
    let kept = usize::try_from(random(bytes.len() as u64)).unwrap_or(0);
    let (sent, announced) = (bytes.slice(..kept), bytes.len());
    Ok(torn(rebuild(head, Bytes::new()), sent, announced))
}

async fn flip(reply: Reply, random: impl Fn(u64) -> u64) -> io::Result<Reply> {
    let (head, bytes) = take(reply).await?;
    let mut bytes = bytes.to_vec();
    if !bytes.is_empty() {
        let bit = random(bytes.len() as u64 * 8);
        bytes[usize::try_from(bit / 8).unwrap_or(0)] ^= 1 << (bit % 8);
    }
    Ok(rebuild(head, bytes.into()))
}

async fn take(reply: Reply) -> io::Result<(http::response::Parts, Bytes)> {
    let (head, body) = reply.into_parts();
    Ok((head, body.collect().await?.to_bytes()))
}

fn rebuild(head: http::response::Parts, bytes: Bytes) -> Reply {
    let mut reply = with_body(head.status.as_u16(), bytes);
    reply.headers_mut().extend(head.headers);
    reply
}
