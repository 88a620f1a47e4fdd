//! Listening on the gateway and finding somebody who answers.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tracing::debug;

use super::exchange::{over_tcp, over_udp, read_message, write_message};
use super::message::{self, QUERY_MAX, Query, REFUSED, SERVFAIL};
use super::slots::Slots;
use super::upstreams::Upstreams;

/// How long the last upstream gets.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long one gets while there are others. Clients ask again after 5 s, so the second one
/// should have answered by then.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// How long a TCP client may be silent.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
const QUERIES_PER_SOURCE_MAX: usize = 64;
const QUERIES_MAX: usize = 1024;
const CONNECTIONS_PER_SOURCE_MAX: usize = 8;
const CONNECTIONS_MAX: usize = 256;
const BACKLOG: i32 = 64;

/// The addresses whose queries are answered. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Admitted(Arc<RwLock<HashSet<Ipv4Addr>>>);

impl Admitted {
    pub(crate) fn insert(&self, address: Ipv4Addr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(address);
    }

    pub(crate) fn remove(&self, address: Ipv4Addr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }

    fn source(&self, peer: SocketAddr) -> Option<Ipv4Addr> {
        let IpAddr::V4(source) = peer.ip() else { return None };
        let admitted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        admitted.contains(&source).then_some(source)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// Finds answers.
pub(crate) struct Resolver {
    upstreams: Upstreams,
    /// Which upstream answered last: the first to be asked.
    preferred: AtomicUsize,
}

impl Resolver {
    pub(crate) fn new(upstreams: Upstreams) -> Self {
        Self { upstreams, preferred: AtomicUsize::new(0) }
    }

    /// Returns an answer to the query: an upstream's, or our own that says `SERVFAIL`.
    async fn answer(&self, query: Query<'_>, transport: Transport) -> Vec<u8> {
        let upstreams = self.upstreams.current();
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut unwilling = None;
        for turn in 0..upstreams.len() {
            let index = (preferred + turn) % upstreams.len();
            let upstream = upstreams[index];
            let limit = if turn + 1 == upstreams.len() { ANSWER_LIMIT } else { TRY_LIMIT };
            let exchange = async {
                match transport {
                    Transport::Udp => over_udp(upstream, query).await,
                    Transport::Tcp => over_tcp(upstream, query).await,
                }
            };
            match tokio::time::timeout(limit, exchange).await {
                Ok(Ok(answer)) if matches!(message::rcode(&answer), SERVFAIL | REFUSED) => {
                    unwilling = Some(answer);
                }
                Ok(Ok(answer)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return answer;
                }
                Ok(Err(error)) => debug!(%upstream, %error, "resolver failed"),
                Err(_) => debug!(%upstream, "resolver did not answer"),
            }
        }
        unwilling.unwrap_or_else(|| query.refuse(SERVFAIL))
    }
}

/// Binds port 53 of the gateway, which need not exist yet: it comes with the first sprite.
pub(crate) fn bind(gateway: Ipv4Addr, port: u16) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = socket(gateway, port, SocketType::DGRAM)?;
    let tcp = socket(gateway, port, SocketType::STREAM)?;
    rustix::net::listen(&tcp, BACKLOG)?;
    let udp = UdpSocket::from_std(std::net::UdpSocket::from(udp))?;
    let tcp = TcpListener::from_std(std::net::TcpListener::from(tcp))?;
    Ok((udp, tcp))
}

fn socket(gateway: Ipv4Addr, port: u16, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
    sockopt::set_ip_freebind(&socket, true)?;
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddrV4::new(gateway, port))?;
    Ok(socket)
}

/// Answers queries until dropped.
pub(crate) async fn serve(
    udp: UdpSocket,
    tcp: TcpListener,
    resolver: Arc<Resolver>,
    admitted: Admitted,
) {
    tokio::join!(
        serve_udp(Arc::new(udp), resolver.clone(), admitted.clone()),
        serve_tcp(tcp, resolver, admitted)
    );
}

