//! The listener: accepts connections, and ends in order.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use sprite_catalog::Catalog;
use sprite_lifecycle::Sprites;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::connection::{self, Timeouts};
use crate::routes;
use crate::settings::ServerSettings;

/// How long open answers and sockets may take to end with the server.
const CLOSING: Duration = Duration::from_secs(10);
/// Pause after a failed accept; out of file descriptors is the usual reason.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The public interface of one host.
pub struct Server {
    app: App,
    router: Router,
}

impl Server {
    /// Makes a server; [`Server::serve`] runs it.
    #[must_use]
    pub fn new(settings: ServerSettings, catalog: Catalog, sprites: Sprites) -> Self {
        let app = App::new(settings, catalog, sprites);
        Self { router: routes::router(app.clone()), app }
    }

    /// Serves connections until `shutdown` is cancelled; then lets current answers end, closes
    /// exec sockets with code 1001 (their sessions go on), and returns after 10 s at the latest.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let room = Arc::new(Semaphore::new(self.app.settings.connections_max));
        let _ = shutdown.run_until_cancelled(self.accept_all(&listener, room)).await;
        drop(listener);
        self.app.closing.cancel();
        self.app.tasks.close();
        if tokio::time::timeout(CLOSING, self.app.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.app.tasks.len(), "connections cut at shutdown");
        }
    }

    async fn accept_all(&self, listener: &TcpListener, room: Arc<Semaphore>) {
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Interactive bytes must not wait for each other.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "connection without TCP_NODELAY");
            }
            let router = self.router.clone();
            let closing = self.app.closing.clone();
            self.app.tasks.spawn(async move {
                connection::serve(stream, router, Timeouts::default(), closing).await;
                drop(permit);
            });
        }
    }
}
