//! The handle through which everybody else acts on sprites.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use sprite_catalog::{Catalog, ConfigRecord, NewSprite, Org, SpritePatch, SpriteRecord, UrlAuth};
use sprite_disk::Admission;
use sprite_substrate::{Machine, StopMode, Substrate};
use sprite_types::{Clock, OrgId, SpriteId, SpriteName, VolumeId, chain};
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tracing::{Instrument as _, info, warn};

use crate::actor::{Actor, Command};
use crate::error::SpriteError;
use crate::machines::Guest;
use crate::phase::Phase;
use crate::settings::{ImageState, LifecycleSettings, ReadyImage};
use crate::storage::Storage;
use crate::url::sprite_url;
use crate::view::{CheckView, Counts, Health, Page, SpriteChange, SpriteView};

/// Changes that a slow follower may lag behind before it has to look again.
const CHANGES: usize = 1024;

/// A sprite to make. Values are as the client sent them, already checked.
#[derive(Clone, Debug)]
pub struct CreateSpec {
    /// Its name.
    pub name: SpriteName,
    /// Kept exactly, in order.
    pub labels: Vec<String>,
    /// Environment of every command.
    pub environment: BTreeMap<String, String>,
    /// Sizes.
    pub config: ConfigRecord,
    /// `default` or `dev`.
    pub runtime: Option<String>,
    /// Queue for capacity instead of failing.
    pub wait_for_capacity: bool,
    /// Who may open the URL.
    pub url_auth: UrlAuth,
    /// `admins` or `org_users`.
    pub private_access: Option<String>,
}

/// What to change; `None` leaves a field.
#[derive(Clone, Debug, Default)]
pub struct UpdateSpec {
    /// Replaces the list.
    pub labels: Option<Vec<String>>,
    /// Who may open the URL.
    pub url_auth: Option<UrlAuth>,
    /// `admins` or `org_users`.
    pub private_access: Option<String>,
}

/// Carries out what must not stop halfway, whether or not the caller waits for the outcome: the
/// future of a request is dropped when its client goes away.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, SpriteError>> + Send + 'static,
) -> Result<T, SpriteError> {
    tokio::spawn(work.in_current_span()).await.unwrap_or_else(|error| {
        tracing::error!(%error, "ended halfway");
        Err(SpriteError::Internal { message: "this went wrong halfway; see the log".into() })
    })
}

/// All sprites of this host. Cheap to clone.
#[derive(Clone)]
pub struct Sprites(Arc<Shared>);

/// What all actors share.
pub(crate) struct Shared {
    pub(crate) settings: LifecycleSettings,
    pub(crate) catalog: Catalog,
    pub(crate) substrate: Substrate,
    pub(crate) storage: Storage,
    pub(crate) clock: Arc<dyn Clock>,
    /// Bounds the boots at once.
    pub(crate) boots: Semaphore,
    image: watch::Receiver<ImageState>,
    actors: Mutex<HashMap<SpriteId, Actor>>,
    slugs: Mutex<HashMap<OrgId, String>>,
    changes: broadcast::Sender<SpriteChange>,
    /// Told whenever a sprite may have left the memory.
    capacity: Notify,
    admission: watch::Sender<Admission>,
}

impl Shared {
    pub(crate) fn url(&self, record: &SpriteRecord) -> String {
        sprite_url(&self.settings.url, &record.org, &record.name)
    }

    pub(crate) fn view(&self, record: SpriteRecord, phase: Phase) -> SpriteView {
        let url = self.url(&record);
        SpriteView { record, phase, url }
    }

    pub(crate) fn org_slug(&self, org: &OrgId) -> String {
        self.slugs.lock().expect("no holder panics").get(org).cloned().unwrap_or_default()
    }

    pub(crate) fn changed(&self, org: &OrgId, name: &SpriteName, view: Option<SpriteView>) {
        self.capacity.notify_waiters();
        // No receivers is fine.
        let _ = self.changes.send(SpriteChange { org: org.clone(), name: name.clone(), view });
    }

    pub(crate) fn forget(&self, id: &SpriteId) {
        self.actors.lock().expect("no holder panics").remove(id);
        self.capacity.notify_waiters();
    }

    fn actor(&self, id: &SpriteId) -> Option<Actor> {
        self.actors.lock().expect("no holder panics").get(id).cloned()
    }

    fn all_actors(&self) -> Vec<Actor> {
        self.actors.lock().expect("no holder panics").values().cloned().collect()
    }

