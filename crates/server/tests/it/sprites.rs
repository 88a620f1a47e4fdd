//! Sprites as a resource, the org, and watching.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{PATIENCE, eventually, world, world_with_sprite};

#[tokio::test]
async fn a_sprite_is_made_found_changed_and_removed() {
    let world = world().await;
    let body = r#"{"name":"box","labels":["z","a"],"environment":{"K":"v"},"runtime":"dev",
        "config":{"ram_mb":256,"cpus":1,"storage_gb":10,"region":"here"},
        "url_settings":{"auth":"public","private_access":"org_users"},"wait_for_capacity":true}"#;
    let answer = world.call("POST", "/v1/sprites", body).await;
    assert_eq!(answer.status, 201);
    let made = answer.json();
    assert!(made["id"].as_str().unwrap().starts_with("sprite-"));
    assert_eq!(made["labels"], json!(["z", "a"]));
    assert_eq!(made["environment"], json!({"K": "v"}));
    let config = json!({"ram_mb": 256, "cpus": 1, "storage_gb": 10, "region": "here"});
    assert_eq!(made["config"], config);
    assert_eq!(made["url_settings"], json!({"auth": "public", "private_access": "org_users"}));
    assert_eq!((&made["organization"], &made["org_slug"]), (&json!("acme"), &json!("acme")));
    assert!(made["url"].as_str().unwrap().contains("box-"));
    let again = world.call("POST", "/v1/sprites", body).await;
    assert_eq!(again.status, 409);
    assert!(again.json()["message"].as_str().unwrap().contains("already exists"));

    let got = async || world.call("GET", "/v1/sprites/box", "").await.json();
    eventually("it boots by itself", async || got().await["status"] == "running").await;
    assert!(got().await["last_running_at"].is_string());
    let outcome = world.run("cmd=sh&cmd=-c&cmd=echo+%24K").await;
    assert_eq!(outcome.out(), "v\n");

    let put = async |body: &str| world.call("PUT", "/v1/sprites/box", body).await;
    let changed = put(r#"{"labels":["n"],"url_settings":{"auth":"sprite"}}"#).await;
    assert_eq!(changed.status, 200);
    assert_eq!(changed.json()["labels"], json!(["n"]));
    assert_eq!(changed.json()["url_settings"]["auth"], "sprite");
    assert_eq!(changed.json()["url_settings"]["private_access"], "org_users");
    assert_eq!(put("{}").await.json()["labels"], json!(["n"]));
    assert_eq!(put(r#"{"clear_labels":true}"#).await.json()["labels"], json!([]));
    assert_eq!(put(r#"{"url_settings":{"auth":"nobody"}}"#).await.status, 400);

    let answer = world.call("DELETE", "/v1/sprites/box", "").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0));
    assert_eq!(world.call("DELETE", "/v1/sprites/box", "").await.status, 404);
    assert_eq!(world.call("GET", "/v1/sprites/box", "").await.status, 404);
    assert_eq!(world.call("POST", "/v1/sprites", r#"{"name":"box"}"#).await.status, 201);
}

#[tokio::test]
async fn lists_are_paged_in_order() {
    let world = world().await;
    for name in ["b", "a", "c", "other"] {
        world.call("POST", "/v1/sprites", format!(r#"{{"name":"{name}"}}"#)).await;
    }
    let names = |page: &Value| -> Vec<String> {
        let sprites = page["sprites"].as_array().unwrap();
        sprites.iter().map(|sprite| sprite["name"].as_str().unwrap().to_owned()).collect()
    };
    let page = world.call("GET", "/v1/sprites?max_results=1000&bulk_load=true", "").await.json();
    assert_eq!(names(&page), ["a", "b", "c", "other"]);
    assert_eq!(
        (&page["has_more"], &page["next_continuation_token"]),
        (&json!(false), &json!(null))
    );
    assert_eq!((&page["name"], &page["org"]["name"]), (&json!("acme"), &json!("acme")));
    assert!(page["running_limit"].is_i64() && page["org"]["warm"].is_i64());
    let page = world.call("GET", "/v1/sprites?max_results=3", "").await.json();
    assert_eq!(names(&page), ["a", "b", "c"]);
    let token = page["next_continuation_token"].as_str().unwrap();
    let next = format!("/v1/sprites?max_results=3&continuation_token={token}");
    let page = world.call("GET", &next, "").await.json();
    assert_eq!(names(&page), ["other"]);
    let page = world.call("GET", "/v1/sprites?prefix=o", "").await.json();
    assert_eq!(names(&page), ["other"]);
    let page = world.call("GET", "/v1/sprites?prefix=none", "").await.json();
    assert_eq!(page["sprites"], json!([]));
    assert_eq!(world.call("GET", "/v1/sprites?continuation_token=!", "").await.status, 400);
}

#[tokio::test]
async fn the_calls_about_a_sprite_as_a_whole() {
    let world = world_with_sprite().await;
    world.run("cmd=true").await;
    let check = world.call("GET", "/v1/sprites/box/check", "").await.json();
    assert_eq!((&check["status"], &check["reason"]), (&json!("healthy"), &json!(null)));
    assert!(check["elapsed"].is_number());
    let restarted = world.call("POST", "/v1/sprites/box/restart", "").await;
    assert_eq!(restarted.status, 200);
    assert!(restarted.json()["machine_id"].as_str().unwrap().starts_with("mch-"));
    assert_eq!(world.run("cmd=echo&cmd=again").await.out(), "again\n");
    let upgraded = world.call("POST", "/v1/sprites/box/upgrade", r#"{"version":"x"}"#).await;
    assert_eq!(upgraded.json(), json!({"name": "box", "status": "upgraded"}));
    assert_eq!(world.call("GET", "/v1/sprites/box/logs?limit=5", "").await.json(), json!([]));
    let head = world.call("HEAD", "/v1/sprites/box/exec", "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.headers["sprite-version"], "0.0.1-rc50");
}

/// A read must never be what wakes a sprite.
#[tokio::test]
async fn reads_do_not_wake() {
    let world = world_with_sprite().await;
    world.run("cmd=true").await;
    let name = "box".parse().unwrap();
    world.sprites.stop(&world.org.id, &name).await.unwrap();
    for target in ["", "/exec", "/check", "/logs", "/exec/1"] {
        world.call("GET", &format!("/v1/sprites/box{target}"), "").await;
    }
    world.call("HEAD", "/v1/sprites/box/exec", "").await;
    world.call("POST", "/v1/sprites/box/exec/1/kill", "").await;
    world.call("GET", "/v1/sprites", "").await;
    assert_eq!(world.call("GET", "/v1/sprites/box/exec", "").await.json()["sessions"], json!([]));
    assert_eq!(world.call("GET", "/v1/sprites/box", "").await.json()["status"], "cold");
    let check = world.call("GET", "/v1/sprites/box/check", "").await.json();
    assert_eq!(check["status"], "hibernated");
    assert_eq!(world.run("cmd=echo&cmd=awake").await.out(), "awake\n");
}

#[tokio::test]
async fn a_token_makes_another_of_its_own_org() {
    let world = world().await;
    let organization = world.call("GET", "/v1/organization", "").await.json();
    assert_eq!(organization["organization"]["slug"], "acme");
    assert!(organization["organization"]["active_sprites"].is_array());
    let target = "/v1/organizations/acme/tokens";
    let answer = world.call("POST", target, r#"{"description":"ci"}"#).await;
    assert_eq!(answer.status, 201);
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(token.split('/').count(), 4);
    let bearer = format!("Bearer {token}");
    let with = async |target: &str| {
        world.call_with("GET", target, &[("authorization", &bearer)], "").await.status
    };
    assert_eq!(with("/v1/sprites").await, 200);
    assert_eq!(world.call("POST", target, "").await.status, 201);
    assert_eq!(world.call("POST", "/v1/organizations/other/tokens", "{}").await.status, 403);
}

#[tokio::test]
async fn a_watch_shows_every_sprite_and_every_change() {
    let world = world_with_sprite().await;
    let mut stream = world.connect().await;
    let head = format!(
        "GET /v1/sprites?prefix=b HTTP/1.1\r\nhost: h\r\naccept: application/x-ndjson\r\n\
         authorization: {}\r\n\r\n",
        world.bearer()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let mut wait_for = async |what: &str| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !String::from_utf8_lossy(&seen).contains(what) {
            let read = tokio::time::timeout_at(deadline, stream.read_buf(&mut seen)).await;
            let text = String::from_utf8_lossy(&seen).into_owned();
            assert_ne!(read.expect(&text).unwrap(), 0, "{text}");
        }
        String::from_utf8_lossy(&seen).into_owned()
    };
    let text = wait_for(r#""name":"box""#).await;
    assert!(text.to_lowercase().contains("content-type: application/x-ndjson"));
    wait_for(r#""status":"running""#).await;
    world.call("POST", "/v1/sprites", r#"{"name":"other"}"#).await;
    world.call("POST", "/v1/sprites", r#"{"name":"bee"}"#).await;
    wait_for(r#""name":"bee""#).await;
    world.call("DELETE", "/v1/sprites/bee", "").await;
    let text = wait_for(r#""status":"destroyed""#).await;
    assert!(!text.contains("other"), "{text}");
}
