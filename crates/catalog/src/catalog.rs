//! The handle that everybody clones.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sprite_types::{Clock, HostId, OrgId, OrgSlug, SpriteId, SpriteName, TokenId};
use tracing::info;

use crate::auth::{AuthError, Principal};
use crate::error::CatalogError;
use crate::orgs::{self, OrgHandle, io};
use crate::record::{BrokenOrg, NewSprite, Org, SpritePatch, SpriteRecord, TokenRecord};
use crate::sprites;
use crate::tokens::{self, TokenText};

/// Longest description of a token, in bytes.
const DESCRIPTION_MAX: usize = 1024;

/// The host's durable records. Cheap to clone.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    host: HostId,
    clock: Arc<dyn Clock>,
    orgs: RwLock<BTreeMap<OrgId, Arc<OrgHandle>>>,
    broken: Vec<BrokenOrg>,
    /// Held while an org is made, so that two makers of one name meet.
    creating: Mutex<()>,
    /// Keeps other processes out; released with the last clone.
    _lock: File,
}

impl Catalog {
    /// Opens the catalog below the data folder `dir`, making what is missing.
    ///
    /// Blocks for some milliseconds per org. Orgs whose records are damaged are set aside and
    /// logged; see [`Catalog::broken_orgs`].
    ///
    /// # Errors
    /// - [`CatalogError::InUse`]: another process has it open; talk to that one.
    /// - [`CatalogError::Io`]: the folder cannot be made, listed or locked.
    pub fn open(dir: &Path, host: HostId, clock: Arc<dyn Clock>) -> Result<Self, CatalogError> {
        let dir = dir.join("orgs");
        orgs::make_dir(&dir)?;
        let lock = lock(&dir.join("lock"))?;
        let found = orgs::open_all(&dir)?;
        let orgs = found.healthy.into_iter().map(|o| (o.org.id.clone(), Arc::new(o))).collect();
        Ok(Self(Arc::new(Inner {
            dir,
            host,
            clock,
            orgs: RwLock::new(orgs),
            broken: found.broken,
            creating: Mutex::new(()),
            _lock: lock,
        })))
    }

    /// Returns the orgs whose records could not be read when the catalog was opened.
    #[must_use]
    pub fn broken_orgs(&self) -> &[BrokenOrg] {
        &self.0.broken
    }

    /// Makes an org.
    ///
    /// # Errors
    /// - [`CatalogError::Exists`]: the slug is taken.
    /// - [`CatalogError::Damaged`]: it is taken by an org whose records are unreadable.
    pub async fn create_org(&self, slug: &OrgSlug) -> Result<Org, CatalogError> {
        let (org, is_new) = self.make_org(slug).await?;
        if is_new { Ok(org) } else { Err(exists(slug)) }
    }

    /// Returns the org of that name, making it if it is new.
    ///
    /// # Errors
    /// As [`Catalog::create_org`], without `Exists`.
    pub async fn ensure_org(&self, slug: &OrgSlug) -> Result<Org, CatalogError> {
        Ok(self.make_org(slug).await?.0)
    }

    /// Returns every readable org, by slug.
    pub async fn orgs(&self) -> Vec<Org> {
        let mut orgs: Vec<Org> = self.handles().iter().map(|handle| handle.org.clone()).collect();
        orgs.sort_by(|a, b| a.slug.cmp(&b.slug));
        orgs
    }

    /// Returns the org of that name.
    pub async fn org_by_slug(&self, slug: &OrgSlug) -> Option<Org> {
        self.0.find(slug)
    }

