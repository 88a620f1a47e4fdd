//! A store that somebody else built: moto (`script/test-s3`), or any that is named.

use bytes::Bytes;
use sprite_store::{Ambient, CreateError, Location, Prefix, S3, Store, StoreSettings};
use sprite_types::ErrorKind;

use crate::basics::{behaves, key};

/// With `SPRITES_TEST_STORE=s3://bucket/folder?endpoint=…&region=…` and `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY` in the environment. Writes to a new folder below, and removes it.
#[tokio::test]
async fn the_store_named_in_the_environment_behaves() {
    try_store("SPRITES_TEST_STORE").await;
}

/// The same with `SPRITES_TEST_STORE_TLS`, whose endpoint is `https://…`; `SSL_CERT_FILE` names
/// the authority of its certificate.
#[tokio::test]
async fn the_store_named_in_the_environment_behaves_over_tls() {
    try_store("SPRITES_TEST_STORE_TLS").await;
}

async fn try_store(variable: &str) {
    let env = |name: &str| std::env::var(name).ok();
    let Some(url) = env(variable) else {
        println!("skipped: no {variable}; see script/test-s3");
        return;
    };
    let Location::S3(mut config) = Location::parse(&url, &env).unwrap() else {
        panic!("{variable} is a bucket");
    };
    let ambient = Ambient::system();
    let folder = format!("test-{:016x}/", (ambient.random)());
    config.prefix = config.prefix.join(&folder).unwrap();
    let open = |config, env: &dyn Fn(&str) -> Option<String>| {
        let settings = StoreSettings::default();
        let s3 = S3::new(config, env, settings.clone(), &ambient).unwrap();
        Store::new(std::sync::Arc::new(s3), settings, ambient.clone())
    };
    let store = open(config.clone(), &env);
    store.probe().await.unwrap();
    behaves(&store).await;

    // More than one packet, and more than one page of names.
    let large: Bytes = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    store.create(&key("large"), large.clone()).await.unwrap();
    assert_eq!(store.get(&key("large")).await.unwrap(), large);
    let mut other = large.to_vec();
    other[2_999_999] ^= 1;
    let error = store.create(&key("large"), other.into()).await.unwrap_err();
    assert!(matches!(error, CreateError::Taken { .. }));
    let names: Vec<_> = (0..1005).map(|i| key(&format!("many/{i:04}"))).collect();
    for chunk in names.chunks(32) {
        let writes = chunk.iter().map(|name| store.create(name, Bytes::new()));
        futures::future::try_join_all(writes).await.unwrap();
    }
    let listed = store.list(&"many/".parse().unwrap()).await.unwrap();
    assert!(listed.iter().map(|object| &object.key).eq(&names));

    // Whoever does not know the secret is told so.
    let wrong = |name: &str| match name {
        "AWS_SECRET_ACCESS_KEY" => Some("wrong".to_owned()),
        name => env(name),
    };
    let stranger = open(config, &wrong);
    let error = stranger.get(&key("large")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error:?}");

    let left = store.list(&Prefix::root()).await.unwrap();
    for chunk in left.chunks(32) {
        let deletes = chunk.iter().map(|object| store.delete(&object.key));
        futures::future::try_join_all(deletes).await.unwrap();
    }
    assert!(store.list(&Prefix::root()).await.unwrap().is_empty());
}
