//! The documents of a volume.

use serde::{Deserialize, Serialize};
use sprite_types::{Epoch, SpriteId, Timestamp, VolumeId};

use super::document::Document;
use super::layout::Owner;

/// Longest name of a sprite that is believed, in bytes.
const NAME_LEN_MAX: usize = 255;
/// Ancestors in one record at most: a fork of a fork of … names them all.
const PARENTS_MAX: usize = 1000;
/// Blocks of a volume at most: 8 TiB.
const BLOCKS_MAX: u32 = 1 << 27;

/// What has written blocks of a volume. What a guest's own kernel wrote is never mounted by a
/// host's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrontEnd {
    /// A kernel of ours, over a file and a loop device.
    Fuse,
    /// A guest's kernel.
    VhostUser,
}

/// An epoch of another volume that this one began as.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Parent {
    /// Whose volume.
    pub owner: Owner,
    /// Which.
    pub volume: VolumeId,
    /// Which epoch of it.
    pub epoch: Epoch,
}

/// What a volume is, apart from its content: `volume/<n>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Which volume.
    pub volume: VolumeId,
    /// Its sprite; none for a base image.
    pub sprite: Option<SpriteId>,
    /// What people call it.
    pub name: String,
    /// Size in blocks of 64 KiB.
    pub blocks: u32,
    /// Where it comes from, the nearest first.
    #[serde(default)]
    pub parents: Vec<Parent>,
    /// What has ever written to it.
    #[serde(default)]
    pub front_ends: Vec<FrontEnd>,
    /// The volume's key, wrapped by its org's, and those of its ancestors. Always empty in this
    /// release, which refuses others.
    #[serde(default)]
    pub keys: Vec<serde_json::Value>,
    /// When it came to be.
    pub created_at: Timestamp,
}

/// A child may read what an epoch of this volume names: `pins/<child>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pin {
    /// Whose the child is.
    pub owner: Owner,
    /// The child.
    pub child: VolumeId,
    /// Which epoch.
    pub epoch: Epoch,
    /// When.
    pub at: Timestamp,
}

/// A volume was deleted, or that was undone: `deleted/<n>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tombstone {
    /// Whether it is deleted.
    pub deleted: bool,
    /// When; with the retention time this says when it goes for good.
    pub at: Timestamp,
}

/// What everybody who uses a bucket must understand: `format/<n>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Format {
    /// Names of features in use.
    pub features: Vec<String>,
    /// When.
    pub at: Timestamp,
}

impl Document for VolumeRecord {
    const NAME: &'static str = "volume record";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        let (blocks, parents, name) = (self.blocks, self.parents.len(), self.name.len());
        if blocks == 0 || blocks > BLOCKS_MAX {
            return Err(format!("it has {blocks} blocks"));
        }
        if parents > PARENTS_MAX {
            return Err(format!("it has {parents} ancestors"));
        }
        if name > NAME_LEN_MAX {
            return Err(format!("its name has {name} bytes"));
        }
        if !self.keys.is_empty() {
            return Err("it is encrypted, which this program does not know".to_owned());
        }
        Ok(())
    }
}

impl Document for Pin {
    const NAME: &'static str = "pin";
    const VERSION: u32 = 1;
}

impl Document for Tombstone {
    const NAME: &'static str = "tombstone";
    const VERSION: u32 = 1;
}

impl Document for Format {
    const NAME: &'static str = "format";
    const VERSION: u32 = 1;
}

#[cfg(test)]
mod tests {
    use super::super::document::{DocumentError, decode, encode};
    use super::*;

    fn record() -> VolumeRecord {
        VolumeRecord {
            volume: "vol-abcdefghijklmnop".parse().unwrap(),
            sprite: Some("sprite-b4efa78c-6535-86ae-10ba-f8a9b6b4c445".parse().unwrap()),
            name: "demo".to_owned(),
            blocks: 1_638_400,
            parents: vec![Parent {
                owner: Owner::Base,
                volume: "vol-ponmlkjihgfedcba".parse().unwrap(),
                epoch: Epoch(3),
            }],
            front_ends: vec![FrontEnd::Fuse],
            keys: Vec::new(),
            created_at: Timestamp::from_micros(1_795_320_000_000_000),
        }
    }

    /// The bytes of version 1, which are in everybody's bucket.
    #[test]
    fn the_record_is_the_golden_one() {
        let golden = concat!(
            r#"{"version":1,"volume":"vol-abcdefghijklmnop","#,
            r#""sprite":"sprite-b4efa78c-6535-86ae-10ba-f8a9b6b4c445","name":"demo","#,
            r#""blocks":1638400,"parents":[{"owner":"base","volume":"vol-ponmlkjihgfedcba","#,
            r#""epoch":3}],"front_ends":["fuse"],"keys":[],"created_at":1795320000000000}"#,
            "\n",
        );
        assert_eq!(encode(&record()), golden);
        assert_eq!(decode::<VolumeRecord>(golden.as_bytes()), Ok(record()));
    }

    #[test]
    fn the_small_documents_are_the_golden_ones() {
        let at = Timestamp::from_micros(7);
        let child = "vol-abcdefghijklmnop".parse().unwrap();
        let owner = Owner::Org("org-abcdefgh".parse().unwrap());
        let pin = Pin { owner, child, epoch: Epoch(9), at };
        let text = concat!(
            r#"{"version":1,"owner":"org-abcdefgh","child":"vol-abcdefghijklmnop","#,
            r#""epoch":9,"at":7}"#,
            "\n"
        );
        assert_eq!(encode(&pin), text);
        assert_eq!(decode::<Pin>(text.as_bytes()), Ok(pin));
        let tombstone = Tombstone { deleted: true, at };
        assert_eq!(encode(&tombstone), "{\"version\":1,\"deleted\":true,\"at\":7}\n");
        let format = Format { features: vec!["a".to_owned()], at };
        assert_eq!(encode(&format), "{\"version\":1,\"features\":[\"a\"],\"at\":7}\n");
    }

    #[test]
    fn what_is_damaged_too_new_or_absurd_is_refused() {
        let good = String::from_utf8(encode(&record()).to_vec()).unwrap();
        let later = good.replace("\"version\":1", "\"version\":2");
        let error = decode::<VolumeRecord>(later.as_bytes()).unwrap_err();
        assert!(matches!(error, DocumentError::Version { found: 2, known: 1, .. }));
        let broken = [
            String::new(),
            good[..40].to_owned(),
            good.replace("vol-p", "vol/p"),
            good.replace("1638400", "0"),
            good.replace("1638400", "134217729"),
            good.replace("1638400", "-1"),
            good.replace("demo", &"x".repeat(256)),
            good.replace("\"keys\":[]", "\"keys\":[{}]"),
            good.replace("fuse", "carrier_pigeon"),
            format!("{good}{}", " ".repeat(256 << 10)),
        ];
        for text in broken {
            let error = decode::<VolumeRecord>(text.as_bytes()).unwrap_err();
            assert!(matches!(error, DocumentError::Malformed { .. }), "{text}: {error}");
        }
        let more = good.replace("{\"version\"", "{\"colour\":\"red\",\"version\"");
        assert_eq!(decode::<VolumeRecord>(more.as_bytes()), Ok(record()));
    }
}
