//! The adapter under the real HTTP library, over an in-memory stream.

use std::sync::Mutex;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

/// What a service saw: method, path, query, body.
type Seen = Arc<Mutex<Vec<(String, String, String, Vec<u8>)>>>;

use std::sync::Arc;

async fn record(State(seen): State<Seen>, request: Request<Body>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let query = match parts.extensions.get::<FullQuery>() {
        Some(query) => format!("{:?}", query.pairs()),
        None => {
            let raw = parts.uri.query().unwrap_or_default();
            format!("{:?}", FullQuery::parse(raw).pairs())
        }
    };
    if parts.headers.contains_key("x-early") {
        return Response::new(Body::from("early"));
    }
    if parts.headers.get("upgrade").is_some_and(|v| v == "echo") {
        let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>().unwrap();
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = io.read(&mut buffer).await {
                io.write_all(&buffer[..count]).await.unwrap();
            }
        });
        let response = Response::builder().status(101).header("upgrade", "echo");
        return response.header("connection", "upgrade").body(Body::empty()).unwrap();
    }
    let Ok(body) = body.collect().await else { return Response::new(Body::from("broken")) };
    let body = body.to_bytes().to_vec();
    let answer = format!("{} {} {query} {}", parts.method, parts.uri.path(), body.len());
    seen.lock().unwrap().push((parts.method.to_string(), parts.uri.path().to_owned(), query, body));
    Response::new(Body::from(answer))
}

fn start(timeouts: Timeouts) -> (DuplexStream, Seen) {
    let seen = Seen::default();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let router = Router::new().fallback(record).with_state(seen.clone());
    tokio::spawn(serve(theirs, router, timeouts, CancellationToken::new()));
    (ours, seen)
}

/// Sends everything, ends the stream only after the answers, returns the answers.
async fn exchange(mut io: DuplexStream, pieces: Vec<Vec<u8>>, answers: usize) -> String {
    let mut text = Vec::new();
    let (mut read, mut write) = tokio::io::split(&mut io);
    let send = async {
        for piece in pieces {
            if write.write_all(&piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let receive = async {
        let mut buffer = [0; 4096];
        while count_answers(&text) < answers {
            match tokio::time::timeout(Duration::from_secs(10), read.read(&mut buffer)).await {
                Ok(Ok(count @ 1..)) => text.extend_from_slice(&buffer[..count]),
                Ok(_) => break,
                Err(_) => panic!("no answer; so far {}", String::from_utf8_lossy(&text)),
            }
        }
    };
    tokio::join!(send, receive);
    String::from_utf8_lossy(&text).into_owned()
}

/// Whole answers in `bytes`, each with a Content-Length.
fn count_answers(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    let mut count = 0;
    while let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]).to_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .map_or(0, |tail| tail.split("\r\n").next().unwrap().parse::<usize>().unwrap());
        if rest.len() < end + 4 + length {
            break;
        }
        rest = &rest[end + 4 + length..];
        count += usize::from(!head.starts_with("http/1.1 100"));
    }
    count
}

fn three_requests() -> Vec<u8> {
    [
        &b"GET /a?x=1&x=2 HTTP/1.1\r\nHost: h\r\n\r\n"[..],
        b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\r\n",
        b"PUT /c?y HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
          3\r\nabc\r\n4;e=f\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n",
        b"GET /d HTTP/1.1\r\nHost: h\r\n\r\n",
    ]
    .concat()
}

#[tokio::test]
async fn pipelined_requests_are_seen_in_order_wherever_they_split() {
    let whole = three_requests();
    for split in 0..whole.len() {
        let (io, seen) = start(Timeouts::default());
        let pieces = vec![whole[..split].to_vec(), whole[split..].to_vec()];
        exchange(io, pieces, 4).await;
        let seen = seen.lock().unwrap();
        let short: Vec<_> = seen.iter().map(|s| (s.1.as_str(), s.3.as_slice())).collect();
        let expected: [(&str, &[u8]); 4] =
            [("/a", b""), ("/b", b"hello"), ("/c", b"abcdefg"), ("/d", b"")];
        assert_eq!(short, expected, "split at {split}");
    }
}

