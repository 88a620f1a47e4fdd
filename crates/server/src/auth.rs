//! Who is asking: bearer tokens.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response};
use sprite_types::ErrorKind;

use crate::answer::Failure;
use crate::app::App;

/// Longest token looked at, in bytes.
const TOKEN_MAX: usize = 4 * 1024;

/// Lets a request through if it carries a good token, and notes whose it is.
pub(crate) async fn require_token(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let refused = match token(request.headers()) {
        Some(token) => match app.catalog.authenticate(token).await {
            Ok(principal) => {
                tracing::debug!(org_id = %principal.org.id, token_id = %principal.token_id, "authenticated");
                request.extensions_mut().insert(principal);
                return next.run(request).await;
            }
            Err(error) if error.kind() == ErrorKind::Unauthorized => Failure::unauthorized(),
            Err(error) => Failure::new(error.kind(), "unavailable", error.to_string()),
        },
        None => Failure::unauthorized(),
    };
    let mut response = refused.into_response();
    if response.status() == http::StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Returns the token. `FlyV1` is what the SDKs call the scheme when they ask for a new token.
fn token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let known = scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("flyv1");
    Some(token.trim()).filter(|token| known && matches!(token.len(), 1..=TOKEN_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_authorization_of_a_known_scheme_counts() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            token(&headers).map(str::to_owned)
        };
        assert_eq!(read(&["Bearer a/b/c/d"]).as_deref(), Some("a/b/c/d"));
        assert_eq!(read(&["bearer  x "]).as_deref(), Some("x"));
        for values in [&[][..], &["Bearer"], &["Bearer "], &["Basic x"], &["Bearer a", "Bearer b"]]
        {
            assert_eq!(read(values), None, "{values:?}");
        }
    }
}
