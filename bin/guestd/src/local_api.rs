//! `/.sprite/api.sock`: the management API for programs of the sprite.
//!
//! Everybody inside may connect, so connections are few, and heads must come in time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use sprite_types::{ErrorKind, RUNTIME_VERSION};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::answer::{Failure, json, read_body};
use crate::guest::Guest;

/// Connections served at a time; more wait.
const CONNECTIONS_MAX: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies are small documents.
const BODY_MAX: usize = 64 * 1024;
/// Routes of the contract (in-sprite 5) that come later, by the first part of their path.
const LATER: [&str; 5] = ["services", "checkpoint", "checkpoints", "tasks", "policy"];

/// Returns the routes of the sprite's side of the agent.
pub fn local_router(guest: Guest) -> Router {
    Router::new()
        .route("/v1/info", get(info))
        .route("/v1/health", get(health))
        .fallback(other)
        .method_not_allowed_fallback(wrong_method)
        .with_state(guest)
}

async fn info(State(guest): State<Guest>) -> Response {
    let identity = guest.identity();
    let info = json!({
        "org": identity.org,
        "sprite_id": identity.sprite_id,
        "sprite_name": identity.sprite_name,
        "sprite_url": identity.url,
        "version": RUNTIME_VERSION,
    });
    json(StatusCode::OK, &info)
}

async fn health() -> Response {
    json(StatusCode::OK, &json!({ "status": "ok", "version": RUNTIME_VERSION }))
}

async fn other(request: Request) -> Response {
    let (head, body) = request.into_parts();
    // An answer before the body was read looks like a broken connection to simple clients.
    let _ = read_body(body, BODY_MAX).await;
    let path = head.uri.path();
    let part = path.strip_prefix("/v1/").and_then(|rest| rest.split('/').next());
    if let Some(part) = part.filter(|part| LATER.contains(part)) {
        let text = format!("{part}: not available in this version of the runtime yet");
        return Failure::new(ErrorKind::Unsupported, "not_implemented", &text).into_response();
    }
    let text = format!("no such path: {path}");
    Failure::new(ErrorKind::NotFound, "not_found", &text).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let text = format!("{} does not apply to {}", request.method(), request.uri().path());
    Failure::invalid(text).with_status(StatusCode::METHOD_NOT_ALLOWED).into_response()
}

/// Serves the management API for ever.
pub(crate) async fn serve(listener: UnixListener, guest: Guest) {
    let service = TowerToHyperService::new(local_router(guest));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let Ok((io, _)) = listener.accept().await else {
            // Out of descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(io), service);
            // A client that misbehaves or leaves is its own business.
            let _ = connection.await;
        });
    }
}