#[tokio::test]
async fn a_query_of_almost_one_mebibyte_arrives_whole_between_others() {
    let value = "x%2B+".repeat(200_000);
    let long =
        format!("POST /long?a=1&v={value} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
    let whole = [three_requests(), long.into_bytes(), three_requests()].concat();
    let (io, seen) = start(Timeouts::default());
    let pieces = whole.chunks(7000).map(<[u8]>::to_vec).collect();
    exchange(io, pieces, 9).await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 9);
    let (method, path, query, body) = &seen[4];
    assert_eq!((method.as_str(), path.as_str(), body.as_slice()), ("POST", "/long", &b"hi"[..]));
    assert_eq!(*query, format!("{:?}", [("a", "1"), ("v", &"x+ ".repeat(200_000))]));
}

#[tokio::test]
async fn a_refused_head_is_answered_after_the_requests_before_it() {
    for (bad, status) in [
        (
            b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec(),
            400,
        ),
        ([b"GET /".to_vec(), vec![b'x'; 2 * 1024 * 1024]].concat(), 414),
        ([b"GET / HTTP/1.1\r\nh: ".to_vec(), vec![b'x'; 100_000]].concat(), 431),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n".to_vec(), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
    ] {
        let (io, seen) = start(Timeouts::default());
        let answers = exchange(io, vec![three_requests(), bad], 6).await;
        assert_eq!(seen.lock().unwrap().len(), 4);
        let last = answers.rsplit("HTTP/1.1 ").next().unwrap().to_lowercase();
        assert!(last.starts_with(&status.to_string()), "{last}");
        assert!(last.contains("connection: close") && last.contains("application/json"), "{last}");
        assert!(last.contains("x-request-id: req-"), "{last}");
    }
}

