//! The sprite resource (contract, http-api 3).

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// Body of `POST /v1/sprites`. Unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateSprite {
    /// The new sprite's name.
    pub name: String,
    /// Sizes wanted.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub config: Option<Config>,
    /// Environment of every command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<BTreeMap<String, String>>,
    /// Who may open the URL.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub url_settings: Option<UrlSettings>,
    /// Kept exactly, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Queue until there is room instead of failing with 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_for_capacity: Option<bool>,
    /// `default` or `dev`; treated alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
}

/// Reads an object or `null`. Derived code alone takes a list of values for an object too.
fn object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let object = Option::<serde_json::Map<String, serde_json::Value>>::deserialize(deserializer)?;
    let parse = |object| serde_json::from_value(serde_json::Value::Object(object));
    object.map(parse).transpose().map_err(serde::de::Error::custom)
}

/// Sizes of a sprite. Any field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Memory limit in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram_mb: Option<i64>,
    /// CPU limit in cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<i64>,
    /// Disk size in GB; accepted, and 100 whatever it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_gb: Option<i64>,
    /// Accepted and echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// Who may open a sprite's URL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UrlSettings {
    /// `sprite` (default) or `public`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// `admins` or `org_users`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_access: Option<String>,
}

/// Body of `PUT /v1/sprites/{name}`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateSprite {
    /// Each field on its own; an empty text leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub url_settings: Option<UrlSettings>,
    /// Replaces the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Empties the list (the Go SDK cannot send an empty one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear_labels: Option<bool>,
}

/// A sprite as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sprite {
    /// `sprite-<uuid>`.
    pub id: String,
    /// Name within the org.
    pub name: String,
    /// `cold`, `warm` or `running`.
    pub status: String,
    /// Version of the in-sprite runtime.
    pub version: Option<String>,
    /// Always null for now.
    pub environment_version: Option<String>,
    /// Full URL.
    pub url: String,
    /// Who may open it.
    pub url_settings: UrlSettings,
    /// Org slug.
    pub organization: String,
    /// The same; some clients read this one.
    pub org_slug: String,
    /// Never null.
    pub labels: Vec<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// RFC 3339.
    pub last_running_at: Option<String>,
    /// RFC 3339.
    pub last_warming_at: Option<String>,
    /// As created.
    #[serde(default)]
    pub config: Option<Config>,
    /// As created.
    #[serde(default)]
    pub environment: Option<BTreeMap<String, String>>,
}

/// Counts of an org.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgCounts {
    /// Org slug.
    pub name: String,
    /// Sprites that run.
    pub running: i64,
    /// Sprites frozen in memory.
    pub warm: i64,
    /// Sprites on disk only.
    pub cold: i64,
    /// How many may run at once.
    pub running_limit: i64,
    /// How many may be warm at once.
    pub warm_limit: i64,
}

/// Answer of `GET /v1/sprites`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpriteList {
    /// Copied to the top level for the JavaScript and Python SDKs.
    #[serde(flatten)]
    pub counts: OrgCounts,
    /// For the Go SDK.
    pub org: OrgCounts,
    /// Sorted by name.
    pub sprites: Vec<Sprite>,
    /// Never true with a null token.
    pub has_more: bool,
    /// Opaque.
    pub next_continuation_token: Option<String>,
}

/// One line of the watch form of `GET /v1/sprites`: a sprite that is or has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchLine {
    /// Name.
    pub name: String,
    /// `cold`, `warm` or `running`; `destroyed` once it is gone.
    pub status: String,
    /// Version of the in-sprite runtime, while it runs.
    pub running_version: Option<String>,
    /// RFC 3339.
    pub last_running_at: Option<String>,
    /// RFC 3339.
    pub last_warming_at: Option<String>,
    /// RFC 3339; when the line was written.
    pub timestamp: String,
    /// Counts after the change.
    pub org: OrgCounts,
}

/// Line of a watch when nothing else was written for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Always `heartbeat`.
    #[serde(rename = "type")]
    pub kind: String,
    /// RFC 3339.
    pub timestamp: String,
    /// Counts now.
    pub org: OrgCounts,
}

/// Answer of `POST …/upgrade`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// Name.
    pub name: String,
    /// Always `upgraded`.
    pub status: String,
}

/// Answer of `GET /v1/organization`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrganizationAnswer {
    /// The token's org.
    pub organization: Organization,
}

/// An org as its members see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization {
    /// Name.
    pub slug: String,
    /// Always true.
    pub sprites_enabled: bool,
    /// Names of the sprites that run.
    pub active_sprites: Vec<String>,
    /// How many sprites there may be.
    pub max_sprites: i64,
    /// How many may run at once.
    pub active_sprite_limit: i64,
}

/// Body of `POST /v1/organizations/{org}/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateToken {
    /// What the token is for.
    #[serde(default)]
    pub description: Option<String>,
}

/// Answer of `POST /v1/organizations/{org}/tokens`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedToken {
    /// The whole token; shown once.
    pub token: String,
}

/// Answer of `GET …/check`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Name.
    pub sprite_name: String,
    /// Id.
    pub sprite_id: String,
    /// `healthy`, `hibernated`, `unhealthy` or `error`.
    pub status: String,
    /// Why it is not healthy.
    pub reason: Option<String>,
    /// RFC 3339.
    pub checked_at: String,
    /// Milliseconds the check took.
    pub elapsed: Option<f64>,
}

/// Answer of `POST …/restart`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    /// Name.
    pub sprite_name: String,
    /// The new machine.
    pub machine_id: String,
    /// Text for people.
    pub message: String,
}
