//! `…/fs/*` through the server.

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{parse_answer, q, world_with_sprite};

#[tokio::test]
async fn contents_come_back_as_they_were_written() {
    let world = world_with_sprite().await;
    let path = q(world.dir.path().join("file").to_str().unwrap());
    let fs = |call: &str| format!("/v1/sprites/box/fs/{call}path={path}&workingDir=%2F");
    let written = world.call("PUT", &fs("write?mode=0600&"), "hello").await;
    assert_eq!(written.status, 200, "{written:?}");
    assert_eq!(written.json()["size"], 5);
    let read = world.call("GET", &fs("read?"), "").await;
    assert_eq!((read.status.as_u16(), &read.body[..]), (200, &b"hello"[..]));
    assert_eq!(read.headers["sprite-version"], "0.0.1-rc50");
    let bearer = world.bearer();
    let headers = [("authorization", bearer.as_str()), ("range", "bytes=1-3")];
    let part = world.call_with("GET", &fs("read?"), &headers, "").await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"ell"[..]));
    let list = world.call("GET", &fs("list?"), "").await.json();
    assert_eq!(list["entries"][0]["mode"], "0600");
    assert_eq!(world.call("DELETE", &fs("delete?"), "").await.status, 200);
    let missing = world.call("GET", &fs("read?"), "").await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["code"], "ENOENT");
    assert_eq!(world.call("POST", &fs("write?"), "x").await.status, 405);
}

#[tokio::test]
async fn large_contents_stream_both_ways() {
    let world = world_with_sprite().await;
    let path = q(world.dir.path().join("large").to_str().unwrap());
    let block: Vec<u8> = (0..1_000_000).map(|i| (i * 31 % 257) as u8).collect();
    let count = 16;
    let mut stream = world.connect().await;
    let head = format!(
        "PUT /v1/sprites/box/fs/write?path={path} HTTP/1.1\r\nhost: h\r\nauthorization: {}\r\n\
         expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n",
        world.bearer()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut sum = Sha256::new();
    for _ in 0..count {
        sum.update(&block);
        stream.write_all(format!("{:x}\r\n", block.len()).as_bytes()).await.unwrap();
        stream.write_all(&block).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    // The same connection goes on with the next request.
    let head = format!(
        "GET /v1/sprites/box/fs/read?path={path} HTTP/1.1\r\nhost: h\r\nauthorization: {}\r\n\
         connection: close\r\n\r\n",
        world.bearer()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let second = all.windows(9).rposition(|window| window == b"HTTP/1.1 ").unwrap();
    let answer = parse_answer(&all[second..]);
    assert_eq!(answer.status, 200, "{:?}", &answer.headers);
    assert_eq!(answer.body.len(), count * block.len());
    assert_eq!(Sha256::digest(&answer.body), sum.finalize());
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_the_old_file() {
    let world = world_with_sprite().await;
    let file = world.dir.path().join("kept");
    std::fs::write(&file, "old").unwrap();
    let mut stream = world.connect().await;
    let head = format!(
        "PUT /v1/sprites/box/fs/write?path={} HTTP/1.1\r\nhost: h\r\nauthorization: {}\r\n\
         content-length: 1000000\r\n\r\nhalf",
        q(file.to_str().unwrap()),
        world.bearer()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    assert_eq!(world.run("cmd=true").await.exit, Some(0));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "old");
}
