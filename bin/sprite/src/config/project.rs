//! The `.sprite` file: which sprite a directory belongs to.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::report::WithHint;

const NAME: &str = ".sprite";

/// What a `.sprite` file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Project {
    /// The org, if it says one.
    pub(crate) org: Option<String>,
    /// The sprite, if it says one.
    pub(crate) sprite: Option<String>,
}

/// A `.sprite` file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProjectFile {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) project: Project,
}

impl ProjectFile {
    /// Looks in a directory, then in its parents. A *directory* of that name is passed over.
    pub(crate) fn find(from: &Path) -> anyhow::Result<Option<Self>> {
        for dir in from.ancestors() {
            let path = dir.join(NAME);
            if !path.is_file() {
                continue;
            }
            let what = || format!("read `{}`", path.display());
            let root = read(&path).with_context(what).hint(format!(
                "`sprite use <name>` in {} writes it anew; or delete it",
                dir.display()
            ))?;
            let text = |key: &str| {
                root.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned)
            };
            let project = Project { org: text("organization"), sprite: text("sprite") };
            return Ok(Some(Self { path, project }));
        }
        Ok(None)
    }

    /// Writes the file in a directory; returns where. Other keys of an existing one stay.
    pub(crate) fn write(dir: &Path, project: &Project) -> anyhow::Result<PathBuf> {
        let path = dir.join(NAME);
        if path.is_dir() {
            return Err(anyhow::anyhow!("`{}` is a directory, not a file", path.display()))
                .hint("rename that directory, or name the sprite with -s each time");
        }
        let mut root = read(&path).unwrap_or_default();
        for (key, value) in [("organization", &project.org), ("sprite", &project.sprite)] {
            match value {
                Some(value) => root.insert(key.to_owned(), json!(value)),
                None => root.remove(key),
            };
        }
        let text = serde_json::to_string(&root)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("write `{}`", path.display()))?;
        Ok(path)
    }

    /// Removes the file.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        std::fs::remove_file(&self.path)
            .with_context(|| format!("remove `{}`", self.path.display()))
    }
}

fn read(path: &Path) -> io::Result<Map<String, Value>> {
    serde_json::from_str(&std::fs::read_to_string(path)?).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(org: &str, sprite: &str) -> Project {
        Project { org: Some(org.into()), sprite: Some(sprite.into()) }
    }

    #[test]
    fn the_nearest_file_upwards_counts() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        ProjectFile::write(root.path(), &project("o", "outer")).unwrap();
        let found = || ProjectFile::find(&deep).unwrap().unwrap();
        assert_eq!(found().project, project("o", "outer"));
        let near = ProjectFile::write(&root.path().join("a"), &project("o", "inner")).unwrap();
        assert_eq!(found(), ProjectFile { path: near, project: project("o", "inner") });
        found().remove().unwrap();
        assert_eq!(found().project.sprite.as_deref(), Some("outer"));
    }

    #[test]
    fn a_directory_of_that_name_is_passed_over_and_named_when_writing() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a");
        std::fs::create_dir_all(deep.join(NAME)).unwrap();
        ProjectFile::write(root.path(), &project("o", "s")).unwrap();
        assert_eq!(ProjectFile::find(&deep).unwrap().unwrap().project.sprite.as_deref(), Some("s"));
        let error = ProjectFile::write(&deep, &project("o", "s")).unwrap_err();
        assert!(error.to_string().contains("is a directory"), "{error}");
    }

    #[test]
    fn other_keys_survive_and_broken_files_are_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(NAME);
        std::fs::write(&path, r#"{"sprite":"old","note":"keep"}"#).unwrap();
        ProjectFile::write(root.path(), &project("o", "new")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("keep") && text.contains("new"), "{text}");
        std::fs::write(&path, "nonsense").unwrap();
        let error = ProjectFile::find(root.path()).unwrap_err();
        assert!(error.to_string().contains(".sprite"), "{error}");
    }
}
