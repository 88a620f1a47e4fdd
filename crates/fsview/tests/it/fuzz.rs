//! Damage and malice: whatever the bytes are, reading ends, in an error or with something.

use std::fs;
use std::io::{self, Read};
use std::sync::Arc;

use sprite_fsview::{Diff, DiffOptions, FileSystem, Kind, Limits, extract_tar};

use crate::images::{Bench, FLAVOURS, make};
use crate::journals::with_transactions;
use sprite_testkit::Rng;

use crate::for_each_seed;
use crate::tree::grow;

/// Small enough that a disk of nonsense ends soon.
fn limits() -> Limits {
    Limits {
        depth_max: 20,
        entries_max: 2_000,
        names_bytes_max: 1 << 20,
        directory_bytes_max: 4 << 20,
        content_bytes_max: 4 << 20,
        ..Limits::default()
    }
}

/// Does everything that can be done with a file system.
fn use_all(image: Arc<Vec<u8>>, sound: &FileSystem) {
    let Ok(fs) = FileSystem::open(image) else { return };
    let mut left = 4 << 20;
    for entry in fs.walk(b"/", limits()).into_iter().flatten().flatten() {
        if entry.metadata.kind == Kind::File {
            let content = fs.read_file(&entry.path).map(|reader| reader.range(0..left));
            let copied = content.map(|mut reader| io::copy(&mut reader, &mut io::sink()));
            left -= copied.ok().and_then(Result::ok).unwrap_or(0);
            let mut end = [0; 100];
            let last = entry.metadata.size_bytes.saturating_sub(50);
            let _ = fs.read_file(&entry.path).map(|file| file.range(last..u64::MAX).read(&mut end));
        }
        let _ = fs.xattrs(&entry.path);
    }
    for (a, b) in [(&fs, sound), (sound, &fs)] {
        let options = DiffOptions { limits: limits(), ..DiffOptions::default() };
        assert!(Diff::new(a, b, options).count() < 10_000);
    }
    let _ = extract_tar(&fs, b"/", limits(), io::sink(), |_| {});
}

/// Overwrites some bytes, most of them in blocks of metadata, with values that matter.
fn damage(rng: &mut Rng, image: &mut [u8], interesting: &[usize]) {
    for _ in 0..1 + rng.below(12) {
        let block = interesting[rng.below(interesting.len() as u64) as usize];
        let at = block + rng.below(1024) as usize;
        let value = match rng.below(5) {
            0 => 0,
            1 => u32::MAX,
            2 => rng.below(64) as u32,
            3 => (rng.below(1 << 14)) as u32,
            _ => rng.next() as u32,
        };
        let len = [1, 2, 4][rng.below(3) as usize];
        if let Some(field) = image.get_mut(at..at + len) {
            field.copy_from_slice(&value.to_le_bytes()[..len]);
        }
    }
}

fn build(rng: &mut Rng, flavour: usize) -> Vec<u8> {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    grow(rng, &tree, 25);
    let image = bench.path("image");
    make(&image, "16M", &tree, &FLAVOURS[flavour]);
    fs::read(&image).unwrap()
}

/// Returns the offsets of kilobytes that hold something but are no content of a file: those in
/// which most bytes are zero.
fn metadata(image: &[u8]) -> Vec<usize> {
    let pieces = image.chunks(1024).enumerate();
    let sparse = pieces.filter(|(_, piece)| {
        let zeroes = piece.iter().filter(|&&byte| byte == 0).count();
        (200..1020).contains(&zeroes)
    });
    sparse.map(|(index, _)| index * 1024).collect()
}

#[test]
fn damaged_disks_never_panic_or_hang() {
    // Without checksums the damage gets past the first look; with them the look is tested.
    let flavours = [3, 6, 5, 0];
    let mut rng = Rng::new(1);
    let images: Vec<_> = flavours.map(|flavour| build(&mut rng, flavour)).into_iter().collect();
    let sound: Vec<_> = images.iter().map(|i| FileSystem::open(i.clone()).unwrap()).collect();
    let interesting: Vec<_> = images.iter().map(|image| metadata(image)).collect();
    for_each_seed(120, |seed, rng| {
        let at = [0, 0, 1, 0, 2, 3][seed as usize % 6];
        let mut image = images[at].clone();
        damage(rng, &mut image, &interesting[at]);
        use_all(Arc::new(image), &sound[at]);
    });
}

/// The journal is read before anything can be looked at.
#[test]
fn damaged_journals_never_panic_or_hang() {
    let image = with_transactions(&Bench::new(), &FLAVOURS[3], true);
    let sound = FileSystem::open(image.clone()).unwrap();
    let own: Vec<usize> = (0..image.len())
        .step_by(1024)
        .filter(|&at| image[at..].starts_with(&[0xC0, 0x3B, 0x39, 0x98]))
        .collect();
    assert!(own.len() > 8);
    for_each_seed(60, |_, rng| {
        let mut image = image.clone();
        for _ in 0..1 + rng.below(4) {
            let block = own[rng.below(own.len() as u64) as usize];
            let fields = if rng.one_in(2) { 24 } else { 256 };
            let at = block + 4 * rng.below(fields) as usize;
            let value = [0, 1, 5, 0xFFFF, u32::MAX, rng.next() as u32, rng.below(20_000) as u32];
            let value = value[rng.below(7) as usize];
            image[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        use_all(Arc::new(image), &sound);
    });
}

/// Every field of the superblock with odd values, one at a time.
#[test]
fn every_field_of_the_superblock_may_be_wrong() {
    let mut rng = Rng::new(2);
    let mut image = build(&mut rng, 3);
    let sound = FileSystem::open(image.clone()).unwrap();
    for at in (1024..1024 + 0x280).step_by(4) {
        let right: [u8; 4] = image[at..at + 4].try_into().unwrap();
        for value in [0, 1, 7, 0x8000_0000, u32::MAX] {
            image[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            let Ok(fs) = FileSystem::open(image.clone()) else { continue };
            assert!(fs.walk(b"/", limits()).map_or(0, Iterator::count) < 5_000);
            let options = DiffOptions { limits: limits(), ..DiffOptions::default() };
            assert!(Diff::new(&fs, &sound, options).count() < 10_000);
        }
        image[at..at + 4].copy_from_slice(&right);
    }
}
