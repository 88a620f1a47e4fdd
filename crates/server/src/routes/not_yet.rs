//! What the contract has and this release does not: a clear 501 instead of a 404 that looks
//! like a wrong name.

use axum::body::Body;
use axum::extract::State;
use http::{Response, Uri};

use crate::answer::Failure;
use crate::app::{App, Named};

/// Of a sprite; unknown sprites are 404 as everywhere.
pub(crate) async fn of_sprite(
    State(app): State<App>,
    named: Named,
    uri: Uri,
) -> Result<Response<Body>, Failure> {
    app.sprites.get(&named.org.id, &named.name).await?;
    Err(refusal(below_sprite(uri.path())))
}

/// Cuts off `/v1/sprites/{name}/`, which the router may have done already.
fn below_sprite(path: &str) -> &str {
    let below = match path.strip_prefix("/v1/sprites/") {
        Some(rest) => rest.split_once('/').map_or("", |(_, below)| below),
        None => path,
    };
    below.trim_start_matches('/')
}

/// Of the server.
pub(crate) async fn of_server(uri: Uri) -> Failure {
    refusal(uri.path().trim_start_matches("/v1/"))
}

fn refusal(path: &str) -> Failure {
    let what = path.split('/').next().unwrap_or_default();
    let what: String = what.chars().take(40).collect();
    Failure::not_implemented(format!("this server does not offer `{what}` yet"))
}

#[cfg(test)]
mod tests {
    use super::below_sprite;

    /// The refusal once named nothing: nested routes see a shorter path.
    #[test]
    fn the_refused_call_is_named_however_the_router_cut_the_path() {
        assert_eq!(below_sprite("/v1/sprites/x/policy/network"), "policy/network");
        assert_eq!(below_sprite("/policy/network"), "policy/network");
        assert_eq!(below_sprite("/v1/sprites/x"), "");
    }
}
