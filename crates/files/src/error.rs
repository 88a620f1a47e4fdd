//! How a filesystem call fails, in the contract's words (http-api 10.3).

use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sprite_api::ApiError;

/// A failed filesystem call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct FsError {
    /// HTTP status.
    pub status: u16,
    /// POSIX code.
    pub code: String,
    /// Text for people; contains the phrase that SDKs look for.
    pub text: String,
    /// The path concerned, as the caller gave it or as it was found.
    pub path: String,
}

/// Code, status and phrase per error number. The phrases are fixed: SDKs search for them.
const TABLE: [(Errno, &str, u16, &str); 24] = [
    (Errno::NOENT, "ENOENT", 404, "no such file or directory"),
    (Errno::ISDIR, "EISDIR", 400, "is a directory"),
    (Errno::NOTDIR, "ENOTDIR", 400, "not a directory"),
    (Errno::ACCESS, "EACCES", 403, "permission denied"),
    (Errno::PERM, "EPERM", 403, "permission denied: operation not permitted"),
    (Errno::EXIST, "EEXIST", 409, "file exists"),
    (Errno::NOTEMPTY, "ENOTEMPTY", 400, "directory not empty"),
    (Errno::INVAL, "EINVAL", 400, "invalid argument"),
    (Errno::NAMETOOLONG, "ENAMETOOLONG", 400, "invalid argument: file name too long"),
    (Errno::LOOP, "ELOOP", 400, "too many levels of symbolic links"),
    (Errno::XDEV, "EXDEV", 400, "invalid argument: on another file system"),
    (Errno::NXIO, "ENXIO", 400, "invalid argument: no such device"),
    (Errno::NODEV, "ENODEV", 400, "invalid argument: no such device"),
    (Errno::ROFS, "EROFS", 403, "permission denied: read-only file system"),
    (Errno::BUSY, "EBUSY", 409, "resource busy"),
    (Errno::TXTBSY, "ETXTBSY", 409, "text file busy"),
    (Errno::NOSPC, "ENOSPC", 500, "no space left on device"),
    (Errno::DQUOT, "EDQUOT", 500, "disk quota exceeded"),
    (Errno::FBIG, "EFBIG", 500, "file too large"),
    (Errno::MLINK, "EMLINK", 500, "too many links"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP", 400, "invalid argument: operation not supported"),
    (Errno::STALE, "ESTALE", 500, "stale file handle"),
    (Errno::NOTCONN, "ENOTCONN", 500, "input/output error: file system not connected"),
    (Errno::IO, "EIO", 500, "input/output error"),
];

impl FsError {
    /// Makes an error from the kernel's number; `what` says what was tried.
    #[must_use]
    pub fn new(errno: Errno, what: &str, path: &str) -> Self {
        Self::explained(errno, what, path, "")
    }

    /// Makes an error whose text ends in a word of explanation.
    #[must_use]
    pub fn explained(errno: Errno, what: &str, path: &str, why: &str) -> Self {
        let row = TABLE.iter().find(|row| row.0 == errno);
        let (code, status, phrase) = row.map_or_else(
            || ("EIO", 500, format!("input/output error: {}", io::Error::from(errno))),
            |row| (row.1, row.2, row.3.to_owned()),
        );
        let colon = if why.is_empty() { "" } else { ": " };
        let text = format!("{what} {path}: {phrase}{colon}{why}");
        Self { status, code: code.to_owned(), text, path: path.to_owned() }
    }

    /// Makes an error from what `std` reported.
    #[must_use]
    pub fn io(error: &io::Error, what: &str, path: &str) -> Self {
        Self::new(Errno::from_io_error(error).unwrap_or(Errno::IO), what, path)
    }

    /// The request itself is wrong.
    #[must_use]
    pub fn invalid(path: &str, why: &str) -> Self {
        Self {
            status: 400,
            code: "EINVAL".to_owned(),
            text: format!("invalid argument: {why}"),
            path: path.to_owned(),
        }
    }

    /// Returns whether the kernel's number was this one.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        TABLE.iter().any(|row| row.0 == errno && row.1 == self.code)
    }

    /// Returns the public body.
    #[must_use]
    pub fn body(&self) -> ApiError {
        ApiError {
            error: self.text.clone(),
            code: Some(self.code.clone()),
            path: Some(self.path.clone()),
            ..ApiError::default()
        }
    }

    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> sprite_types::ErrorKind {
        use sprite_types::ErrorKind;
        match self.status {
            400 | 416 => ErrorKind::Invalid,
            403 => ErrorKind::Forbidden,
            404 => ErrorKind::NotFound,
            409 => ErrorKind::Conflict,
            503 => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_contracts_status_code_and_phrase() {
        for (errno, status, code, phrase) in [
            (Errno::NOENT, 404, "ENOENT", "no such file or directory"),
            (Errno::PERM, 403, "EPERM", "permission denied"),
            (Errno::NAMETOOLONG, 400, "ENAMETOOLONG", "invalid argument"),
            (Errno::NOSPC, 500, "ENOSPC", "no space"),
            (Errno::NOMEM, 500, "EIO", "input/output error"),
        ] {
            let error = FsError::new(errno, "open", "/x");
            assert_eq!((error.status, &error.code[..]), (status, code));
            assert!(error.text.contains(phrase), "{error}");
        }
        let body = serde_json::to_string(&FsError::new(Errno::NOENT, "open", "/x").body());
        assert_eq!(
            body.unwrap(),
            r#"{"error":"open /x: no such file or directory","code":"ENOENT","path":"/x"}"#
        );
    }
}
