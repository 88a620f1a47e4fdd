//! `…/fs/*`: passed on to the guest, which carries it out with the kernel's own checks.
//! Contents stream both ways; nothing is kept here.

use axum::body::Body;
use axum::extract::{Request, State};
use http::header::{
    ACCEPT, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, IF_RANGE, LAST_MODIFIED, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Response};
use sprite_linkmux::LinkError;

use crate::answer::Failure;
use crate::app::{App, Named};
use crate::connection::FullQuery;
use crate::exec::machine::CallError;
use crate::request_body;

/// Headers that mean the same on the other side.
const TO_GUEST: [HeaderName; 5] = [ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, RANGE, IF_RANGE];
const FROM_GUEST: [HeaderName; 8] = [
    ACCEPT_RANGES,
    CACHE_CONTROL,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    ETAG,
    LAST_MODIFIED,
    X_CONTENT_TYPE_OPTIONS,
];
/// Longest query passed on, in bytes; a path has at most 4,096.
const QUERY_MAX: usize = 48 * 1024;

/// Forwards one call.
pub(crate) async fn forward(
    State(app): State<App>,
    named: Named,
    query: FullQuery,
    request: Request,
) -> Result<Response<Body>, Failure> {
    let (mut parts, body) = request.into_parts();
    let operation = operation(&parts).ok_or_else(Failure::no_such_route)?;
    let uri = format!("/v1/fs/{operation}?{}", encode(&query)?);
    app.sprites.get(&named.org.id, &named.name).await?;
    let mut headers = copy(&parts.headers, &TO_GUEST);
    let body = match parts.method {
        // Content of any size.
        Method::PUT => body,
        Method::GET => Body::empty(),
        _ => {
            let bytes = request_body::read(body).await?;
            headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            Body::from(bytes)
        }
    };
    if parts.method == Method::GET {
        headers.remove(CONTENT_LENGTH);
    }
    let guest = app.sprites.guest(&named.org.id, &named.name).await?;
    parts.headers = headers;
    let forwarded = |body| {
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri.parse().expect("the query is encoded");
        *request.headers_mut() = parts.headers.clone();
        request
    };
    let response = match guest.link.send(forwarded(body)).await {
        Err(LinkError::Broken(_)) if parts.method == Method::GET => {
            guest.link.send(forwarded(Body::empty())).await
        }
        response => response,
    };
    let (head, body) = response.map_err(CallError::from)?.into_parts();
    let mut answer = Response::new(Body::new(body));
    *answer.status_mut() = head.status;
    *answer.headers_mut() = copy(&head.headers, &FROM_GUEST);
    Ok(answer)
}

/// The last segment of the path, which the route has matched already.
fn operation(parts: &http::request::Parts) -> Option<&str> {
    parts.uri.path().rsplit('/').next()
}

fn encode(query: &FullQuery) -> Result<String, Failure> {
    let mut out = form_urlencoded::Serializer::new(String::new());
    out.extend_pairs(query.pairs());
    let out = out.finish();
    if out.len() > QUERY_MAX {
        return Err(Failure::invalid("the parameters are too long for a file operation"));
    }
    Ok(out)
}

fn copy(from: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut to = HeaderMap::new();
    for name in names {
        for value in from.get_all(name) {
            to.append(name.clone(), value.clone());
        }
    }
    to
}
