//! Sprite rows.

use std::collections::BTreeMap;
use std::str::FromStr;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde::de::DeserializeOwned;
use sprite_types::{OrgId, SpriteId, SpriteName, Timestamp};

use crate::error::CatalogError;
use crate::format::{StoredConfig, to_json};
use crate::record::{ConfigRecord, SpritePatch, SpriteRecord, UrlAuth};

const COLUMNS: &str = "id, name, volume_id, image, labels, environment, config, runtime, \
     wait_for_capacity, url_auth, private_access, created_at, updated_at, last_running_at, \
     last_warming_at, host, generation";

/// Inserts a live sprite.
pub(crate) fn insert(connection: &Connection, sprite: &SpriteRecord) -> Result<(), CatalogError> {
    let exists = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => {
            CatalogError::Exists { what: "sprite", name: sprite.name.to_string() }
        }
        _ => CatalogError::database(&sprite.org, source),
    };
    let sql = format!(
        "INSERT INTO sprite ({COLUMNS}) VALUES (:id, :name, :volume_id, :image, :labels, \
         :environment, :config, :runtime, :wait_for_capacity, :url_auth, :private_access, \
         :created_at, :updated_at, :last_running_at, :last_warming_at, :host, :generation)"
    );
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            statement.execute(named_params! {
                ":id": sprite.id.as_str(),
                ":name": sprite.name.as_str(),
                ":volume_id": sprite.volume_id.as_str(),
                ":image": sprite.image.as_str(),
                ":labels": to_json(&sprite.labels),
                ":environment": to_json(&sprite.environment),
                ":config": to_json(&StoredConfig::from(&sprite.config)),
                ":runtime": sprite.runtime,
                ":wait_for_capacity": sprite.wait_for_capacity,
                ":url_auth": sprite.url_auth.as_str(),
                ":private_access": sprite.private_access,
                ":created_at": sprite.created_at.as_micros(),
                ":updated_at": sprite.updated_at.as_micros(),
                ":last_running_at": sprite.last_running_at.map(Timestamp::as_micros),
                ":last_warming_at": sprite.last_warming_at.map(Timestamp::as_micros),
                ":host": sprite.host.as_str(),
                ":generation": sprite.generation,
            })
        })
        .map_err(exists)?;
    Ok(())
}

/// Finds a live sprite by name.
pub(crate) fn by_name(
    connection: &Connection,
    org: &OrgId,
    name: &SpriteName,
) -> rusqlite::Result<Option<SpriteRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM sprite WHERE name = ?1 AND destroyed_at IS NULL");
    connection.prepare_cached(&sql)?.query_row([name.as_str()], |row| from_row(row, org)).optional()
}

/// Finds a live sprite by id.
pub(crate) fn by_id(
    connection: &Connection,
    org: &OrgId,
    id: &SpriteId,
) -> rusqlite::Result<Option<SpriteRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM sprite WHERE id = ?1 AND destroyed_at IS NULL");
    connection.prepare_cached(&sql)?.query_row([id.as_str()], |row| from_row(row, org)).optional()
}

/// Lists live sprites by name, after `after`, whose name begins with `prefix`.
pub(crate) fn page(
    connection: &Connection,
    org: &OrgId,
    prefix: &str,
    after: Option<&SpriteName>,
    limit: usize,
) -> rusqlite::Result<Vec<SpriteRecord>> {
    // Names are ASCII, so DEL sorts after everything that continues the prefix.
    let sql = format!(
        "SELECT {COLUMNS} FROM sprite WHERE destroyed_at IS NULL AND name > :after \
         AND name >= :prefix AND name < :prefix || char(127) ORDER BY name LIMIT :limit"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(
        named_params! {
            ":after": after.map_or("", SpriteName::as_str),
            ":prefix": prefix,
            ":limit": i64::try_from(limit).unwrap_or(i64::MAX),
        },
        |row| from_row(row, org),
    )?;
    rows.collect()
}

/// Lists tombstones, oldest first.
pub(crate) fn destroying(
    connection: &Connection,
    org: &OrgId,
) -> rusqlite::Result<Vec<SpriteRecord>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM sprite WHERE destroyed_at IS NOT NULL ORDER BY destroyed_at, id"
    );
    connection.prepare_cached(&sql)?.query_map([], |row| from_row(row, org))?.collect()
}

