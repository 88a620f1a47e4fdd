//! `…/exec`: sockets that start a command or attach to one, and the posted form.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::IntoResponse as _;
use http::header::{HeaderName, USER_AGENT};
use http::{HeaderMap, HeaderValue, Response};
use hyper_util::rt::TokioIo;
use sprite_api::session::{ExecRequest, ExecTarget, TerminalSize};
use sprite_link::guest::SessionCreated;
use sprite_linkmux::LinkError;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::sessions;
use crate::answer::Failure;
use crate::app::{App, Named, SessionPath};
use crate::connection::FullQuery;
use crate::exec::attachment::Attachment;
use crate::exec::handshake::{Handshake, is_upgrade};
use crate::exec::machine::{
    CallError, Machine, StartError, Started, Starting, session_create, unguessable,
};
use crate::exec::post::{self, Reader};
use crate::exec::socket::{self, Kind};
use crate::exec::stream::ConnectError;

const CAPABILITIES: HeaderName = HeaderName::from_static("x-sprite-capabilities");
/// How long an attach may take to find its session.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the client may take to receive the 101.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);
/// Machines tried for one command, if they end before it was started.
const MACHINES_MAX: usize = 3;
/// Parameters that mean a command was meant, so that a list would be a wrong answer.
const COMMAND_KEYS: [&str; 5] = ["cmd", "cmd[]", "path", "id", "session_id"];
/// How our client's `User-Agent` begins.
const OUR_CLIENT: &str = "sprite-client/";
/// Parameters of sockets that the posted form does not have.
const SOCKET_KEYS: [&str; 5] = ["tty", "id", "session_id", "detachable", "cc"];

/// `GET …/exec`: a socket, or the list of sessions.
pub(crate) async fn get(
    State(app): State<App>,
    named: Named,
    query: FullQuery,
    request: Request,
) -> Result<Response<Body>, Failure> {
    if !is_upgrade(request.headers()) {
        if COMMAND_KEYS.iter().any(|key| query.get(key).is_some()) {
            return Err(Failure::invalid("a command needs a WebSocket here, or POST"));
        }
        return Ok(sessions::list(&app, &named).await?.into_response());
    }
    app.sprites.get(&named.org.id, &named.name).await?;
    let mut parts = request.into_parts().0;
    let handshake = Handshake::check(&mut parts)?;
    match ExecTarget::from_query(&query)? {
        ExecTarget::Start(request) => {
            let kind = Kind { tty: Some(request.tty), stdin: request.stdin };
            let attachment = Attachment::start(start(&app, named, request.clone()), request.size);
            Ok(switch(app, handshake, attachment, kind))
        }
        ExecTarget::Attach { session_id, size } => {
            attach(app, named, handshake, &session_id, size).await
        }
    }
}

/// `GET …/exec/{id}`: a socket, or the session's description.
pub(crate) async fn get_session(
    State(app): State<App>,
    named: Named,
    SessionPath(id): SessionPath,
    query: FullQuery,
    request: Request,
) -> Result<Response<Body>, Failure> {
    if !is_upgrade(request.headers()) {
        return Ok(sessions::get(&app, &named, &id).await?.into_response());
    }
    app.sprites.get(&named.org.id, &named.name).await?;
    let mut parts = request.into_parts().0;
    let handshake = Handshake::check(&mut parts)?;
    // Old clients send whatever they know; a size that makes no sense is no reason to fail.
    let size = TerminalSize::from_query(&query).unwrap_or_default();
    attach(app, named, handshake, &id, size).await
}

/// `POST …/exec`.
pub(crate) async fn post(
    State(app): State<App>,
    named: Named,
    query: FullQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Failure> {
    app.sprites.get(&named.org.id, &named.name).await?;
    if let Some(key) = SOCKET_KEYS.iter().find(|key| query.get(key).is_some()) {
        return Err(Failure::invalid(format!("`{key}` needs a WebSocket")));
    }
    let request = ExecRequest::from_query(&query)?;
    // Until the answer has begun a missing machine can still be told by status.
    app.sprites.guest(&named.org.id, &named.name).await?;
    let input = request.stdin.then_some(body);
    let attachment = Attachment::start(start(&app, named, request), TerminalSize::default());
    Ok(post::respond(attachment, input, reader(&headers)))
}

/// Our own client minds the chunks; about others nothing is known.
fn reader(headers: &HeaderMap) -> Reader {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    if agent.starts_with(OUR_CLIENT) { Reader::ByChunk } else { Reader::ByArrival }
}

/// Follows a session that runs. That it does not exist is told by the handshake's status.
async fn attach(
    app: App,
    named: Named,
    handshake: Handshake,
    id: &str,
    size: TerminalSize,
) -> Result<Response<Body>, Failure> {
    let missing = || Failure::session_not_found(id);
    let session_id = id.parse().map_err(|_| missing())?;
    let attach = async {
        let guest = app.sprites.guest(&named.org.id, &named.name).await?;
        let session = Started { machine: Machine { link: guest.link }, session_id };
        Attachment::attach(session, size).await.map_err(|error| match error {
            ConnectError::NotFound | ConnectError::Gone => missing(),
            ConnectError::Refused(failure) => failure,
        })
    };
    let attachment = timeout(ATTACH_TIMEOUT, attach)
        .await
        .map_err(|_| Failure::unavailable("the sprite's machine does not answer"))??;
    Ok(switch(app, handshake, attachment, Kind { tty: None, stdin: true }))
}

/// Answers 101 at once; everything else happens behind it.
fn switch(app: App, handshake: Handshake, attachment: Attachment, kind: Kind) -> Response<Body> {
    let (mut response, on_upgrade) = handshake.grant();
    response.headers_mut().insert(CAPABILITIES, HeaderValue::from_static("signal"));
    let closing = app.closing.clone();
    let serve = async move {
        match timeout(UPGRADE_TIMEOUT, on_upgrade).await {
            Ok(Ok(io)) => {
                let socket = socket::accept(TokioIo::new(io)).await;
                socket::serve(socket, attachment, kind, closing).await;
            }
            // The client left before it had its answer, so it never asked for anything.
            Ok(Err(_)) | Err(_) => tracing::debug!("client left during the handshake"),
        }
    };
    app.tasks.spawn(serve.in_current_span());
    response
}

/// Wakes the sprite and starts a command.
fn start(app: &App, named: Named, request: ExecRequest) -> Starting {
    let app = app.clone();
    Box::pin(async move {
        let create = session_create(request, unguessable());
        for _ in 0..MACHINES_MAX {
            let guest = app.sprites.guest(&named.org.id, &named.name).await;
            let guest = guest.map_err(|error| StartError::Refused(error.into()))?;
            let machine = Machine { link: guest.link };
            match machine.create_session(&create).await {
                Ok(SessionCreated::Started { session }) => {
                    return Ok(Started { machine, session_id: session.session_id });
                }
                Ok(SessionCreated::Failed { exit_code, message }) => {
                    return Err(StartError::Failed { exit_code, message });
                }
                // It ended before it heard of the command; the next one may.
                Err(CallError::Link(LinkError::Closed)) => {}
                Err(error) => return Err(StartError::Refused(error.into())),
            }
        }
        Err(StartError::Refused(Failure::unavailable("the sprite's machine keeps ending")))
    })
}
