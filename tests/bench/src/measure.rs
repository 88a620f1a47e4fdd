//! The measurements.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::future::try_join_all;
use sprite_api::sprite::CreateSprite;
use sprite_client::exec::{Event, ExecRequest};
use sprite_client::files::{FileOptions, WriteOptions};
use sprite_client::{Client, SpriteClient};

use crate::host;
use crate::stats::Row;

/// Commands before the first sample.
const WARM_UP: usize = 20;
/// Sprites whose creation or memory is measured together.
const CROWD: usize = 20;

/// What is measured.
pub(crate) struct Bench {
    /// The API.
    pub(crate) client: Client,
    /// The daemon.
    pub(crate) sprited_pid: u32,
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn command(argv: &[&str]) -> ExecRequest {
    ExecRequest {
        argv: argv.iter().map(|&text| text.to_owned()).collect(),
        ..ExecRequest::default()
    }
}

/// Runs a command to its end and returns how many bytes it printed.
async fn run(sprite: &SpriteClient, request: &ExecRequest) -> anyhow::Result<u64> {
    let mut session = sprite.exec(request).await?;
    let mut bytes = 0;
    while let Some(event) = session.output.next().await? {
        match event {
            Event::Stdout(data) => bytes += data.len() as u64,
            Event::Exit(0) => return Ok(bytes),
            Event::Exit(code) => bail!("`{}` ended with {code}", request.argv.join(" ")),
            _ => {}
        }
    }
    bail!("`{}`: no exit code came", request.argv.join(" "))
}

/// The same over `POST`.
async fn run_posted(sprite: &SpriteClient, request: &ExecRequest) -> anyhow::Result<()> {
    let mut exec = sprite.exec_post(request, None).await?;
    while let Some(event) = exec.next().await? {
        if let Event::Exit(code) = event {
            anyhow::ensure!(code == 0, "exit code {code}");
            return Ok(());
        }
    }
    bail!("no exit code came")
}

/// The floor for commands side by side: this machine starting the same program with nothing around
/// it. What is above it is ours.
async fn spawn_bare(count: usize) -> anyhow::Result<Vec<f64>> {
    let workers = (0..CROWD).map(|_| {
        tokio::task::spawn_blocking(move || {
            let mut samples = Vec::new();
            for _ in 0..count.div_ceil(CROWD) {
                let begin = Instant::now();
                std::process::Command::new("true").status().context("start `true`")?;
                samples.push(milliseconds(begin));
            }
            anyhow::Ok(samples)
        })
    });
    Ok(try_join_all(workers).await?.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

impl Bench {
    async fn create(&self, name: &str) -> anyhow::Result<SpriteClient> {
        let body = CreateSprite { name: name.to_owned(), ..CreateSprite::default() };
        self.client.create_sprite(&body).await.with_context(|| format!("create {name}"))?;
        Ok(self.client.sprite(name))
    }

    /// No-op commands, one after the other, 20 side by side, and over `POST`.
    pub(crate) async fn execs(&self, count: usize) -> anyhow::Result<Vec<Row>> {
        eprintln!("no-op commands …");
        let sprite = self.create("bench-exec").await?;
        let noop = command(&["true"]);
        for _ in 0..WARM_UP {
            run(&sprite, &noop).await?;
        }
        let mut single = Vec::new();
        for _ in 0..count {
            let begin = Instant::now();
            run(&sprite, &noop).await?;
            single.push(milliseconds(begin));
        }
        let workers = (0..CROWD).map(|_| async {
            let mut samples = Vec::new();
            for _ in 0..count.div_ceil(CROWD) {
                let begin = Instant::now();
                run(&sprite, &noop).await?;
                samples.push(milliseconds(begin));
            }
            anyhow::Ok(samples)
        });
        let parallel = try_join_all(workers).await?.concat();
        let spawned = spawn_bare(count).await?;
        let mut posted = Vec::new();
        for _ in 0..count {
            let begin = Instant::now();
            run_posted(&sprite, &noop).await?;
            posted.push(milliseconds(begin));
        }
        sprite.destroy().await?;
        Ok(vec![
            Row::of("exec of a no-op", "ms", "p50 ≤ 8, p99 ≤ 40", single),
            Row::of("exec of a no-op, 20 in parallel", "ms", "p50 ≤ 8, p99 ≤ 40", parallel),
            Row::of("posix_spawn of a no-op on the host, 20 in parallel", "ms", "peer", spawned),
            Row::of("exec of a no-op over POST", "ms", "p50 ≤ 20", posted),
        ])
    }

    /// Output of one command, and whole files.
    pub(crate) async fn streams(&self, count: usize, mib: u64) -> anyhow::Result<Vec<Row>> {
        eprintln!("throughput …");
        let sprite = self.create("bench-stream").await?;
        let bytes = mib << 20;
        let rate = |begin: Instant| bytes as f64 / 1e6 / begin.elapsed().as_secs_f64();
        let zeros = command(&["head", "-c", &bytes.to_string(), "/dev/zero"]);
        let (mut stdout, mut write, mut read) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let begin = Instant::now();
            let printed = run(&sprite, &zeros).await?;
            anyhow::ensure!(printed == bytes, "{printed} of {bytes} bytes came");
            stdout.push(rate(begin));
        }
        for _ in 0..count {
            let block = Bytes::from(vec![0x5a; 1 << 20]);
            let blocks = (0..mib).map(move |_| Ok(block.clone()));
            let options = WriteOptions { length: Some(bytes), ..WriteOptions::default() };
            let begin = Instant::now();
            let content = futures::stream::iter(blocks);
            sprite.write_file("/home/sprite/bench.bin", &options, content).await?;
            write.push(rate(begin));
            let begin = Instant::now();
            let options = FileOptions::default();
            let mut content = sprite.read_file("/home/sprite/bench.bin", &options).await?;
            let mut came = 0;
            while let Some(data) = content.next().await? {
                came += data.len() as u64;
            }
            anyhow::ensure!(came == bytes, "{came} of {bytes} bytes came");
            read.push(rate(begin));
        }
        sprite.destroy().await?;
        let goal = "≥ 200";
        Ok(vec![
            Row::of(format!("stdout of one exec, {mib} MiB"), "MB/s", goal, stdout),
            Row::of(format!("fs/write, {mib} MiB"), "MB/s", goal, write),
            Row::of(format!("fs/read, {mib} MiB"), "MB/s", goal, read),
        ])
    }

    /// Create to the first command's output, alone and 20 at once.
    pub(crate) async fn creates(&self, count: usize) -> anyhow::Result<Vec<Row>> {
        eprintln!("creates …");
        let echo = command(&["echo", "x"]);
        let (mut answers, mut outputs) = (Vec::new(), Vec::new());
        for index in 0..count {
            let begin = Instant::now();
            let sprite = self.create(&format!("bench-{index}")).await?;
            answers.push(milliseconds(begin));
            run(&sprite, &echo).await?;
            outputs.push(milliseconds(begin));
            sprite.destroy().await?;
        }
        let crowd = (0..CROWD).map(|index| {
            let echo = &echo;
            async move {
                let begin = Instant::now();
                let sprite = self.create(&format!("bench-crowd-{index}")).await?;
                let answered = milliseconds(begin);
                run(&sprite, echo).await?;
                anyhow::Ok((answered, milliseconds(begin)))
            }
        });
        let crowd = try_join_all(crowd).await?;
        let (answered, ran): (Vec<f64>, Vec<f64>) = crowd.into_iter().unzip();
        Ok(vec![
            Row::of("create, answered", "ms", "–", answers),
            Row::of("create to first output", "ms", "p50 ≤ 700", outputs),
            Row::of("20 creates at once, answered", "ms", "max ≤ 30000", answered),
            Row::of("20 creates at once, first output", "ms", "–", ran),
        ])
    }

    /// Memory with the 20 sprites of [`Bench::creates`], after a while without work.
    pub(crate) async fn memory(&self, idle_s: u64) -> anyhow::Result<Vec<Row>> {
        eprintln!("memory after {idle_s} s …");
        tokio::time::sleep(Duration::from_secs(idle_s)).await;
        let daemon = host::pss_mb(self.sprited_pid).context("read the daemon's memory")?;
        let agents: Vec<f64> = host::descendants(self.sprited_pid, "sprite-guestd")
            .into_iter()
            .filter_map(host::pss_mb)
            .collect();
        anyhow::ensure!(!agents.is_empty(), "no agent was found");
        Ok(vec![
            Row::of("PSS of sprited with 20 sprites", "MB", "≤ 80", vec![daemon]),
            Row::of("PSS of each sprite-guestd process", "MB", "≤ 12", agents),
        ])
    }
}
