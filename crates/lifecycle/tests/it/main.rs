//! Sprites on the fake substrate: the whole life without root.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty};
use sprite_catalog::{Catalog, ConfigRecord, Org, UrlAuth};
use sprite_lifecycle::{
    CreateSpec, Guest, Health, ImageState, LifecycleSettings, ReadyImage, SpriteError, Sprites,
    Storage, UpdateSpec, UrlSettings,
};
use sprite_substrate::{Fake, Substrate};
use sprite_types::{ByteSize, HostId, ImageId, SpriteName, SystemClock};
use tokio::sync::watch;

struct World {
    dir: tempfile::TempDir,
    sprites: Sprites,
    catalog: Catalog,
    org: Org,
    image: watch::Sender<ImageState>,
}

fn settings(running_max: u64) -> LifecycleSettings {
    LifecycleSettings {
        url: UrlSettings { scheme: "http".into(), domain: "localhost".into(), port: Some(1) },
        running_max,
        boots_max: 2,
        memory_default: ByteSize::mib(512),
        cpus_default: None,
        pids_max: 100,
    }
}

async fn world(running_max: u64) -> World {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let catalog = Catalog::open(dir.path(), HostId::generate(), clock.clone()).unwrap();
    let org = catalog.ensure_org(&"acme".parse().unwrap()).await.unwrap();
    let ready = ReadyImage { id: ImageId::generate(), path: "/dev/null".into() };
    let (image, state) = watch::channel(ImageState::Ready(ready));
    let substrate = Substrate::Fake(Fake::new(dir.path().join("homes")));
    let sprites = Sprites::start(
        settings(running_max),
        catalog.clone(),
        substrate,
        Storage::None,
        state,
        clock,
    )
    .await
    .unwrap();
    World { dir, sprites, catalog, org, image }
}

fn name(text: &str) -> SpriteName {
    text.parse().unwrap()
}

fn spec(text: &str) -> CreateSpec {
    CreateSpec {
        name: name(text),
        labels: vec!["b".into(), "a".into()],
        environment: BTreeMap::new(),
        config: ConfigRecord::default(),
        runtime: None,
        wait_for_capacity: false,
        url_auth: UrlAuth::Sprite,
        private_access: None,
    }
}

async fn is_healthy(guest: &Guest) -> bool {
    let request = Request::get("/v1/health").body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = guest.link.send(request).await.unwrap();
    let ok = response.status().is_success();
    response.into_body().collect().await.unwrap();
    ok
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_new_sprite_boots_by_itself_and_answers() {
    let world = world(10).await;
    let made = world.sprites.create(&world.org, spec("one")).await.unwrap();
    assert_eq!(made.status(), "cold");
    assert_eq!(made.url, format!("http://one-{}.localhost:1", world.org.id.tail()));
    eventually("running without a request", async || {
        world.sprites.get(&world.org.id, &name("one")).await.unwrap().status() == "running"
    })
    .await;
    let guest = world.sprites.guest(&world.org.id, &name("one")).await.unwrap();
    assert!(is_healthy(&guest).await);
    let view = world.sprites.get(&world.org.id, &name("one")).await.unwrap();
    assert!(view.record.last_running_at.is_some());
    assert_eq!(view.record.labels, ["b", "a"]);
    let check = world.sprites.check(&world.org.id, &name("one")).await.unwrap();
    assert_eq!((check.health, check.reason), (Health::Healthy, None));
}

#[tokio::test]
async fn of_two_creates_of_one_name_one_wins() {
    let world = world(10).await;
    let both = tokio::join!(
        world.sprites.create(&world.org, spec("one")),
        world.sprites.create(&world.org, spec("one"))
    );
    let results = [both.0, both.1];
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    let lost = results.into_iter().find_map(Result::err).unwrap();
    assert_eq!(lost, SpriteError::Exists { name: "one".into() });
    assert!(lost.to_string().contains("already exists"));
}

/// A client may go away at any moment of its create. The sprite then exists, and works, or does
/// not, and its name is free.
#[tokio::test]
async fn a_create_that_nobody_waits_for_is_whole_or_not_there() {
    let world = world(100).await;
    for index in 0..20u32 {
        // Writes to wait behind, which make the moment within the create last.
        let mut busy = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let (catalog, org) = (world.catalog.clone(), world.org.id.clone());
            busy.spawn(async move { catalog.create_token(&org, "busy").await.map(|_| ()) });
        }
        let (sprites, org) = (world.sprites.clone(), world.org.clone());
        let spec = spec(&format!("left-{index}"));
        let create = tokio::spawn(async move { sprites.create(&org, spec).await });
        // Timers are too coarse for this.
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_micros(200) * index {
            tokio::task::yield_now().await;
        }
        create.abort();
        let _ = create.await;
        busy.join_all().await;
    }
    eventually("every sprite of the catalog works", async || {
        let records = world.catalog.all_sprites().await.unwrap();
        let mut works = true;
        for record in records {
            works &= world.sprites.guest(&world.org.id, &record.name).await.is_ok();
        }
        works
    })
    .await;
}