    fn in_memory(&self) -> u64 {
        let actors = self.actors.lock().expect("no holder panics");
        actors.values().filter(|actor| actor.snapshot().phase.occupies_memory()).count() as u64
    }
}

impl Sprites {
    /// Takes over the sprites of the catalog: finds machines that still run, removes what
    /// crashes left.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub async fn start(
        settings: LifecycleSettings,
        catalog: Catalog,
        substrate: Substrate,
        storage: Storage,
        image: watch::Receiver<ImageState>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SpriteError> {
        let orgs = catalog.orgs().await;
        let slugs = orgs.iter().map(|org| (org.id.clone(), org.slug.to_string())).collect();
        let boots = Semaphore::new(settings.boots_max.max(1));
        let sprites = Self(Arc::new(Shared {
            settings,
            catalog,
            substrate,
            storage,
            clock,
            boots,
            image,
            actors: Mutex::new(HashMap::new()),
            slugs: Mutex::new(slugs),
            changes: broadcast::channel(CHANGES).0,
            capacity: Notify::new(),
            admission: watch::channel(Admission::Ok).0,
        }));
        sprites.reconcile().await?;
        let prepared = sprites.clone();
        tokio::spawn(async move { prepared.prepare_copies().await });
        Ok(sprites)
    }

    /// Compares the catalog with what is on the host and closes the gap.
    async fn reconcile(&self) -> Result<(), SpriteError> {
        let shared = &self.0;
        let mut machines: HashMap<SpriteId, Machine> = HashMap::new();
        for machine in shared.substrate.adopt().await {
            if let Some(double) = machines.insert(machine.owner().sprite_id.clone(), machine) {
                warn!(machine_id = %double.id(), "a sprite had two machines");
                shared.substrate.stop(&double, StopMode::AtOnce).await;
            }
        }
        let mut volumes: std::collections::HashSet<VolumeId> =
            shared.storage.list().into_iter().collect();
        for record in shared.catalog.all_sprites().await? {
            volumes.remove(&record.volume_id);
            let machine = machines.remove(&record.id);
            let id = record.id.clone();
            let actor = Actor::spawn(shared.clone(), record, machine);
            shared.actors.lock().expect("no holder panics").insert(id, actor);
        }
        for record in shared.catalog.destroying().await? {
            volumes.remove(&record.volume_id);
            info!(sprite_id = %record.id, "destroy goes on");
            let machine = machines.remove(&record.id);
            let actor = Actor::spawn(shared.clone(), record, machine);
            actor.tell(Command::Destroy);
        }
        for machine in machines.into_values() {
            warn!(machine_id = %machine.id(), "machine without a sprite");
            shared.substrate.stop(&machine, StopMode::AtOnce).await;
        }
        // A volume without a sprite is what a create left that never answered. Orgs whose
        // records cannot be read may own some, so none is removed while there are such orgs.
        if shared.catalog.broken_orgs().is_empty() {
            for volume in volumes {
                warn!(%volume, "disk without a sprite");
                let _ = shared.storage.destroy(&volume).await;
            }
        }
        Ok(())
    }

    async fn prepare_copies(&self) {
        let mut image = self.0.image.clone();
        if let Ok(state) = image.wait_for(|state| *state != ImageState::Preparing).await
            && let ImageState::Ready(ready) = &*state
        {
            self.0.storage.prepare(ready);
        }
    }

    /// Makes a sprite and starts to boot it.
    ///
    /// # Errors
    /// `Exists`, `Limited` (unless it may wait), `NoSpace`, `Unavailable` without an image.
    pub async fn create(&self, org: &Org, spec: CreateSpec) -> Result<SpriteView, SpriteError> {
        let shared = &self.0;
        shared
            .slugs
            .lock()
            .expect("no holder panics")
            .entry(org.id.clone())
            .or_insert_with(|| org.slug.to_string());
        if shared.catalog.sprite(&org.id, &spec.name).await?.is_some() {
            return Err(SpriteError::Exists { name: spec.name.to_string() });
        }
        self.wait_for_room(spec.wait_for_capacity).await?;
        if *shared.admission.borrow() != Admission::Ok {
            return Err(SpriteError::NoSpace);
        }
        let image = self.image().await?;
        // From here on things exist that have to be told of each other, so this goes on although
        // the caller gives up.
        let (this, org) = (self.clone(), org.id.clone());
        to_its_end(async move { this.make(org, spec, image).await }).await
    }

