//! What a person decides about the server.

use std::sync::Arc;

use sprite_types::Clock;
use tokio::sync::watch;

/// Settings of the public interface. Since 0.1.
#[derive(Clone)]
pub struct ServerSettings {
    /// Domain below which each sprite has its host name. Requests to such names are not for the
    /// API.
    pub sprite_domain: String,
    /// Host names below that domain that are the API's all the same.
    pub api_hosts: Vec<String>,
    /// Connections served at once; further ones wait. Default 8192.
    pub connections_max: usize,
    /// Whether the host is ready, for `GET /healthz`.
    pub readiness: watch::Receiver<Readiness>,
    /// Time of day.
    pub clock: Arc<dyn Clock>,
}

impl ServerSettings {
    /// Default of `connections_max`.
    pub const CONNECTIONS_MAX: usize = 8192;
}

/// Whether the host can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// Not yet; the words say what it waits for.
    Waiting(String),
}
