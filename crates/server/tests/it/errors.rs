//! What is refused, and how.

use serde_json::json;
use sprite_server::Readiness;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{world, world_with_sprite};

#[tokio::test]
async fn nothing_below_v1_answers_without_a_good_token() {
    let world = world_with_sprite().await;
    let revoked = {
        let (record, text) = world.catalog.create_token(&world.org.id, "x").await.unwrap();
        world.catalog.revoke_token(&world.org.id, &record.id).await.unwrap();
        text
    };
    let cut = &world.token[..world.token.len() - 1];
    for (method, target) in [
        ("GET", "/v1/sprites"),
        ("POST", "/v1/sprites"),
        ("GET", "/v1/sprites/box"),
        ("GET", "/v1/sprites/box/exec?cmd=true"),
        ("POST", "/v1/sprites/box/exec?cmd=true"),
        ("GET", "/v1/sprites/box/fs/read?path=%2Fetc%2Fpasswd"),
        ("PUT", "/v1/sprites/box/fs/write?path=%2Ftmp%2Fx"),
        ("DELETE", "/v1/sprites/box"),
        ("GET", "/v1/organization"),
        ("POST", "/v1/organizations/acme/tokens"),
        ("GET", "/v1/nothing"),
    ] {
        for authorization in [None, Some("Bearer"), Some("Bearer x"), Some("Basic YTpi")]
            .map(|a| a.map(str::to_owned))
            .into_iter()
            .chain([Some(format!("Bearer {revoked}")), Some(format!("Bearer {cut}"))])
        {
            let headers: Vec<_> =
                authorization.iter().map(|a| ("authorization", a.as_str())).collect();
            let answer = world.call_with(method, target, &headers, "").await;
            assert_eq!(answer.status, 401, "{method} {target} {authorization:?}");
            assert_eq!(answer.json()["error"], "unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    let refused = world.socket_with("/v1/sprites/box/exec?cmd=true", "Bearer x").await;
    assert_eq!(refused.err().expect("refused").status, 401);
}

/// Whether a sprite exists is nobody's business but its org's.
#[tokio::test]
async fn another_orgs_sprite_looks_like_none() {
    let world = world_with_sprite().await;
    let other = world.catalog.ensure_org(&"other".parse().unwrap()).await.unwrap();
    let (_, token) = world.catalog.create_token(&other.id, "x").await.unwrap();
    let bearer = format!("Bearer {token}");
    for (method, rest) in [
        ("GET", ""),
        ("PUT", ""),
        ("DELETE", ""),
        ("GET", "/exec"),
        ("HEAD", "/exec"),
        ("POST", "/exec?cmd=true"),
        ("POST", "/exec/1/kill"),
        ("GET", "/exec/1"),
        ("GET", "/check"),
        ("GET", "/logs"),
        ("POST", "/restart"),
        ("POST", "/upgrade"),
        ("GET", "/fs/read?path=%2Fetc%2Fpasswd"),
        ("PUT", "/fs/write?path=%2Ftmp%2Fx"),
        ("POST", "/fs/copy"),
        ("GET", "/checkpoints"),
        ("GET", "/services"),
    ] {
        let ask = async |name: &str| {
            let target = format!("/v1/sprites/{name}{rest}");
            world.call_with(method, &target, &[("authorization", &bearer)], "{}").await
        };
        let (foreign, none) = (ask("box").await, ask("nothing").await);
        assert_eq!(foreign.status, 404, "{method} {rest} {foreign:?}");
        assert_eq!((foreign.status, &foreign.body), (none.status, &none.body), "{method} {rest}");
        if method != "HEAD" {
            assert_eq!(foreign.json()["error"], "sprite not found", "{method} {rest}");
        }
        assert_eq!(foreign.headers["sprite-version"], "0.0.1-rc50");
    }
    let refused = world.socket_with("/v1/sprites/box/exec?cmd=true", &bearer).await;
    assert_eq!(refused.err().expect("refused").status, 404);
    assert_eq!(world.call("GET", "/v1/sprites/box", "").await.status, 200);
}

#[tokio::test]
async fn bad_bodies_are_refused_in_words() {
    let world = world().await;
    for body in [
        "",
        "{",
        "[]",
        "null",
        r#""box""#,
        "{}",
        r#"{"name":null}"#,
        r#"{"name":5}"#,
        r#"{"name":"UPPER"}"#,
        r#"{"name":"-a"}"#,
        r#"{"name":"a/b"}"#,
        r#"{"name":"a","labels":"x"}"#,
        r#"{"name":"a","labels":[1]}"#,
        r#"{"name":"a","environment":{"A":1}}"#,
        r#"{"name":"a","config":{"ram_mb":"x"}}"#,
        r#"{"name":"a","runtime":"other"}"#,
        "\u{0}\u{1}",
    ] {
        let answer = world.call("POST", "/v1/sprites", body).await;
        assert_eq!(answer.status, 400, "{body} {answer:?}");
        let json = answer.json();
        assert!(json["error"].is_string() && json["errors"][0].is_string(), "{json}");
    }
    let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(64));
    assert_eq!(world.call("POST", "/v1/sprites", long).await.status, 400);
    let huge = vec![b' '; 3 * 1024 * 1024];
    let answer = world.call("POST", "/v1/sprites", huge).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["error"], "body too large");
    let longest = format!(r#"{{"name":"{}"}}"#, "x".repeat(63));
    assert_eq!(world.call("POST", "/v1/sprites", longest).await.status, 201);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json_and_never_redirects() {
    let world = world_with_sprite().await;
    for target in [
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/v1/sprites/",
        "/v1/sprites/box/",
        "/v1/sprites/box/nothing",
        "/v1/sprites/box/exec/",
        "/v1/sprites/box/control",
        "/v1/sprites/box/fs/nothing",
        "/v1/sprites/..%2f..%2fetc",
        "/v1/sprites/%ff%fe",
        "/v1/sprites/%00",
        "/nothing",
        "/",
        "//v1/sprites",
        "/v1/../healthz",
    ] {
        let answer = world.call("GET", target, "").await;
        assert_eq!(answer.status, 404, "{target}");
        assert!(answer.json()["error"].is_string());
        assert!(answer.headers["x-request-id"].to_str().unwrap().starts_with("req-"));
    }
    for (method, target, allowed) in [
        ("DELETE", "/v1/sprites", "GET,HEAD,POST"),
        ("POST", "/v1/sprites/box", "GET,HEAD,PUT,DELETE"),
        ("POST", "/v1/sprites/box/check", "GET,HEAD"),
        ("GET", "/v1/sprites/box/restart", "POST"),
        ("DELETE", "/v1/sprites/box/exec", "GET,HEAD,POST"),
        ("POST", "/v1/sprites/box/fs/read", "GET,HEAD"),
        ("GET", "/v1/sprites/box/exec/1/kill", "POST"),
        ("POST", "/healthz", "GET,HEAD"),
        ("BREW", "/v1/sprites", "GET,HEAD,POST"),
    ] {
        let answer = world.call(method, target, "").await;
        assert_eq!(answer.status, 405, "{method} {target}");
        assert!(answer.json()["error"].is_string());
        let mut listed: Vec<_> =
            answer.headers["allow"].to_str().unwrap().split(',').map(str::to_owned).collect();
        let mut allowed: Vec<_> = allowed.split(',').map(str::to_owned).collect();
        listed.sort();
        allowed.sort();
        assert_eq!(listed, allowed, "{method} {target}");
    }
}

#[tokio::test]
async fn what_is_not_there_yet_says_so() {
    let world = world_with_sprite().await;
    for (method, target) in [
        ("POST", "/v1/sprites/box/checkpoint"),
        ("GET", "/v1/sprites/box/checkpoints"),
        ("POST", "/v1/sprites/box/checkpoints/v1/restore"),
        ("GET", "/v1/sprites/box/services"),
        ("PUT", "/v1/sprites/box/services/web"),
        ("GET", "/v1/sprites/box/policy/network"),
        ("GET", "/v1/sprites/box/proxy"),
        ("GET", "/v1/sprites/box/ports/watch"),
        ("GET", "/v1/sprites/box/fs/watch"),
        ("GET", "/v1/sprites/box/tasks"),
        ("GET", "/v1/oauth/x/authorize"),
        ("GET", "/v1/gateway/list"),
    ] {
        let answer = world.call(method, target, "").await;
        assert_eq!(answer.status, 501, "{method} {target}");
        let json = answer.json();
        assert_eq!(json["error"], "not_implemented");
        assert!(json["message"].as_str().unwrap().ends_with("yet"), "{json}");
    }
    let bearer = world.bearer();
    let headers = [("host", "box-abc.sprites.test:80"), ("authorization", bearer.as_str())];
    for target in ["/", "/v1/sprites", "/healthz"] {
        let answer = world.call_with("GET", target, &headers, "").await;
        assert_eq!(answer.status, 501, "{target}");
    }
    let headers = [("host", "api.sprites.test"), ("authorization", bearer.as_str())];
    assert_eq!(world.call_with("GET", "/v1/sprites", &headers, "").await.status, 200);
}

#[tokio::test]
async fn bad_exec_requests_are_refused_before_anything_starts() {
    let world = world_with_sprite().await;
    for (query, word) in [
        ("", "No command specified"),
        ("tty=true", "No command specified"),
        ("cmd=a&tty=perhaps", "tty"),
        ("cmd=a&cols=1000000", "cols"),
        ("cmd=a&env=novalue", "env"),
        ("cmd=a%00b", "NUL"),
        ("cmd=a&max_run_after_disconnect=-1", "max_run_after_disconnect"),
    ] {
        let refused = world.socket(&format!("/v1/sprites/box/exec?{query}")).await;
        let answer = refused.err().unwrap_or_else(|| panic!("granted: {query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.json()["error"].as_str().unwrap().contains(word), "{query} {answer:?}");
    }
    let answer = world.call("GET", "/v1/sprites/box/exec?cmd=true", "").await;
    assert_eq!(answer.status, 400);
    let bearer = world.bearer();
    let half = [("authorization", bearer.as_str()), ("upgrade", "websocket")];
    let answer = world.call_with("GET", "/v1/sprites/box/exec?cmd=true", &half, "").await;
    assert_eq!(answer.status, 400);
    let refused = world.socket("/v1/sprites/nothing/exec?cmd=true").await;
    assert_eq!(refused.err().expect("refused").json(), json!({"error": "sprite not found"}));
}

#[tokio::test]
async fn health_says_what_the_host_waits_for() {
    let world = world().await;
    assert_eq!(world.call_with("GET", "/healthz", &[], "").await.status, 200);
    world.readiness.send_replace(Readiness::Waiting("the base image is being built".into()));
    let answer = world.call_with("GET", "/healthz", &[], "").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["message"], "the base image is being built");
}

#[tokio::test]
async fn garbage_is_answered_and_the_connection_closed() {
    let world = world().await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"POST /v1/sprites HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\nhost: a\n\n",
    ] {
        let mut stream = world.connect().await;
        stream.write_all(garbage).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 4"), "{text}");
        assert!(text.contains("x-request-id: req-") && text.contains("\"error\""), "{text}");
    }
    // Half-open connections hold nobody up.
    let _silent = [world.connect().await, world.connect().await];
    assert_eq!(world.call("GET", "/v1/sprites", "").await.status, 200);
}
