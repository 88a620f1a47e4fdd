//! The catalog through its public interface, on real files.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sprite_catalog::{
    AuthError, Catalog, CatalogError, ConfigRecord, NewSprite, Org, SpritePatch, UrlAuth,
};
use sprite_types::{
    ErrorKind, HostId, ImageId, ManualClock, SpriteId, SpriteName, Timestamp, TokenId, VolumeId,
};

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_micros(1_768_300_200_000_000)))
}

fn open(dir: &Path) -> Catalog {
    Catalog::open(dir, "host-aaaaaaaaaa".parse::<HostId>().unwrap(), clock()).unwrap()
}

async fn org(catalog: &Catalog, slug: &str) -> Org {
    catalog.ensure_org(&slug.parse().unwrap()).await.unwrap()
}

fn name(text: &str) -> SpriteName {
    text.parse().unwrap()
}

fn new(text: &str) -> NewSprite {
    NewSprite {
        id: SpriteId::generate(),
        name: name(text),
        volume_id: VolumeId::generate(),
        image: ImageId::generate(),
        labels: vec!["b".into(), "a".into(), "b".into()],
        environment: BTreeMap::from([("KEY".into(), "värde\n".into())]),
        config: ConfigRecord { ram_mb: Some(512), ..ConfigRecord::default() },
        runtime: Some("dev".into()),
        wait_for_capacity: true,
        url_auth: UrlAuth::Public,
        private_access: Some("admins".into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_creates_of_one_name_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let org = org(&catalog, "acme").await;
    let creates: Vec<_> = (0..32)
        .map(|i| {
            let (catalog, org) = (catalog.clone(), org.id.clone());
            let new = new(if i % 2 == 0 { "one" } else { "two" });
            tokio::spawn(async move { catalog.insert_sprite(&org, new).await })
        })
        .collect();
    let mut won = 0;
    for create in creates {
        match create.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
    }
    assert_eq!(won, 2);
    assert_eq!(catalog.count(&org.id).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_creates_of_one_org_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let slug = "acme".parse().unwrap();
    let (a, b) = tokio::join!(catalog.create_org(&slug), catalog.create_org(&slug));
    assert!(matches!(
        (a, b),
        (Ok(_), Err(CatalogError::Exists { .. })) | (Err(CatalogError::Exists { .. }), Ok(_))
    ));
    assert_eq!(catalog.orgs().await.len(), 1);
}

#[tokio::test]
async fn records_survive_a_restart_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let org = org(&catalog, "acme").await;
    let (token, text) = catalog.create_token(&org.id, "laptop").await.unwrap();
    let sprite = catalog.insert_sprite(&org.id, new("box")).await.unwrap();
    let gone = catalog.insert_sprite(&org.id, new("gone")).await.unwrap();
    catalog.begin_destroy(&org.id, &gone.id).await.unwrap();
    drop(catalog);

    let catalog = open(dir.path());
    assert_eq!(catalog.orgs().await, std::slice::from_ref(&org));
    assert_eq!(catalog.tokens(&org.id).await.unwrap(), [token]);
    assert_eq!(catalog.authenticate(&text).await.unwrap().org, org);
    assert_eq!(catalog.sprite(&org.id, &name("box")).await.unwrap(), Some(sprite.clone()));
    assert_eq!(catalog.all_sprites().await.unwrap(), [sprite]);
    assert_eq!(catalog.destroying().await.unwrap(), [gone]);
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let second = Catalog::open(dir.path(), HostId::generate(), clock());
    assert!(matches!(second, Err(CatalogError::InUse { .. })));
    drop(first);
    open(dir.path());
}

#[tokio::test]
async fn a_token_opens_its_own_org_until_it_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let (acme, other) = (org(&catalog, "acme").await, org(&catalog, "other").await);
    let (token, text) = catalog.create_token(&acme.id, "").await.unwrap();
    let (_, foreign) = catalog.create_token(&other.id, "").await.unwrap();
    assert_eq!(catalog.authenticate(&text).await.unwrap().org, acme);
    assert_eq!(catalog.authenticate(&foreign).await.unwrap().org, other);

    // The same secret under another org's name, id or token id is worth nothing.
    let parts: Vec<&str> = text.split('/').collect();
    let unknown = TokenId::generate();
    for forged in [
        text.replace("acme/", "other/"),
        text.replace(acme.id.as_str(), other.id.as_str()),
        text.replace(token.id.as_str(), unknown.as_str()),
        format!("{}/{}/{}/{}", parts[0], parts[1], parts[2], "A".repeat(43)),
    ] {
        assert_eq!(catalog.authenticate(&forged).await, Err(AuthError::Unknown));
    }
    assert_eq!(catalog.authenticate("acme/nonsense").await, Err(AuthError::Malformed));

    let revoked = catalog.revoke_token(&other.id, &token.id).await;
    assert_eq!(revoked.unwrap_err().kind(), ErrorKind::NotFound);
    catalog.revoke_token(&acme.id, &token.id).await.unwrap();
    assert_eq!(catalog.authenticate(&text).await, Err(AuthError::Unknown));
    drop(catalog);
    assert_eq!(open(dir.path()).authenticate(&text).await, Err(AuthError::Unknown));
}

#[tokio::test]
async fn no_file_holds_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let org = org(&catalog, "acme").await;
    let (_, text) = catalog.create_token(&org.id, "").await.unwrap();
    let secret = text.rsplit('/').next().unwrap().as_bytes();
    let folder = dir.path().join("orgs").join(org.id.as_str());
    for file in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test]
