//! The JSON texts inside columns. A promise: only ever add fields, each with a default.

use serde::{Deserialize, Serialize};

use crate::record::ConfigRecord;

/// `sprite.config`.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ram_mb: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpus: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    storage_gb: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
}

impl From<&ConfigRecord> for StoredConfig {
    fn from(config: &ConfigRecord) -> Self {
        let ConfigRecord { ram_mb, cpus, storage_gb, region } = config.clone();
        Self { ram_mb, cpus, storage_gb, region }
    }
}

impl From<StoredConfig> for ConfigRecord {
    fn from(stored: StoredConfig) -> Self {
        let StoredConfig { ram_mb, cpus, storage_gb, region } = stored;
        Self { ram_mb, cpus, storage_gb, region }
    }
}

/// Writes a column's JSON.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("maps and lists of text always become JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the first release; later ones must still read it.
    #[test]
    fn a_config_of_the_first_release_reads_back() {
        let text = r#"{"ram_mb":512,"cpus":2,"storage_gb":100,"region":"ams"}"#;
        let stored: StoredConfig = serde_json::from_str(text).unwrap();
        assert_eq!(to_json(&stored), text);
        let config = ConfigRecord::from(stored);
        assert_eq!(config.ram_mb, Some(512));
        let empty: StoredConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(ConfigRecord::from(empty), ConfigRecord::default());
    }
}
