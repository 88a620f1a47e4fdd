//! `/v1/fs/…`: the public contract's filesystem calls (http-api 10).

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::de::DeserializeOwned;
use sprite_api::format::parse_mode;
use sprite_api::fs::{
    ChmodRequest, ChownRequest, CopyRequest, DeleteRequest, NumberOrText, RenameRequest,
};
use sprite_api::query::Query;
use sprite_files::{ByteRange, Call, FsError, Head, Operation, Owner, Request, resolve};

use crate::answer::{json, read_body};
use crate::guest::Guest;

const BODY_MAX: usize = 1024 * 1024;
const PATTERN_MAX: usize = 4096;

/// A failed filesystem call on its way out.
pub(crate) struct Refusal(FsError);

impl From<FsError> for Refusal {
    fn from(error: FsError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status);
        json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &self.0.body())
    }
}

fn invalid(path: &str, why: impl AsRef<str>) -> Refusal {
    Refusal(FsError::invalid(path, why.as_ref()))
}

/// The query of a call that names its path there.
struct Target {
    query: Query,
    given: String,
    path: String,
}

impl Target {
    fn parse(raw: RawQuery) -> Result<Self, Refusal> {
        let query = Query::parse(raw.0.as_deref().unwrap_or_default());
        let given = query.get("path").unwrap_or_default().to_owned();
        let path = resolve(query.get("workingDir"), &given)?;
        Ok(Self { query, given, path })
    }

    fn bool(&self, key: &str) -> Result<bool, Refusal> {
        let value = self.query.bool(key).map_err(|why| invalid(&self.given, why))?;
        Ok(value.unwrap_or(false))
    }

    fn number(&self, key: &str) -> Result<Option<u64>, Refusal> {
        self.query.number(key).map_err(|why| invalid(&self.given, why))
    }
}

pub(crate) async fn read(
    State(guest): State<Guest>,
    raw: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let target = Target::parse(raw)?;
    let asked = match (target.number("start")?, target.number("end")?) {
        (None, None) => None,
        (start, end) => Some(ByteRange::StartEnd { start: start.unwrap_or(0), end }),
    };
    let header = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let range = asked.or_else(|| header.and_then(ByteRange::parse_header));
    let as_root = target.bool("asRoot")?;
    let operation = Operation::Read { path: target.path, range };
    run(&guest, operation, as_root, &target.given).await
}

