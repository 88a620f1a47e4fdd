//! Who may ask, and whether what came is what was signed.

use bytes::Bytes;
use http::request::Parts;
use sprite_store::{Canonical, Credentials, authorization, sha256_hex};

use crate::Options;
use crate::reply::Refusal;

/// Headers that must be signed if they are sent: with them changed on the way, a request would
/// mean something else.
const MUST_BE_SIGNED: [&str; 5] =
    ["host", "if-none-match", "range", "x-amz-content-sha256", "x-amz-date"];

/// Checks signature and body.
pub(crate) fn check(head: &Parts, body: &Bytes, options: &Options) -> Result<(), Refusal> {
    let denied = |code| Refusal::new(403, code);
    let header = |name: &str| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let sent = header("authorization");
    let fields = sent.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(|| denied("AccessDenied"))?;
    let field = |name: &str| {
        let mut fields = fields.split(',').map(str::trim);
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    let mut scope = field("Credential").split('/');
    let (access_key, day, region) = (scope.next(), scope.next(), scope.next());
    if access_key != Some(&options.access_key) {
        return Err(denied("InvalidAccessKeyId"));
    }
    let signed: Vec<&str> = field("SignedHeaders").split(';').collect();
    let unsigned = |name: &&&str| head.headers.contains_key(**name) && !signed.contains(*name);
    let date = header("x-amz-date");
    if MUST_BE_SIGNED.iter().any(|name| unsigned(&name)) || !date.starts_with(day.unwrap_or("?")) {
        return Err(denied("AccessDenied"));
    }
    let headers: Vec<(String, String)> =
        signed.iter().map(|name| ((*name).to_owned(), header(name))).collect();
    let query: Vec<(String, String)> = head
        .uri
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let payload = header("x-amz-content-sha256");
    let canonical = Canonical {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: &query,
        headers: &headers,
        payload: &payload,
    };
    let credentials = Credentials::new(&options.access_key, &options.secret_key, None);
    let expected = authorization(&canonical, &credentials, region.unwrap_or_default(), &date);
    let signature = |text: &str| text.rsplit_once("Signature=").map(|(_, hex)| hex.to_owned());
    if signature(&expected) != signature(&sent) {
        return Err(denied("SignatureDoesNotMatch"));
    }
    match payload.as_str() {
        "UNSIGNED-PAYLOAD" => Ok(()),
        hash if hash == sha256_hex(body) => Ok(()),
        hash if hash.starts_with("STREAMING-") => Err(Refusal::new(501, "NotImplemented")),
        _ => Err(Refusal::new(400, "XAmzContentSHA256Mismatch")),
    }
}
