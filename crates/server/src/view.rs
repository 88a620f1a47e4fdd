//! Sprites as clients see them.

use sprite_api::sprite::{Config, OrgCounts, Sprite, UrlSettings, WatchLine};
use sprite_catalog::{ConfigRecord, Org};
use sprite_lifecycle::{Counts, SpriteView};
use sprite_types::{RUNTIME_VERSION, Timestamp};

/// Writes a sprite as the contract's object.
pub(crate) fn sprite(org: &Org, view: SpriteView) -> Sprite {
    let status = view.status().to_owned();
    let record = view.record;
    Sprite {
        id: record.id.to_string(),
        name: record.name.to_string(),
        status,
        version: Some(RUNTIME_VERSION.to_owned()),
        environment_version: None,
        url: view.url,
        url_settings: UrlSettings {
            auth: Some(record.url_auth.as_str().to_owned()),
            private_access: record.private_access,
        },
        organization: org.slug.to_string(),
        org_slug: org.slug.to_string(),
        labels: record.labels,
        created_at: record.created_at.rfc3339(),
        updated_at: record.updated_at.rfc3339(),
        last_running_at: record.last_running_at.map(Timestamp::rfc3339),
        last_warming_at: record.last_warming_at.map(Timestamp::rfc3339),
        config: config(record.config),
        environment: Some(record.environment).filter(|environment| !environment.is_empty()),
    }
}

fn config(record: ConfigRecord) -> Option<Config> {
    let ConfigRecord { ram_mb, cpus, storage_gb, region } = record;
    let config = Config { ram_mb, cpus, storage_gb, region };
    (config != Config::default()).then_some(config)
}

/// Writes an org's numbers.
pub(crate) fn counts(org: &Org, counts: Counts) -> OrgCounts {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    OrgCounts {
        name: org.slug.to_string(),
        running: number(counts.running),
        warm: number(counts.warm),
        cold: number(counts.cold),
        running_limit: number(counts.running_limit),
        // Warm sprites are those about to run; they count against the same limit.
        warm_limit: number(counts.running_limit),
    }
}

/// Writes a sprite as a line of a watch.
pub(crate) fn watch_line(view: &SpriteView, now: Timestamp, org: OrgCounts) -> WatchLine {
    let status = view.status();
    WatchLine {
        name: view.record.name.to_string(),
        status: status.to_owned(),
        running_version: (status != "cold").then(|| RUNTIME_VERSION.to_owned()),
        last_running_at: view.record.last_running_at.map(Timestamp::rfc3339),
        last_warming_at: view.record.last_warming_at.map(Timestamp::rfc3339),
        timestamp: now.rfc3339(),
        org,
    }
}
