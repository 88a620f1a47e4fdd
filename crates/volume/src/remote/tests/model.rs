//! Random lives of volumes against plain maps.

use std::collections::BTreeMap;

use sprite_blockmap::{Keep, Mark};
use sprite_store::{FaultRates, Operation, When};
use sprite_types::{Epoch, ErrorKind};

use super::world::{Change, Open, State, World, assert_head, folder, time};
use crate::remote::{Child, WriteError};
use sprite_testkit::{Rng, seeds};

const STEPS: usize = 14;
const VOLUMES_MAX: u32 = 3;

/// A volume, and every epoch of it that was acknowledged.
struct Life {
    volume: u32,
    open: Open,
    epochs: BTreeMap<Epoch, State>,
}

impl Life {
    fn head(&self) -> (Epoch, State) {
        let (epoch, state) = self.epochs.last_key_value().unwrap();
        (*epoch, state.clone())
    }

    fn random_epoch(&self, rng: &mut Rng) -> Epoch {
        *self.epochs.keys().nth(rng.below(self.epochs.len())).unwrap()
    }

    async fn commit(&mut self, change: &Change) {
        let (head, state) = self.head();
        let epoch = self.open.writer.commit(change.seal(head.next())).await.unwrap();
        assert_eq!(epoch, head.next());
        self.epochs.insert(epoch, change.apply(&state));
    }

    /// Two epochs on their way at once, handed over in either order.
    async fn commit_two(&mut self, changes: [&Change; 2], swapped: bool) {
        let (head, state) = self.head();
        let first = self.open.writer.commit(changes[0].seal(head.next()));
        let second = self.open.writer.commit(changes[1].seal(head.next().next()));
        let (first, second) = if swapped {
            let (second, first) = tokio::join!(second, first);
            (first, second)
        } else {
            tokio::join!(first, second)
        };
        let state = changes[0].apply(&state);
        self.epochs.insert(first.unwrap(), state.clone());
        self.epochs.insert(second.unwrap(), changes[1].apply(&state));
    }

    /// Opens the volume on a fresh host. What was in flight is there or not, whole.
    /// Returns the former writer, with its host.
    async fn reopen(&mut self, world: &World, in_flight: &[State]) -> Open {
        let opened = world.open(self.volume).await.unwrap();
        let former = std::mem::replace(&mut self.open, opened);
        let head = self.open.writer.reader().head();
        let acknowledged = self.head().0;
        let more = head.0.checked_sub(acknowledged.0);
        let more = more.expect("an acknowledged epoch is missing") as usize;
        assert!(more <= in_flight.len(), "epochs that nobody wrote");
        for (state, epoch) in in_flight.iter().take(more).zip(acknowledged.0 + 1..) {
            self.epochs.insert(Epoch(epoch), state.clone());
        }
        assert_head(self.open.writer.reader(), &self.head().1).await;
        former
    }

    /// The host dies somewhere in a commit, and what it sent may land at any time.
    async fn crash_in_commit(&mut self, world: &World, rng: &mut Rng, with_takeover: bool) {
        let change = Change::random(rng);
        let (head, state) = self.head();
        let after = change.apply(&state);
        let old = self.open.writer.clone();
        let when = if rng.below(2) == 0 { When::Before } else { When::After };
        let mut pause = world.faults.pause(Operation::Create, None, when);
        let sealed = change.seal(head.next());
        let commit = tokio::spawn(async move { (old.commit(sealed).await, old) });
        pause.reached().await;
        if !change.blocks.values().all(|tag| *tag == 0) && rng.below(2) == 0 {
            // That was a pack; go on to the map.
            let next = world.faults.pause(Operation::Create, None, when);
            std::mem::replace(&mut pause, next).release();
            pause.reached().await;
        }
        if with_takeover {
            let _host = self.reopen(world, &[after]).await;
            pause.release();
            let (result, old) = commit.await.unwrap();
            let acknowledged = result.is_ok();
            assert!(!acknowledged || self.epochs.contains_key(&head.next()), "lost");
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            }
            // Whatever it is asked to do, and however often.
            for change in [Change::random(rng), Change::one(1, 1)] {
                let next = old.reader().head().next();
                let error = old.commit(change.seal(next)).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            }
            assert!(old.mark(Epoch(1), Mark::default()).await.is_err());
        } else {
            commit.abort();
            let _ = commit.await;
            drop(self.reopen(world, &[after]).await);
            pause.release();
        }
        world.faults.settle().await;
    }

    async fn fork(&self, world: &World, rng: &mut Rng, volume: u32) -> Life {
        let root = self.random_epoch(rng);
        let child = child(volume);
        let record = if rng.below(2) == 0 {
            self.open.writer.fork(root, &child).await.unwrap()
        } else {
            let scratch = tempfile::tempdir().unwrap();
            let remote = world.remote(self.volume);
            remote.fork(&scratch.path().join("map"), root, &child).await.unwrap()
        };
        assert_eq!(record.parents[0].volume, super::world::volume_id(self.volume));
        let open = world.open(volume).await.unwrap();
        let epochs = BTreeMap::from([(root.next(), self.epochs[&root].clone())]);
        assert_eq!(open.writer.reader().head(), root.next());
        Life { volume, open, epochs }
    }
}

