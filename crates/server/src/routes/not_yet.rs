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
    // `/v1/sprites/{name}/…`
    Err(refusal(uri.path().splitn(5, '/').nth(4).unwrap_or_default()))
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
