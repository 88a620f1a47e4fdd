//! Which package registries and proxies this host uses, for programs that run in the new root.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Variables that are handed on as they are.
const VARIABLES: [&str; 11] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "NPM_CONFIG_REGISTRY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];
/// Settings of pip's files, and the variables that mean the same.
const PIP_SETTINGS: [(&str, &str); 4] = [
    ("index-url", "PIP_INDEX_URL"),
    ("extra-index-url", "PIP_EXTRA_INDEX_URL"),
    ("trusted-host", "PIP_TRUSTED_HOST"),
    ("proxy", "PIP_PROXY"),
];

/// Collects the variables for the build; those of the environment win over files.
pub(crate) fn of_host(variable: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let home = PathBuf::from(variable("HOME").unwrap_or_else(|| "/root".to_owned()));
    let mut found = BTreeMap::new();
    for path in [
        PathBuf::from("/etc/pip.conf"),
        home.join(".pip/pip.conf"),
        home.join(".config/pip/pip.conf"),
    ] {
        found.extend(pip_settings(&fs::read_to_string(path).unwrap_or_default()));
    }
    for path in [PathBuf::from("/etc/npmrc"), home.join(".npmrc")] {
        found.extend(npm_registry(&fs::read_to_string(path).unwrap_or_default()));
    }
    for name in VARIABLES {
        if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
            found.insert(name.to_owned(), value);
        }
    }
    found
}

/// Reads the settings that matter from the text of a pip.conf.
fn pip_settings(text: &str) -> Vec<(String, String)> {
    let mut section = "";
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = line.split_once('=')
            && matches!(section, "global" | "install" | "download")
            && let Some((_, name)) = PIP_SETTINGS.iter().find(|(known, _)| *known == key.trim())
        {
            found.push(((*name).to_owned(), value.trim().to_owned()));
        }
    }
    found
}

/// Reads the registry from the text of an npmrc.
fn npm_registry(text: &str) -> Option<(String, String)> {
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "registry").then(|| value.trim().trim_matches('"').to_owned())
    })?;
    Some(("NPM_CONFIG_REGISTRY".to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_come_from_the_tools_own_files() {
        let pip = "[global]\nindex-url = https://mirror/simple\ncert = /x\n[freeze]\nproxy = no\n";
        assert_eq!(
            pip_settings(pip),
            [("PIP_INDEX_URL".to_owned(), "https://mirror/simple".to_owned())]
        );
        let npm = "fund=false\nregistry = \"https://mirror/npm/\"\n//mirror/:_authToken=secret\n";
        assert_eq!(npm_registry(npm).unwrap().1, "https://mirror/npm/");
        assert_eq!(npm_registry("fund=false"), None);
    }

    #[test]
    fn variables_win_over_files() {
        let found = of_host(|name| (name == "PIP_INDEX_URL").then(|| "https://mine".to_owned()));
        assert_eq!(found["PIP_INDEX_URL"], "https://mine");
    }
}