async fn orgs_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let (acme, other) = (org(&catalog, "acme").await, org(&catalog, "other").await);
    let sprite = catalog.insert_sprite(&acme.id, new("box")).await.unwrap();
    catalog.insert_sprite(&other.id, new("box")).await.unwrap();
    assert_eq!(catalog.sprite_by_id(&other.id, &sprite.id).await.unwrap(), None);
    let patch = SpritePatch { labels: Some(vec![]), ..SpritePatch::default() };
    let error = catalog.update_sprite(&other.id, &sprite.id, patch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = catalog.begin_destroy(&other.id, &sprite.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(catalog.sprites(&acme.id, "", None, 10).await.unwrap(), [sprite]);
}

#[tokio::test]
async fn pages_are_sorted_and_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let org = org(&catalog, "acme").await;
    let names = ["b-2", "a", "b", "b-10", "b0", "c", "bz"];
    for text in names {
        catalog.insert_sprite(&org.id, new(text)).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = catalog.sprites(&org.id, "b", after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        seen.extend(page.into_iter().map(|sprite| sprite.name.to_string()));
    }
    assert_eq!(seen, ["b", "b-10", "b-2", "b0", "bz"]);
    assert!(catalog.sprites(&org.id, "%", None, 9).await.unwrap().is_empty());
    assert_eq!(catalog.sprites(&org.id, "", Some(&name("bz")), 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_destroyed_name_is_free_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let org = org(&catalog, "acme").await;
    let old = catalog.insert_sprite(&org.id, new("box")).await.unwrap();
    assert_eq!(catalog.begin_destroy(&org.id, &old.id).await.unwrap(), old);
    assert_eq!(catalog.sprite(&org.id, &old.name).await.unwrap(), None);
    let again = catalog.begin_destroy(&org.id, &old.id).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
    let young = catalog.insert_sprite(&org.id, new("box")).await.unwrap();
    catalog.end_destroy(&org.id, &old.id).await.unwrap();
    catalog.end_destroy(&org.id, &young.id).await.unwrap();
    assert!(catalog.destroying().await.unwrap().is_empty());
    assert_eq!(catalog.sprite(&org.id, &young.name).await.unwrap(), Some(young));
}

#[tokio::test]
async fn an_update_changes_what_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let catalog = Catalog::open(dir.path(), HostId::generate(), clock.clone()).unwrap();
    let org = org(&catalog, "acme").await;
    let before = catalog.insert_sprite(&org.id, new("box")).await.unwrap();
    clock.advance(Duration::from_secs(1));

    let at = Timestamp::from_micros(7);
    let patch = SpritePatch { last_running_at: Some(at), ..SpritePatch::default() };
    let after = catalog.update_sprite(&org.id, &before.id, patch).await.unwrap();
    let mut expected = before.clone();
    expected.last_running_at = Some(at);
    assert_eq!(after, expected, "the host's own notes are no update");

    let patch = SpritePatch {
        labels: Some(vec![]),
        url_auth: Some(UrlAuth::Sprite),
        ..SpritePatch::default()
    };
    let after = catalog.update_sprite(&org.id, &before.id, patch).await.unwrap();
    expected.labels = vec![];
    expected.url_auth = UrlAuth::Sprite;
    expected.updated_at = after.updated_at;
    assert_eq!(after, expected);
    assert_eq!(after.updated_at.since(before.updated_at), Duration::from_secs(1));
}

#[tokio::test]
async fn a_damaged_org_leaves_the_others_alone() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let (acme, other) = (org(&catalog, "acme").await, org(&catalog, "other").await);
    let (_, text) = catalog.create_token(&acme.id, "").await.unwrap();
    drop(catalog);
    let path = dir.path().join("orgs").join(acme.id.as_str()).join("org.db");
    let size = std::fs::metadata(&path).unwrap().len();
    std::fs::write(&path, vec![0x5a; usize::try_from(size).unwrap()]).unwrap();

    let catalog = open(dir.path());
    assert_eq!(catalog.orgs().await, [other]);
    let [broken] = catalog.broken_orgs() else { panic!("one broken org") };
    assert_eq!(broken.slug.as_ref(), Some(&acme.slug));
    assert!(broken.reason.contains("not a database"), "{}", broken.reason);
    let error = catalog.sprites(&acme.id, "", None, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(catalog.authenticate(&text).await.unwrap_err().kind(), ErrorKind::Unavailable);
    // An empty org under the old name would look as if everything had been deleted.
    let error = catalog.ensure_org(&acme.slug).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// Dropping the last handle while a write is under way must neither hang nor lose it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_write_that_was_queued_still_happens() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let org = org(&catalog, "acme").await;
    let writes: Vec<_> = (0..20)
        .map(|i| {
            let (catalog, org) = (catalog.clone(), org.id.clone());
            tokio::spawn(async move {
                catalog.insert_sprite(&org, new(&format!("s{i}"))).await.map(drop)
            })
        })
        .collect();
    drop(catalog);
    for write in writes {
        write.await.unwrap().unwrap();
    }
    // The last clone may still be on its way out of a task.
    let catalog = loop {
        match Catalog::open(dir.path(), HostId::generate(), clock()) {
            Ok(catalog) => break catalog,
            Err(CatalogError::InUse { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(catalog.count(&org.id).await.unwrap(), 20);
}
