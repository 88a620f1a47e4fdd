//! Files of a sprite: read, write, list, delete, rename, copy, chmod, chown.
//!
//! Contents stream in both directions; nothing is held whole in memory.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{Method, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use sprite_api::fs::{Entry, Listing, Written};

use crate::client::Call;
use crate::target::Target;
use crate::{Error, SpriteClient};

/// Returns the entry of the listed path itself, which only files have.
#[must_use]
pub fn own_entry(listing: &Listing) -> Option<&Entry> {
    match listing.entries.as_slice() {
        [entry] if entry.path == listing.path => Some(entry),
        _ => None,
    }
}

/// How to call: where relative paths begin, and as whom.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// Where relative paths begin; `/` if absent.
    pub working_dir: Option<String>,
    /// As root instead of the user `sprite`.
    pub as_root: bool,
    /// With everything below.
    pub recursive: bool,
}

/// How to write.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Where relative paths begin; `/` if absent.
    pub working_dir: Option<String>,
    /// As root instead of the user `sprite`.
    pub as_root: bool,
    /// Permission bits; 0644 if absent.
    pub mode: Option<u32>,
    /// Creates missing directories.
    pub parents: bool,
    /// The content's length, if known. A content of another length fails the call.
    pub length: Option<u64>,
}

/// A file's content, as it arrives.
pub struct Content {
    what: String,
    /// The length, if the server told it.
    pub length: Option<u64>,
    body: Incoming,
}

