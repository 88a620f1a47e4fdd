//! A link may break at any moment. Clients must not notice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sprite_api::sprite::CreateSprite;
use sprite_catalog::Catalog;
use sprite_client::exec::{Event, ExecRequest};
use sprite_client::{Client, SpriteClient, Token};
use sprite_lifecycle::{ImageState, LifecycleSettings, ReadyImage, Sprites, Storage, UrlSettings};
use sprite_server::{Readiness, Server, ServerSettings};
use sprite_substrate::{Fake, Substrate};
use sprite_types::{ByteSize, HostId, ImageId, SystemClock};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often each link is cut.
const PERIOD: Duration = Duration::from_millis(100);

struct World {
    _dir: tempfile::TempDir,
    shutdown: CancellationToken,
    client: Client,
    fake: Fake,
    _states: (watch::Sender<ImageState>, watch::Sender<Readiness>),
}

impl World {
    /// The test would prove nothing on a link that stayed up.
    fn assert_cut(&self, at_least: u64) {
        let cuts = self.fake.links_cut();
        assert!(cuts >= at_least, "the link was cut only {cuts} times");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Serves the API over machines whose links are cut all the time.
async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let catalog = Catalog::open(dir.path(), HostId::generate(), clock.clone()).unwrap();
    let org = catalog.ensure_org(&"acme".parse().unwrap()).await.unwrap();
    let (_, token) = catalog.create_token(&org.id, "").await.unwrap();
    let ready = ReadyImage { id: ImageId::generate(), path: "/dev/null".into() };
    let (image_out, image) = watch::channel(ImageState::Ready(ready));
    let fake = Fake::new(dir.path().join("homes")).cutting_links_every(PERIOD);
    let url = UrlSettings { scheme: "http".into(), domain: "sprites.test".into(), port: None };
    let settings = LifecycleSettings {
        url,
        running_max: 10,
        boots_max: 2,
        memory_default: ByteSize::mib(512),
        cpus_default: None,
        pids_max: 100,
    };
    let sprites = Sprites::start(
        settings,
        catalog.clone(),
        Substrate::Fake(fake.clone()),
        Storage::None,
        image,
        clock.clone(),
    )
    .await
    .unwrap();
    let (readiness_out, readiness) = watch::channel(Readiness::Ready);
    let settings = ServerSettings {
        sprite_domain: "sprites.test".into(),
        api_hosts: Vec::new(),
        connections_max: 100,
        readiness,
        clock,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    tokio::spawn(Server::new(settings, catalog, sprites).serve(listener, shutdown.clone()));
    let client = Client::new(url.parse().unwrap(), Token::new(&token).unwrap());
    World { _dir: dir, shutdown, client, fake, _states: (image_out, readiness_out) }
}

async fn sprite(world: &World) -> SpriteClient {
    let body = CreateSprite { name: "one".into(), ..CreateSprite::default() };
    world.client.create_sprite(&body).await.unwrap();
    world.client.sprite("one")
}

fn shell(script: &str, stdin: bool) -> ExecRequest {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    ExecRequest { argv, stdin, ..ExecRequest::default() }
}

/// Collects output until the exit; at most a minute.
async fn finish(output: &mut sprite_client::exec::SessionOutput) -> (Vec<u8>, Vec<u8>, u8) {
    let collect = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match output.next().await.unwrap().expect("an exit comes before the end") {
                Event::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                Event::Stderr(bytes) => stderr.extend_from_slice(&bytes),
                Event::Exit(code) => return (stdout, stderr, code),
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), collect).await.expect("the command hangs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_output_arrives_in_order_while_the_link_is_cut_every_100_ms() {
    let world = world().await;
    let sprite = sprite(&world).await;
    // About 40 MB over at least two seconds, with something on the other output as well.
    let script =
        "for i in $(seq 40); do seq ${i}00000 ${i}99999; echo e$i >&2; sleep 0.05; done; exit 7";
    let mut session = sprite.exec(&shell(script, false)).await.unwrap();
    let (stdout, stderr, code) = finish(&mut session.output).await;
    let mut expected = String::new();
    for i in 1..=40 {
        for n in i * 100_000..i * 100_000 + 100_000 {
            expected.push_str(&n.to_string());
            expected.push('\n');
        }
    }
    assert_eq!(stdout.len(), expected.len());
    assert!(stdout == expected.as_bytes(), "output was changed on its way");
    let errors: String = (1..=40).map(|i| format!("e{i}\n")).collect();
    assert_eq!(String::from_utf8(stderr).unwrap(), errors);
    assert_eq!(code, 7);
    world.assert_cut(10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_input_arrives_once_while_the_link_is_cut_every_100_ms() {
    let world = world().await;
    let sprite = sprite(&world).await;
    let mut session = sprite.exec(&shell("cat", true)).await.unwrap();
    let input: Vec<u8> = (0..20_000_000_u32).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect();
    let sent = input.clone();
    let mut writer = session.input;
    let send = tokio::spawn(async move {
        for (index, chunk) in sent.chunks(50_000).enumerate() {
            writer.stdin(Bytes::copy_from_slice(chunk)).await.unwrap();
            if index % 8 == 0 {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
        writer.end_stdin().await.unwrap();
        writer
    });
    let (stdout, _, code) = finish(&mut session.output).await;
    assert_eq!(stdout.len(), input.len());
    assert!(stdout == input, "input was changed on its way");
    assert_eq!(code, 0);
    drop(send.await.unwrap());
    world.assert_cut(5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_commands_run_exactly_once_while_the_link_is_cut() {
    let world = world().await;
    let sprite = sprite(&world).await;
    for round in 0..60 {
        let mut session = sprite.exec(&shell("echo x >> runs; wc -l < runs", false)).await.unwrap();
        let (stdout, stderr, code) = finish(&mut session.output).await;
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert_eq!((stdout.trim(), code), (format!("{}", round + 1).as_str(), 0), "{stderr}");
    }
}
