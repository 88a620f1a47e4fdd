//! `GET /v1/sprites` as an endless stream: every sprite once, then each change.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use sprite_api::sprite::{Heartbeat, WatchLine};
use sprite_catalog::Org;
use sprite_lifecycle::{SpriteChange, SpriteError};
use tokio::sync::{broadcast, mpsc};

use crate::answer::{json_line, ndjson};
use crate::app::App;
use crate::view;

const HEARTBEAT: Duration = Duration::from_secs(20);
/// Lines on their way to the client.
const QUEUE: usize = 64;
const PAGE: usize = 100;

/// Starts the stream of the org's sprites whose name begins with `prefix`.
pub(crate) fn respond(app: App, org: Org, prefix: String) -> Response<Body> {
    let (lines, queue) = mpsc::channel(QUEUE);
    let watch = Watch { app: app.clone(), org, prefix, lines };
    app.tasks.spawn(watch.run());
    let stream = futures::stream::unfold(queue, |mut queue| async {
        queue.recv().await.map(|line| (Ok::<Bytes, std::convert::Infallible>(line), queue))
    });
    ndjson(Body::from_stream(stream))
}

/// Why a watch ends.
enum End {
    ClientGone,
    Failed(SpriteError),
    ServerGone,
}

struct Watch {
    app: App,
    org: Org,
    prefix: String,
    lines: mpsc::Sender<Bytes>,
}

impl Watch {
    async fn run(self) {
        let end = tokio::select! {
            end = self.follow() => end,
            () = self.lines.closed() => End::ClientGone,
            () = self.app.closing.cancelled() => End::ServerGone,
        };
        if let End::Failed(error) = end {
            tracing::warn!(%error, "watch ended");
        }
    }

    async fn follow(&self) -> End {
        // Subscribed before the list is read, so that no change falls in between.
        let mut changes = self.app.sprites.subscribe();
        if let Err(end) = self.send_all().await {
            return end;
        }
        loop {
            let change = tokio::time::timeout(HEARTBEAT, changes.recv()).await;
            let sent = match change {
                Ok(Ok(change)) => self.send_change(change).await,
                // Too slow to see every change; the current state makes up for it.
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => self.send_all().await,
                Ok(Err(broadcast::error::RecvError::Closed)) => return End::ServerGone,
                Err(_) => self.send_heartbeat().await,
            };
            if let Err(end) = sent {
                return end;
            }
        }
    }

    async fn send_all(&self) -> Result<(), End> {
        let mut after = None;
        loop {
            let sprites = &self.app.sprites;
            let page = sprites.list(&self.org.id, &self.prefix, after.as_ref(), PAGE).await;
            let page = page.map_err(End::Failed)?;
            for item in &page.items {
                self.send(&view::watch_line(item, self.app.now(), self.counts())).await?;
            }
            after = page.items.last().map(|item| item.record.name.clone());
            if !page.more {
                return Ok(());
            }
        }
    }

    async fn send_change(&self, change: SpriteChange) -> Result<(), End> {
        if change.org != self.org.id || !change.name.as_str().starts_with(&self.prefix) {
            return Ok(());
        }
        let line = match &change.view {
            Some(item) => view::watch_line(item, self.app.now(), self.counts()),
            None => WatchLine {
                name: change.name.to_string(),
                status: "destroyed".to_owned(),
                timestamp: self.app.now().rfc3339(),
                org: self.counts(),
                ..WatchLine::default()
            },
        };
        self.send(&line).await
    }

    async fn send_heartbeat(&self) -> Result<(), End> {
        let line = Heartbeat {
            kind: "heartbeat".to_owned(),
            timestamp: self.app.now().rfc3339(),
            org: self.counts(),
        };
        self.send(&line).await
    }

    fn counts(&self) -> sprite_api::sprite::OrgCounts {
        view::counts(&self.org, self.app.sprites.counts(&self.org.id))
    }

    async fn send(&self, line: &impl serde::Serialize) -> Result<(), End> {
        self.lines.send(json_line(line)).await.map_err(|_| End::ClientGone)
    }
}
