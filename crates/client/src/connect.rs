//! Opens a connection: TCP, and TLS if the address says so.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use sprite_tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::{Endpoint, Error};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Any byte stream to the server.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, encrypted or not.
pub(crate) type Stream = Box<dyn Io>;

/// Opens connections to one address. Loads certificates at the first TLS connection only.
pub(crate) struct Connector {
    endpoint: Endpoint,
    tls: Tls,
}

impl Connector {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, tls: Tls::default() }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Connects within 10 s.
    pub(crate) async fn connect(&self) -> Result<Stream, Error> {
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, self.attempt());
        let result = attempt.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        result.map_err(|source| Error::Connect { address: self.endpoint.to_string(), source })
    }

    async fn attempt(&self) -> io::Result<Stream> {
        let Endpoint { host, port, tls, .. } = &self.endpoint;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        // A silent peer is noticed after 2 minutes, also on calls without an end of their own.
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, Duration::from_secs(60))?;
        sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(15))?;
        sockopt::set_tcp_keepcnt(&stream, 4)?;
        if !tls {
            return Ok(Box::new(stream));
        }
        Ok(Box::new(self.tls.connect(host, stream).await?))
    }
}
