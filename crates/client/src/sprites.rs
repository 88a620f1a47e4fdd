//! Sprites: create, get, list, update, delete, check, restart, watch.

use std::time::Duration;

use http::{HeaderValue, Method, header};
use serde::{Deserialize, Serialize};
use sprite_api::sprite::{
    Check, CreateSprite, OrgCounts, Restarted, Sprite, SpriteList, UpdateSprite,
};

use crate::client::Call;
use crate::target::Target;
use crate::{Client, Error, JsonLines, SpriteClient};

/// A create may wait for an image or for capacity.
const CREATE_TIMEOUT: Duration = Duration::from_secs(120);
/// Sprites per page.
const PAGE: &str = "100";

/// One line of a watch: a sprite as it is now, or a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEvent {
    /// `heartbeat`, or absent on lines about a sprite.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The sprite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// Counts of the org.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgCounts>,
}

impl Client {
    /// Creates a sprite.
    ///
    /// # Errors
    /// As every call; status 409 if the name is taken.
    pub async fn create_sprite(&self, body: &CreateSprite) -> Result<Sprite, Error> {
        let what = format!("create sprite `{}`", body.name);
        let call = Call::new(what, Method::POST, Target::new("/v1/sprites")).json(body);
        self.call_json(call.timeout(CREATE_TIMEOUT)).await
    }

    /// Returns one page of sprites.
    ///
    /// # Errors
    /// As every call.
    pub async fn sprites_page(
        &self,
        prefix: Option<&str>,
        max_results: u32,
        continuation_token: Option<&str>,
    ) -> Result<SpriteList, Error> {
        let target = Target::new("/v1/sprites")
            .query("max_results", &max_results.to_string())
            .query_opt("prefix", prefix)
            .query_opt("continuation_token", continuation_token);
        self.call_json(Call::new("list sprites", Method::GET, target)).await
    }

    /// Returns all sprites whose names begin with `prefix`, sorted by name.
    ///
    /// # Errors
    /// As every call.
    pub async fn sprites(&self, prefix: Option<&str>) -> Result<Vec<Sprite>, Error> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.sprites_page(prefix, 100, after.as_deref()).await?;
            let next = page.next_continuation_token.filter(|token| !token.is_empty());
            let done = !page.has_more || page.sprites.is_empty() || next == after;
            all.extend(page.sprites);
            if done || next.is_none() {
                return Ok(all);
            }
            after = next;
        }
    }

    /// Follows the sprites whose names begin with `prefix`: one event for each now, one for
    /// each change, and heartbeats.
    ///
    /// # Errors
    /// As every call.
    pub async fn watch_sprites(
        &self,
        prefix: Option<&str>,
    ) -> Result<JsonLines<WatchEvent>, Error> {
        let target =
            Target::new("/v1/sprites").query("max_results", PAGE).query_opt("prefix", prefix);
        let what = "watch sprites";
        let call = Call::new(what, Method::GET, target)
            .header(header::ACCEPT, HeaderValue::from_static("application/x-ndjson"));
        let answer = self.call(call).await?;
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("application/x-ndjson")) {
            return Err(Error::protocol(what, "the server does not stream changes"));
        }
        Ok(JsonLines::new(what, answer.into_body()))
    }
}

impl SpriteClient {
    /// Returns the sprite.
    ///
    /// # Errors
    /// As every call; status 404 if there is none.
    pub async fn get(&self) -> Result<Sprite, Error> {
        let what = format!("get sprite `{}`", self.name);
        self.client.call_json(Call::new(what, Method::GET, self.target())).await
    }

    /// Changes the sprite and returns it.
    ///
    /// # Errors
    /// As every call.
    pub async fn update(&self, body: &UpdateSprite) -> Result<Sprite, Error> {
        let what = format!("update sprite `{}`", self.name);
        self.client.call_json(Call::new(what, Method::PUT, self.target()).json(body)).await
    }

    /// Destroys the sprite and everything on its disk.
    ///
    /// # Errors
    /// As every call.
    pub async fn destroy(&self) -> Result<(), Error> {
        let what = format!("destroy sprite `{}`", self.name);
        self.client.call_empty(Call::new(what, Method::DELETE, self.target())).await
    }

    /// Returns the sprite's health. Does not wake it.
    ///
    /// # Errors
    /// As every call.
    pub async fn check(&self) -> Result<Check, Error> {
        let what = format!("check sprite `{}`", self.name);
        self.client.call_json(Call::new(what, Method::GET, self.target().segment("check"))).await
    }

    /// Starts the sprite anew; all its processes end.
    ///
    /// # Errors
    /// As every call.
    pub async fn restart(&self) -> Result<Restarted, Error> {
        let what = format!("restart sprite `{}`", self.name);
        let call = Call::new(what, Method::POST, self.target().segment("restart"));
        self.client.call_json(call.timeout(CREATE_TIMEOUT)).await
    }

    /// Calls a route that this version of the server may not have yet, to pass its answer on.
    ///
    /// # Errors
    /// As every call.
    pub async fn call_raw(
        &self,
        what: &str,
        method: &str,
        segments: &[&str],
        body: Option<&serde_json::Value>,
    ) -> Result<Vec<u8>, Error> {
        use http_body_util::BodyExt;
        let method: Method = method.parse().map_err(|error| Error::transport(what, error))?;
        let target = segments.iter().fold(self.target(), |target, part| target.segment(part));
        let mut call = Call::new(what, method, target);
        if let Some(body) = body {
            call = call.json(body);
        }
        let answer = self.client.call(call).await?;
        let body = http_body_util::Limited::new(answer.into_body(), 4 * 1024 * 1024);
        let body = body.collect().await.map_err(|error| Error::transport(what, error))?;
        Ok(body.to_bytes().to_vec())
    }
}
