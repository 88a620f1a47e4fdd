//! Paths as callers write them, made absolute.

use rustix::io::Errno;

use crate::error::FsError;

/// Longest path that the kernel takes, in bytes, without the final NUL.
const PATH_MAX: usize = 4095;

/// Makes `path` absolute, starting at `working_dir` (itself at `/`) if it is relative, without
/// `.` and `..`: as text, the way clients do it themselves, before any link is followed.
///
/// # Errors
/// The path is empty, too long, or contains a NUL byte.
pub fn resolve(working_dir: Option<&str>, path: &str) -> Result<String, FsError> {
    if path.is_empty() {
        return Err(FsError::invalid("", "path is required"));
    }
    let base = if path.starts_with('/') { "" } else { working_dir.unwrap_or("/") };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let whole = format!("/{}", parts.join("/"));
    if whole.contains('\0') {
        return Err(FsError::invalid(&path.replace('\0', "\u{fffd}"), "NUL byte in path"));
    }
    if whole.len() > PATH_MAX {
        return Err(FsError::new(Errno::NAMETOOLONG, "open", path));
    }
    Ok(whole)
}

/// Splits an absolute path into its directory and its last part; the latter is empty for `/`.
pub(crate) fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => ("/", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_at_the_working_directory() {
        for (working_dir, path, expected) in [
            (None, "a", "/a"),
            (Some("/home/sprite"), "a/./b", "/home/sprite/a/b"),
            (Some("/home/sprite"), "../x", "/home/x"),
            (Some("/home/sprite"), "/etc/", "/etc"),
            (Some("rel"), "a", "/rel/a"),
            (Some("/a"), "../../../../..", "/"),
            (None, "//a///b//", "/a/b"),
            (None, "/", "/"),
            (None, "/../etc", "/etc"),
        ] {
            assert_eq!(resolve(working_dir, path).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn impossible_paths_are_refused() {
        assert_eq!(resolve(None, "").unwrap_err().code, "EINVAL");
        assert_eq!(resolve(None, "a\0b").unwrap_err().code, "EINVAL");
        assert_eq!(resolve(None, &"x/".repeat(4000)).unwrap_err().code, "ENAMETOOLONG");
    }

    #[test]
    fn the_root_has_no_name() {
        assert_eq!(split("/"), ("/", ""));
        assert_eq!(split("/a"), ("/", "a"));
        assert_eq!(split("/a/b"), ("/a", "b"));
    }
}
