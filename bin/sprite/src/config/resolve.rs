//! Decides which server, org and sprite a command is about. Pure.
//!
//! | Order | Org | Sprite |
//! |---|---|---|
//! | 1 | `-o` | `-s` or the positional name |
//! | 2 | `SPRITE_ORG` | |
//! | 3 | `.sprite` | `.sprite` |
//! | 4 | the selection in `sprites.json`, or the only org there | |
//!
//! # Invariants
//! - A stored token is only ever used with the address it was stored for.

use super::data::StoredToken;
use super::{Config, DEFAULT_API_URL, Project, normal_url};

/// Everything that counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    /// `-o [alias:]org`.
    pub(crate) org_flag: Option<String>,
    /// `SPRITE_ORG`.
    pub(crate) org_env: Option<String>,
    /// `SPRITE_TOKEN` and its other spellings.
    pub(crate) token_env: Option<String>,
    /// `SPRITES_API_URL`.
    pub(crate) url_env: Option<String>,
    /// The `.sprite` file.
    pub(crate) project: Option<Project>,
    /// `sprites.json`.
    pub(crate) config: Config,
}

/// Which server, as whom.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// API address.
    pub(crate) url: String,
    /// Org, as far as known.
    pub(crate) org: Option<String>,
    /// The token. Not for printing.
    pub(crate) token: String,
}

/// Why there is no such account.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("not logged in to {url}")]
    NotLoggedIn { url: String },
    #[error("no token for org `{org}` at {url}")]
    UnknownOrg { url: String, org: String },
    #[error("org `{org}` is known at several servers: {urls}")]
    Ambiguous { org: String, urls: String },
    #[error("no server is saved under the alias `{alias}`")]
    UnknownAlias { alias: String },
    #[error("several orgs are stored for {url}: {orgs}")]
    ChooseOrg { url: String, orgs: String },
    #[error("the token of org `{org}` is in the system keyring, which this client does not read")]
    Keyring { org: String },
    #[error("the token in the environment belongs to org `{token_org}`, not to `{org}`")]
    OtherToken { token_org: String, org: String },
}

impl ResolveError {
    /// Returns what to type.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::NotLoggedIn { url } => {
                format!("`sprite login {url}`, or set SPRITE_TOKEN")
            }
            Self::UnknownOrg { url, org } => format!(
                "`sprite org list` shows the orgs you have; `sprite org auth {url} -o {org}` adds one"
            ),
            Self::Ambiguous { org, .. } => format!(
                "name the server with an alias: -o <alias>:{org} \
                 (`sprite org auth <url> -o <alias>:{org}` sets one)"
            ),
            Self::UnknownAlias { alias } => {
                format!("`sprite org auth <url> -o {alias}:<org>` saves one")
            }
            Self::ChooseOrg { .. } => "choose one with -o <org> or SPRITE_ORG".to_owned(),
            Self::Keyring { org } => format!("`sprite org auth -o {org}` stores one here"),
            Self::OtherToken { .. } => "unset SPRITE_TOKEN, or leave out -o".to_owned(),
        }
    }
}

/// Splits `[alias:]org`.
pub(crate) fn split_org(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((alias, org)) => (Some(alias).filter(|alias| !alias.is_empty()), org),
        None => (None, text),
    }
}

/// Decides which server and org, and finds the token.
pub(crate) fn resolve_account(inputs: &Inputs) -> Result<Account, ResolveError> {
    let Inputs { config, .. } = inputs;
    let named = inputs.org_flag.as_deref().or(inputs.org_env.as_deref()).map(split_org);
    let alias = named.and_then(|(alias, _)| alias);
    let named_org = named.map(|(_, org)| org).filter(|org| !org.is_empty());
    let project_org = inputs.project.as_ref().and_then(|project| project.org.as_deref());
    let (selected_url, selected_org) = config.selection();

    let org = named_org.or(project_org).map(str::to_owned);
    let url = match (&inputs.url_env, alias) {
        (Some(url), _) => normal_url(url),
        (None, Some(alias)) => config
            .url_of_alias(alias)
            .ok_or_else(|| ResolveError::UnknownAlias { alias: alias.to_owned() })?,
        (None, None) => stored_url(config, selected_url.as_deref(), org.as_deref())?,
    };
    // The selection is about one server only.
    let selected_org = selected_org.filter(|_| selected_url.as_deref() == Some(url.as_str()));

    if let Some(token) = &inputs.token_env {
        let token_org = token.trim().split_once('/').map(|(org, _)| org.to_owned());
        if let (Some(org), Some(token_org)) = (named_org, &token_org)
            && inputs.org_flag.is_some()
            && org != token_org
        {
            return Err(ResolveError::OtherToken {
                token_org: token_org.clone(),
                org: org.to_owned(),
            });
        }
        let org = token_org.or(org).or(selected_org);
        return Ok(Account { url, org, token: token.clone() });
    }

    let org = match org.or(selected_org.filter(|org| config.has_org(&url, org))) {
        Some(org) => org,
        None => match config.orgs(&url).as_slice() {
            [] => return Err(ResolveError::NotLoggedIn { url }),
            [only] => only.clone(),
            several => return Err(ResolveError::ChooseOrg { orgs: several.join(", "), url }),
        },
    };
    match config.token(&url, &org) {
        StoredToken::Here(token) => Ok(Account { url, org: Some(org), token }),
        StoredToken::Keyring => Err(ResolveError::Keyring { org }),
        StoredToken::Missing if config.orgs(&url).is_empty() => {
            Err(ResolveError::NotLoggedIn { url })
        }
        StoredToken::Missing => Err(ResolveError::UnknownOrg { url, org }),
    }
}

