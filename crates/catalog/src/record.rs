//! The records, as the rest of the host sees them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sprite_types::{
    HostId, ImageId, OrgId, OrgSlug, SpriteId, SpriteName, Timestamp, TokenId, VolumeId,
};

/// An org.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Org {
    /// What records refer to.
    pub id: OrgId,
    /// What people call it; unique on the host.
    pub slug: OrgSlug,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An org whose records cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenOrg {
    /// Its id, from the folder's name.
    pub id: OrgId,
    /// Its slug, if the file beside the database still tells. The name stays taken.
    pub slug: Option<OrgSlug>,
    /// The database.
    pub path: PathBuf,
    /// What is wrong, for a person.
    pub reason: String,
}

/// An API token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// The third part of the token's text.
    pub id: TokenId,
    /// Whose sprites it opens.
    pub org: OrgId,
    /// What its maker called it.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Who may open a sprite's URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UrlAuth {
    /// Holders of a token of the org.
    #[default]
    Sprite,
    /// Everybody.
    Public,
}

impl UrlAuth {
    /// Returns the public API's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sprite => "sprite",
            Self::Public => "public",
        }
    }

    /// Reads the public API's word; `None` if it is another.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "sprite" => Some(Self::Sprite),
            "public" => Some(Self::Public),
            _ => None,
        }
    }
}

/// Sizes as they were asked for; each may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigRecord {
    /// Memory limit in MiB.
    pub ram_mb: Option<i64>,
    /// CPU limit in cores.
    pub cpus: Option<i64>,
    /// Disk size in GB, echoed only.
    pub storage_gb: Option<i64>,
    /// Region, echoed only.
    pub region: Option<String>,
}

/// What is known of a sprite before it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSprite {
    /// Its id.
    pub id: SpriteId,
    /// Its name, free among the org's live sprites.
    pub name: SpriteName,
    /// Its root disk.
    pub volume_id: VolumeId,
    /// What the disk is a copy of.
    pub image: ImageId,
    /// Kept exactly, in order.
    pub labels: Vec<String>,
    /// Environment of every command.
    pub environment: BTreeMap<String, String>,
    /// Sizes.
    pub config: ConfigRecord,
    /// `default` or `dev`, echoed only.
    pub runtime: Option<String>,
    /// Whether to queue for capacity.
    pub wait_for_capacity: bool,
    /// Who may open the URL.
    pub url_auth: UrlAuth,
    /// `admins` or `org_users`.
    pub private_access: Option<String>,
}

/// A sprite's durable record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpriteRecord {
    /// Its id.
    pub id: SpriteId,
    /// Its owner.
    pub org: OrgId,
    /// Its name, unique among the org's live sprites.
    pub name: SpriteName,
    /// Its root disk.
    pub volume_id: VolumeId,
    /// What the disk is a copy of.
    pub image: ImageId,
    /// Kept exactly, in order.
    pub labels: Vec<String>,
    /// Environment of every command.
    pub environment: BTreeMap<String, String>,
    /// Sizes.
    pub config: ConfigRecord,
    /// `default` or `dev`, echoed only.
    pub runtime: Option<String>,
    /// Whether to queue for capacity.
    pub wait_for_capacity: bool,
    /// Who may open the URL.
    pub url_auth: UrlAuth,
    /// `admins` or `org_users`.
    pub private_access: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When a person last changed it.
    pub updated_at: Timestamp,
    /// When it last reached `running`.
    pub last_running_at: Option<Timestamp>,
    /// When it last reached `warm`.
    pub last_warming_at: Option<Timestamp>,
    /// Where it lives.
    pub host: HostId,
    /// Raised whenever the right to write its volume is granted anew.
    pub generation: u64,
}

/// A change to a sprite: what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpritePatch {
    /// See [`SpriteRecord::url_auth`].
    pub url_auth: Option<UrlAuth>,
    /// See [`SpriteRecord::private_access`].
    pub private_access: Option<String>,
    /// Replaces the list.
    pub labels: Option<Vec<String>>,
    /// Replaces the map.
    pub environment: Option<BTreeMap<String, String>>,
    /// See [`SpriteRecord::last_running_at`].
    pub last_running_at: Option<Timestamp>,
    /// See [`SpriteRecord::last_warming_at`].
    pub last_warming_at: Option<Timestamp>,
    /// See [`SpriteRecord::generation`].
    pub generation: Option<u64>,
}

impl SpritePatch {
    /// Says whether a person asked for this, so that `updated_at` moves.
    #[must_use]
    pub fn is_users(&self) -> bool {
        self.url_auth.is_some()
            || self.private_access.is_some()
            || self.labels.is_some()
            || self.environment.is_some()
    }
}
