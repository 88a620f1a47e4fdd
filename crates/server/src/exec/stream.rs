//! Opening the byte stream of a session on a guest.

use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use sprite_api::session::TerminalSize;
use sprite_link::session::{AttachQuery, UPGRADE};
use sprite_linkmux::{HostLink, LinkError};
use sprite_types::SessionId;

use super::machine::Refusal;
use crate::answer::Failure;

const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Carries session frames.
pub(super) type Io = TokioIo<hyper::upgrade::Upgraded>;

/// Why a session cannot be followed (any more).
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// There is no such session.
    NotFound,
    Refused(Failure),
    /// The machine is gone.
    Gone,
}

/// Opens a stream, for as long as it takes while the machine is there.
pub(super) async fn open(
    link: HostLink,
    session_id: SessionId,
    query: AttachQuery,
) -> Result<Io, ConnectError> {
    let uri = format!("/v1/sessions/{session_id}/stream?{}", encode(&query));
    loop {
        let request = Request::get(uri.as_str())
            .header(http::header::UPGRADE, UPGRADE)
            .body(Body::empty())
            .expect("the query is encoded");
        match link.upgrade(request).await {
            Ok(Ok(upgraded)) => return Ok(upgraded.io),
            Ok(Err(refused)) if refused.status() == StatusCode::NOT_FOUND => {
                return Err(ConnectError::NotFound);
            }
            Ok(Err(refused)) if refused.status() == StatusCode::SERVICE_UNAVAILABLE => {}
            Ok(Err(refused)) => {
                let refusal = Refusal::read(refused).await;
                return Err(ConnectError::Refused(refusal.into()));
            }
            Err(LinkError::Closed) => return Err(ConnectError::Gone),
            Err(error) => tracing::debug!(%error, "session stream not opened"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn encode(query: &AttachQuery) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    out.append_pair("attachment", &query.attachment);
    if let Some(from) = query.from {
        out.append_pair("from", &from.to_string());
    }
    out.append_pair("owner", if query.owner { "true" } else { "false" });
    TerminalSize { cols: query.cols, rows: query.rows }.append_to(&mut out);
    out.finish()
}
