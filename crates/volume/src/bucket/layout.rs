//! Names of objects.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sprite_store::{Key, KeyError, Prefix};
use sprite_types::{Generation, OrgId, VolumeId};

/// The name that owns base images. No org has it: their ids begin with `org-`.
const BASE: &str = "base";
/// Characters of a pack's name: a time, then chance.
const PACK_NAME_LEN: usize = 26;
/// The digits of a pack's name, in the order of their values (Crockford's base 32).
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Whose volumes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    /// An org's.
    Org(OrgId),
    /// Everybody's: base images.
    Base,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Org(org) => org.fmt(f),
            Self::Base => f.write_str(BASE),
        }
    }
}

impl FromStr for Owner {
    type Err = sprite_types::IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == BASE { Ok(Self::Base) } else { text.parse().map(Self::Org) }
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The name of a pack, never used twice: 10 characters of time in ms, 16 of chance, so that
/// names sort roughly by age (a ULID in lower case).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName(u128);

impl PackName {
    /// Makes a name of a time in ms since 1970 and of 80 bits of chance.
    #[must_use]
    pub fn new(millis: u64, chance: u128) -> Self {
        Self(u128::from(millis & ((1 << 48) - 1)) << 80 | chance & ((1 << 80) - 1))
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..PACK_NAME_LEN).rev() {
            let digit = (self.0 >> (5 * place)) as usize & 31;
            fmt::Write::write_char(f, char::from(DIGITS[digit]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// All objects of one volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct VolumeFolder {
    owner: Owner,
    volume: VolumeId,
    root: Prefix,
}

/// The folder of the documents that say what everybody must understand.
#[must_use]
pub fn format_folder() -> Prefix {
    folder("format/".parse())
}

/// The folder of all volumes of an owner.
#[must_use]
pub fn volumes_of(owner: &Owner) -> Prefix {
    folder(format!("orgs/{owner}/volumes/").parse())
}

/// Names made of ids and constants are short and of allowed characters.
fn folder(parsed: Result<Prefix, KeyError>) -> Prefix {
    parsed.expect("ids and constants make valid names")
}

impl VolumeFolder {
    /// Makes the folder of `volume`.
    #[must_use]
    pub fn new(owner: Owner, volume: VolumeId) -> Self {
        let root = folder(format!("orgs/{owner}/volumes/{volume}/").parse());
        Self { owner, volume, root }
    }

    /// Returns whose volume it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Returns which volume.
    #[must_use]
    pub fn volume(&self) -> &VolumeId {
        &self.volume
    }

    /// Returns the folder itself.
    #[must_use]
    pub fn root(&self) -> &Prefix {
        &self.root
    }

    /// The versions of [`super::VolumeRecord`].
    #[must_use]
    pub fn records(&self) -> Prefix {
        self.sub("volume/")
    }

    /// The claims.
    #[must_use]
    pub fn generations(&self) -> Prefix {
        self.sub("generations/")
    }

    /// The block map.
    #[must_use]
    pub fn map(&self) -> Prefix {
        self.sub("map/")
    }

    /// All packs.
    #[must_use]
    pub fn packs(&self) -> Prefix {
        self.sub("packs/")
    }

    /// One pack. In its name is who wrote it: a former writer never writes where its successor
    /// does.
    #[must_use]
    pub fn pack(&self, generation: Generation, name: PackName) -> Key {
        self.key(&format!("packs/{}/{name}.pack", generation.to_hex()))
    }

    /// The pins.
    #[must_use]
    pub fn pins(&self) -> Prefix {
        self.sub("pins/")
    }

    /// The pin of one child.
    #[must_use]
    pub fn pin(&self, child: &VolumeId) -> Key {
        self.key(&format!("pins/{child}.json"))
    }

    /// What the collector wants to delete.
    #[must_use]
    pub fn condemned(&self) -> Prefix {
        self.sub("condemned/")
    }

    /// The versions of [`super::Tombstone`].
    #[must_use]
    pub fn tombstones(&self) -> Prefix {
        self.sub("deleted/")
    }

    fn sub(&self, name: &str) -> Prefix {
        folder(self.root.join(name))
    }

    fn key(&self, name: &str) -> Key {
        self.root.key(name).expect("ids and constants make valid names")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> VolumeFolder {
        let owner = Owner::Org("org-abcdefgh".parse().unwrap());
        VolumeFolder::new(owner, "vol-abcdefghijklmnop".parse().unwrap())
    }

    /// These names are in everybody's bucket.
    #[test]
    fn the_names_are_the_golden_ones() {
        let folder = volume();
        let root = "orgs/org-abcdefgh/volumes/vol-abcdefghijklmnop/";
        assert_eq!(folder.root().as_str(), root);
        let name = PackName::new(1_795_320_000_000, 0x0123_4567_89ab_cdef_0123);
        assert_eq!(
            folder.pack(Generation(17), name).as_str(),
            format!("{root}packs/0000000000000011/01m80pjbg004hmasw9nf6yy093.pack")
        );
        assert_eq!(
            folder.pin(&"vol-ponmlkjihgfedcba".parse().unwrap()).as_str(),
            format!("{root}pins/vol-ponmlkjihgfedcba.json")
        );
        let folders = [
            (folder.records(), "volume/"),
            (folder.generations(), "generations/"),
            (folder.map(), "map/"),
            (folder.packs(), "packs/"),
            (folder.pins(), "pins/"),
            (folder.condemned(), "condemned/"),
            (folder.tombstones(), "deleted/"),
        ];
        for (prefix, name) in folders {
            assert_eq!(prefix.as_str(), format!("{root}{name}"));
        }
        assert_eq!(volumes_of(&Owner::Base).as_str(), "orgs/base/volumes/");
        assert_eq!(format_folder().as_str(), "format/");
    }

    #[test]
    fn pack_names_sort_by_time_and_differ_by_chance() {
        let names = [
            PackName::new(0, 0),
            PackName::new(0, 1),
            PackName::new(1, 0),
            PackName::new(u64::MAX, u128::MAX),
        ];
        let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert!(texts.is_sorted() && texts.iter().all(|text| text.len() == PACK_NAME_LEN));
        assert_eq!(texts[0], "0".repeat(26));
        assert_eq!(texts[3], format!("7{}", "z".repeat(25)));
    }

    #[test]
    fn owners_read_back() {
        for text in ["base", "org-abcdefgh"] {
            assert_eq!(text.parse::<Owner>().unwrap().to_string(), text);
        }
        for text in ["", "bases", "org-", "../base"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }
}
