//! The object that names the files of a database up to a transaction.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sprite_store::Key;
use sprite_types::{Epoch, Generation, Timestamp, Txid};

use super::ManifestName;
use super::fetch::FILE_BYTES_MAX;
use crate::database::Tip;
use crate::format::{FileChecksum, Header};

const VERSION: u32 = 1;
/// Most files in one manifest: sixteen each on seven levels are usual at most.
const FILES_MAX: usize = 4096;

/// A file of the database, perhaps in another database's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Its whole key.
    pub key: Key,
    /// First transaction.
    pub min: Txid,
    /// Last transaction.
    pub max: Txid,
    /// Length in bytes.
    pub size: u64,
    /// The checksum in its trailer.
    pub checksum: FileChecksum,
}

impl FileRef {
    pub(crate) fn new(key: Key, header: &Header, size: usize, checksum: FileChecksum) -> Self {
        Self { key, min: header.min, max: header.max, size: size as u64, checksum }
    }
}

/// All files of a database up to a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    /// Who wrote it.
    pub generation: Generation,
    /// The newest transaction in the files.
    pub txid: Txid,
    /// Counts manifests of the same transaction, from 0.
    pub revision: u32,
    /// Checksum of the file that this transaction was committed as.
    pub checksum: FileChecksum,
    /// When that file was made.
    pub time: Timestamp,
    /// What the owner of the database wants to know before opening it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_epoch: Option<Epoch>,
    /// From a snapshot on, without a gap.
    pub files: Vec<FileRef>,
    /// Fences up to the transaction. Their files are never deleted while the database lives.
    pub fences: Vec<Txid>,
}

impl Manifest {
    pub(crate) fn new(
        name: ManifestName,
        tip: Tip,
        head_epoch: Option<Epoch>,
        files: Vec<FileRef>,
        fences: Vec<Txid>,
    ) -> Self {
        let ManifestName { generation, txid, revision } = name;
        let Tip { checksum, time, .. } = tip;
        Self {
            version: VERSION,
            generation,
            txid,
            revision,
            checksum,
            time,
            head_epoch,
            files,
            fences,
        }
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> ManifestName {
        let Self { generation, txid, revision, .. } = *self;
        ManifestName { generation, txid, revision }
    }

    /// Returns the newest transaction in its files.
    #[must_use]
    pub fn tip(&self) -> Tip {
        Tip { txid: self.txid, checksum: self.checksum, time: self.time }
    }

    /// Reads a manifest. `None` if it is none, is of another version, or has a gap.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let manifest: Self = serde_json::from_slice(bytes).ok()?;
        let mut end = Txid(0);
        for file in &manifest.files {
            let follows = file.min.0 == end.0.checked_add(1)? && file.max >= file.min;
            if !follows || !(1..=FILE_BYTES_MAX).contains(&file.size) {
                return None;
            }
            end = file.max;
        }
        let whole = manifest.version == VERSION
            && end == manifest.txid
            && end != Txid(0)
            && manifest.files.len() <= FILES_MAX
            && manifest.fences.iter().all(|fence| *fence <= end);
        whole.then_some(manifest)
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("a manifest is plain data").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = |min, max| FileRef {
            key: format!("db/0001/{min}-{max}.ltx").parse().unwrap(),
            min: Txid(min),
            max: Txid(max),
            size: 7,
            checksum: FileChecksum(u64::MAX),
        };
        let name = ManifestName { generation: Generation(3), txid: Txid(9), revision: 0 };
        let time = Timestamp::from_micros(1_768_300_200_120_000);
        let tip = Tip { txid: Txid(9), checksum: FileChecksum(u64::MAX), time };
        Manifest::new(name, tip, Some(Epoch(4)), vec![file(1, 4), file(5, 9)], vec![Txid(2)])
    }

    /// Buckets outlive releases: this text must stay readable, and what is written stay this.
    #[test]
    fn the_text_is_fixed() {
        let text = r#"{"version":1,"generation":3,"txid":9,"revision":0,"checksum":"ffffffffffffffff","time":1768300200120000,"head_epoch":4,"files":[{"key":"db/0001/1-4.ltx","min":1,"max":4,"size":7,"checksum":"ffffffffffffffff"},{"key":"db/0001/5-9.ltx","min":5,"max":9,"size":7,"checksum":"ffffffffffffffff"}],"fences":[2]}"#;
        assert_eq!(std::str::from_utf8(&manifest().to_bytes()).unwrap(), text);
        assert_eq!(Manifest::parse(text.as_bytes()), Some(manifest()));
    }

    #[test]
    fn what_has_a_gap_is_no_manifest() {
        let parse = |change: fn(&mut Manifest)| {
            let mut manifest = manifest();
            change(&mut manifest);
            Manifest::parse(&manifest.to_bytes())
        };
        assert!(parse(|_| ()).is_some());
        assert!(parse(|m| m.version = 2).is_none());
        assert!(parse(|m| drop(m.files.remove(0))).is_none());
        assert!(parse(|m| drop(m.files.pop())).is_none());
        assert!(parse(|m| m.files.clear()).is_none());
        assert!(parse(|m| m.files[1].min = Txid(6)).is_none());
        assert!(parse(|m| m.files[1].max = Txid(u64::MAX)).is_none());
        assert!(parse(|m| m.files[1].size = 0).is_none());
        assert!(parse(|m| m.files[1].size = u64::MAX).is_none());
        assert!(parse(|m| m.txid = Txid(10)).is_none());
        assert!(parse(|m| m.fences = vec![Txid(10)]).is_none());
        assert!(Manifest::parse(b"{}").is_none());
    }
}
