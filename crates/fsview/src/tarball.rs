//! Extraction as a tar stream: the form in which a guest takes files.
//!
//! Extended attributes are written as `SCHILY.xattr` records, which GNU tar and bsdtar know, and
//! times to the nanosecond as `mtime` records; attributes whose name is no text or contains `=`
//! have no such record and are left out. Holes are written as zeroes.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{Builder, EntryType, Header};

use crate::extract::{ExtractError, Item, Skipped};
use crate::filesystem::FileSystem;
use crate::limits::Limits;
use crate::walk::Entry;
use crate::xattr::Xattr;

/// Writes `path` and everything below it to `writer` as a tar stream, whose names begin with
/// the last part of `path`. What is left out is handed to `skip`; a stream that ended in an
/// error is not complete and has no end mark.
///
/// # Errors
/// As [`FileSystem::extract`].
pub fn extract_tar(
    fs: &FileSystem,
    path: &[u8],
    limits: Limits,
    mut writer: impl Write,
    skip: impl FnMut(Skipped),
) -> Result<(), ExtractError> {
    let mut builder = Builder::new(&mut writer);
    builder.sparse(false);
    let extracted = fs.extract(path, limits, |item| append(&mut builder, item), skip);
    match extracted {
        Ok(()) => {
            let ended = builder.into_inner().and_then(Write::flush);
            ended.map_err(|source| ExtractError::Write { path: path.to_vec(), source })
        }
        Err(error) => {
            // Its destructor would write an end mark, and the stream would look complete. It owns
            // nothing: the writer is ours.
            std::mem::forget(builder);
            Err(error)
        }
    }
}

fn append<W: Write>(builder: &mut Builder<W>, item: Item<'_>) -> io::Result<()> {
    let as_path = |bytes: &[u8]| Path::new(OsStr::from_bytes(bytes)).to_path_buf();
    match item {
        Item::Directory(entry, xattrs) => {
            append_records(builder, entry, xattrs)?;
            let mut header = header(entry, EntryType::Directory, 0);
            builder.append_data(&mut header, as_path(&entry.path), io::empty())
        }
        Item::File(entry, xattrs, mut reader) => {
            append_records(builder, entry, xattrs)?;
            let mut header = header(entry, EntryType::Regular, entry.metadata.size_bytes);
            builder.append_data(&mut header, as_path(&entry.path), &mut reader)
        }
        Item::Symlink(entry, xattrs) => {
            append_records(builder, entry, xattrs)?;
            let mut header = header(entry, EntryType::Symlink, 0);
            let target = entry.link_target.as_deref().unwrap_or_default();
            set_link(builder, &mut header, target)?;
            builder.append_data(&mut header, as_path(&entry.path), io::empty())
        }
        Item::HardLink(entry, first) => {
            let mut header = header(entry, EntryType::Link, 0);
            set_link(builder, &mut header, first)?;
            builder.append_data(&mut header, as_path(&entry.path), io::empty())
        }
    }
}

/// Sets where a link points to, byte for byte; a target that is too long for the header goes
/// before it, as GNU tar does it.
fn set_link<W: Write>(
    builder: &mut Builder<W>,
    header: &mut Header,
    target: &[u8],
) -> io::Result<()> {
    const FIELD_LEN: usize = 100;
    if target.len() > FIELD_LEN {
        let mut long = Header::new_gnu();
        long.set_path("././@LongLink")?;
        long.set_entry_type(EntryType::GNULongLink);
        long.set_mode(0o644);
        long.set_size(target.len() as u64 + 1);
        long.set_cksum();
        builder.append(&long, [target, b"\0"].concat().as_slice())?;
    }
    header.set_link_name_literal(&target[..target.len().min(FIELD_LEN)])
}

fn header(entry: &Entry, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(u32::from(entry.metadata.mode));
    header.set_uid(u64::from(entry.metadata.uid));
    header.set_gid(u64::from(entry.metadata.gid));
    // Earlier than 1970 is in the record only.
    header.set_mtime(u64::try_from(entry.metadata.mtime.seconds).unwrap_or(0));
    header
}

/// Writes what the header has no room for.
fn append_records<W: Write>(
    builder: &mut Builder<W>,
    entry: &Entry,
    xattrs: &[Xattr],
) -> io::Result<()> {
    let time = decimal(entry.metadata.mtime.seconds, entry.metadata.mtime.nanoseconds);
    // Names of attributes are bytes on the disk; records want text.
    let named = xattrs.iter().filter_map(|xattr| {
        let name = str::from_utf8(&xattr.name).ok().filter(|name| !name.contains('='))?;
        Some((format!("SCHILY.xattr.{name}"), xattr.value.as_slice()))
    });
    let named: Vec<(String, &[u8])> = named.collect();
    let records = named.iter().map(|(name, value)| (name.as_str(), *value));
    builder.append_pax_extensions(std::iter::once(("mtime", time.as_bytes())).chain(records))
}

/// Writes a time as a decimal number of seconds, which may be negative.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        // Nanoseconds count upwards also before 1970.
        let (whole, part) = (-(seconds + 1), 1_000_000_000 - nanoseconds);
        return format!("-{whole}.{part:09}");
    }
    format!("{seconds}.{nanoseconds:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_negative_as_a_whole() {
        assert_eq!(decimal(5, 7), "5.000000007");
        assert_eq!(decimal(-1, 0), "-1.000000000");
        assert_eq!(decimal(-1, 750_000_000), "-0.250000000");
        assert_eq!(decimal(-3, 999_999_999), "-2.000000001");
    }
}
