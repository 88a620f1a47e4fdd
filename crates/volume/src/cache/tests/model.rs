//! Random operations, and every rule broken once to see that somebody notices.

use sprite_types::VolumeId;

use super::world::{BLOCKS, Died, Noticed, World};
use crate::block::PARTS;
use crate::cache::Settings;
use crate::cache::rules::{Rule, Rules};
use sprite_testkit::{Rng, seeds};

const STEPS: usize = 60;

pub(super) fn settings() -> Settings {
    let volume: VolumeId = "vol-aaaaaaaaaaaaaaaa".parse().unwrap();
    Settings {
        slots_max: 10,
        marks_max: 6,
        grow_slots: 3,
        journal_bytes: 4_096,
        shared_table: false,
        ..Settings::new(volume, u32::try_from(BLOCKS).unwrap(), 0)
    }
}

/// One operation. Every number comes from the run's generator, so a shorter run is a prefix.
fn step(world: &mut World, rng: &mut Rng, value: u64) -> Noticed {
    let choice = rng.below(100);
    let (block, part, len) = (rng.below(BLOCKS), [0, 1, 15][rng.below(3)], 1 + rng.below(3));
    let (kill, then_cut, small) = (rng.below(8), rng.below(3) == 0, rng.below(4) == 0);
    let parts = match len {
        3 if small => 0..PARTS,
        len => part..(part + len).min(PARTS),
    };
    if kill == 0 {
        world.disks[world.host].kill_in(Some(u32::try_from(rng.below(8)).unwrap()));
    }
    let done: Result<Noticed, Died> = match choice {
        0..30 => world.write(block, parts, value),
        30..38 => world.write(block, parts, 0),
        38..48 => world.flush(),
        48..55 => world.cut(None).map(|sealed| sealed.map(drop)),
        55..58 => world.cut(Some(value | 1 << 32)).map(|sealed| sealed.map(drop)),
        58..67 => world.send(),
        67..72 => world.evict(),
        72..79 => world.fill(block, false),
        79..82 => world.fill(block, true),
        82..85 => world.restore(),
        85..87 => world.close(),
        87..89 => {
            world.disks[world.host].kill_in(None);
            world.send_untold()?;
            Err(Died)
        }
        89..90 => {
            world.disks[world.host].kill_in(None);
            Ok(world.fail_sync())
        }
        90..92 => {
            world.disks[world.host].kill_in(None);
            Ok(world.move_away())
        }
        92..96 => Ok(world.power_cut()),
        96..98 => {
            let space = (1 + rng.below(12)) as u64 * 70_000;
            world.disks[world.host].set_space(space);
            Ok(Ok(()))
        }
        _ => Err(Died),
    };
    world.disks[world.host].kill_in(None);
    match done {
        Ok(noticed) => noticed?,
        Err(Died) if then_cut => {
            world.power_cut()?;
        }
        Err(Died) => world.kill()?,
    }
    world.check_now()
}

/// Runs one seed and says after how many steps what was wrong.
pub(super) fn run(
    seed: u64,
    broken: &'static [Rule],
    bucket_mode: bool,
) -> Result<(), (usize, String)> {
    let mut world = World::new(seed, settings(), Rules { broken }, bucket_mode);
    let mut rng = Rng::new(seed);
    for at in 0..STEPS {
        step(&mut world, &mut rng, 1 + at as u64).map_err(|noticed| (at, noticed))?;
    }
    // What is left has to reach the bucket as it was sealed.
    let end = |noticed| (STEPS, noticed);
    match world.send_all() {
        Ok(sent) => sent.map_err(end)?,
        Err(Died) => unreachable!("nobody kills at the end"),
    }
    world.check_now().map_err(end)
}

/// Every read is allowed, every durable epoch is its cut, whatever dies and whenever.
#[test]
fn the_cache_does_what_the_model_does() {
    for seed in seeds(30) {
        for bucket_mode in [false, true] {
            if let Err((at, noticed)) = run(seed, &[], bucket_mode) {
                panic!("seed {seed}, fsync=bucket {bucket_mode}, step {at}: {noticed}");
            }
        }
    }
}

/// Rules to break, with a seed that is known to show it, to begin with.
const RULES: [(u64, &[Rule]); 16] = [
    (2, &[Rule::FreshSlot]),
    (2, &[Rule::CopyValid]),
    (25, &[Rule::DataBeforeValid]),
    (485, &[Rule::DirtyAndValid]),
    (0, &[Rule::FillOnlyInvalid]),
    (11, &[Rule::FillChecksEntry]),
    (1, &[Rule::DataBeforeRecord]),
    (0, &[Rule::RecordsMasks]),
    (4, &[Rule::ErrorsAreFinal]),
    (6, &[Rule::DropDurable]),
    (7, &[Rule::CleanNeedsEntry]),
    (113, &[Rule::DropCleanParts]),
    (1, &[Rule::NamedSealsStay]),
    (1, &[Rule::RestoreCuts]),
    (19, &[Rule::Strand]),
    // The checksum finds a slot that was used again too early, so both have to go.
    (53, &[Rule::ReleaseBeforeReuse, Rule::CleanNeedsChecksum]),
];

/// A test that cannot fail proves nothing: without any one rule, the model notices.
#[test]
fn every_rule_is_needed() {
    for (first, rules) in RULES {
        let noticed = (first..first + 4_000).find_map(|seed| {
            let noticed = run(seed, rules, seed % 2 == 1);
            noticed.err().map(|(at, what)| (seed, at, what))
        });
        let Some((seed, at, what)) = noticed else { panic!("{rules:?} may be broken") };
        println!("{rules:?}: seed {seed}, step {at}: {what}");
    }
}