    /// Makes a token and returns it with its whole text, which is not kept.
    ///
    /// # Errors
    /// - [`CatalogError::NotFound`]: there is no such org.
    /// - [`CatalogError::Invalid`]: the description is longer than 1 KiB.
    pub async fn create_token(
        &self,
        org: &OrgId,
        description: &str,
    ) -> Result<(TokenRecord, String), CatalogError> {
        if description.len() > DESCRIPTION_MAX {
            let message = format!("the description is longer than {DESCRIPTION_MAX} bytes");
            return Err(CatalogError::Invalid { message });
        }
        let handle = self.handle(org)?;
        let secret = tokens::new_secret();
        let token = TokenRecord {
            id: TokenId::generate(),
            org: org.clone(),
            description: description.to_owned(),
            created_at: self.0.clock.now(),
        };
        let text = format!("{}/{org}/{}/{secret}", handle.org.slug, token.id);
        let hash = tokens::hash(&secret);
        let row = token.clone();
        handle
            .db
            .write(move |connection, org| {
                tokens::insert(connection, &row, &hash).map_err(|e| CatalogError::database(org, e))
            })
            .await?;
        handle.tokens.insert(token.id.clone(), hash);
        info!(org_id = %org, token_id = %token.id, "token created");
        Ok((token, text))
    }

    /// Returns the org's tokens, oldest first.
    ///
    /// # Errors
    /// - [`CatalogError::NotFound`]: there is no such org.
    pub async fn tokens(&self, org: &OrgId) -> Result<Vec<TokenRecord>, CatalogError> {
        let org = org.clone();
        self.handle(&org)?.db.read(move |connection| tokens::list(connection, &org)).await
    }

    /// Makes a token worthless, from now on and for good.
    ///
    /// # Errors
    /// - [`CatalogError::NotFound`]: there is no such org or token.
    pub async fn revoke_token(&self, org: &OrgId, token: &TokenId) -> Result<(), CatalogError> {
        let handle = self.handle(org)?;
        let (cache, id) = (handle.tokens.clone(), token.clone());
        let existed = handle
            .db
            .write(move |connection, org| {
                let existed =
                    tokens::delete(connection, &id).map_err(|e| CatalogError::database(org, e))?;
                // Before the commit: from here on nobody gets in, even if it fails.
                cache.remove(&id);
                Ok(existed)
            })
            .await?;
        if !existed {
            return Err(not_found("token", token));
        }
        info!(org_id = %org, token_id = %token, "token revoked");
        Ok(())
    }

    /// Finds out whose token this is. Touches memory only.
    ///
    /// # Errors
    /// - [`AuthError::Malformed`]: the text is not a token.
    /// - [`AuthError::Unknown`]: it is none of ours, or revoked.
    /// - [`AuthError::Unreadable`]: the org's records are damaged.
    pub async fn authenticate(&self, text: &str) -> Result<Principal, AuthError> {
        let text = TokenText::parse(text).ok_or(AuthError::Malformed)?;
        if self.0.broken.iter().any(|org| org.id == text.org) {
            return Err(AuthError::Unreadable { org: text.org });
        }
        let handle = self.handle(&text.org).map_err(|_| AuthError::Unknown)?;
        if handle.tokens.accepts(&handle.org, &text) {
            Ok(Principal { org: handle.org.clone(), token_id: text.id })
        } else {
            Err(AuthError::Unknown)
        }
    }

    /// Records a new sprite on this host, at generation 1.
    ///
    /// # Errors
    /// - [`CatalogError::Exists`]: a live sprite of the org has that name.
    /// - [`CatalogError::NotFound`]: there is no such org.
    pub async fn insert_sprite(
        &self,
        org: &OrgId,
        new: NewSprite,
    ) -> Result<SpriteRecord, CatalogError> {
        let handle = self.handle(org)?;
        let now = self.0.clock.now();
        let sprite = SpriteRecord {
            id: new.id,
            org: org.clone(),
            name: new.name,
            volume_id: new.volume_id,
            image: new.image,
            labels: new.labels,
            environment: new.environment,
            config: new.config,
            runtime: new.runtime,
            wait_for_capacity: new.wait_for_capacity,
            url_auth: new.url_auth,
            private_access: new.private_access,
            created_at: now,
            updated_at: now,
            last_running_at: None,
            last_warming_at: None,
            host: self.0.host.clone(),
            generation: 1,
        };
        handle
            .db
            .write(move |connection, _| {
                sprites::insert(connection, &sprite)?;
                Ok(sprite)
            })
            .await
    }

