//! The caller's org and its tokens.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response, StatusCode};
use sprite_api::sprite::{CreateToken, CreatedToken, Organization, OrganizationAnswer};
use sprite_lifecycle::SpriteError;

use crate::answer::Failure;
use crate::app::{App, Caller, path_param};
use crate::request_body;

const PAGE: usize = 100;
/// Told to clients; there is no limit but the disk.
const SPRITES_MAX: i64 = 1_000_000;

pub(crate) async fn get(
    State(app): State<App>,
    Caller(org): Caller,
) -> Result<Json<OrganizationAnswer>, Failure> {
    let mut active_sprites = Vec::new();
    let mut after = None;
    loop {
        let page = app.sprites.list(&org.id, "", after.as_ref(), PAGE).await?;
        let running = page.items.iter().filter(|item| item.status() == "running");
        active_sprites.extend(running.map(|item| item.record.name.to_string()));
        after = page.items.last().map(|item| item.record.name.clone());
        if !page.more {
            break;
        }
    }
    let limit = app.sprites.counts(&org.id).running_limit;
    Ok(Json(OrganizationAnswer {
        organization: Organization {
            slug: org.slug.to_string(),
            sprites_enabled: true,
            active_sprites,
            max_sprites: SPRITES_MAX,
            active_sprite_limit: i64::try_from(limit).unwrap_or(i64::MAX),
        },
    }))
}

/// Makes another token of the caller's own org.
pub(crate) async fn create_token(
    State(app): State<App>,
    Caller(org): Caller,
    request: axum::extract::Request,
) -> Result<Response<Body>, Failure> {
    let (mut parts, body) = request.into_parts();
    let slug = path_param(&mut parts, &app, "org").await.unwrap_or_default();
    if slug != org.slug.as_str() {
        return Err(Failure::forbidden("a token can only make tokens of its own organization"));
    }
    let body: CreateToken = request_body::json_or_default(body).await?;
    let description = body.description.unwrap_or_default();
    let (_, token) =
        app.catalog.create_token(&org.id, &description).await.map_err(SpriteError::from)?;
    let mut response = (StatusCode::CREATED, Json(CreatedToken { token })).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
