//! Names of a database's objects.
//!
//! ```text
//! <prefix>0000/<min>-<max>.ltx        transactions as they were committed; min = max
//! <prefix>0001/ … 0008/               the same, compacted
//! <prefix>0009/0…01-<max>.ltx         snapshots
//! <prefix>manifest/<generation>-<txid>.json
//! <prefix>manifest/<generation>-<txid>-<revision>.json
//! <prefix>hint.json
//! ```
//! Levels are four hex digits and transactions sixteen, as Litestream names them in a bucket; it
//! takes no notice of the other names.

use sprite_store::{Key, KeyError, Prefix};
use sprite_types::{Generation, Txid};

/// Level of transactions as they were committed.
pub(crate) const LEVEL_LOOSE: u32 = 0;
/// Level of snapshots.
pub(crate) const LEVEL_SNAPSHOT: u32 = 9;

/// The folder of one database.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    prefix: Prefix,
    manifests: Prefix,
    hint: Key,
}

impl Layout {
    /// # Errors
    /// If the names would be too long.
    pub(crate) fn new(prefix: Prefix) -> Result<Self, KeyError> {
        let manifests = prefix.join("manifest/")?;
        let longest = ManifestName { generation: Generation(0), txid: Txid(0), revision: u32::MAX };
        manifests.key(&longest.to_string())?;
        let hint = prefix.key("hint.json")?;
        Ok(Self { prefix, manifests, hint })
    }

    pub(crate) fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    pub(crate) fn file(&self, level: u32, min: Txid, max: Txid) -> Key {
        let name = format!("{level:04x}/{}-{}.ltx", min.to_hex(), max.to_hex());
        self.prefix.key(&name).expect("shorter than the name that was tried in `new`")
    }

    pub(crate) fn loose(&self, txid: Txid) -> Key {
        self.file(LEVEL_LOOSE, txid, txid)
    }

    /// Returns the level of a file of this database; `None` if it is another's.
    pub(crate) fn level_of(&self, key: &Key) -> Option<u32> {
        let (level, _) = key.relative_to(&self.prefix)?.split_once('/')?;
        (level.len() == 4).then(|| u32::from_str_radix(level, 16).ok()).flatten()
    }

    pub(crate) fn manifests(&self) -> &Prefix {
        &self.manifests
    }

    pub(crate) fn manifest(&self, name: ManifestName) -> Key {
        self.manifests.key(&name.to_string()).expect("the longest name was tried in `new`")
    }

    pub(crate) fn hint(&self) -> &Key {
        &self.hint
    }
}

/// The name of a manifest. Of two, the greater is the newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestName {
    /// Who wrote it.
    pub generation: Generation,
    /// The newest transaction in its files.
    pub txid: Txid,
    /// Counts manifests of the same transaction, from 0.
    pub revision: u32,
}

impl ManifestName {
    /// Reads the last part of a manifest's key.
    #[must_use]
    pub fn parse(file_name: &str) -> Option<Self> {
        let mut parts = file_name.strip_suffix(".json")?.split('-');
        let generation = Generation::from_hex(parts.next()?).ok()?;
        let txid = Txid::from_hex(parts.next()?).ok()?;
        let revision = match parts.next() {
            None => 0,
            Some(text) if text.len() == 8 => u32::from_str_radix(text, 16).ok()?,
            Some(_) => return None,
        };
        let name = Self { generation, txid, revision };
        // Only the one way of writing it, so that a name has one key.
        (name.to_string() == file_name).then_some(name)
    }
}

impl std::fmt::Display for ManifestName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.generation.to_hex(), self.txid.to_hex())?;
        if self.revision > 0 {
            write!(f, "-{:08x}", self.revision)?;
        }
        f.write_str(".json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_litestream_reads_in_a_bucket() {
        let layout = Layout::new("orgs/o/db/".parse().unwrap()).unwrap();
        let key = layout.file(9, Txid(1), Txid(255));
        assert_eq!(key.as_str(), "orgs/o/db/0009/0000000000000001-00000000000000ff.ltx");
        assert_eq!(layout.level_of(&key), Some(9));
        assert_eq!(layout.level_of(&"orgs/p/db/0009/x.ltx".parse().unwrap()), None);
        assert_eq!(layout.level_of(layout.hint()), None);
    }

    #[test]
    fn newer_manifests_are_greater_and_names_read_back() {
        let name = |generation, txid, revision| ManifestName {
            generation: Generation(generation),
            txid: Txid(txid),
            revision,
        };
        let sorted = [name(1, 900, 0), name(2, 3, 0), name(2, 4, 0), name(2, 4, 1)];
        assert!(sorted.is_sorted());
        for name in sorted {
            assert_eq!(ManifestName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(sorted[3].to_string(), "0000000000000002-0000000000000004-00000001.json");
        for text in [
            "0000000000000002-0000000000000004-00000000.json",
            "0000000000000002-0000000000000004-1.json",
            "0000000000000002-0000000000000004-00000001-.json",
            "0000000000000002.json",
            "0000000000000002-0000000000000004.jso",
        ] {
            assert_eq!(ManifestName::parse(text), None, "{text}");
        }
    }
}
