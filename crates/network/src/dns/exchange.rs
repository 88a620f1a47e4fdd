//! One question to one upstream.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::message::{self, Query};

/// Longest DNS message.
const MESSAGE_MAX: usize = 65_535;

/// Asks over UDP and returns the answer with the query's own id. Ends only with an answer that
/// fits or an error; the caller limits the time.
pub(crate) async fn over_udp(upstream: SocketAddr, query: Query<'_>) -> io::Result<Vec<u8>> {
    let local: SocketAddr = if upstream.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    // The kernel chooses a random port; a connected socket hears from its peer only, and hears
    // that nobody listens there.
    let socket = UdpSocket::bind(local).await?;
    socket.connect(upstream).await?;
    let (id, packet) = renamed(query)?;
    socket.send(&packet).await?;
    let mut answer = vec![0; MESSAGE_MAX];
    loop {
        let len = socket.recv(&mut answer).await?;
        if query.is_answered_by(&answer[..len], id) {
            answer.truncate(len);
            answer.shrink_to_fit();
            message::set_id(&mut answer, message::id(query.packet()));
            return Ok(answer);
        }
    }
}

/// Asks over TCP and returns the answer with the query's own id.
pub(crate) async fn over_tcp(upstream: SocketAddr, query: Query<'_>) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let (id, packet) = renamed(query)?;
    write_message(&mut stream, &packet).await?;
    let mut answer = read_message(&mut stream, MESSAGE_MAX).await?;
    if !query.is_answered_by(&answer, id) {
        return Err(io::Error::other("the answer does not fit the question"));
    }
    message::set_id(&mut answer, message::id(query.packet()));
    Ok(answer)
}

/// Reads a message with its length before it. Source: RFC 1035, 4.2.2.
pub(crate) async fn read_message(stream: &mut TcpStream, max: usize) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16().await?);
    if len > max {
        return Err(io::Error::other("message too long"));
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length before it, in one piece.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), message].concat()).await
}

/// The query under a fresh random id: a sprite must not choose what we ask with.
fn renamed(query: Query<'_>) -> io::Result<(u16, Vec<u8>)> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|_| io::Error::other("no randomness"))?;
    let id = u16::from_be_bytes(id);
    let mut packet = query.packet().to_vec();
    message::set_id(&mut packet, id);
    Ok((id, packet))
}