    /// Makes disk, record and actor of a new sprite.
    async fn make(
        &self,
        org: OrgId,
        spec: CreateSpec,
        image: ReadyImage,
    ) -> Result<SpriteView, SpriteError> {
        let shared = &self.0;
        let volume_id = VolumeId::generate();
        shared.storage.create(&volume_id, &image).await?;
        let new = NewSprite {
            id: SpriteId::generate(),
            name: spec.name,
            volume_id: volume_id.clone(),
            image: image.id,
            labels: spec.labels,
            environment: spec.environment,
            config: spec.config,
            runtime: spec.runtime,
            wait_for_capacity: spec.wait_for_capacity,
            url_auth: spec.url_auth,
            private_access: spec.private_access,
        };
        let record = match shared.catalog.insert_sprite(&org, new).await {
            Ok(record) => record,
            Err(error) => {
                let _ = shared.storage.destroy(&volume_id).await;
                return Err(error.into());
            }
        };
        let actor = Actor::spawn(shared.clone(), record.clone(), None);
        shared.actors.lock().expect("no holder panics").insert(record.id.clone(), actor.clone());
        actor.tell(Command::Wake);
        Ok(shared.view(record, Phase::Cold))
    }

    /// Waits for the base image.
    async fn image(&self) -> Result<ReadyImage, SpriteError> {
        let mut image = self.0.image.clone();
        let state = image.wait_for(|state| *state != ImageState::Preparing).await;
        match state.as_deref() {
            Ok(ImageState::Ready(ready)) => Ok(ready.clone()),
            Ok(ImageState::Failed(reason)) => {
                Err(SpriteError::unavailable(format!("there is no base image: {reason}")))
            }
            Ok(ImageState::Preparing) | Err(_) => {
                Err(SpriteError::unavailable("the host is shutting down"))
            }
        }
    }

    async fn wait_for_room(&self, wait: bool) -> Result<(), SpriteError> {
        let limit = self.0.settings.running_max;
        loop {
            let freed = self.0.capacity.notified();
            let current = self.0.in_memory();
            if current < limit {
                return Ok(());
            }
            if !wait {
                return Err(SpriteError::Limited { limit, current });
            }
            freed.await;
        }
    }

    async fn find(
        &self,
        org: &OrgId,
        name: &SpriteName,
    ) -> Result<(Actor, SpriteRecord), SpriteError> {
        let record = self.0.catalog.sprite(org, name).await?.ok_or(SpriteError::NotFound)?;
        let actor = self.0.actor(&record.id).ok_or(SpriteError::NotFound)?;
        Ok((actor, record))
    }

