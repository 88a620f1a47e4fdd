//! Opens a connection: TCP, and TLS if the address says so.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

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
    tls: OnceLock<Result<TlsConnector, String>>,
}

impl Connector {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, tls: OnceLock::new() }
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
        let connector = self.tls.get_or_init(tls_connector);
        let connector = connector.as_ref().map_err(|reason| io::Error::other(reason.clone()))?;
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

/// Trusts what the system trusts (also `SSL_CERT_FILE` and `SSL_CERT_DIR`).
fn tls_connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err("the system has no usable certificate authorities".to_owned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