#[tokio::test]
async fn bytes_behind_an_upgrade_are_raw_and_behind_a_refused_one_http() {
    let (mut io, _) = start(Timeouts::default());
    let raw =
        "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: echo\r\nHost: h\r\n\r\nGET /\n\0raw";
    io.write_all(raw.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    while !all.ends_with(b"\r\n\r\nGET /\n\0raw") {
        assert_ne!(io.read_buf(&mut all).await.unwrap(), 0, "{}", String::from_utf8_lossy(&all));
    }

    let (io, seen) = start(Timeouts::default());
    let refused = "GET /1 HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: other\r\nHost: h\r\n\r\n";
    exchange(io, vec![refused.as_bytes().to_vec(), three_requests()], 5).await;
    assert_eq!(seen.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn expect_100_continue_is_answered_when_the_body_is_wanted() {
    let (mut io, seen) = start(Timeouts::default());
    let head = "PUT /e HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    io.write_all(head.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    while !all.starts_with(b"HTTP/1.1 100 Continue\r\n\r\n") {
        assert_ne!(io.read_buf(&mut all).await.unwrap(), 0);
    }
    io.write_all(b"abc").await.unwrap();
    exchange(io, vec![three_requests()], 5).await;
    assert_eq!(seen.lock().unwrap().len(), 5);
}

/// An answer that does not wait for the request's end must still reach the client.
#[tokio::test]
async fn an_early_answer_is_readable_while_the_upload_goes_on() {
    let (mut io, _) = start(Timeouts::default());
    let head = "PUT /e HTTP/1.1\r\nHost: h\r\nX-Early: 1\r\nContent-Length: 10000000\r\n\r\n";
    io.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..100 {
        io.write_all(&[0; 100_000]).await.expect("the rest is read and thrown away");
    }
    let mut text = String::new();
    io.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("early"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_refused_and_an_idle_connection_closed() {
    let (mut io, seen) = start(Timeouts::default());
    io.write_all(b"GET / HTTP/1.1\r\nHost").await.unwrap();
    let mut text = String::new();
    io.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");

    let (mut io, _) = start(Timeouts::default());
    io.write_all(&three_requests()).await.unwrap();
    let mut text = String::new();
    io.read_to_string(&mut text).await.unwrap();
    assert_eq!(text.matches("HTTP/1.1 200").count(), 4);
    assert!(!text.contains("408"));
    assert_eq!(seen.lock().unwrap().len(), 0);

    let (mut io, _) = start(Timeouts::default());
    io.read_to_string(&mut text).await.unwrap();
}

#[tokio::test]
async fn broken_chunks_end_the_connection() {
    let (io, seen) = start(Timeouts::default());
    let bad = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let answers = exchange(io, vec![bad.to_vec()], 2).await;
    assert!(!answers.contains("/smuggled"), "{answers}");
    assert!(seen.lock().unwrap().is_empty());
}

/// The library alone, as the model to compare with.
fn start_plain() -> (DuplexStream, Seen) {
    let seen = Seen::default();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let state = seen.clone();
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let state = state.clone();
        async move {
            Ok::<_, std::convert::Infallible>(record(State(state), request.map(Body::new)).await)
        }
    });
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(theirs), service));
    (ours, seen)
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn small_requests_are_seen_as_the_library_alone_sees_them(
        requests in proptest::collection::vec(
            ("(GET|POST|PUT|DELETE)", "/[a-z/%]{0,20}", "[a-z=&+%0-9]{0,20}",
             proptest::collection::vec(proptest::num::u8::ANY, 0..60), 0u8..3),
            1..6
        ),
        piece in 1usize..80,
    ) {
        let mut bytes = Vec::new();
        let count = requests.len();
        for (method, path, query, body, form) in requests {
            bytes.extend_from_slice(format!("{method} {path}?{query} HTTP/1.1\r\nHost: h\r\n").as_bytes());
            match form {
                0 => bytes.extend_from_slice(b"\r\n"),
                1 => {
                    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                    bytes.extend_from_slice(&body);
                }
                _ => {
                    bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                    for chunk in body.chunks(9) {
                        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                        bytes.extend_from_slice(chunk);
                        bytes.extend_from_slice(b"\r\n");
                    }
                    bytes.extend_from_slice(b"0\r\n\r\n");
                }
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pieces: Vec<_> = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
            let (io, ours) = start(Timeouts::default());
            exchange(io, pieces.clone(), count).await;
            let (io, plain) = start_plain();
            exchange(io, pieces, count).await;
            assert_eq!(*ours.lock().unwrap(), *plain.lock().unwrap());
            assert_eq!(ours.lock().unwrap().len(), count);
        });
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    /// What the library alone would see differently must not get through: the requests seen
    /// are a prefix of those that it sees.
    #[test]
    fn damaged_requests_are_understood_alike_or_refused(
        changes in proptest::collection::vec((0usize..400, proptest::sample::select(
            b"\0\t\n\r :;,/?#%0123456789abcCHTG\x7f\x80\xff".to_vec())), 1..4),
    ) {
        let mut bytes = three_requests();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut io, ours) = start(Timeouts::default());
            io.write_all(&bytes).await.unwrap();
            // Time is paused: this takes none. A body may wait for ever for its rest.
            let mut rest = Vec::new();
            let all = io.read_to_end(&mut rest);
            let _ = tokio::time::timeout(Duration::from_secs(200), all).await;
            let (mut io, plain) = start_plain();
            io.write_all(&bytes).await.unwrap();
            let mut rest = Vec::new();
            let all = io.read_to_end(&mut rest);
            let _ = tokio::time::timeout(Duration::from_secs(200), all).await;
            let (ours, plain) = (ours.lock().unwrap(), plain.lock().unwrap());
            assert!(plain.starts_with(&ours), "{ours:?} {plain:?}");
        });
    }
}

/// The official SDKs do not try again when a connection closes under their next request.
#[tokio::test]
async fn a_body_that_nobody_reads_does_not_cost_the_connection() {
    let (mut io, _) = start(Timeouts::default());
    let mut buffer = vec![0; 1024];
    for i in 0..20 {
        io.write_all(b"PUT /a HTTP/1.1\r\nhost: h\r\nx-early: 1\r\ncontent-length: 4\r\n\r\n")
            .await
            .unwrap();
        // Later than the head, as most clients send it.
        tokio::task::yield_now().await;
        io.write_all(b"body").await.unwrap();
        let count = io.read(&mut buffer).await.unwrap();
        let text = String::from_utf8_lossy(&buffer[..count]).to_lowercase();
        assert!(text.contains("early") && !text.contains("connection: close"), "{i}: {text}");
    }
    let head =
        format!("PUT /a HTTP/1.1\r\nhost: h\r\nx-early: 1\r\ncontent-length: {}\r\n\r\n", 1 << 20);
    io.write_all(head.as_bytes()).await.unwrap();
    let count = io.read(&mut buffer).await.unwrap();
    let text = String::from_utf8_lossy(&buffer[..count]).to_lowercase();
    assert!(text.contains("connection: close"), "{text}");
}
