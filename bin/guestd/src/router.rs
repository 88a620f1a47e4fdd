//! The agent's HTTP interface. The table is in `sprite_link::guest`.

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use http::StatusCode;
use sprite_types::ErrorKind;

use crate::answer::Failure;
use crate::guest::Guest;
use crate::routes::{files, machine, sessions};

/// Returns the routes of the host's side of the agent.
pub fn router(guest: Guest) -> Router {
    Router::new()
        .route("/v1/health", get(machine::health))
        .route("/v1/identity", put(machine::set_identity))
        .route("/v1/ports", get(machine::ports))
        .route("/v1/shutdown", post(machine::shut_down))
        .route("/v1/sessions", get(sessions::list).post(sessions::create))
        .route("/v1/sessions/{id}", get(sessions::get))
        .route("/v1/sessions/{id}/stream", get(sessions::stream))
        .route("/v1/sessions/{id}/kill", post(sessions::kill))
        .route("/v1/fs/read", get(files::read))
        .route("/v1/fs/write", put(files::write))
        .route("/v1/fs/list", get(files::list))
        .route("/v1/fs/delete", delete(files::delete))
        .route("/v1/fs/rename", post(files::rename))
        .route("/v1/fs/copy", post(files::copy))
        .route("/v1/fs/chmod", post(files::chmod))
        .route("/v1/fs/chown", post(files::chown))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(guest)
}

async fn not_found(request: Request) -> Response {
    let text = format!("no such path: {}", request.uri().path());
    Failure::new(ErrorKind::NotFound, "not_found", &text).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let text = format!("{} does not apply to {}", request.method(), request.uri().path());
    Failure::invalid(text).with_status(StatusCode::METHOD_NOT_ALLOWED).into_response()
}
