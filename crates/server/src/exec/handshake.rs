//! The WebSocket handshake (RFC 6455, section 4.2), without extensions and subprotocols.

use axum::body::Body;
use base64::Engine as _;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::answer::Failure;

const VERSION: HeaderValue = HeaderValue::from_static("13");

/// A request to switch to WebSocket that can be granted.
#[derive(Debug)]
pub(crate) struct Handshake {
    on_upgrade: OnUpgrade,
    accept: HeaderValue,
}

/// Says whether the request asks for a WebSocket. Other protocols are not for us to refuse:
/// some clients offer `h2c` with every request.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &UPGRADE, "websocket")
}

impl Handshake {
    /// Checks a request that [asks for an upgrade](is_upgrade).
    pub(crate) fn check(parts: &mut Parts) -> Result<Self, Failure> {
        let headers = &parts.headers;
        if parts.method != Method::GET || parts.version != Version::HTTP_11 {
            return Err(Failure::invalid("a WebSocket starts with GET and HTTP/1.1"));
        }
        if !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade")
        {
            return Err(Failure::invalid(
                "`Connection: Upgrade` and `Upgrade: websocket` are needed",
            ));
        }
        if headers.get(SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            return Err(Failure::upgrade_required("only WebSocket version 13 is spoken here"));
        }
        let has_body = headers.contains_key(TRANSFER_ENCODING)
            || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        if has_body {
            return Err(Failure::invalid("a WebSocket handshake has no body"));
        }
        let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(Failure::invalid("exactly one `Sec-WebSocket-Key` is needed"));
        };
        let decoded = base64::engine::general_purpose::STANDARD.decode(key.as_bytes());
        if !decoded.is_ok_and(|key| key.len() == 16) {
            return Err(Failure::invalid("`Sec-WebSocket-Key` must be 16 bytes in base64"));
        }
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
            .expect("base64 is a valid header value");
        let on_upgrade = parts.extensions.remove::<OnUpgrade>();
        let on_upgrade = on_upgrade.ok_or_else(Failure::internal)?;
        Ok(Self { on_upgrade, accept })
    }

    /// Makes the 101 answer, and gives what resolves to the stream once it was sent.
    pub(crate) fn grant(self) -> (Response<Body>, OnUpgrade) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        (response, self.on_upgrade)
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn check(change: impl FnOnce(&mut Request<()>)) -> u16 {
        let mut request = Request::get("/")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap();
        change(&mut request);
        let mut parts = request.into_parts().0;
        Handshake::check(&mut parts).map_or_else(|failure| failure.status().as_u16(), |_| 101)
    }

    /// 500 stands for a good handshake here: there is no connection to take over.
    #[test]
    fn only_whole_handshakes_are_granted() {
        assert_eq!(check(|_| {}), 500);
        let set = |name: &'static str, value: &'static str| {
            check(|request| {
                request.headers_mut().insert(name, HeaderValue::from_static(value));
            })
        };
        assert_eq!(set("upgrade", "h2c"), 400);
        assert_eq!(set("connection", "close"), 400);
        assert_eq!(set("sec-websocket-version", "8"), 426);
        assert_eq!(set("sec-websocket-key", "c2hvcnQ="), 400);
        assert_eq!(set("sec-websocket-key", "!"), 400);
        assert_eq!(set("content-length", "5"), 400);
        assert_eq!(check(|request| *request.method_mut() = Method::POST), 400);
        assert_eq!(check(|request| *request.version_mut() = Version::HTTP_10), 400);
    }
}
