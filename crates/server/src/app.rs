//! What all handlers share.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use sprite_catalog::{Catalog, Org, Principal};
use sprite_lifecycle::{SpriteError, Sprites};
use sprite_types::{SpriteName, Timestamp};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Failure;
use crate::settings::ServerSettings;

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) settings: ServerSettings,
    pub(crate) catalog: Catalog,
    pub(crate) sprites: Sprites,
    /// Cancelled when the server ends: endless answers and sockets close.
    pub(crate) closing: CancellationToken,
    /// Sockets and connections, which the server waits for.
    pub(crate) tasks: TaskTracker,
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    pub(crate) fn new(settings: ServerSettings, catalog: Catalog, sprites: Sprites) -> Self {
        Self(Arc::new(Inner {
            settings,
            catalog,
            sprites,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }
}

/// The caller's org, of a request that was authenticated.
pub(crate) struct Caller(pub(crate) Org);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let principal = parts.extensions.get::<Principal>();
        principal.map(|principal| Self(principal.org.clone())).ok_or_else(Failure::unauthorized)
    }
}

/// The sprite that the path names, within the caller's org. It may not exist.
pub(crate) struct Named {
    pub(crate) org: Org,
    pub(crate) name: SpriteName,
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Caller(org) = Caller::from_request_parts(parts, state).await?;
        let name = path_param(parts, state, "name").await;
        // What is not a name names nothing.
        let name = name.and_then(|name| name.parse().ok()).ok_or_else(Failure::sprite_not_found)?;
        Ok(Self { org, name })
    }
}

/// The session id in the path.
pub(crate) struct SessionPath(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for SessionPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let id = path_param(parts, state, "id").await;
        id.map(Self).ok_or_else(|| Failure::session_not_found(""))
    }
}

/// Returns a decoded path parameter; `None` also if it is not UTF-8.
pub(crate) async fn path_param<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> Option<String> {
    let params = RawPathParams::from_request_parts(parts, state).await.ok()?;
    params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

impl From<SpriteError> for Failure {
    fn from(error: SpriteError) -> Self {
        let kind = error.kind();
        match error {
            SpriteError::NotFound => Self::sprite_not_found(),
            SpriteError::Exists { .. } => {
                Self::new(kind, "sprite already exists", error.to_string())
            }
            SpriteError::Invalid { message } => Self::invalid(message),
            SpriteError::Limited { limit, current } => {
                Self::new(kind, "concurrent_sprite_limit_exceeded", error.to_string())
                    .limited(limit, current)
            }
            SpriteError::NoSpace => Self::new(kind, "no_space", error.to_string()).retry_after(60),
            SpriteError::Unavailable { message, retry_after_s } => {
                Self::unavailable(message).retry_after(u64::from(retry_after_s))
            }
            SpriteError::Internal { message } => Self::new(kind, "internal error", message),
        }
    }
}

impl From<sprite_api::session::ParamError> for Failure {
    fn from(error: sprite_api::session::ParamError) -> Self {
        Self::invalid(error.0)
    }
}