    /// Returns a sprite. Never wakes it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, org: &OrgId, name: &SpriteName) -> Result<SpriteView, SpriteError> {
        let (actor, record) = self.find(org, name).await?;
        Ok(self.0.view(record, actor.snapshot().phase))
    }

    /// Lists sprites by name, from after `after`, at most `limit`.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub async fn list(
        &self,
        org: &OrgId,
        prefix: &str,
        after: Option<&SpriteName>,
        limit: usize,
    ) -> Result<Page, SpriteError> {
        let mut records = self.0.catalog.sprites(org, prefix, after, limit + 1).await?;
        let more = records.len() > limit;
        records.truncate(limit);
        let items = records.into_iter().map(|record| {
            let phase = self.0.actor(&record.id).map_or(Phase::Cold, |a| a.snapshot().phase);
            self.0.view(record, phase)
        });
        Ok(Page { items: items.collect(), more })
    }

    /// Counts an org's sprites by status.
    #[must_use]
    pub fn counts(&self, org: &OrgId) -> Counts {
        let limit = self.0.settings.running_max;
        let mut counts = Counts { running_limit: limit, ..Counts::default() };
        for actor in self.0.all_actors() {
            if actor.record().org == *org {
                match actor.snapshot().phase.status() {
                    "running" => counts.running += 1,
                    "warm" => counts.warm += 1,
                    _ => counts.cold += 1,
                }
            }
        }
        counts
    }

    /// Changes a sprite's record.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn update(
        &self,
        org: &OrgId,
        name: &SpriteName,
        spec: UpdateSpec,
    ) -> Result<SpriteView, SpriteError> {
        let (actor, record) = self.find(org, name).await?;
        let patch = SpritePatch {
            labels: spec.labels,
            url_auth: spec.url_auth,
            private_access: spec.private_access,
            ..SpritePatch::default()
        };
        let record = self.0.catalog.update_sprite(org, &record.id, patch).await?;
        actor.set_record(record.clone());
        let view = self.0.view(record, actor.snapshot().phase);
        self.0.changed(org, name, Some(view.clone()));
        Ok(view)
    }

    /// Removes a sprite. Once this returns its name is free; machine and disk go afterwards.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn destroy(&self, org: &OrgId, name: &SpriteName) -> Result<(), SpriteError> {
        let (actor, record) = self.find(org, name).await?;
        let (this, org) = (self.clone(), org.clone());
        to_its_end(async move {
            this.0.catalog.begin_destroy(&org, &record.id).await?;
            actor.tell(Command::Destroy);
            Ok(())
        })
        .await
    }

    /// Gives a sprite a fresh machine and waits for it.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` if the machine does not start.
    pub async fn restart(&self, org: &OrgId, name: &SpriteName) -> Result<Guest, SpriteError> {
        self.find(org, name).await?.0.ask(Command::Restart).await
    }

    /// Ends a sprite's machine in order; its disk stays.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` if somebody needed the sprite meanwhile.
    pub async fn stop(&self, org: &OrgId, name: &SpriteName) -> Result<(), SpriteError> {
        let (actor, _) = self.find(org, name).await?;
        if actor.snapshot().phase == Phase::Cold {
            return Ok(());
        }
        actor.ask(Command::Stop).await
    }

    /// Tells how a sprite is. Never wakes it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn check(&self, org: &OrgId, name: &SpriteName) -> Result<CheckView, SpriteError> {
        let (actor, record) = self.find(org, name).await?;
        let snapshot = actor.snapshot();
        let down = snapshot.machine.as_ref().is_some_and(|machine| {
            !matches!(*machine.link().state().borrow(), sprite_linkmux::LinkState::Up { .. })
        });
        let (health, reason) = match snapshot.phase {
            Phase::Running if down => {
                (Health::Unhealthy, Some("its agent does not answer".to_owned()))
            }
            Phase::Running => (Health::Healthy, None),
            Phase::Failed => (Health::Unhealthy, snapshot.reason),
            _ => (Health::Hibernated, None),
        };
        let view = self.0.view(record, snapshot.phase);
        Ok(CheckView { view, health, reason, checked_at: self.0.clock.now() })
    }

    /// Returns a sprite's machine, booting one if need be, and waits until it answers.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` if the machine does not start.
    pub async fn guest(&self, org: &OrgId, name: &SpriteName) -> Result<Guest, SpriteError> {
        let (actor, record) = self.find(org, name).await?;
        let snapshot = actor.snapshot();
        if let (Phase::Running, Some(machine)) = (snapshot.phase, &snapshot.machine) {
            return Ok(Guest::new(machine, self.0.view(record, snapshot.phase)));
        }
        actor.ask(Command::Wake).await
    }

    /// Returns a sprite's machine if it runs now. Never wakes.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn guest_if_running(
        &self,
        org: &OrgId,
        name: &SpriteName,
    ) -> Result<Option<Guest>, SpriteError> {
        let (actor, record) = self.find(org, name).await?;
        let snapshot = actor.snapshot();
        Ok(match (snapshot.phase, &snapshot.machine) {
            (Phase::Running, Some(machine)) => {
                Some(Guest::new(machine, self.0.view(record, snapshot.phase)))
            }
            _ => None,
        })
    }

    /// Follows changes of all sprites of the host; filter by org.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<SpriteChange> {
        self.0.changes.subscribe()
    }

    /// Says what the room on the host's disk allows; see [`crate::DiskGuard`].
    pub(crate) fn set_admission(&self, admission: Admission) {
        let before = self.0.admission.send_replace(admission);
        let frozen = |admission| admission == Admission::FreezeWriters;
        if !frozen(before) && !frozen(admission) {
            return;
        }
        for machine in self.machines() {
            let result = if frozen(admission) {
                self.0.substrate.freeze(&machine)
            } else {
                self.0.substrate.thaw(&machine)
            };
            if let Err(error) = result {
                warn!(machine_id = %machine.id(), %error, "machine not frozen or thawed");
            }
        }
    }

    /// Returns the machines that run now.
    #[must_use]
    pub fn machines(&self) -> Vec<Machine> {
        self.0.all_actors().into_iter().filter_map(|actor| actor.snapshot().machine).collect()
    }

    /// Stops every machine in order, all at once, and waits until none is left.
    pub async fn stop_all(&self) {
        let stops = self.0.all_actors().into_iter().map(|actor| async move {
            // Also of those being destroyed, for which this waits.
            if let Err(error) = actor.ask(Command::Stop).await
                && error != SpriteError::NotFound
            {
                warn!(error = %chain(&error), "sprite not stopped");
            }
        });
        futures::future::join_all(stops).await;
    }
}
