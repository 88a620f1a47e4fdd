//! Filesystem bodies (contract, http-api 10). Field names are the public ones.

use serde::{Deserialize, Serialize};

/// Entries that a listing may have; a longer one is refused rather than cut short.
pub const LIST_MAX: usize = 100_000;
/// Paths named in the answer of a recursive call; `count` goes on counting beyond it.
pub const REPORT_MAX: usize = 10_000;

/// Answer of `PUT …/fs/write`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Absolute path.
    pub path: String,
    /// Bytes written.
    pub size: u64,
    /// Four octal digits.
    pub mode: String,
}

/// Answer of `GET …/fs/list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The absolute, normalised path asked for.
    pub path: String,
    /// Number of entries.
    pub count: usize,
    /// A directory's children by name, or a file itself.
    pub entries: Vec<Entry>,
}

/// One file of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Last part of the path.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// `file`, `directory` or `symlink`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Size in bytes.
    pub size: u64,
    /// Four octal digits.
    pub mode: String,
    /// RFC 3339.
    #[serde(rename = "modTime")]
    pub mod_time: String,
    /// True for a directory and for a link to one.
    #[serde(rename = "isDir")]
    pub is_dir: bool,
}

/// Answer of `DELETE …/fs/delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Absolute paths, children before their directory; at most [`REPORT_MAX`].
    pub deleted: Vec<String>,
    /// How many were deleted.
    pub count: u64,
}

/// Optional JSON body of `DELETE …/fs/delete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteRequest {
    /// What to delete.
    pub path: Option<String>,
    /// Where a relative path starts.
    pub working_dir: Option<String>,
    /// Directories with all they hold.
    pub recursive: Option<bool>,
    /// As root rather than as the user.
    pub as_root: Option<bool>,
}

/// Body of `POST …/fs/rename`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RenameRequest {
    /// What to rename.
    pub source: String,
    /// Its new path.
    pub dest: String,
    /// Where relative paths start.
    pub working_dir: Option<String>,
    /// As root rather than as the user.
    pub as_root: bool,
}

/// Answer of `POST …/fs/rename`, and one file of [`Copied`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Absolute path.
    pub source: String,
    /// Absolute path.
    pub dest: String,
}

/// Body of `POST …/fs/copy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CopyRequest {
    /// What to copy.
    pub source: String,
    /// The copy's path.
    pub dest: String,
    /// Where relative paths start.
    pub working_dir: Option<String>,
    /// Directories with all they hold.
    pub recursive: bool,
    /// Keep times, mode and, where allowed, owner.
    pub preserve_attrs: bool,
    /// As root rather than as the user.
    pub as_root: bool,
}

/// Answer of `POST …/fs/copy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copied {
    /// What was copied where; at most [`REPORT_MAX`].
    pub copied: Vec<Moved>,
    /// How many files and directories were copied.
    pub count: u64,
    /// Bytes of file content.
    pub total_bytes: u64,
}

/// A number, or a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NumberOrText {
    /// As SDKs with typed modes and ids send it.
    Number(i64),
    /// Octal digits of a mode; a name or digits of an id.
    Text(String),
}

/// Body of `POST …/fs/chmod`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChmodRequest {
    /// What to change.
    pub path: String,
    /// Where a relative path starts.
    pub working_dir: Option<String>,
    /// Octal text, or the number itself (493 is `0755`).
    pub mode: Option<NumberOrText>,
    /// Directories with all they hold.
    pub recursive: bool,
    /// As root rather than as the user.
    pub as_root: bool,
}

/// Body of `POST …/fs/chown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChownRequest {
    /// What to change.
    pub path: String,
    /// Where a relative path starts.
    pub working_dir: Option<String>,
    /// New owner; absent: as it is.
    pub uid: Option<NumberOrText>,
    /// New group; absent: as it is.
    pub gid: Option<NumberOrText>,
    /// Directories with all they hold.
    pub recursive: bool,
    /// As root rather than as the user.
    pub as_root: bool,
}

/// Answer of `POST …/fs/chmod` and `POST …/fs/chown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// What was changed; at most [`REPORT_MAX`].
    pub affected: Vec<Change>,
    /// How many were changed.
    pub count: u64,
}

/// One file of [`Affected`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Absolute path.
    pub path: String,
    /// Four octal digits, of chmod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Owner, of chown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group, of chown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_come_as_text_and_as_numbers() {
        let text: ChmodRequest =
            serde_json::from_str(r#"{"path":"/a","mode":"0755","workingDir":"/"}"#).unwrap();
        assert_eq!(text.mode, Some(NumberOrText::Text("0755".into())));
        assert_eq!(text.working_dir.as_deref(), Some("/"));
        let number: ChmodRequest = serde_json::from_str(r#"{"path":"/a","mode":493}"#).unwrap();
        assert_eq!(number.mode, Some(NumberOrText::Number(493)));
    }

    #[test]
    fn public_field_names_are_the_contracts() {
        let entry = Entry {
            name: "a".into(),
            path: "/a".into(),
            kind: "file".into(),
            size: 3,
            mode: "0644".into(),
            mod_time: "t".into(),
            is_dir: false,
        };
        assert_eq!(
            serde_json::to_string(&entry).unwrap(),
            r#"{"name":"a","path":"/a","type":"file","size":3,"mode":"0644","modTime":"t","isDir":false}"#
        );
        let copied = Copied { copied: vec![], count: 0, total_bytes: 1 };
        assert_eq!(
            serde_json::to_string(&copied).unwrap(),
            r#"{"copied":[],"count":0,"totalBytes":1}"#
        );
    }
}