/// Chooses among the stored addresses: the selected one if it knows the org, else the only one
/// that does, else the selected one, the only one, the default.
fn stored_url(
    config: &Config,
    selected: Option<&str>,
    org: Option<&str>,
) -> Result<String, ResolveError> {
    if let Some(org) = org {
        if let Some(selected) = selected
            && config.has_org(selected, org)
        {
            return Ok(selected.to_owned());
        }
        let knowing: Vec<_> =
            config.urls().into_iter().filter(|url| config.has_org(url, org)).collect();
        match knowing.as_slice() {
            [] => {}
            [only] => return Ok(only.clone()),
            several => {
                let urls = several.join(", ");
                return Err(ResolveError::Ambiguous { org: org.to_owned(), urls });
            }
        }
    }
    if let Some(selected) = selected {
        return Ok(selected.to_owned());
    }
    Ok(match config.urls().as_slice() {
        [only] => only.clone(),
        _ => DEFAULT_API_URL.to_owned(),
    })
}

/// Decides which sprite, if anything says so.
pub(crate) fn resolve_sprite(named: Option<&str>, project: Option<&Project>) -> Option<String> {
    named.or_else(|| project?.sprite.as_deref()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entries: &[(&str, Option<&str>, &str)]) -> Config {
        let mut config = Config::default();
        for (url, alias, org) in entries {
            config.store(url, *alias, org, &format!("{org}/token-at-{url}"));
        }
        config
    }

    fn resolved(inputs: &Inputs) -> (String, Option<String>, String) {
        match resolve_account(inputs) {
            Ok(Account { url, org, token }) => (url, org, token),
            Err(error) => panic!("{error}"),
        }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn org_comes_from_flag_then_environment_then_project_then_selection() {
        let orgs = ["flag", "env", "project", "selected"];
        let all: Vec<_> = orgs.iter().map(|org| ("http://h", None, *org)).collect();
        let mut inputs = Inputs {
            org_flag: some("flag"),
            org_env: some("env"),
            project: Some(Project { org: some("project"), sprite: None }),
            config: config(&all),
            ..Inputs::default()
        };
        assert_eq!(resolved(&inputs).1, some("flag"));
        inputs.org_flag = None;
        assert_eq!(resolved(&inputs).1, some("env"));
        inputs.org_env = None;
        assert_eq!(resolved(&inputs).1, some("project"));
        inputs.project = None;
        assert_eq!(
            resolved(&inputs),
            ("http://h".into(), some("selected"), "selected/token-at-http://h".into())
        );
    }

    #[test]
    fn an_alias_or_the_org_itself_chooses_the_server() {
        let config = config(&[
            ("http://a", Some("a"), "x"),
            ("http://b", Some("b"), "x"),
            ("http://c", None, "y"),
        ]);
        let with =
            |org: &str| Inputs { org_flag: some(org), config: config.clone(), ..Inputs::default() };
        assert_eq!(resolved(&with("a:x")).0, "http://a");
        assert_eq!(resolved(&with("b:x")).2, "x/token-at-http://b");
        assert_eq!(resolved(&with("y")).0, "http://c");
        assert!(matches!(resolve_account(&with("x")), Err(ResolveError::Ambiguous { .. })));
        assert!(matches!(resolve_account(&with("q:x")), Err(ResolveError::UnknownAlias { .. })));
        assert!(matches!(resolve_account(&with("z")), Err(ResolveError::UnknownOrg { .. })));
    }

    #[test]
    fn a_stored_token_never_goes_to_another_server() {
        let inputs = Inputs {
            url_env: some("http://other/"),
            config: config(&[("http://h", None, "o")]),
            ..Inputs::default()
        };
        assert_eq!(
            resolve_account(&inputs).err(),
            Some(ResolveError::NotLoggedIn { url: "http://other".into() })
        );
        let inputs = Inputs { token_env: some("p/q"), ..inputs };
        assert_eq!(resolved(&inputs), ("http://other".into(), some("p"), "p/q".into()));
    }

    #[test]
    fn a_token_of_another_org_than_the_flag_is_refused() {
        let inputs =
            Inputs { token_env: some("a/1/2/3"), org_flag: some("b"), ..Inputs::default() };
        assert!(matches!(resolve_account(&inputs), Err(ResolveError::OtherToken { .. })));
        let inputs = Inputs { org_flag: None, org_env: some("b"), ..inputs };
        assert_eq!(resolved(&inputs), (DEFAULT_API_URL.into(), some("a"), "a/1/2/3".into()));
    }

    #[test]
    fn without_anything_there_is_a_default_server_and_no_token() {
        assert_eq!(
            resolve_account(&Inputs::default()).err(),
            Some(ResolveError::NotLoggedIn { url: DEFAULT_API_URL.into() })
        );
    }

    #[test]
    fn a_named_sprite_wins_over_the_project() {
        let project = Project { org: None, sprite: some("p") };
        assert_eq!(resolve_sprite(Some("n"), Some(&project)), some("n"));
        assert_eq!(resolve_sprite(None, Some(&project)), some("p"));
        assert_eq!(resolve_sprite(None, None), None);
    }
}
