//! `/v1/sessions…`: create, list, follow, end.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http::{StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::rt::TokioIo;
use sprite_api::exec::KillEvent;
use sprite_api::format::signal_name;
use sprite_exec::{AttachError, KillError, KillStep};
use sprite_link::guest::{KillRequest, SessionCreate};
use sprite_link::session::{AttachQuery, UPGRADE};
use sprite_types::{ErrorKind, SessionId};

use crate::answer::{Failure, json, read_json};
use crate::guest::Guest;

/// Arguments and environment together: twice what a kernel accepts.
const CREATE_MAX: usize = 4 * 1024 * 1024;
const KILL_MAX: usize = 4096;

fn not_found(id: &str) -> Failure {
    let text = format!("session not found: {id}");
    Failure::new(ErrorKind::NotFound, text.clone(), &text)
}

fn parse_id(id: &str) -> Result<SessionId, Failure> {
    id.parse().map_err(|_| not_found(&id.chars().take(40).collect::<String>()))
}

pub(crate) async fn create(State(guest): State<Guest>, body: Body) -> Result<Response, Failure> {
    let create: SessionCreate = read_json(body, CREATE_MAX).await?;
    match guest.sessions().create(create).await {
        Ok(created) => Ok(json(StatusCode::OK, &created)),
        Err(error) => {
            let source = std::error::Error::source(&error);
            let cause = source.map_or_else(String::new, |source| format!(": {source}"));
            tracing::warn!(%error, cause, "session not created");
            Err(Failure::new(error.kind(), "session_not_created", &format!("{error}{cause}")))
        }
    }
}

pub(crate) async fn list(State(guest): State<Guest>) -> Response {
    json(StatusCode::OK, &serde_json::json!({ "sessions": guest.sessions().list() }))
}

pub(crate) async fn get(
    State(guest): State<Guest>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let view = guest.sessions().get(parse_id(&id)?).ok_or_else(|| not_found(&id))?;
    Ok(json(StatusCode::OK, &view))
}

pub(crate) async fn stream(
    State(guest): State<Guest>,
    Path(id): Path<String>,
    query: Result<Query<AttachQuery>, axum::extract::rejection::QueryRejection>,
    mut request: Request,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| Failure::invalid(error.body_text()))?;
    let wanted = request.headers().get(header::UPGRADE).map(|value| value.as_bytes());
    if !wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case(UPGRADE.as_bytes())) {
        let text = format!("upgrade to `{UPGRADE}` is required");
        return Err(Failure::invalid(text).with_status(StatusCode::UPGRADE_REQUIRED));
    }
    let connection = guest.sessions().attach(parse_id(&id)?, query).await;
    let connection = connection.map_err(|error| match error {
        AttachError::NotFound { .. } => not_found(&id),
        AttachError::TooMany => {
            Failure::new(error.kind(), "too_many_attachments", &error.to_string())
        }
    })?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // A stream that never came up counts as broken: the connection is dropped.
        if let Ok(io) = upgrade.await {
            connection.serve(TokioIo::new(io)).await;
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, UPGRADE)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

pub(crate) async fn kill(
    State(guest): State<Guest>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Failure> {
    let id = parse_id(&id)?;
    let request: KillRequest = read_json(body, KILL_MAX).await?;
    let timeout = Duration::from_millis(request.timeout_ms);
    let steps = guest.sessions().kill(id, request.signal, timeout).map_err(|error| {
        let text = error.to_string();
        match error {
            KillError::NotFound(_) => Failure::new(ErrorKind::NotFound, text.clone(), &text),
            KillError::Ended(_) => {
                Failure::new(ErrorKind::Conflict, text.clone(), &text).with_status(StatusCode::GONE)
            }
            KillError::BadSignal(_) => Failure::invalid(text),
        }
    })?;
    let lines = futures::stream::unfold(steps, |mut steps| async {
        let step = steps.recv().await?;
        Some((step, steps))
    })
    .map(|step| {
        let mut line = serde_json::to_vec(&event(step)).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Frame::data(Bytes::from(line)))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((StatusCode::OK, headers, Body::new(StreamBody::new(lines))).into_response())
}

/// Puts a step into the public contract's words (http-api 6.2).
fn event(step: KillStep) -> KillEvent {
    let plain = |kind: &str, message: &str| KillEvent {
        kind: kind.to_owned(),
        message: Some(message.to_owned()),
        ..KillEvent::default()
    };
    match step {
        KillStep::Signal { number, session } => {
            let name = signal_name(number);
            let message = format!("Signaling {name} to process group {session}");
            KillEvent {
                signal: Some(name),
                pid: i64::try_from(session.0).ok(),
                ..plain("signal", &message)
            }
        }
        KillStep::Timeout => plain("timeout", "Process did not exit in time"),
        KillStep::Exited => plain("exited", "Process exited"),
        KillStep::Killed => plain("killed", "Process killed"),
        KillStep::Error { message } => plain("error", &message),
        KillStep::Complete { exit_code } => {
            KillEvent { kind: "complete".to_owned(), exit_code, ..KillEvent::default() }
        }
    }
}
