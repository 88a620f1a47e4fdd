//! Listings of a folder.

use std::ffi::CStr;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;
use sprite_types::Timestamp;

use super::files::{Files, failure, is_missing};
use crate::backend::{ObjectInfo, Page};
use crate::{Failure, Prefix};

impl Files {
    /// Lists everything below a folder on one page. What appears or vanishes meanwhile may or
    /// may not be there; any error ends the listing.
    pub(super) fn list(&self, prefix: &Prefix, shallow: bool) -> Result<Page, Failure> {
        let mut page = Page::default();
        let mut todo = vec![prefix.clone()];
        while let Some(folder) = todo.pop() {
            let below = self.read_folder(&folder, &mut page)?;
            if shallow {
                page.folders = below;
            } else {
                todo.extend(below);
            }
        }
        page.objects.sort();
        page.folders.sort();
        Ok(page)
    }

    /// Adds the objects of one folder and returns the folders in it.
    fn read_folder(&self, prefix: &Prefix, page: &mut Page) -> Result<Vec<Prefix>, Failure> {
        let mut below = Vec::new();
        let folder = match self.open_folder(prefix) {
            Ok(folder) => folder,
            Err(error) if is_missing(&error) => return Ok(below),
            Err(error) => return Err(failure("open the folder", &error)),
        };
        let entries = Dir::read_from(&folder);
        for entry in entries.map_err(|error| failure("read the folder", &error.into()))? {
            let entry = entry.map_err(|error| failure("read the folder", &error.into()))?;
            let Some(name) = visible(entry.file_name()) else { continue };
            let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(failure("look", &error.into())),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    below.extend(prefix.join(&format!("{name}/")));
                }
                FileType::RegularFile => {
                    let Ok(key) = prefix.key(name) else { continue };
                    let micros = stat.st_mtime.saturating_mul(1_000_000);
                    let micros = micros.saturating_add(stat.st_mtime_nsec as i64 / 1000);
                    let modified = Timestamp::from_micros(micros);
                    let size = u64::try_from(stat.st_size).unwrap_or(0);
                    page.objects.push(ObjectInfo { key, size, modified });
                }
                _ => {}
            }
        }
        Ok(below)
    }
}

/// Returns a name that can be part of a key.
fn visible(name: &CStr) -> Option<&str> {
    name.to_str().ok().filter(|name| !name.starts_with('.'))
}
