//! What may be asked of a new sprite, or changed about one.

use std::collections::BTreeMap;

use sprite_api::sprite::{Config, CreateSprite, UpdateSprite, UrlSettings};
use sprite_catalog::{ConfigRecord, UrlAuth};
use sprite_lifecycle::{CreateSpec, UpdateSpec};
use sprite_types::NameError;

use crate::answer::Failure;

const LABEL_COUNT_MAX: usize = 64;
/// Longest label, in bytes.
const LABEL_MAX: usize = 256;
const VARIABLE_COUNT_MAX: usize = 512;
/// Longest environment, names and values together, in bytes.
const ENVIRONMENT_MAX: usize = 128 * 1024;
const RUNTIMES: [&str; 2] = ["default", "dev"];
const ACCESS: [&str; 2] = ["admins", "org_users"];

/// Checks the body of a create.
pub(crate) fn create_spec(body: CreateSprite) -> Result<CreateSpec, Failure> {
    let name = body.name.parse().map_err(|error: NameError| Failure::invalid(error.to_string()))?;
    let (url_auth, private_access) = url_settings(body.url_settings)?;
    Ok(CreateSpec {
        name,
        labels: labels(body.labels.unwrap_or_default())?,
        environment: environment(body.environment.unwrap_or_default())?,
        config: config(body.config.unwrap_or_default())?,
        runtime: one_of("runtime", body.runtime, &RUNTIMES)?,
        wait_for_capacity: body.wait_for_capacity.unwrap_or(false),
        url_auth: url_auth.unwrap_or(UrlAuth::Sprite),
        private_access,
    })
}

/// Checks the body of an update.
pub(crate) fn update_spec(body: UpdateSprite) -> Result<UpdateSpec, Failure> {
    let (url_auth, private_access) = url_settings(body.url_settings)?;
    let labels = match body.clear_labels {
        Some(true) => Some(Vec::new()),
        _ => body.labels.map(labels).transpose()?,
    };
    Ok(UpdateSpec { labels, url_auth, private_access })
}

fn url_settings(
    settings: Option<UrlSettings>,
) -> Result<(Option<UrlAuth>, Option<String>), Failure> {
    let UrlSettings { auth, private_access } = settings.unwrap_or_default();
    let auth = match auth.as_deref() {
        None | Some("") => None,
        Some(text) => Some(
            UrlAuth::parse(text)
                .ok_or_else(|| Failure::invalid("`url_settings.auth` must be sprite or public"))?,
        ),
    };
    Ok((auth, one_of("url_settings.private_access", private_access, &ACCESS)?))
}

/// An empty text counts as absent.
fn one_of(field: &str, text: Option<String>, known: &[&str]) -> Result<Option<String>, Failure> {
    match text.filter(|text| !text.is_empty()) {
        Some(text) if !known.contains(&text.as_str()) => {
            Err(Failure::invalid(format!("`{field}` must be one of: {}", known.join(", "))))
        }
        text => Ok(text),
    }
}

fn labels(labels: Vec<String>) -> Result<Vec<String>, Failure> {
    if labels.len() > LABEL_COUNT_MAX || labels.iter().any(|label| label.len() > LABEL_MAX) {
        return Err(Failure::invalid(format!(
            "`labels` may hold {LABEL_COUNT_MAX} labels of {LABEL_MAX} bytes"
        )));
    }
    Ok(labels)
}

fn environment(environment: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Failure> {
    let size: usize = environment.iter().map(|(name, value)| name.len() + value.len()).sum();
    if environment.len() > VARIABLE_COUNT_MAX || size > ENVIRONMENT_MAX {
        return Err(Failure::invalid(format!(
            "`environment` may hold {VARIABLE_COUNT_MAX} variables and {ENVIRONMENT_MAX} bytes"
        )));
    }
    let bad_name = |name: &String| name.is_empty() || name.contains(['=', '\0']);
    if environment.iter().any(|(name, value)| bad_name(name) || value.contains('\0')) {
        return Err(Failure::invalid(
            "`environment` needs names without `=`, and neither names nor values with NUL bytes",
        ));
    }
    Ok(environment)
}

fn config(config: Config) -> Result<ConfigRecord, Failure> {
    let Config { ram_mb, cpus, storage_gb, region } = config;
    let limits = [
        ("ram_mb", ram_mb, 16 * 1024 * 1024),
        ("cpus", cpus, 4096),
        ("storage_gb", storage_gb, 1 << 20),
    ];
    for (field, value, limit) in limits {
        if value.is_some_and(|value| !(1..=limit).contains(&value)) {
            return Err(Failure::invalid(format!("`config.{field}` must be from 1 to {limit}")));
        }
    }
    if region.as_ref().is_some_and(|region| region.len() > LABEL_MAX) {
        return Err(Failure::invalid("`config.region` is too long"));
    }
    Ok(ConfigRecord { ram_mb, cpus, storage_gb, region })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(json: &str) -> Result<CreateSpec, Failure> {
        create_spec(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn every_field_of_the_contract_is_taken() {
        let spec = create(
            r#"{"name":"a","config":{"ram_mb":512,"cpus":2,"region":"x"},"environment":{"A":"b"},
                "url_settings":{"auth":"public","private_access":"admins"},"labels":["b","a","b"],
                "wait_for_capacity":true,"runtime":"dev","later":{}}"#,
        )
        .unwrap();
        assert_eq!(spec.labels, ["b", "a", "b"]);
        assert_eq!(spec.environment["A"], "b");
        assert_eq!(spec.config.ram_mb, Some(512));
        assert_eq!(spec.url_auth, UrlAuth::Public);
        assert!(spec.wait_for_capacity);
        let spec = create(r#"{"name":"a","labels":null,"runtime":"","url_settings":{"auth":""}}"#);
        assert_eq!(spec.unwrap().runtime, None);
    }

    #[test]
    fn wrong_values_are_named() {
        for (json, word) in [
            (r#"{"name":"A"}"#, "name"),
            (r#"{"name":""}"#, "name"),
            (r#"{"name":"a","runtime":"x"}"#, "runtime"),
            (r#"{"name":"a","url_settings":{"auth":"x"}}"#, "auth"),
            (r#"{"name":"a","url_settings":{"private_access":"x"}}"#, "private_access"),
            (r#"{"name":"a","config":{"cpus":0}}"#, "cpus"),
            (r#"{"name":"a","config":{"ram_mb":-1}}"#, "ram_mb"),
            (r#"{"name":"a","environment":{"A=":"b"}}"#, "environment"),
            (r#"{"name":"a","environment":{"A":"\u0000"}}"#, "environment"),
        ] {
            let failure = create(json).unwrap_err();
            assert_eq!(failure.status(), 400);
            assert!(failure.text().contains(word), "{json}: {}", failure.text());
        }
        let labels = vec![String::from("x"); 65];
        let body = CreateSprite { name: "a".into(), labels: Some(labels), ..Default::default() };
        assert!(create_spec(body).is_err());
    }

    #[test]
    fn an_update_changes_only_what_it_names() {
        let update = |json: &str| update_spec(serde_json::from_str(json).unwrap()).unwrap();
        assert_eq!(update("{}").labels, None);
        assert_eq!(update(r#"{"labels":[]}"#).labels, Some(vec![]));
        assert_eq!(update(r#"{"clear_labels":true}"#).labels, Some(vec![]));
        let spec = update(r#"{"url_settings":{"auth":"public","private_access":""}}"#);
        assert_eq!((spec.url_auth, spec.private_access), (Some(UrlAuth::Public), None));
    }
}
