//! TLS to servers that the system trusts.
//!
//! # Not here
//! TCP, timeouts, and serving TLS.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Makes connections secure. Reads the system's certificates once, for the first of them (also
/// `SSL_CERT_FILE` and `SSL_CERT_DIR`).
#[derive(Default)]
pub struct Tls(OnceLock<Result<TlsConnector, String>>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Greets the server at the other end of `stream`, which has to prove that it is `host`, a
    /// name or an address.
    ///
    /// # Errors
    /// The system trusts nobody, `host` is no name, or the greeting failed.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let connector = self.0.get_or_init(connector).as_ref();
        let connector = connector.map_err(|reason| io::Error::other(reason.clone()))?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        connector.connect(name, stream).await
    }
}

fn connector() -> Result<TlsConnector, String> {
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
