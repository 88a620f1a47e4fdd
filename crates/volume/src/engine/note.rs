//! What the cache's journal keeps of a checkpoint or restore, to be handed back by a replay.

use serde::{Deserialize, Serialize};
use sprite_blockmap::{Keep, Mark};
use sprite_types::{Epoch, Timestamp};

/// A named seal or a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) time: Timestamp,
    pub(super) mark: Mark,
    /// The epoch whose state was restored.
    pub(super) from: Option<Epoch>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    time_us: i64,
    keep: u8,
    name: String,
    comment: String,
    crash_consistent: bool,
    from: Option<u64>,
}

impl Note {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { time, mark, from } = self;
        let stored = Stored {
            time_us: time.as_micros(),
            keep: mark.keep as u8,
            name: mark.name.clone(),
            comment: mark.comment.clone(),
            crash_consistent: mark.crash_consistent,
            from: from.map(|epoch| epoch.0),
        };
        serde_json::to_vec(&stored).expect("texts and numbers become JSON")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        let keep = [Keep::Window, Keep::Automatic, Keep::Named];
        let keep = keep.into_iter().find(|keep| *keep as u8 == stored.keep)?;
        let Stored { name, comment, crash_consistent, .. } = stored;
        let mark = Mark { keep, name, comment, crash_consistent };
        let time = Timestamp::from_micros(stored.time_us);
        Some(Self { time, mark, from: stored.from.map(Epoch) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back() {
        let mark = Mark {
            keep: Keep::Automatic,
            name: "before".to_owned(),
            comment: "\u{1f980} \"quoted\"".to_owned(),
            crash_consistent: true,
        };
        let time = Timestamp::from_micros(1_795_320_000_000_000);
        let note = Note { time, mark, from: Some(Epoch(7)) };
        assert_eq!(Note::decode(&note.encode()), Some(note));
        assert_eq!(Note::decode(b"{}"), None);
    }
}