#[tokio::test]
async fn a_destroyed_sprite_is_gone_at_once_and_its_name_free() {
    let world = world(10).await;
    let first = world.sprites.create(&world.org, spec("one")).await.unwrap();
    let guest = world.sprites.guest(&world.org.id, &name("one")).await.unwrap();
    world.sprites.destroy(&world.org.id, &name("one")).await.unwrap();
    let gone = world.sprites.get(&world.org.id, &name("one")).await;
    assert_eq!(gone.unwrap_err(), SpriteError::NotFound);
    tokio::time::timeout(Duration::from_secs(5), guest.gone()).await.expect("clients are told");
    let second = world.sprites.create(&world.org, spec("one")).await.unwrap();
    assert_ne!(first.record.id, second.record.id);
    eventually("tombstone removed", async || world.catalog.destroying().await.unwrap().is_empty())
        .await;
}

#[tokio::test]
async fn a_restart_gives_a_fresh_machine() {
    let world = world(10).await;
    world.sprites.create(&world.org, spec("one")).await.unwrap();
    let before = world.sprites.guest(&world.org.id, &name("one")).await.unwrap();
    let after = world.sprites.restart(&world.org.id, &name("one")).await.unwrap();
    assert_ne!(before.machine_id, after.machine_id);
    assert!(is_healthy(&after).await);
    before.gone().await;
}

#[tokio::test]
async fn a_stopped_sprite_wakes_on_the_next_request() {
    let world = world(10).await;
    world.sprites.create(&world.org, spec("one")).await.unwrap();
    world.sprites.guest(&world.org.id, &name("one")).await.unwrap();
    world.sprites.stop(&world.org.id, &name("one")).await.unwrap();
    let view = world.sprites.get(&world.org.id, &name("one")).await.unwrap();
    assert_eq!(view.status(), "cold");
    let check = world.sprites.check(&world.org.id, &name("one")).await.unwrap();
    assert_eq!(check.health, Health::Hibernated);
    let guest = world.sprites.guest(&world.org.id, &name("one")).await.unwrap();
    assert!(is_healthy(&guest).await);
}

#[tokio::test]
async fn the_limit_refuses_or_makes_wait() {
    let world = world(1).await;
    world.sprites.create(&world.org, spec("one")).await.unwrap();
    let refused = world.sprites.create(&world.org, spec("two")).await;
    assert_eq!(refused.unwrap_err(), SpriteError::Limited { limit: 1, current: 1 });
    let sprites = world.sprites.clone();
    let (org, mut waiting) = (world.org.clone(), spec("two"));
    waiting.wait_for_capacity = true;
    let waiter = tokio::spawn(async move { sprites.create(&org, waiting).await });
    world.sprites.destroy(&world.org.id, &name("one")).await.unwrap();
    let made = tokio::time::timeout(Duration::from_secs(10), waiter).await.unwrap().unwrap();
    assert!(made.is_ok());
}

#[tokio::test]
async fn creates_wait_for_the_image_and_fail_with_its_reason() {
    let world = world(10).await;
    world.image.send_replace(ImageState::Preparing);
    let sprites = world.sprites.clone();
    let org = world.org.clone();
    let waiter = tokio::spawn(async move { sprites.create(&org, spec("one")).await });
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    world.image.send_replace(ImageState::Failed("no mirror".into()));
    let error = waiter.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("no mirror"), "{error}");
}

#[tokio::test]
async fn orgs_do_not_see_each_other() {
    let world = world(10).await;
    world.sprites.create(&world.org, spec("one")).await.unwrap();
    let other = world.catalog.ensure_org(&"other".parse().unwrap()).await.unwrap();
    let foreign = world.sprites.get(&other.id, &name("one")).await;
    assert_eq!(foreign.unwrap_err(), SpriteError::NotFound);
    assert!(world.sprites.create(&other, spec("one")).await.is_ok());
    let page = world.sprites.list(&other.id, "", None, 10).await.unwrap();
    assert_eq!(page.items.len(), 1);
    assert_eq!(page.items[0].record.org, other.id);
}

#[tokio::test]
async fn lists_are_sorted_and_paged() {
    let world = world(10).await;
    for text in ["b", "a", "ab", "c"] {
        world.sprites.create(&world.org, spec(text)).await.unwrap();
    }
    let names = |page: &sprite_lifecycle::Page| {
        page.items.iter().map(|v| v.record.name.to_string()).collect::<Vec<_>>()
    };
    let first = world.sprites.list(&world.org.id, "", None, 3).await.unwrap();
    assert_eq!((names(&first), first.more), (vec!["a".into(), "ab".into(), "b".into()], true));
    let rest = world.sprites.list(&world.org.id, "", Some(&name("b")), 3).await.unwrap();
    assert_eq!((names(&rest), rest.more), (vec!["c".into()], false));
    let some = world.sprites.list(&world.org.id, "a", None, 3).await.unwrap();
    assert_eq!(names(&some), ["a", "ab"]);
}

#[tokio::test]
async fn changes_are_told_and_updates_kept() {
    let world = world(10).await;
    let mut changes = world.sprites.subscribe();
    world.sprites.create(&world.org, spec("one")).await.unwrap();
    let update = UpdateSpec {
        labels: Some(Vec::new()),
        url_auth: Some(UrlAuth::Public),
        private_access: None,
    };
    let view = world.sprites.update(&world.org.id, &name("one"), update).await.unwrap();
    assert!(view.record.labels.is_empty());
    assert_eq!(view.record.url_auth, UrlAuth::Public);
    let running = async {
        loop {
            let change = changes.recv().await.unwrap();
            if change.view.is_some_and(|view| view.status() == "running") {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap();
    world.sprites.stop_all().await;
    assert!(world.sprites.machines().is_empty());
    assert!(world.dir.path().exists());
}
