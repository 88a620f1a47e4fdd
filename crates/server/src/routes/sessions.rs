//! Sessions over plain HTTP: list, look at, end. None of these wakes a sprite: one that does
//! not run has no sessions.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use sprite_api::exec::{SessionEntry, SessionList};
use sprite_api::session::Kill;
use sprite_link::guest::{KillRequest, SessionView};
use sprite_types::{SessionId, Timestamp};

use crate::answer::{Failure, ndjson};
use crate::app::{App, Named, SessionPath};
use crate::connection::FullQuery;
use crate::exec::machine::{CallError, Machine, Refusal};
use crate::request_body;

/// Answers `GET …/exec` without an upgrade.
pub(crate) async fn list(app: &App, named: &Named) -> Result<Json<SessionList>, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        sessions: Vec<SessionView>,
    }
    let sessions = match running(app, named).await? {
        Some(machine) => machine.get_json::<Answer>("/v1/sessions").await?.sessions,
        None => Vec::new(),
    };
    let sessions: Vec<_> = sessions.into_iter().map(entry).collect();
    Ok(Json(SessionList { count: sessions.len(), sessions }))
}

/// Answers `HEAD …/exec`, by which the Go SDK learns the version.
pub(crate) async fn probe(State(app): State<App>, named: Named) -> Result<StatusCode, Failure> {
    app.sprites.get(&named.org.id, &named.name).await?;
    Ok(StatusCode::OK)
}

/// Answers `GET …/exec/{id}` without an upgrade.
pub(crate) async fn get(app: &App, named: &Named, id: &str) -> Result<Json<SessionEntry>, Failure> {
    let missing = || Failure::session_not_found(id);
    let machine = running(app, named).await?.ok_or_else(missing)?;
    let session: SessionId = id.parse().map_err(|_| missing())?;
    match machine.get_json(&format!("/v1/sessions/{session}")).await {
        Ok(view) => Ok(Json(entry(view))),
        Err(CallError::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => {
            Err(missing())
        }
        Err(error) => Err(error.into()),
    }
}

/// Answers `POST …/exec/{id}/kill` with the guest's stream of events.
pub(crate) async fn kill(
    State(app): State<App>,
    named: Named,
    SessionPath(id): SessionPath,
    query: FullQuery,
    body: Body,
) -> Result<Response<Body>, Failure> {
    let missing = || Failure::session_not_found(&id);
    let machine = running(&app, &named).await?.ok_or_else(missing)?;
    let session: SessionId = id.parse().map_err(|_| missing())?;
    let kill = Kill::from_request(&query, &request_body::read(body).await?)?;
    let body = KillRequest {
        signal: kill.signal,
        timeout_ms: u64::try_from(kill.timeout.as_millis()).unwrap_or(u64::MAX),
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/v1/sessions/{session}/kill"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Body::from(serde_json::to_vec(&body).expect("requests are plain data")))
        .expect("session ids are digits");
    let response = machine.link.send(request).await.map_err(CallError::from)?;
    match response.status() {
        StatusCode::OK => Ok(ndjson(Body::new(response.into_body()))),
        StatusCode::NOT_FOUND => Err(missing()),
        _ => Err(Refusal::read(response).await.into()),
    }
}

/// Returns the sprite's machine if it runs now.
async fn running(app: &App, named: &Named) -> Result<Option<Machine>, Failure> {
    let guest = app.sprites.guest_if_running(&named.org.id, &named.name).await?;
    Ok(guest.map(|guest| Machine { link: guest.link }))
}

fn entry(view: SessionView) -> SessionEntry {
    SessionEntry {
        id: view.session_id.to_string(),
        command: view.command,
        workdir: view.workdir,
        created: view.created.rfc3339(),
        tty: view.tty,
        bytes_per_second: view.bytes_per_second,
        is_active: view.is_active,
        last_activity: view.last_activity.map(Timestamp::rfc3339),
    }
}
