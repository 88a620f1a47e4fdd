//! Which request goes where. Every answer that is not a success is JSON, unknown paths and
//! wrong methods included; nothing is ever redirected.

mod create;
mod exec;
mod files;
mod not_yet;
mod organization;
mod sessions;
mod sprites;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse as _;
use axum::routing::{any, delete, get, post, put};
use axum::{Json, Router};
use http::header::HOST;
use http::uri::Authority;
use http::{Response, StatusCode};
use serde_json::json;

use crate::answer::Failure;
use crate::app::App;
use crate::auth::require_token;
use crate::settings::{Readiness, ServerSettings};

/// Everything the server answers.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .nest("/v1", api(app.clone()))
        .route("/healthz", get(health))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), keep_sprite_urls_out))
        .with_state(app)
}

fn api(app: App) -> Router<App> {
    Router::new()
        .route("/organization", get(organization::get))
        .route("/organizations/{org}/tokens", post(organization::create_token))
        .route("/sprites", get(sprites::list).post(sprites::create))
        .route("/sprites/{name}", get(sprites::get).put(sprites::update).delete(sprites::delete))
        .nest("/sprites/{name}", sprite())
        .route("/oauth/{*rest}", any(not_yet::of_server))
        .route("/gateway/{*rest}", any(not_yet::of_server))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app, require_token))
}

fn sprite() -> Router<App> {
    let not_yet = any(not_yet::of_sprite);
    Router::new()
        .route("/check", get(sprites::check))
        .route("/logs", get(sprites::logs))
        .route("/restart", post(sprites::restart))
        .route("/upgrade", post(sprites::upgrade))
        .route("/exec", get(exec::get).head(sessions::probe).post(exec::post))
        .route("/exec/{id}", get(exec::get_session))
        .route("/exec/{id}/kill", post(sessions::kill))
        .route("/fs/read", get(files::forward))
        .route("/fs/write", put(files::forward))
        .route("/fs/list", get(files::forward))
        .route("/fs/delete", delete(files::forward))
        .route("/fs/rename", post(files::forward))
        .route("/fs/copy", post(files::forward))
        .route("/fs/chmod", post(files::forward))
        .route("/fs/chown", post(files::forward))
        .route("/fs/watch", not_yet.clone())
        .route("/ports/watch", not_yet.clone())
        .route("/proxy", not_yet.clone())
        .route("/checkpoint", not_yet.clone())
        .route("/checkpoints", not_yet.clone())
        .route("/checkpoints/{*rest}", not_yet.clone())
        .route("/services", not_yet.clone())
        .route("/services/{*rest}", not_yet.clone())
        .route("/policy/{*rest}", not_yet.clone())
        .route("/tasks", not_yet.clone())
        .route("/tasks/{*rest}", not_yet)
        // `/control` is 404 on purpose: the SDKs then open a socket per command.
        .fallback(no_such_route)
}

async fn no_such_route() -> Failure {
    Failure::no_such_route()
}

async fn wrong_method() -> Failure {
    Failure::method_not_allowed()
}

async fn health(State(app): State<App>) -> Response<Body> {
    let readiness = app.settings.readiness.borrow().clone();
    match readiness {
        Readiness::Ready => Json(json!({"status": "ok"})).into_response(),
        Readiness::Waiting(what) => {
            let body = json!({"status": "waiting", "error": "not ready", "message": what});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// A sprite's URL is the sprite's own business: no path of the API answers there.
async fn keep_sprite_urls_out(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response<Body> {
    if is_sprite_host(&app.settings, host(&request)) {
        let text = "sprite URLs are not served yet";
        return Failure::not_implemented(text).into_response();
    }
    next.run(request).await
}

fn host(request: &Request) -> &str {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    request.uri().authority().map(Authority::as_str).or(header).unwrap_or_default()
}

/// Whether a host name is one label below the sprites' domain.
fn is_sprite_host(settings: &ServerSettings, host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_api = settings.api_hosts.iter().any(|api| api.eq_ignore_ascii_case(&name));
    let label = name
        .strip_suffix(settings.sprite_domain.trim_start_matches('.'))
        .and_then(|rest| rest.strip_suffix('.'));
    !is_api && label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sprite_types::SystemClock;
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn only_one_label_below_the_domain_is_a_sprite() {
        let settings = ServerSettings {
            sprite_domain: "sprites.example".into(),
            api_hosts: vec!["api.sprites.example".into()],
            connections_max: 1,
            readiness: watch::channel(Readiness::Ready).1,
            clock: Arc::new(SystemClock),
        };
        for host in ["web-ab12.sprites.example", "WEB.Sprites.Example:443", "x.sprites.example."] {
            assert!(is_sprite_host(&settings, host), "{host}");
        }
        for host in [
            "sprites.example",
            "api.sprites.example",
            "API.sprites.example:8080",
            "a.b.sprites.example",
            "notsprites.example",
            ".sprites.example",
            "127.0.0.1:80",
            "[::1]:80",
            "localhost",
            "",
        ] {
            assert!(!is_sprite_host(&settings, host), "{host}");
        }
    }
}