pub(super) fn child(volume: u32) -> Child {
    Child { folder: folder(volume), sprite: None, name: "child".to_owned(), created_at: time() }
}

async fn live(seed: u64) {
    let world = World::new(seed);
    let mut rng = Rng::new(seed);
    let open = world.create(0).await;
    let mut lives = vec![Life { volume: 0, open, epochs: [(Epoch(1), State::new())].into() }];
    for _ in 0..STEPS {
        let count = lives.len();
        let life = &mut lives[rng.below(count)];
        let rates = match rng.below(3) {
            0 => FaultRates::survivable(20),
            _ => FaultRates::default(),
        };
        match rng.below(13) {
            0..=3 => {
                world.faults.set_rates(rates);
                life.commit(&Change::random(&mut rng)).await;
            }
            4 => {
                world.faults.set_rates(rates);
                let changes = [Change::random(&mut rng), Change::random(&mut rng)];
                life.commit_two([&changes[0], &changes[1]], rng.below(2) == 0).await;
            }
            5 => {
                let epoch = life.random_epoch(&mut rng);
                let mark = Mark { keep: Keep::Named, name: "kept".to_owned(), ..Mark::default() };
                life.open.writer.mark(epoch, mark.clone()).await.unwrap();
                let history = life.open.writer.history();
                let listed = history.iter().find(|(info, _)| info.epoch == epoch).unwrap();
                assert_eq!((&listed.0.mark, listed.1), (&mark, true));
            }
            6 => {
                let (head, _) = life.head();
                let from = life.random_epoch(&mut rng);
                let restored =
                    life.open.writer.restore(head.next(), from, time(), Mark::default()).await;
                restored.unwrap();
                let state = life.epochs[&from].clone();
                life.epochs.insert(head.next(), state);
            }
            7 if (count as u32) < VOLUMES_MAX => {
                let child = life.fork(&world, &mut rng, count as u32).await;
                lives.push(child);
            }
            7 | 8 => drop(life.reopen(&world, &[]).await),
            9 => life.crash_in_commit(&world, &mut rng, false).await,
            10 => life.crash_in_commit(&world, &mut rng, true).await,
            11 => {
                let old = life.reopen(&world, &[]).await;
                let error = old.commit(&Change::one(3, 3)).await.unwrap_err();
                assert!(matches!(error, WriteError::Fenced { .. }), "{error}");
                life.open.writer.clone().release().await.unwrap();
                drop(life.reopen(&world, &[]).await);
            }
            _ => drop(life.open.writer.maintain().await.unwrap()),
        }
        world.faults.set_rates(FaultRates::default());
        world.faults.settle().await;
    }
    for life in &lives {
        world.assert_is(life.volume, &life.epochs).await;
    }
}

/// After every crash, takeover and restart the bucket alone has each acknowledged epoch, whole,
/// and of what was in flight all or nothing; in parents and in forks.
#[test]
fn every_acknowledged_epoch_is_kept_and_none_is_a_mixture() {
    for seed in seeds(12) {
        println!("seed {seed}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(live(seed));
    }
}