async fn serve_udp(socket: Arc<UdpSocket>, resolver: Arc<Resolver>, admitted: Admitted) {
    let slots = Slots::new(QUERIES_PER_SOURCE_MAX, QUERIES_MAX);
    // Dropped with this future, and every query with it.
    let mut queries = JoinSet::new();
    let mut buffer = vec![0; QUERY_MAX + 1];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = queries.join_next() => continue,
        };
        let (len, peer) = match received {
            Ok(received) => received,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let Some(source) = admitted.source(peer) else { continue };
        if Query::parse(&buffer[..len]).is_none() {
            continue;
        }
        let Some(slot) = slots.take(source) else { continue };
        let (packet, socket, resolver) = (buffer[..len].to_vec(), socket.clone(), resolver.clone());
        queries.spawn(async move {
            let _slot = slot;
            if let Some(query) = Query::parse(&packet) {
                let answer = resolver.answer(query, Transport::Udp).await;
                let _ = socket.send_to(&answer, peer).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Arc<Resolver>, admitted: Admitted) {
    let slots = Slots::new(CONNECTIONS_PER_SOURCE_MAX, CONNECTIONS_MAX);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let Some(slot) = admitted.source(peer).and_then(|source| slots.take(source)) else {
            continue;
        };
        let resolver = resolver.clone();
        connections.spawn(async move {
            let _slot = slot;
            if let Err(error) = converse(stream, &resolver).await {
                debug!(%error, "dns client left");
            }
        });
    }
}

/// Answers one client's queries, one after the other, until it is silent or wrong.
async fn converse(mut stream: TcpStream, resolver: &Resolver) -> io::Result<()> {
    loop {
        let packet =
            tokio::time::timeout(IDLE_LIMIT, read_message(&mut stream, QUERY_MAX)).await??;
        let Some(query) = Query::parse(&packet) else { return Ok(()) };
        let answer = resolver.answer(query, Transport::Tcp).await;
        tokio::time::timeout(IDLE_LIMIT, write_message(&mut stream, &answer)).await??;
    }
}

/// A socket that fails again and again (out of descriptors) must not take a core.
async fn pause_after(error: &io::Error) {
    debug!(%error, "dns socket failed");
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::query;
    use super::*;

    /// An upstream on the loopback that answers each packet with what `behave` returns.
    async fn upstream(behave: fn(Vec<u8>) -> Vec<Vec<u8>>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
                for answer in behave(buffer[..len].to_vec()) {
                    socket.send_to(&answer, peer).await.unwrap();
                }
            }
        });
        address
    }

    fn good(mut packet: Vec<u8>) -> Vec<Vec<u8>> {
        packet[2] |= 0x80;
        vec![packet]
    }

    fn unwilling(packet: Vec<u8>) -> Vec<Vec<u8>> {
        let mut answer = good(packet).remove(0);
        answer[3] |= SERVFAIL;
        vec![answer]
    }

    fn resolver(upstreams: &[SocketAddr]) -> Resolver {
        Resolver::new(Upstreams::new(upstreams, "/nonexistent".into(), Ipv4Addr::UNSPECIFIED))
    }

    #[tokio::test]
    async fn a_forged_answer_is_not_believed() {
        let forger = upstream(|packet| {
            let other = good(query(message::id(&packet), "evil.test")).remove(0);
            let mut wrong_id = good(packet.clone()).remove(0);
            wrong_id[0] ^= 0xff;
            [vec![other, wrong_id, vec![], vec![0; 3]], good(packet)].concat()
        });
        let resolver = resolver(&[forger.await]);
        let packet = query(0x1234, "example.com");
        let answer = resolver.answer(Query::parse(&packet).unwrap(), Transport::Udp).await;
        assert_eq!(answer, good(packet).remove(0));
    }

    #[tokio::test]
    async fn the_query_goes_out_under_another_id() {
        let seen = upstream(|packet| {
            let mut answer = good(packet.clone()).remove(0);
            answer.extend(&packet[..2]);
            vec![answer]
        });
        let resolver = resolver(&[seen.await]);
        let packet = query(7, "example.com");
        let mut ids = HashSet::new();
        for _ in 0..8 {
            let answer = resolver.answer(Query::parse(&packet).unwrap(), Transport::Udp).await;
            assert_eq!(message::id(&answer), 7);
            ids.insert(answer[answer.len() - 2..].to_vec());
        }
        assert!(ids.len() > 4, "{ids:?}");
    }

    #[tokio::test]
    async fn the_next_upstream_is_asked_when_one_cannot_help() {
        let closed = {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.local_addr().unwrap()
        };
        let (unwilling, willing) = (upstream(unwilling).await, upstream(good).await);
        let resolver = resolver(&[closed, unwilling, willing]);
        let packet = query(7, "example.com");
        let answer = resolver.answer(Query::parse(&packet).unwrap(), Transport::Udp).await;
        assert_eq!(message::rcode(&answer), 0);
        assert_eq!(resolver.preferred.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn nobody_to_ask_is_a_servfail() {
        let closed = {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.local_addr().unwrap()
        };
        let packet = query(7, "example.com");
        let query = Query::parse(&packet).unwrap();
        let answer = resolver(&[closed]).answer(query, Transport::Udp).await;
        assert_eq!(message::rcode(&answer), SERVFAIL);
        let answer = resolver(&[closed]).answer(query, Transport::Tcp).await;
        assert_eq!(message::rcode(&answer), SERVFAIL);
    }

    #[tokio::test]
    async fn strangers_and_garbage_are_met_with_silence() {
        let (udp, tcp) = bind(Ipv4Addr::LOCALHOST, 0).unwrap();
        let (udp_address, tcp_address) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        let admitted = Admitted::default();
        let resolver = Arc::new(resolver(&[upstream(good).await]));
        let service = tokio::spawn(serve(udp, tcp, resolver, admitted.clone()));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let packet = query(7, "example.com");
        let mut buffer = [0; 512];

        client.send_to(&packet, udp_address).await.unwrap();
        let mut stream = TcpStream::connect(tcp_address).await.unwrap();
        assert!(read_message(&mut stream, 512).await.is_err(), "a stranger is hung up on");

        admitted.insert(Ipv4Addr::LOCALHOST);
        for garbage in [&b"hello"[..], &[0xff; 400], &packet[..20]] {
            client.send_to(garbage, udp_address).await.unwrap();
        }
        let second = query(8, "example.com");
        client.send_to(&second, udp_address).await.unwrap();
        let (len, _) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(message::id(&buffer[..len]), 8, "the first to be answered is the good one");
        service.abort();
    }
}