    /// Returns the live sprite of that name.
    ///
    /// # Errors
    /// - [`CatalogError::NotFound`]: there is no such org.
    pub async fn sprite(
        &self,
        org: &OrgId,
        name: &SpriteName,
    ) -> Result<Option<SpriteRecord>, CatalogError> {
        let (org, name) = (org.clone(), name.clone());
        self.handle(&org)?.db.read(move |c| sprites::by_name(c, &org, &name)).await
    }

    /// Returns the live sprite with that id.
    ///
    /// # Errors
    /// - [`CatalogError::NotFound`]: there is no such org.
    pub async fn sprite_by_id(
        &self,
        org: &OrgId,
        id: &SpriteId,
    ) -> Result<Option<SpriteRecord>, CatalogError> {
        let (org, id) = (org.clone(), id.clone());
        self.handle(&org)?.db.read(move |c| sprites::by_id(c, &org, &id)).await
    }

    /// Returns at most `limit` live sprites whose name begins with `prefix`, by name, from the
    /// one after `after` on.
    ///
    /// # Errors
    /// - [`CatalogError::NotFound`]: there is no such org.
    pub async fn sprites(
        &self,
        org: &OrgId,
        prefix: &str,
        after: Option<&SpriteName>,
        limit: usize,
    ) -> Result<Vec<SpriteRecord>, CatalogError> {
        let (org, prefix, after) = (org.clone(), prefix.to_owned(), after.cloned());
        self.handle(&org)?
            .db
            .read(move |c| sprites::page(c, &org, &prefix, after.as_ref(), limit))
            .await
    }

    /// Returns every live sprite of every readable org.
    ///
    /// # Errors
    /// - [`CatalogError::Damaged`]: an org's records broke while the catalog was open.
    pub async fn all_sprites(&self) -> Result<Vec<SpriteRecord>, CatalogError> {
        let mut all = Vec::new();
        for handle in self.handles() {
            let org = handle.org.id.clone();
            let page = move |c: &rusqlite::Connection| sprites::page(c, &org, "", None, usize::MAX);
            all.extend(handle.db.read(page).await?);
        }
        Ok(all)
    }

    /// Counts the org's live sprites.
    ///
    /// # Errors
    /// - [`CatalogError::NotFound`]: there is no such org.
    pub async fn count(&self, org: &OrgId) -> Result<u64, CatalogError> {
        self.handle(org)?.db.read(sprites::count).await
    }

    /// Changes a live sprite. `updated_at` moves only if a person's fields change.
    ///
    /// # Errors
    /// - [`CatalogError::NotFound`]: there is no such org or live sprite.
    pub async fn update_sprite(
        &self,
        org: &OrgId,
        id: &SpriteId,
        patch: SpritePatch,
    ) -> Result<SpriteRecord, CatalogError> {
        let handle = self.handle(org)?;
        let (now, sprite) = (self.0.clock.now(), id.clone());
        let updated = handle
            .db
            .write(move |connection, org| {
                sprites::update(connection, org, &sprite, &patch, now)
                    .map_err(|e| CatalogError::database(org, e))
            })
            .await?;
        updated.ok_or_else(|| not_found("sprite", id))
    }

    /// Turns a live sprite into a tombstone: its name is free at once, its record stays until
    /// [`Catalog::end_destroy`], so that a crash in between forgets no disk.
    ///
    /// # Errors
    /// - [`CatalogError::NotFound`]: there is no such org or live sprite.
    pub async fn begin_destroy(
        &self,
        org: &OrgId,
        id: &SpriteId,
    ) -> Result<SpriteRecord, CatalogError> {
        let handle = self.handle(org)?;
        let (now, sprite) = (self.0.clock.now(), id.clone());
        let buried = handle
            .db
            .write(move |connection, org| {
                sprites::bury(connection, org, &sprite, now)
                    .map_err(|e| CatalogError::database(org, e))
            })
            .await?;
        buried.ok_or_else(|| not_found("sprite", id))
    }

