//! How much room the host has, and what must not go on when it is short.
//!
//! A sparse disk promises more than the host may hold. A file system whose writes the host
//! refuses is broken for good: `fsync` has lied, its journal is aborted, nothing can be freed
//! inside. So we stop early: first no new disks, then no writers, and never a failed write.

use std::io;
use std::path::{Path, PathBuf};

use sprite_types::ByteSize;

/// Room on the file system that holds the disks, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub available: ByteSize,
    /// Size of the file system.
    pub total: ByteSize,
    /// Bytes that programs of the host have written and that have no block yet: they will
    /// claim some of `available` whatever we do.
    pub dirty: ByteSize,
}

/// When to stop. Since 0.1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// No new disks below this many bytes available. Default 2 GiB.
    pub refuse_bytes: ByteSize,
    /// No new disks below this share of the file system either, in percent. Default 3.
    pub refuse_percent: u8,
    /// But that share counts for no more than this many bytes. Default 5 GiB.
    pub refuse_share_bytes_max: ByteSize,
    /// Writers are stopped below this many bytes available, dirty bytes not counted as
    /// available. Default 768 MiB.
    pub freeze_bytes: ByteSize,
    /// Writers go on only when there is this much more than `freeze_bytes`. Default 256 MiB.
    pub thaw_margin_bytes: ByteSize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            refuse_bytes: ByteSize::gib(2),
            refuse_percent: 3,
            refuse_share_bytes_max: ByteSize::gib(5),
            freeze_bytes: ByteSize::mib(768),
            thaw_margin_bytes: ByteSize::mib(256),
        }
    }
}

/// What may go on, from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admission {
    /// Everything.
    Ok,
    /// No new disks.
    RefuseCreates,
    /// No new disks, and whoever writes to one is stopped until there is room.
    FreezeWriters,
}

/// Decides what may go on. Performs no I/O; `before` is the last answer.
#[must_use]
pub fn admission(space: Space, policy: &Policy, before: Admission) -> Admission {
    let available = space.available.0.saturating_sub(space.dirty.0);
    let freeze_below = match before {
        Admission::FreezeWriters => policy.freeze_bytes.0 + policy.thaw_margin_bytes.0,
        Admission::Ok | Admission::RefuseCreates => policy.freeze_bytes.0,
    };
    let share = space.total.0 / 100 * u64::from(policy.refuse_percent);
    let share = share.min(policy.refuse_share_bytes_max.0);
    if available < freeze_below {
        Admission::FreezeWriters
    } else if space.available.0 < policy.refuse_bytes.0.max(share) {
        Admission::RefuseCreates
    } else {
        Admission::Ok
    }
}

/// Why the room could not be found out.
#[derive(Debug, thiserror::Error)]
#[error("find the free space of `{}`", path.display())]
pub struct SpaceError {
    path: PathBuf,
    source: io::Error,
}

/// Measures the file system that holds `path`.
pub(crate) fn free_space(path: &Path) -> Result<Space, SpaceError> {
    let failed = |source| SpaceError { path: path.to_owned(), source };
    let stat = rustix::fs::statvfs(path).map_err(|error| failed(error.into()))?;
    let meminfo = std::fs::read_to_string("/proc/meminfo").map_err(failed)?;
    Ok(Space {
        available: ByteSize(stat.f_bavail.saturating_mul(stat.f_frsize)),
        total: ByteSize(stat.f_blocks.saturating_mul(stat.f_frsize)),
        dirty: dirty_bytes(&meminfo),
    })
}

/// Reads `Dirty` and `Writeback` from the text of `/proc/meminfo`.
fn dirty_bytes(meminfo: &str) -> ByteSize {
    let kib: u64 = meminfo
        .lines()
        .filter_map(|line| line.strip_prefix("Dirty:").or(line.strip_prefix("Writeback:")))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    ByteSize(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(available_mib: u64, dirty_mib: u64) -> Space {
        Space {
            available: ByteSize::mib(available_mib),
            total: ByteSize::gib(50),
            dirty: ByteSize::mib(dirty_mib),
        }
    }

    fn decide(space: Space, before: Admission) -> Admission {
        admission(space, &Policy::default(), before)
    }

    #[test]
    fn creates_stop_before_writers_do() {
        assert_eq!(decide(space(10_000, 0), Admission::Ok), Admission::Ok);
        assert_eq!(decide(space(2047, 0), Admission::Ok), Admission::RefuseCreates);
        assert_eq!(decide(space(767, 0), Admission::Ok), Admission::FreezeWriters);
    }

    #[test]
    fn a_large_disk_refuses_at_its_share() {
        let large = |available| Space { total: ByteSize::gib(120), ..space(available, 0) };
        assert_eq!(decide(large(3600), Admission::Ok), Admission::RefuseCreates);
        assert_eq!(decide(large(3700), Admission::Ok), Admission::Ok);
        // Nobody has 300 GB to spare on ten terabytes.
        let huge = |available| Space { total: ByteSize::gib(10_000), ..space(available, 0) };
        assert_eq!(decide(huge(5000), Admission::Ok), Admission::RefuseCreates);
        assert_eq!(decide(huge(5200), Admission::Ok), Admission::Ok);
    }

    #[test]
    fn dirty_bytes_count_as_used_for_writers() {
        assert_eq!(decide(space(3000, 2500), Admission::Ok), Admission::FreezeWriters);
        assert_eq!(decide(space(3000, 100), Admission::Ok), Admission::Ok);
    }

    #[test]
    fn writers_stay_stopped_until_there_is_a_margin() {
        assert_eq!(decide(space(900, 0), Admission::FreezeWriters), Admission::FreezeWriters);
        assert_eq!(decide(space(900, 0), Admission::RefuseCreates), Admission::RefuseCreates);
        assert_eq!(decide(space(1100, 0), Admission::FreezeWriters), Admission::RefuseCreates);
        assert_eq!(decide(space(9000, 0), Admission::FreezeWriters), Admission::Ok);
    }

    #[test]
    fn dirty_bytes_are_read_from_the_kernels_table() {
        let meminfo =
            "MemTotal: 10 kB\nDirty:       100 kB\nWriteback:    28 kB\nWritebackTmp: 5 kB\n";
        assert_eq!(dirty_bytes(meminfo), ByteSize(128 << 10));
        assert_eq!(dirty_bytes("Dirty: x kB"), ByteSize(0));
    }

    #[test]
    fn the_temporary_folder_has_room() {
        let space = free_space(&std::env::temp_dir()).unwrap();
        assert!(space.total >= space.available && space.total.0 > 0);
    }
}
