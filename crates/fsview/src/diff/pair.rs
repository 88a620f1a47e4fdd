//! Two entries of the same path, compared by what their inodes say.

use crate::inode::Inode;
use crate::walk::Entry;

/// What differs between two entries of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What it is: a file became a folder.
    pub kind: bool,
    /// The bytes of a regular file.
    pub content: bool,
    /// The content was not compared: a limit was reached. The sizes are equal.
    pub content_unknown: bool,
    /// Permissions, with set-uid, set-gid and sticky bit.
    pub mode: bool,
    /// Owner or group.
    pub owner: bool,
    /// Where a link points to.
    pub link_target: bool,
    /// The numbers of a device node.
    pub device: bool,
    /// Extended attributes, access lists among them.
    pub xattrs: bool,
}

impl Changes {
    /// Says whether anything differs. Times alone do not count.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Compares everything but content and attributes.
    pub(super) fn of(before: &Entry, after: &Entry) -> Self {
        let (old, new) = (&before.metadata, &after.metadata);
        let is_other = old.kind != new.kind;
        Self {
            kind: is_other,
            mode: old.mode != new.mode,
            owner: (old.uid, old.gid) != (new.uid, new.gid),
            link_target: !is_other && before.link_target != after.link_target,
            device: !is_other && old.device != new.device,
            ..Self::default()
        }
    }
}

/// What happened to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the later one has it.
    Added(Entry),
    /// Only the earlier one has it.
    Removed(Entry),
    /// Both have it, with differences.
    Changed {
        /// As it was; its size and owner among the rest.
        before: Entry,
        /// As it is.
        after: Entry,
        /// What differs.
        changes: Changes,
    },
}

impl Change {
    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Added(entry) | Self::Removed(entry) => &entry.path,
            Self::Changed { after, .. } => &after.path,
        }
    }
}

/// Something that a comparison found.
#[derive(Debug)]
pub enum Difference {
    /// A path that differs.
    Change(Change),
    /// A path that could not be compared, because one of the two could not be read there. If it
    /// is a folder, names that only the other one has are left out: nobody knows.
    Unread {
        /// Which of the two.
        side: super::Side,
        /// Where and why.
        error: crate::PathError,
    },
}

/// Says whether two inodes are the same file, unchanged as far as the kernel keeps account.
pub(super) fn look_same(before: &Inode, after: &Inode) -> bool {
    let (old, new) = (&before.metadata, &after.metadata);
    before.number == after.number
        && (old.generation, old.size_bytes) == (new.generation, new.size_bytes)
        && (old.mtime, old.ctime) == (new.mtime, new.ctime)
}
