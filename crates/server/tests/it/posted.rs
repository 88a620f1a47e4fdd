//! `POST …/exec`.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{World, chunks, eventually, q, world_with_sprite};

/// Returns the chunks of the answer.
async fn post(world: &World, query: &str, body: &[u8]) -> Vec<Vec<u8>> {
    let mut stream = world.connect().await;
    let head = format!(
        "POST /v1/sprites/box/exec?{query} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\
         authorization: {}\r\ncontent-length: {}\r\n\r\n",
        world.bearer(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    for line in ["application/octet-stream", "nosniff", "chunked", "sprite-version: 0.0.1-rc50"] {
        assert!(head.contains(line), "{line}: {head}");
    }
    chunks(&all[end..])
}

#[tokio::test]
async fn one_frame_is_one_chunk_and_the_exit_comes_alone() {
    let world = world_with_sprite().await;
    let script = q("echo hi");
    let chunks = post(&world, &format!("cmd=sh&cmd=-c&cmd={script}&path=sh"), b"ignored").await;
    assert_eq!(chunks, [b"\x01hi\n".to_vec(), vec![3, 0]]);
    let script = q("echo out; sleep 0.1; echo err >&2; exit 7");
    let chunks = post(&world, &format!("cmd=sh&cmd=-c&cmd={script}"), b"").await;
    assert_eq!(chunks, [b"\x01out\n".to_vec(), b"\x02err\n".to_vec(), vec![3, 7]]);
    let chunks = post(&world, "cmd=no-such-cmd", b"").await;
    assert_eq!(chunks.len(), 2);
    assert_eq!((chunks[0][0], &chunks[1]), (2, &vec![3, 127]));
}

#[tokio::test]
async fn the_requests_body_is_the_input_if_it_is_wanted() {
    let world = world_with_sprite().await;
    let data: Vec<u8> = (0..3_000_000).map(|i| (i % 249) as u8).collect();
    let mut chunks = post(&world, "cmd=cat&stdin=true", &data).await;
    assert_eq!(chunks.pop(), Some(vec![3, 0]));
    assert!(chunks.iter().all(|chunk| chunk[0] == 1 && chunk.len() <= 8192));
    let joined: Vec<u8> = chunks.iter().flat_map(|chunk| chunk[1..].to_vec()).collect();
    assert!(joined == data);
    assert_eq!(post(&world, "cmd=cat", b"ignored").await, [vec![3, 0]]);
}

#[tokio::test]
async fn what_needs_a_socket_is_refused() {
    let world = world_with_sprite().await;
    for query in ["cmd=a&tty=true", "id=1", "session_id=1", "cmd=a&detachable=true", "cmd=a&cc=1"] {
        let answer = world.call("POST", &format!("/v1/sprites/box/exec?{query}"), "").await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.json()["error"].is_string());
    }
    let answer = world.call("POST", "/v1/sprites/box/exec", "").await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"], "No command specified");
}

#[tokio::test]
async fn a_client_that_leaves_detaches_from_its_command() {
    let world = world_with_sprite().await;
    let mut stream = world.connect().await;
    let head = format!(
        "POST /v1/sprites/box/exec?cmd=sh&cmd=-c&cmd={}&max_run_after_disconnect=300ms HTTP/1.1\r\n\
         host: h\r\nauthorization: {}\r\n\r\n",
        q("echo x; sleep 1000"),
        world.bearer()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"x\n\r\n") {
        stream.read_buf(&mut seen).await.unwrap();
    }
    let count =
        async || world.call("GET", "/v1/sprites/box/exec", "").await.json()["count"].clone();
    assert_eq!(count().await, 1);
    drop(stream);
    eventually("the session is gone", async || count().await == 0).await;
}
