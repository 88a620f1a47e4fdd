//! Reads the two ends of a copy. Pure.

use std::path::PathBuf;

use sprite_types::SpriteName;

/// One end of a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Location {
    /// A path here.
    Local(PathBuf),
    /// A path in a sprite; in the usual one if it is not named.
    Remote {
        /// The sprite's name.
        sprite: Option<String>,
        /// The path, relative ones from the home directory.
        path: String,
    },
    /// `-`: stdin or stdout.
    Stdio,
}

/// Reads `path`, `:path`, `name:path` or `-`. A local name with a colon is written `./a:b`.
pub(crate) fn parse(text: &str) -> Location {
    if text == "-" {
        return Location::Stdio;
    }
    match text.split_once(':') {
        Some((name, path)) if name.is_empty() || name.parse::<SpriteName>().is_ok() => {
            let sprite = (!name.is_empty()).then(|| name.to_owned());
            Location::Remote { sprite, path: remote_path(path) }
        }
        _ => Location::Local(PathBuf::from(text)),
    }
}

/// Makes a path in a sprite of what was typed: `` and `~` are the home directory.
pub(crate) fn remote_path(text: &str) -> String {
    match text.strip_prefix('~') {
        Some("") => ".".to_owned(),
        Some(rest) if rest.starts_with('/') => match rest.trim_start_matches('/') {
            "" => "./".to_owned(),
            rest => rest.to_owned(),
        },
        _ if text.is_empty() => ".".to_owned(),
        _ => text.to_owned(),
    }
}

/// Returns the last name of a path in a sprite, if it has one (`/`, `.` and `..` have none).
pub(crate) fn remote_name(path: &str) -> Option<&str> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
    (!matches!(name, "" | "." | "..")).then_some(name)
}

/// Joins a directory in a sprite and a name.
pub(crate) fn remote_join(dir: &str, name: &str) -> String {
    match dir.trim_end_matches('/') {
        "" if dir.starts_with('/') => format!("/{name}"),
        "" | "." => name.to_owned(),
        dir => format!("{dir}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(sprite: Option<&str>, path: &str) -> Location {
        Location::Remote { sprite: sprite.map(str::to_owned), path: path.to_owned() }
    }

    #[test]
    fn a_colon_after_a_sprite_name_or_nothing_means_remote() {
        assert_eq!(parse(":/etc/hosts"), remote(None, "/etc/hosts"));
        assert_eq!(parse("demo:a b"), remote(Some("demo"), "a b"));
        assert_eq!(parse("demo:"), remote(Some("demo"), "."));
        assert_eq!(parse(":~/x/y:z"), remote(None, "x/y:z"));
        assert_eq!(parse("-"), Location::Stdio);
        for local in ["a", "./a:b", "/tmp/a:b", "../x", "A:b", "a b:c"] {
            assert_eq!(parse(local), Location::Local(local.into()), "{local}");
        }
    }

    #[test]
    fn remote_paths_join_without_surprises() {
        for (dir, expected) in
            [("/", "/n"), (".", "n"), ("", "n"), ("a/", "a/n"), ("/a/b", "/a/b/n")]
        {
            assert_eq!(remote_join(dir, "n"), expected, "{dir}");
        }
        assert_eq!(remote_name("/a/b/"), Some("b"));
        for none in ["/", ".", "a/..", ""] {
            assert_eq!(remote_name(none), None, "{none}");
        }
    }
}
