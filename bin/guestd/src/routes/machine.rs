//! `/v1/health`, `/v1/identity`, `/v1/ports`, `/v1/shutdown`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use sprite_link::boot::Identity;
use sprite_link::guest::Health;

use crate::answer::{Failure, json, read_json};
use crate::guest::Guest;

const IDENTITY_MAX: usize = 1024 * 1024;

pub(crate) async fn health(State(guest): State<Guest>) -> Response {
    let health = Health {
        machine_id: guest.machine_id().clone(),
        boot_id: guest.boot_id().clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sessions: u32::try_from(*guest.sessions().live().borrow()).unwrap_or(u32::MAX),
    };
    json(StatusCode::OK, &health)
}

pub(crate) async fn set_identity(
    State(guest): State<Guest>,
    body: Body,
) -> Result<StatusCode, Failure> {
    let identity: Identity = read_json(body, IDENTITY_MAX).await?;
    guest.set_identity(identity).await;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn ports(State(guest): State<Guest>) -> Response {
    json(StatusCode::OK, &serde_json::json!({ "ports": guest.ports().await }))
}

pub(crate) async fn shut_down(State(guest): State<Guest>) -> StatusCode {
    guest.shut_down().await;
    StatusCode::NO_CONTENT
}
