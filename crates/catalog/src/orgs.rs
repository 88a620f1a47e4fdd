//! The folders of the orgs: making one, finding those that are there.

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use sprite_types::{OrgId, OrgSlug, Timestamp};
use tracing::error;

use crate::auth::TokenCache;
use crate::error::CatalogError;
use crate::org_db::OrgDb;
use crate::record::{BrokenOrg, Org};
use crate::sprites::column;
use crate::tokens;

/// A folder that is being made; removed at the next start if that never ended.
const UNFINISHED: &str = ".new-";
const DATABASE: &str = "org.db";
/// The slug once more, so that a damaged database still has a name.
const SLUG: &str = "slug";

/// An org with its open database.
pub(crate) struct OrgHandle {
    pub(crate) org: Org,
    pub(crate) db: OrgDb,
    pub(crate) tokens: Arc<TokenCache>,
}

/// Everything found in the folder of orgs.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) healthy: Vec<OrgHandle>,
    pub(crate) broken: Vec<BrokenOrg>,
}

pub(crate) fn io(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> CatalogError + use<> {
    let path = path.to_owned();
    move |source| CatalogError::Io { what, path, source }
}

pub(crate) fn make_dir(path: &Path) -> Result<(), CatalogError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io("create the folder", path))
}

/// Opens every org below `dir`, whatever state the others are in.
pub(crate) fn open_all(dir: &Path) -> Result<Found, CatalogError> {
    let mut found = Found::default();
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let entry = entry.map_err(io("list", dir))?;
        let (name, path) = (entry.file_name(), entry.path());
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(UNFINISHED) {
            fs::remove_dir_all(&path).map_err(io("remove", &path))?;
            continue;
        }
        let Ok(id) = name.parse::<OrgId>() else { continue };
        match open(&id, &path) {
            Ok(handle) => found.healthy.push(handle),
            Err(failure) => {
                let reason = match &failure {
                    CatalogError::Damaged { reason, .. } => reason.clone(),
                    CatalogError::Database { source, .. } => source.to_string(),
                    CatalogError::Io { source, .. } => source.to_string(),
                    other => other.to_string(),
                };
                error!(org_id = %id, path = %path.display(), reason, "org is unreadable");
                let slug = fs::read_to_string(path.join(SLUG)).ok();
                let slug = slug.and_then(|text| text.trim().parse().ok());
                found.broken.push(BrokenOrg { id, slug, path: path.join(DATABASE), reason });
            }
        }
    }
    Ok(found)
}

/// Makes an org: whole, or not at all.
pub(crate) fn create(
    dir: &Path,
    slug: &OrgSlug,
    created_at: Timestamp,
) -> Result<OrgHandle, CatalogError> {
    let org = Org { id: OrgId::generate(), slug: slug.clone(), created_at };
    let making = dir.join(format!("{UNFINISHED}{}", org.id));
    let place = dir.join(org.id.as_str());
    make_dir(&making)?;
    let made = fill(&org, &making).and_then(|()| {
        fs::rename(&making, &place).map_err(io("create the folder", &place))?;
        sync_dir(dir)
    });
    if let Err(error) = made {
        let _ = fs::remove_dir_all(&making);
        return Err(error);
    }
    open(&org.id, &place)
}

fn fill(org: &Org, folder: &Path) -> Result<(), CatalogError> {
    let slug_file = folder.join(SLUG);
    let mut file = fs::File::create_new(&slug_file).map_err(io("create", &slug_file))?;
    writeln!(file, "{}", org.slug).map_err(io("write", &slug_file))?;
    file.sync_all().map_err(io("write", &slug_file))?;
    // Opening makes the tables; closing again folds the log into the file, so that the folder
    // can be renamed.
    drop(OrgDb::open(&org.id, &folder.join(DATABASE))?);
    let failed = |source| CatalogError::database(&org.id, source);
    let connection = Connection::open(folder.join(DATABASE)).map_err(failed)?;
    connection
        .execute(
            "INSERT INTO org (id, slug, created_at) VALUES (?1, ?2, ?3)",
            (org.id.as_str(), org.slug.as_str(), org.created_at.as_micros()),
        )
        .map_err(failed)?;
    connection.close().map_err(|(_, source)| failed(source))?;
    sync_dir(folder)
}

fn open(id: &OrgId, folder: &Path) -> Result<OrgHandle, CatalogError> {
    let path: PathBuf = folder.join(DATABASE);
    if !path.try_exists().map_err(io("look for", &path))? {
        let reason = "its database file is missing".to_owned();
        return Err(CatalogError::Damaged { org: id.clone(), reason });
    }
    let db = OrgDb::open(id, &path)?;
    let org = db.read_now(|connection| {
        connection.query_row("SELECT id, slug, created_at FROM org", [], |row| {
            Ok(Org {
                id: column(row, 0)?,
                slug: column(row, 1)?,
                created_at: Timestamp::from_micros(row.get(2)?),
            })
        })
    })?;
    if org.id != *id {
        let reason = format!("the database in this folder is of `{}`", org.id);
        return Err(CatalogError::Damaged { org: id.clone(), reason });
    }
    let tokens = Arc::new(TokenCache::new(db.read_now(tokens::hashes)?));
    Ok(OrgHandle { org, db, tokens })
}

/// Makes a rename or a creation in `dir` last.
fn sync_dir(dir: &Path) -> Result<(), CatalogError> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync", dir))
}
