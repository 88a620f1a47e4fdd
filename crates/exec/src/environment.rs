//! The environment that commands start with.

use std::collections::HashMap;

/// What the default environment is made of. Source: contract, in-sprite 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// `HOME`.
    pub home: String,
    /// `USER` and `LOGNAME`.
    pub user: String,
    /// `SHELL`.
    pub shell: String,
    /// `PATH`.
    pub path: String,
    /// `BROWSER`; left out if empty.
    pub browser: String,
}

impl Default for Defaults {
    /// The user `sprite` of a sprite.
    fn default() -> Self {
        Self {
            home: "/home/sprite".into(),
            user: "sprite".into(),
            shell: "/bin/bash".into(),
            path: "/.sprite/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
                .into(),
            browser: "/.sprite/bin/sprite-browser".into(),
        }
    }
}

/// Builds a command's environment: the defaults, over them the sprite's own variables
/// (`SPRITE_URL` among them), over those the caller's. Later entries of the same name win.
#[must_use]
pub fn build(
    defaults: &Defaults,
    sprite: &[(String, String)],
    caller: &[(String, String)],
    tty: bool,
) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let base = [
        ("HOME", defaults.home.as_str()),
        ("USER", &defaults.user),
        ("LOGNAME", &defaults.user),
        ("SHELL", &defaults.shell),
        ("PATH", &defaults.path),
        ("LANG", "en_US.UTF-8"),
        ("BROWSER", &defaults.browser),
        ("TERM", if tty { "xterm-256color" } else { "" }),
    ];
    let base = base.into_iter().filter(|(_, value)| !value.is_empty());
    let base = base.map(|(key, value)| (key.to_owned(), value.to_owned()));
    for (key, value) in base.chain(sprite.iter().cloned()).chain(caller.iter().cloned()) {
        match places.get(&key) {
            Some(&place) => all[place].1 = value,
            None => {
                places.insert(key.clone(), all.len());
                all.push((key, value));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.into(), value.into())
    }

    #[test]
    fn callers_variables_are_merged_over_the_defaults() {
        let env = build(
            &Defaults::default(),
            &[pair("SPRITE_URL", "u"), pair("A", "sprite")],
            &[pair("A", "caller"), pair("HOME", "/x")],
            false,
        );
        let get = |key: &str| env.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        assert_eq!(get("A"), Some("caller"));
        assert_eq!(get("HOME"), Some("/x"));
        assert_eq!(get("SPRITE_URL"), Some("u"));
        assert!(get("PATH").unwrap().starts_with("/.sprite/bin:"));
        assert_eq!(get("TERM"), None);
        assert_eq!(env.iter().filter(|(k, _)| k == "A").count(), 1);
    }

    #[test]
    fn a_terminal_gets_a_type_unless_the_client_names_one() {
        let term = |caller: &[(String, String)]| {
            let env = build(&Defaults::default(), &[], caller, true);
            env.into_iter().find(|(k, _)| k == "TERM").unwrap().1
        };
        assert_eq!(term(&[]), "xterm-256color");
        assert_eq!(term(&[pair("TERM", "vt100")]), "vt100");
    }
}