pub(crate) async fn write(
    State(guest): State<Guest>,
    raw: RawQuery,
    mut body: Body,
) -> Result<Response, Refusal> {
    let target = Target::parse(raw)?;
    let mode = match target.query.get("mode").filter(|text| !text.is_empty()) {
        None => 0o644,
        Some(text) => {
            parse_mode(text).ok_or_else(|| invalid(&target.given, "mode must be octal digits"))?
        }
    };
    let parents = target.bool("mkdirParents")? || target.bool("mkdir")?;
    let as_root = target.bool("asRoot")?;
    let operation = Operation::Write { path: target.path, mode, parents };
    let request = Request { operation, as_root };
    let named = |error| Refusal(name_path(error, &target.given));
    let mut call = guest.files().start(&request).await.map_err(named)?;
    let mut sender = call.take_sender().expect("a new call has its sender");
    loop {
        let data = match body.frame().await {
            None => {
                // If the helper has ended its answer says why, below.
                let _ = sender.finish().await;
                break;
            }
            // The end is missing: dropping the call leaves nothing behind.
            Some(Err(_)) => return Err(invalid(&target.given, "the body broke off")),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        if sender.send(data).await.is_err() {
            break;
        }
    }
    answer(call, &target.given).await
}

pub(crate) async fn list(State(guest): State<Guest>, raw: RawQuery) -> Result<Response, Refusal> {
    let target = Target::parse(raw)?;
    let recursive = target.bool("recursive")?;
    let as_root = target.bool("asRoot")?;
    let pattern = target.query.get("pattern").filter(|text| !text.is_empty());
    if pattern.is_some_and(|pattern| pattern.len() > PATTERN_MAX) {
        return Err(invalid(&target.given, "pattern is too long"));
    }
    let pattern = pattern.map(str::to_owned);
    let operation = Operation::List { path: target.path, recursive, pattern };
    run(&guest, operation, as_root, &target.given).await
}

pub(crate) async fn delete(
    State(guest): State<Guest>,
    RawQuery(raw): RawQuery,
    body: Body,
) -> Result<Response, Refusal> {
    let query = Query::parse(raw.as_deref().unwrap_or_default());
    // A client that says it all in the query may send anything as a body.
    let body = match parse_optional::<DeleteRequest>(body).await {
        Err(_) if query.get("path").is_some() => DeleteRequest::default(),
        body => body?,
    };
    let text = |key: &str| query.get(key).map(str::to_owned);
    let given = text("path").or(body.path).unwrap_or_default();
    let working_dir = text("workingDir").or(body.working_dir);
    let flag = |key: &str, other: Option<bool>| {
        let value = query.bool(key).map_err(|why| invalid(&given, why))?;
        Ok::<_, Refusal>(value.or(other).unwrap_or(false))
    };
    let recursive = flag("recursive", body.recursive)?;
    let as_root = flag("asRoot", body.as_root)?;
    let path = resolve(working_dir.as_deref(), &given)?;
    run(&guest, Operation::Delete { path, recursive }, as_root, &given).await
}

pub(crate) async fn rename(State(guest): State<Guest>, body: Body) -> Result<Response, Refusal> {
    let request: RenameRequest = parse(body).await?;
    let source = resolve(request.working_dir.as_deref(), &request.source)?;
    let dest = resolve(request.working_dir.as_deref(), &request.dest)?;
    run(&guest, Operation::Rename { source, dest }, request.as_root, &request.source).await
}

pub(crate) async fn copy(State(guest): State<Guest>, body: Body) -> Result<Response, Refusal> {
    let request: CopyRequest = parse(body).await?;
    let source = resolve(request.working_dir.as_deref(), &request.source)?;
    let dest = resolve(request.working_dir.as_deref(), &request.dest)?;
    let (recursive, preserve) = (request.recursive, request.preserve_attrs);
    let operation = Operation::Copy { source, dest, recursive, preserve };
    run(&guest, operation, request.as_root, &request.source).await
}

pub(crate) async fn chmod(State(guest): State<Guest>, body: Body) -> Result<Response, Refusal> {
    let request: ChmodRequest = parse(body).await?;
    let path = resolve(request.working_dir.as_deref(), &request.path)?;
    let mode = match &request.mode {
        Some(NumberOrText::Text(text)) => parse_mode(text),
        Some(NumberOrText::Number(number)) => {
            u32::try_from(*number).ok().filter(|mode| *mode <= 0o7777)
        }
        None => return Err(invalid(&request.path, "mode is required")),
    };
    let mode = mode.ok_or_else(|| invalid(&request.path, "mode must be octal digits"))?;
    let operation = Operation::Chmod { path, mode, recursive: request.recursive };
    run(&guest, operation, request.as_root, &request.path).await
}

pub(crate) async fn chown(State(guest): State<Guest>, body: Body) -> Result<Response, Refusal> {
    let request: ChownRequest = parse(body).await?;
    let path = resolve(request.working_dir.as_deref(), &request.path)?;
    let uid = owner(request.uid, &request.path)?;
    let gid = owner(request.gid, &request.path)?;
    let operation = Operation::Chown { path, uid, gid, recursive: request.recursive };
    run(&guest, operation, request.as_root, &request.path).await
}

/// Reads a user or group. -1 and an empty text leave it as it is, as `chown(2)` has it.
fn owner(value: Option<NumberOrText>, path: &str) -> Result<Option<Owner>, Refusal> {
    let number = |number: i64| match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(Some(Owner::Id(id))),
        _ if number == -1 => Ok(None),
        _ => Err(invalid(path, "owner is out of range")),
    };
    match value {
        None => Ok(None),
        Some(NumberOrText::Number(value)) => number(value),
        Some(NumberOrText::Text(text)) if text.is_empty() => Ok(None),
        Some(NumberOrText::Text(text)) => match text.parse::<i64>() {
            Ok(value) => number(value),
            Err(_) => Ok(Some(Owner::Name(text))),
        },
    }
}

async fn parse<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let body = whole(body).await?;
    serde_json::from_slice(&body).map_err(|error| invalid("", format!("body: {error}")))
}

async fn parse_optional<T: DeserializeOwned + Default>(body: Body) -> Result<T, Refusal> {
    let body = whole(body).await?;
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&body).map_err(|error| invalid("", format!("body: {error}")))
}

async fn whole(body: Body) -> Result<Bytes, Refusal> {
    read_body(body, BODY_MAX).await.map_err(|failure| invalid("", failure.body.message))
}

async fn run(
    guest: &Guest,
    operation: Operation,
    as_root: bool,
    given: &str,
) -> Result<Response, Refusal> {
    let call = guest.files().start(&Request { operation, as_root }).await;
    answer(call.map_err(|error| name_path(error, given))?, given).await
}

/// Errors of our own do not know what they were about.
fn name_path(mut error: FsError, given: &str) -> FsError {
    if error.path.is_empty() {
        given.clone_into(&mut error.path);
    }
    error
}

async fn answer(mut call: Call, given: &str) -> Result<Response, Refusal> {
    let head = call.head().await.map_err(|error| {
        tracing::warn!(%error, "file call not answered");
        name_path(error, given)
    })?;
    let body = futures::stream::try_unfold(call, |mut call| async move {
        let data = call.data().await?;
        Ok::<_, FsError>(data.map(|data| (Frame::data(data), call)))
    });
    let mut response = Body::new(StreamBody::new(body)).into_response();
    *response.status_mut() =
        StatusCode::from_u16(head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set_headers(response.headers_mut(), &head);
    Ok(response)
}

fn set_headers(headers: &mut HeaderMap, head: &Head) {
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    };
    let kind = if head.json { "application/json" } else { "application/octet-stream" };
    set(header::CONTENT_TYPE, kind);
    if let Some(length) = head.length {
        set(header::CONTENT_LENGTH, &length.to_string());
    }
    match (head.status, head.range) {
        (206, Some((first, last, size))) => {
            set(header::CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
        }
        (416, Some((_, _, size))) => set(header::CONTENT_RANGE, &format!("bytes */{size}")),
        _ => {}
    }
    if !head.json {
        set(header::ACCEPT_RANGES, "bytes");
    }
}
