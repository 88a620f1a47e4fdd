//! Sprites: create, list, get, update, delete, and the calls about one as a whole.

use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::ACCEPT;
use http::{HeaderMap, Response, StatusCode};
use sprite_api::sprite::{Check, Restarted, Sprite, SpriteList, Upgraded};
use sprite_lifecycle::Health;
use sprite_types::SpriteName;

use super::create::{create_spec, update_spec};
use crate::answer::Failure;
use crate::app::{App, Caller, Named};
use crate::connection::FullQuery;
use crate::{request_body, view, watch};

const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: i64 = 100;

pub(crate) async fn create(
    State(app): State<App>,
    Caller(org): Caller,
    body: Body,
) -> Result<(StatusCode, Json<Sprite>), Failure> {
    let spec = create_spec(request_body::json(body).await?)?;
    let created = app.sprites.create(&org, spec).await?;
    Ok((StatusCode::CREATED, Json(view::sprite(&org, created))))
}

pub(crate) async fn list(
    State(app): State<App>,
    Caller(org): Caller,
    query: FullQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let prefix = query.get("prefix").unwrap_or_default();
    if wants_watch(&headers) {
        return Ok(watch::respond(app, org, prefix.to_owned()));
    }
    let limit = page_size(query.get("max_results"));
    let after = match query.get("continuation_token") {
        None | Some("") => None,
        Some(token) => Some(
            read_token(token)
                .ok_or_else(|| Failure::invalid("`continuation_token` is not one of ours"))?,
        ),
    };
    let page = app.sprites.list(&org.id, prefix, after.as_ref(), limit).await?;
    let last = page.items.last().map(|view| token_after(&view.record.name));
    let counts = view::counts(&org, app.sprites.counts(&org.id));
    let next_continuation_token = last.filter(|_| page.more);
    Ok(Json(SpriteList {
        org: counts.clone(),
        counts,
        sprites: page.items.into_iter().map(|item| view::sprite(&org, item)).collect(),
        has_more: next_continuation_token.is_some(),
        next_continuation_token,
    })
    .into_response())
}

fn wants_watch(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|text| text.contains("application/x-ndjson")))
}

/// Whatever it says, it is never an error: SDKs ask for more than the documented 50.
fn page_size(text: Option<&str>) -> usize {
    let asked = text.and_then(|text| text.parse::<i64>().ok());
    asked.map_or(PAGE_DEFAULT, |asked| {
        usize::try_from(asked.clamp(1, PAGE_MAX)).expect("clamped to a small number")
    })
}

fn token_after(name: &SpriteName) -> String {
    URL_SAFE_NO_PAD.encode(name.as_str())
}

fn read_token(token: &str) -> Option<SpriteName> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?.parse().ok()
}

pub(crate) async fn get(
    State(app): State<App>,
    Named { org, name }: Named,
) -> Result<Json<Sprite>, Failure> {
    Ok(Json(view::sprite(&org, app.sprites.get(&org.id, &name).await?)))
}

pub(crate) async fn update(
    State(app): State<App>,
    Named { org, name }: Named,
    body: Body,
) -> Result<Json<Sprite>, Failure> {
    // An unknown sprite is 404 whatever the body holds.
    app.sprites.get(&org.id, &name).await?;
    let spec = update_spec(request_body::json_or_default(body).await?)?;
    Ok(Json(view::sprite(&org, app.sprites.update(&org.id, &name, spec).await?)))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Named { org, name }: Named,
) -> Result<StatusCode, Failure> {
    app.sprites.destroy(&org.id, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn restart(
    State(app): State<App>,
    Named { org, name }: Named,
) -> Result<Json<Restarted>, Failure> {
    let guest = app.sprites.restart(&org.id, &name).await?;
    Ok(Json(Restarted {
        sprite_name: name.to_string(),
        machine_id: guest.machine_id.to_string(),
        message: "restarted on a fresh machine".to_owned(),
    }))
}

pub(crate) async fn check(
    State(app): State<App>,
    Named { org, name }: Named,
) -> Result<Json<Check>, Failure> {
    let started = Instant::now();
    let check = app.sprites.check(&org.id, &name).await?;
    let status = match check.health {
        Health::Healthy => "healthy",
        Health::Hibernated => "hibernated",
        Health::Unhealthy => "unhealthy",
    };
    Ok(Json(Check {
        sprite_name: name.to_string(),
        sprite_id: check.view.record.id.to_string(),
        status: status.to_owned(),
        reason: check.reason,
        checked_at: check.checked_at.rfc3339(),
        elapsed: Some(started.elapsed().as_secs_f64() * 1000.0),
    }))
}

/// The in-sprite runtime belongs to the host and is the newest at every boot, so there is
/// nothing left to do.
pub(crate) async fn upgrade(
    State(app): State<App>,
    Named { org, name }: Named,
) -> Result<Json<Upgraded>, Failure> {
    app.sprites.get(&org.id, &name).await?;
    Ok(Json(Upgraded { name: name.to_string(), status: "upgraded".to_owned() }))
}

/// There is no log of a sprite's platform events yet; an empty one is what clients can read.
pub(crate) async fn logs(
    State(app): State<App>,
    Named { org, name }: Named,
) -> Result<Json<[(); 0]>, Failure> {
    app.sprites.get(&org.id, &name).await?;
    Ok(Json([]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_clamped_never_refused() {
        for (text, size) in
            [(None, 50), (Some("100"), 100), (Some("1000"), 100), (Some("0"), 1), (Some("x"), 50)]
        {
            assert_eq!(page_size(text), size);
        }
    }

    #[test]
    fn a_continuation_token_reads_back_and_a_forged_one_does_not() {
        let name: SpriteName = "my-sprite".parse().unwrap();
        assert_eq!(read_token(&token_after(&name)), Some(name));
        assert_eq!(read_token("../"), None);
        assert_eq!(read_token("QQ"), None);
    }
}
