//! Several processes on one folder, killed at any moment.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sprite_store::{Ambient, CreateError, LocalFolder, Prefix, seeded};
use sprite_types::{Clock, ManualClock, SystemClock};

use crate::basics::{key, store};
use sprite_testkit::seeds;

const FOLDER: &str = "SPRITES_TEST_WRITER_FOLDER";
const NUMBER: &str = "SPRITES_TEST_WRITER_NUMBER";
const BODY_BYTES: usize = 20_000;

/// Not a test but a process of the one below: claims one name after the other until it is killed.
#[tokio::test]
async fn writer_process() {
    let (Ok(folder), Ok(number)) = (std::env::var(FOLDER), std::env::var(NUMBER)) else { return };
    let number: u8 = number.parse().unwrap();
    let store = store(LocalFolder::open(folder, &Ambient::system()).unwrap());
    let mut out = std::io::stdout();
    for claim in 0..100_000 {
        let body = vec![number; BODY_BYTES].into();
        let said = match store.create(&key(&format!("claims/{}/{claim}", claim % 7)), body).await {
            Ok(()) => "won",
            Err(CreateError::Taken { .. }) => "taken",
            Err(error) => panic!("{error:?}"),
        };
        writeln!(out, "\n{said} {claim}").unwrap();
        out.flush().unwrap();
    }
}

struct Writer(Child);

impl Writer {
    fn start(folder: &Path, number: u8) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "processes::writer_process", "--nocapture"])
            .env(FOLDER, folder)
            .env(NUMBER, number.to_string());
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Reads what it says, kills it after some claims, and returns which it was told it had won.
    fn watch(mut self, claims_before_kill: u64) -> Vec<u64> {
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        let (mut won, mut seen) = (Vec::new(), 0);
        for line in lines {
            let line = line.unwrap();
            match line.split_once(' ') {
                Some(("won", claim)) => won.push(claim.parse().unwrap()),
                Some(("taken", _)) => {}
                _ => continue,
            }
            seen += 1;
            if seen == claims_before_kill {
                // What it said before it died still comes.
                self.0.kill().unwrap();
            }
        }
        won
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn killed_processes_agree_about_every_claim() {
    for seed in seeds(2) {
        let dir = tempfile::tempdir().unwrap();
        let random = seeded(seed);
        let writers: Vec<(u8, Writer, u64)> =
            (1..=3).map(|n| (n, Writer::start(dir.path(), n), 10 + random() % 40)).collect();
        let watched: Vec<_> = writers
            .into_iter()
            .map(|(number, writer, kill)| (number, std::thread::spawn(move || writer.watch(kill))))
            .collect();
        let mut winners = BTreeMap::new();
        for (number, thread) in watched {
            for claim in thread.join().unwrap() {
                let before = winners.insert(claim, number);
                assert_eq!(before, None, "seed {seed}: claim {claim} was won twice");
            }
        }
        assert!(winners.len() >= 10, "seed {seed}: {winners:?}");

        // Everything that is there is whole, and what somebody won is theirs.
        let clock = Arc::new(ManualClock::at(SystemClock.now()));
        clock.advance(Duration::from_secs(2 * 3600));
        let ambient = Ambient { clock, ..Ambient::system() };
        let after = store(LocalFolder::open(dir.path(), &ambient).unwrap());
        for object in after.list(&Prefix::root()).await.unwrap() {
            let body = after.get(&object.key).await.unwrap();
            assert_eq!(body.len(), BODY_BYTES, "seed {seed}: {}", object.key);
            assert!(body.iter().all(|byte| *byte == body[0]), "seed {seed}: {}", object.key);
        }
        for (claim, number) in winners {
            let body = after.get(&key(&format!("claims/{}/{claim}", claim % 7))).await.unwrap();
            assert_eq!(body[0], number, "seed {seed}: claim {claim}");
        }
        let left = std::fs::read_dir(dir.path().join(".staging")).unwrap().count();
        assert_eq!(left, 0, "seed {seed}: unfinished files stay");
    }
}