    /// Forgets a tombstone whose machine and disk are gone. Does nothing if it is forgotten.
    ///
    /// # Errors
    /// - [`CatalogError::NotFound`]: there is no such org.
    pub async fn end_destroy(&self, org: &OrgId, id: &SpriteId) -> Result<(), CatalogError> {
        let handle = self.handle(org)?;
        let sprite = id.clone();
        handle
            .db
            .write(move |connection, org| {
                sprites::forget(connection, &sprite).map_err(|e| CatalogError::database(org, e))
            })
            .await?;
        Ok(())
    }

    /// Returns the tombstones of every readable org.
    ///
    /// # Errors
    /// - [`CatalogError::Damaged`]: an org's records broke while the catalog was open.
    pub async fn destroying(&self) -> Result<Vec<SpriteRecord>, CatalogError> {
        let mut all = Vec::new();
        for handle in self.handles() {
            let org = handle.org.id.clone();
            all.extend(handle.db.read(move |c| sprites::destroying(c, &org)).await?);
        }
        Ok(all)
    }

    async fn make_org(&self, slug: &OrgSlug) -> Result<(Org, bool), CatalogError> {
        if let Some(org) = self.0.find(slug) {
            return Ok((org, false));
        }
        let (inner, slug) = (self.0.clone(), slug.clone());
        tokio::task::spawn_blocking(move || inner.make_org(&slug))
            .await
            .map_err(|_| CatalogError::Closed)?
    }

    fn handle(&self, org: &OrgId) -> Result<Arc<OrgHandle>, CatalogError> {
        let orgs = self.0.orgs.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = orgs.get(org) {
            return Ok(handle.clone());
        }
        match self.0.broken.iter().find(|broken| broken.id == *org) {
            Some(broken) => Err(damaged(broken)),
            None => Err(not_found("org", org)),
        }
    }

    fn handles(&self) -> Vec<Arc<OrgHandle>> {
        self.0.orgs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Inner {
    fn find(&self, slug: &OrgSlug) -> Option<Org> {
        let orgs = self.orgs.read().unwrap_or_else(PoisonError::into_inner);
        orgs.values().find(|handle| handle.org.slug == *slug).map(|handle| handle.org.clone())
    }

    /// Returns the org and whether it is new. Blocks on the disk.
    fn make_org(&self, slug: &OrgSlug) -> Result<(Org, bool), CatalogError> {
        let _creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(org) = self.find(slug) {
            return Ok((org, false));
        }
        if let Some(broken) = self.broken.iter().find(|org| org.slug.as_ref() == Some(slug)) {
            return Err(damaged(broken));
        }
        let handle = orgs::create(&self.dir, slug, self.clock.now())?;
        let org = handle.org.clone();
        let mut orgs = self.orgs.write().unwrap_or_else(PoisonError::into_inner);
        orgs.insert(org.id.clone(), Arc::new(handle));
        info!(org_id = %org.id, slug = %org.slug, "org created");
        Ok((org, true))
    }
}

fn lock(path: &Path) -> Result<File, CatalogError> {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(io("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CatalogError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io("lock", path)(source)),
    }
}

fn exists(slug: &OrgSlug) -> CatalogError {
    CatalogError::Exists { what: "org", name: slug.to_string() }
}

fn not_found(what: &'static str, id: &impl ToString) -> CatalogError {
    CatalogError::NotFound { what, id: id.to_string() }
}

fn damaged(broken: &BrokenOrg) -> CatalogError {
    CatalogError::Damaged { org: broken.id.clone(), reason: broken.reason.clone() }
}