/// Counts live sprites.
pub(crate) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM sprite WHERE destroyed_at IS NULL")?
        .query_row([], |row| row.get(0))
}

/// Applies a patch to a live sprite; `None` if there is none.
pub(crate) fn update(
    connection: &Connection,
    org: &OrgId,
    id: &SpriteId,
    patch: &SpritePatch,
    now: Timestamp,
) -> rusqlite::Result<Option<SpriteRecord>> {
    connection
        .prepare_cached(
            "UPDATE sprite SET \
             url_auth = coalesce(:url_auth, url_auth), \
             private_access = coalesce(:private_access, private_access), \
             labels = coalesce(:labels, labels), \
             environment = coalesce(:environment, environment), \
             last_running_at = coalesce(:last_running_at, last_running_at), \
             last_warming_at = coalesce(:last_warming_at, last_warming_at), \
             generation = coalesce(:generation, generation), \
             updated_at = coalesce(:updated_at, updated_at) \
             WHERE id = :id AND destroyed_at IS NULL",
        )?
        .execute(named_params! {
            ":id": id.as_str(),
            ":url_auth": patch.url_auth.map(UrlAuth::as_str),
            ":private_access": patch.private_access,
            ":labels": patch.labels.as_ref().map(to_json),
            ":environment": patch.environment.as_ref().map(to_json),
            ":last_running_at": patch.last_running_at.map(Timestamp::as_micros),
            ":last_warming_at": patch.last_warming_at.map(Timestamp::as_micros),
            ":generation": patch.generation,
            ":updated_at": patch.is_users().then_some(now.as_micros()),
        })?;
    by_id(connection, org, id)
}

/// Turns a live sprite into a tombstone; `None` if there is none.
pub(crate) fn bury(
    connection: &Connection,
    org: &OrgId,
    id: &SpriteId,
    now: Timestamp,
) -> rusqlite::Result<Option<SpriteRecord>> {
    let sprite = by_id(connection, org, id)?;
    if sprite.is_some() {
        connection
            .prepare_cached("UPDATE sprite SET destroyed_at = ?2 WHERE id = ?1")?
            .execute((id.as_str(), now.as_micros()))?;
    }
    Ok(sprite)
}

/// Forgets a tombstone; says whether there was one.
pub(crate) fn forget(connection: &Connection, id: &SpriteId) -> rusqlite::Result<bool> {
    let rows = connection
        .prepare_cached("DELETE FROM sprite WHERE id = ?1 AND destroyed_at IS NOT NULL")?
        .execute([id.as_str()])?;
    Ok(rows > 0)
}

fn from_row(row: &Row<'_>, org: &OrgId) -> rusqlite::Result<SpriteRecord> {
    let url_auth: String = row.get(9)?;
    let url_auth = UrlAuth::parse(&url_auth).ok_or_else(|| bad(9, "unknown `url_auth`"))?;
    Ok(SpriteRecord {
        id: column(row, 0)?,
        org: org.clone(),
        name: column(row, 1)?,
        volume_id: column(row, 2)?,
        image: column(row, 3)?,
        labels: json(row, 4)?,
        environment: json::<BTreeMap<_, _>>(row, 5)?,
        config: ConfigRecord::from(json::<StoredConfig>(row, 6)?),
        runtime: row.get(7)?,
        wait_for_capacity: row.get(8)?,
        url_auth,
        private_access: row.get(10)?,
        created_at: Timestamp::from_micros(row.get(11)?),
        updated_at: Timestamp::from_micros(row.get(12)?),
        last_running_at: row.get::<_, Option<i64>>(13)?.map(Timestamp::from_micros),
        last_warming_at: row.get::<_, Option<i64>>(14)?.map(Timestamp::from_micros),
        host: column(row, 15)?,
        generation: row.get(16)?,
    })
}

/// Reads a column that holds an id or a name.
pub(crate) fn column<T>(row: &Row<'_>, index: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let text: String = row.get(index)?;
    text.parse().map_err(|error: T::Err| bad(index, error))
}

fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text: String = row.get(index)?;
    serde_json::from_str(&text).map_err(|error| bad(index, error))
}

fn bad(
    index: usize,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error.into())
}
