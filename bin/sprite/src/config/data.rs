//! The content of `sprites.json`. Unknown keys stay as they are.

use serde_json::{Map, Value, json};

use super::normal_url;

/// Tokens by address and org, and which of them is selected.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Config {
    root: Map<String, Value>,
}

/// How an org's token is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoredToken {
    /// In the file.
    Here(String),
    /// In a system keyring, by another client.
    Keyring,
    /// Nowhere.
    Missing,
}

impl Config {
    pub(crate) fn from_json(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text).map(|root| Self { root })
    }

    pub(crate) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.root).expect("maps of JSON values");
        text.push('\n');
        text
    }

    /// Returns the known addresses, sorted.
    pub(crate) fn urls(&self) -> Vec<String> {
        let mut urls: Vec<_> = self.url_map().into_iter().flat_map(Map::keys).cloned().collect();
        urls.sort();
        urls
    }

    /// Returns the orgs known at an address, sorted.
    pub(crate) fn orgs(&self, url: &str) -> Vec<String> {
        let mut orgs: Vec<_> = self.org_map(url).into_iter().flat_map(Map::keys).cloned().collect();
        orgs.sort();
        orgs
    }

    pub(crate) fn has_org(&self, url: &str, org: &str) -> bool {
        self.org_map(url).is_some_and(|orgs| orgs.contains_key(org))
    }

    pub(crate) fn token(&self, url: &str, org: &str) -> StoredToken {
        let Some(entry) = self.org_map(url).and_then(|orgs| orgs.get(org)) else {
            return StoredToken::Missing;
        };
        match entry.get("api_token").and_then(Value::as_str) {
            Some(token) if !token.is_empty() => StoredToken::Here(token.to_owned()),
            _ if entry.get("use_keyring") == Some(&Value::Bool(true)) => StoredToken::Keyring,
            _ => StoredToken::Missing,
        }
    }

    /// Returns the selected address and org.
    pub(crate) fn selection(&self) -> (Option<String>, Option<String>) {
        let text = |key: &str| {
            let value = self.root.get("current_selection")?.get(key)?.as_str()?;
            (!value.is_empty()).then(|| value.to_owned())
        };
        (text("url").as_deref().map(normal_url), text("org"))
    }

    /// Returns the address saved under an alias.
    pub(crate) fn url_of_alias(&self, alias: &str) -> Option<String> {
        let found = self.url_map()?.iter().find(|(_, entry)| {
            entry.get("alias").and_then(Value::as_str).is_some_and(|known| known == alias)
        });
        found.map(|(url, _)| url.clone())
    }

    pub(crate) fn alias_of_url(&self, url: &str) -> Option<String> {
        Some(self.url_map()?.get(url)?.get("alias")?.as_str()?.to_owned())
    }

    /// Stores a token and selects it.
    pub(crate) fn store(&mut self, url: &str, alias: Option<&str>, org: &str, token: &str) {
        self.root.entry("version").or_insert_with(|| json!("1"));
        let entry = object(object(&mut self.root, "urls"), url);
        entry.insert("url".to_owned(), json!(url));
        if let Some(alias) = alias {
            entry.insert("alias".to_owned(), json!(alias));
        }
        let org_entry = object(object(entry, "orgs"), org);
        org_entry.insert("name".to_owned(), json!(org));
        org_entry.insert("api_token".to_owned(), json!(token));
        org_entry.insert("use_keyring".to_owned(), json!(false));
        org_entry.entry("sprites").or_insert_with(|| json!({}));
        self.select(url, org);
    }

    pub(crate) fn select(&mut self, url: &str, org: &str) {
        let selection = object(&mut self.root, "current_selection");
        selection.insert("url".to_owned(), json!(url));
        selection.insert("org".to_owned(), json!(org));
    }

    /// Forgets an org; returns whether it was known.
    pub(crate) fn remove(&mut self, url: &str, org: &str) -> bool {
        if !self.has_org(url, org) {
            return false;
        }
        object(object(object(&mut self.root, "urls"), url), "orgs").remove(org);
        if self.selection() == (Some(url.to_owned()), Some(org.to_owned())) {
            self.root.remove("current_selection");
        }
        true
    }

    /// Forgets all orgs; returns how many were known.
    pub(crate) fn remove_all(&mut self) -> usize {
        let count = self.urls().iter().map(|url| self.orgs(url).len()).sum();
        self.root.remove("urls");
        self.root.remove("current_selection");
        count
    }

    fn url_map(&self) -> Option<&Map<String, Value>> {
        self.root.get("urls")?.as_object()
    }

    fn org_map(&self, url: &str) -> Option<&Map<String, Value>> {
        self.url_map()?.get(url)?.get("orgs")?.as_object()
    }
}

/// Returns the object at `key`, made if it is missing or something else.
fn object<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let entry = map.entry(key).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    entry.as_object_mut().expect("made an object just now")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"version":"1","latest_version":"9","current_selection":{"url":"https://a","org":"one"},
        "urls":{"https://a":{"url":"https://a","note":7,"orgs":{
            "one":{"name":"one","api_token":"one/t","colour":"red","sprites":{"x":{}}},
            "two":{"name":"two","use_keyring":true,"keyring_key":"k"}}}}}"#;

    #[test]
    fn unknown_keys_survive_a_change() {
        let mut config = Config::from_json(FILE).unwrap();
        config.store("https://a", Some("work"), "one", "one/new");
        let text = config.to_json();
        for kept in ["latest_version", "\"note\": 7", "red", "keyring_key", "\"x\""] {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        let config = Config::from_json(&text).unwrap();
        assert_eq!(config.token("https://a", "one"), StoredToken::Here("one/new".into()));
        assert_eq!(config.token("https://a", "two"), StoredToken::Keyring);
        assert_eq!(config.token("https://a", "three"), StoredToken::Missing);
        assert_eq!(config.url_of_alias("work").as_deref(), Some("https://a"));
    }

    #[test]
    fn forgetting_the_selected_org_ends_the_selection() {
        let mut config = Config::from_json(FILE).unwrap();
        assert!(config.remove("https://a", "one"));
        assert!(!config.remove("https://a", "one"));
        assert_eq!(config.selection(), (None, None));
        assert_eq!(config.remove_all(), 1);
        assert!(config.urls().is_empty());
    }

    #[test]
    fn odd_files_are_survived() {
        for odd in [r#"{"urls":[]}"#, r#"{"urls":{"u":3}}"#, r#"{"current_selection":"x"}"#] {
            let mut config = Config::from_json(odd).unwrap();
            assert_eq!(config.token("u", "o"), StoredToken::Missing);
            config.store("u", None, "o", "t");
            assert_eq!(config.token("u", "o"), StoredToken::Here("t".into()));
        }
        assert!(Config::from_json("[]").is_err());
    }
}
