//! The answering side.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use axum::extract::{Path as Segment, Query, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use sprite_api::{ApiError, status_of};
use sprite_catalog::Catalog;
use sprite_lifecycle::Sprites;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{MadeToken, NewOrg, NewToken, OrgEntry, TokenEntry};
use crate::commands::records;
use crate::up::End;

/// What the socket acts on.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) catalog: Catalog,
    pub(crate) sprites: Sprites,
    pub(crate) end: watch::Sender<Option<End>>,
}

type Answer<T> = Result<Json<T>, (StatusCode, Json<ApiError>)>;

fn refuse(error: records::RecordsError) -> (StatusCode, Json<ApiError>) {
    let status = StatusCode::from_u16(status_of(error.kind())).unwrap_or_default();
    (status, Json(ApiError::new("refused", error.to_string())))
}

/// Serves the socket until the task is aborted.
pub(crate) fn serve(socket: &Path, admin: Admin) -> anyhow::Result<JoinHandle<()>> {
    // The catalog's lock is ours, so a socket that is there belongs to a `sprited` that died.
    let _ = std::fs::remove_file(socket);
    let what = || format!("listen on `{}`", socket.display());
    let listener = UnixListener::bind(socket).with_context(what)?;
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o600)).with_context(what)?;
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/stop", post(stop))
        .route("/v1/orgs", get(list_orgs).post(create_org))
        .route("/v1/tokens", get(list_tokens).post(create_token))
        .route("/v1/tokens/{org}/{id}", delete(revoke_token))
        .with_state(admin);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "administration socket ended");
        }
    }))
}

async fn status(State(admin): State<Admin>) -> Json<serde_json::Value> {
    let machines = admin.sprites.machines().len();
    Json(serde_json::json!({ "pid": std::process::id(), "machines": machines }))
}

async fn stop(State(admin): State<Admin>) -> StatusCode {
    admin.end.send_replace(Some(End::Stop));
    StatusCode::ACCEPTED
}

async fn list_orgs(State(admin): State<Admin>) -> Json<Vec<OrgEntry>> {
    Json(records::list_orgs(&admin.catalog).await)
}

async fn create_org(State(admin): State<Admin>, Json(new): Json<NewOrg>) -> Answer<OrgEntry> {
    records::create_org(&admin.catalog, &new).await.map(Json).map_err(refuse)
}

#[derive(Deserialize)]
struct OfOrg {
    org: String,
}

async fn list_tokens(
    State(admin): State<Admin>,
    Query(of): Query<OfOrg>,
) -> Answer<Vec<TokenEntry>> {
    records::list_tokens(&admin.catalog, &of.org).await.map(Json).map_err(refuse)
}

async fn create_token(State(admin): State<Admin>, Json(new): Json<NewToken>) -> Answer<MadeToken> {
    records::create_token(&admin.catalog, &new).await.map(Json).map_err(refuse)
}

async fn revoke_token(
    State(admin): State<Admin>,
    Segment((org, id)): Segment<(String, String)>,
) -> Answer<()> {
    records::revoke_token(&admin.catalog, &org, &id).await.map(Json).map_err(refuse)
}