impl Content {
    /// Returns the next piece, or `None` at the end.
    ///
    /// # Errors
    /// The connection broke; the content so far is not all of it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Error::transport(&self.what, error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl SpriteClient {
    fn file_target(&self, call: &str) -> Target {
        self.target().segment("fs").segment(call)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As every call; the refusal's `code` is a POSIX name such as `ENOENT`.
    pub async fn read_file(&self, path: &str, options: &FileOptions) -> Result<Content, Error> {
        let what = format!("read `{path}` in `{}`", self.name);
        let target = self
            .file_target("read")
            .query("path", path)
            .query_opt("workingDir", options.working_dir.as_deref())
            .flag("asRoot", options.as_root);
        let answer = self.client.call(Call::new(what.clone(), Method::GET, target)).await?;
        let length = answer.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Ok(Content { what, length, body: answer.into_body() })
    }

    /// Writes a file.
    ///
    /// # Errors
    /// As every call; also if `content` fails.
    pub async fn write_file(
        &self,
        path: &str,
        options: &WriteOptions,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Written, Error> {
        let what = format!("write `{path}` in `{}`", self.name);
        let mode = options.mode.map(sprite_api::format::format_mode);
        let target = self
            .file_target("write")
            .query("path", path)
            .query_opt("workingDir", options.working_dir.as_deref())
            .query_opt("mode", mode.as_deref())
            .flag("mkdirParents", options.parents)
            .flag("asRoot", options.as_root);
        let body = StreamBody::new(content.map(|piece| piece.map(Frame::data))).boxed_unsync();
        let mut call = Call::new(what, Method::PUT, target)
            .body(body)
            .header(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static("application/octet-stream"),
            )
            // The answer comes after the content; the connection's keepalive watches it.
            .timeout(std::time::Duration::from_secs(7 * 24 * 3600));
        if let Some(length) = options.length {
            call = call.header(header::CONTENT_LENGTH, length.into());
        }
        self.client.call_json(call).await
    }

    /// Lists a directory's children, or a file itself.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_files(&self, path: &str, options: &FileOptions) -> Result<Listing, Error> {
        let what = format!("list `{path}` in `{}`", self.name);
        let target = self
            .file_target("list")
            .query("path", path)
            .query_opt("workingDir", options.working_dir.as_deref())
            .flag("recursive", options.recursive)
            .flag("asRoot", options.as_root);
        self.client.call_json(Call::new(what, Method::GET, target)).await
    }

    /// Deletes a file or, if `recursive`, a directory.
    ///
    /// # Errors
    /// As every call.
    pub async fn delete_file(&self, path: &str, options: &FileOptions) -> Result<(), Error> {
        let what = format!("delete `{path}` in `{}`", self.name);
        let target = self
            .file_target("delete")
            .query("path", path)
            .query_opt("workingDir", options.working_dir.as_deref())
            .flag("recursive", options.recursive)
            .flag("asRoot", options.as_root);
        self.client.call_empty(Call::new(what, Method::DELETE, target)).await
    }

    /// Renames a file or directory; replaces an existing file.
    ///
    /// # Errors
    /// As every call.
    pub async fn rename_file(
        &self,
        source: &str,
        dest: &str,
        options: &FileOptions,
    ) -> Result<(), Error> {
        let what = format!("rename `{source}` in `{}`", self.name);
        self.file_post(what, "rename", options, json!({ "source": source, "dest": dest })).await
    }

    /// Copies a file or, if `recursive`, a directory, within the sprite.
    ///
    /// # Errors
    /// As every call.
    pub async fn copy_file(
        &self,
        source: &str,
        dest: &str,
        preserve: bool,
        options: &FileOptions,
    ) -> Result<(), Error> {
        let what = format!("copy `{source}` in `{}`", self.name);
        let body = json!({ "source": source, "dest": dest, "preserveAttrs": preserve });
        self.file_post(what, "copy", options, body).await
    }

    /// Changes permission bits.
    ///
    /// # Errors
    /// As every call.
    pub async fn chmod_file(
        &self,
        path: &str,
        mode: u32,
        options: &FileOptions,
    ) -> Result<(), Error> {
        let what = format!("change the mode of `{path}` in `{}`", self.name);
        let body = json!({ "path": path, "mode": sprite_api::format::format_mode(mode) });
        self.file_post(what, "chmod", options, body).await
    }

    /// Changes owner and group, each a number or a name.
    ///
    /// # Errors
    /// As every call.
    pub async fn chown_file(
        &self,
        path: &str,
        uid: Option<&str>,
        gid: Option<&str>,
        options: &FileOptions,
    ) -> Result<(), Error> {
        let what = format!("change the owner of `{path}` in `{}`", self.name);
        let owner = |text: &str| text.parse::<u32>().map_or_else(|_| json!(text), |id| json!(id));
        let mut body = json!({ "path": path });
        for (key, value) in [("uid", uid), ("gid", gid)] {
            if let Some(value) = value {
                body[key] = owner(value);
            }
        }
        self.file_post(what, "chown", options, body).await
    }

    async fn file_post(
        &self,
        what: String,
        call: &str,
        options: &FileOptions,
        mut body: serde_json::Value,
    ) -> Result<(), Error> {
        body["workingDir"] = json!(options.working_dir.as_deref().unwrap_or("/"));
        for (key, set) in [("asRoot", options.as_root), ("recursive", options.recursive)] {
            if set {
                body[key] = json!(true);
            }
        }
        let call = Call::new(what, Method::POST, self.file_target(call)).json(&body);
        self.client.call_empty(call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_has_an_entry_of_its_own() {
        let entry = Entry {
            name: "b".into(),
            path: "/a/b".into(),
            kind: "file".into(),
            size: 3,
            mode: "0644".into(),
            mod_time: "2026-01-13T10:30:00Z".into(),
            is_dir: false,
        };
        let listing = |path: &str, entries: Vec<Entry>| Listing {
            path: path.into(),
            count: entries.len(),
            entries,
        };
        let file = listing("/a/b", vec![entry.clone()]);
        assert_eq!(own_entry(&file).map(|entry| entry.size), Some(3));
        assert_eq!(own_entry(&listing("/a", vec![entry])), None);
        assert_eq!(own_entry(&listing("/a", vec![])), None);
    }
}
