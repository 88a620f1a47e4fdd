//! Settings: defaults, then the TOML file, then environment and flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

/// Settings file that is read if it is there and no other was named.
const DEFAULT_FILE: &str = "/etc/sprites/sprited.toml";
/// Largest settings file, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// All settings, as the TOML file has them. Since 0.1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder with everything durable. Default `/var/lib/sprites`.
    pub data_dir: PathBuf,
    /// Address of the API and of sprite URLs. Default `127.0.0.1:7780`.
    pub listen: SocketAddr,
    /// Domain below which each sprite has a host name. Default `localhost`.
    pub domain: String,
    /// Scheme of sprite URLs; `https` behind a proxy that ends TLS. Default `http`.
    pub url_scheme: String,
    /// Port in sprite URLs, if it is not the one we listen on.
    pub url_port: Option<u16>,
    /// What machines are made of: `namespaces`, or `fake` for tests. Default `namespaces`.
    pub substrate: String,
    /// The base image.
    pub image: ImageConfig,
    /// How sprites reach the network.
    pub network: NetworkConfig,
    /// What sprites may use.
    pub limits: LimitsConfig,
}

/// The base image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageConfig {
    /// `minimal`, `devtools`, or the id or name of an imported image. Default `minimal`.
    pub name: String,
    /// Images of this host, outside the data folder so that several can share them.
    pub cache_dir: PathBuf,
    /// Extra certificate authorities for building behind a proxy that re-signs TLS.
    pub ca_file: Option<PathBuf>,
    /// Put them into the image too. Default false.
    pub ca_in_image: bool,
}

/// How sprites reach the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Addresses of sprites. Default `10.77.0.0/16`.
    pub range: String,
    /// Private networks that sprites may reach all the same. Default none.
    pub allow_private: Vec<String>,
    /// Resolvers, `address:port`. Default: those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
}

/// What sprites may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Sprites that may run at once. Default 200.
    pub running_max: u64,
    /// Memory of a sprite that does not ask for a size, in MiB. Default: half of the host's.
    pub memory_mb: Option<u64>,
    /// CPU cores of a sprite that does not ask for a number. Default: no limit.
    pub cpus: Option<f64>,
    /// Processes and threads of a sprite. Default 8192.
    pub pids: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/sprites".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7780)),
            domain: "localhost".to_owned(),
            url_scheme: "http".to_owned(),
            url_port: None,
            substrate: "namespaces".to_owned(),
            image: ImageConfig::default(),
            network: NetworkConfig::default(),
            limits: LimitsConfig::default(),
        }
    }
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            name: "minimal".to_owned(),
            cache_dir: sprite_image::DEFAULT_CACHE_DIR.into(),
            ca_file: None,
            ca_in_image: false,
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        let defaults = sprite_network::NetworkSettings::default();
        Self { range: defaults.range.to_string(), allow_private: Vec::new(), resolvers: Vec::new() }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { running_max: 200, memory_mb: None, cpus: None, pids: 8192 }
    }
}

/// Settings given by flag or environment; they win over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct Overrides {
    /// Folder with everything durable [default: /var/lib/sprites].
    #[arg(long, global = true, env = "SPRITED_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where durable disks live: not yet; see README.
    #[arg(long, global = true, env = "SPRITED_BUCKET", value_name = "URL")]
    pub bucket: Option<String>,
    /// Address of the API [default: 127.0.0.1:7780].
    #[arg(long, global = true, env = "SPRITED_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<SocketAddr>,
    /// Domain of sprite URLs [default: localhost].
    #[arg(long, global = true, env = "SPRITED_DOMAIN", value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Scheme of sprite URLs [default: http].
    #[arg(long, global = true, env = "SPRITED_URL_SCHEME", value_name = "SCHEME")]
    pub url_scheme: Option<String>,
    /// Port of sprite URLs [default: the one we listen on].
    #[arg(long, global = true, env = "SPRITED_URL_PORT", value_name = "PORT")]
    pub url_port: Option<u16>,
    /// What machines are made of: namespaces, or fake for tests [default: namespaces].
    #[arg(long, global = true, env = "SPRITED_SUBSTRATE", value_name = "NAME")]
    pub substrate: Option<String>,
    /// Base image: minimal, devtools, or an imported one [default: minimal].
    #[arg(long, global = true, env = "SPRITED_IMAGE", value_name = "IMAGE")]
    pub image: Option<String>,
    /// Folder of base images [default: /var/cache/sprites/images].
    #[arg(long, global = true, env = "SPRITED_IMAGE_CACHE", value_name = "DIR")]
    pub image_cache: Option<PathBuf>,
    /// Extra certificate authorities for building the image.
    #[arg(long, global = true, env = "SPRITED_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Put the extra certificate authorities into the image too.
    #[arg(long, global = true, env = "SPRITED_CA_IN_IMAGE")]
    pub ca_in_image: bool,
    /// Addresses of sprites [default: 10.77.0.0/16].
    #[arg(long, global = true, env = "SPRITED_NETWORK_RANGE", value_name = "CIDR")]
    pub network_range: Option<String>,
    /// Private networks that sprites may reach all the same; may be repeated.
    #[arg(
        long,
        global = true,
        env = "SPRITED_ALLOW_PRIVATE",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub allow_private: Vec<String>,
    /// Resolvers for sprites [default: those of /etc/resolv.conf]; may be repeated.
    #[arg(
        long,
        global = true,
        env = "SPRITED_RESOLVERS",
        value_name = "ADDRESS:PORT",
        value_delimiter = ','
    )]
    pub resolvers: Vec<SocketAddr>,
    /// Sprites that may run at once [default: 200].
    #[arg(long, global = true, env = "SPRITED_RUNNING_MAX", value_name = "COUNT")]
    pub running_max: Option<u64>,
    /// Memory of a sprite that asks for none, in MiB [default: half of the host's].
    #[arg(long, global = true, env = "SPRITED_MEMORY_MB", value_name = "MIB")]
    pub memory_mb: Option<u64>,
    /// CPU cores of a sprite that asks for none [default: no limit].
    #[arg(long, global = true, env = "SPRITED_CPUS", value_name = "CORES")]
    pub cpus: Option<f64>,
    /// Processes and threads of a sprite [default: 8192].
    #[arg(long, global = true, env = "SPRITED_PIDS", value_name = "COUNT")]
    pub pids: Option<u32>,
}

impl Config {
    /// Puts the settings together and checks them.
    ///
    /// # Errors
    /// A file that cannot be read or understood, or a value that makes no sense.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> anyhow::Result<Self> {
        let config = match file {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => Self::default(),
        };
        let config = config.with(overrides)?;
        config.check()?;
        Ok(config)
    }

    fn with(mut self, overrides: Overrides) -> anyhow::Result<Self> {
        if let Some(bucket) = overrides.bucket {
            bail!(
                "--bucket {bucket}: object stores are not supported yet; \
                 disks are files below the data folder (--data-dir)"
            );
        }
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        set(&mut self.data_dir, overrides.data_dir);
        set(&mut self.listen, overrides.listen);
        set(&mut self.domain, overrides.domain);
        set(&mut self.url_scheme, overrides.url_scheme);
        set(&mut self.substrate, overrides.substrate);
        set(&mut self.image.name, overrides.image);
        set(&mut self.image.cache_dir, overrides.image_cache);
        set(&mut self.network.range, overrides.network_range);
        set(&mut self.limits.running_max, overrides.running_max);
        set(&mut self.limits.pids, overrides.pids);
        self.url_port = overrides.url_port.or(self.url_port);
        self.image.ca_file = overrides.ca_file.or(self.image.ca_file);
        self.image.ca_in_image |= overrides.ca_in_image;
        self.limits.memory_mb = overrides.memory_mb.or(self.limits.memory_mb);
        self.limits.cpus = overrides.cpus.or(self.limits.cpus);
        if !overrides.allow_private.is_empty() {
            self.network.allow_private = overrides.allow_private;
        }
        if !overrides.resolvers.is_empty() {
            self.network.resolvers = overrides.resolvers;
        }
        Ok(self)
    }

    fn check(&self) -> anyhow::Result<()> {
        if !matches!(self.substrate.as_str(), "namespaces" | "fake") {
            bail!("substrate `{}`: there are `namespaces` and `fake`", self.substrate);
        }
        if !matches!(self.url_scheme.as_str(), "http" | "https") {
            bail!("url_scheme `{}`: it is `http` or `https`", self.url_scheme);
        }
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if !self.domain.split('.').all(label) {
            bail!("domain `{}` is not a DNS name in lower case", self.domain);
        }
        if self.limits.cpus.is_some_and(|cpus| !(0.01..=4096.0).contains(&cpus)) {
            bail!("limits.cpus must be between 0.01 and 4096");
        }
        if self.limits.memory_mb.is_some_and(|mib| mib < 32) {
            bail!("limits.memory_mb must be at least 32");
        }
        if self.limits.pids < 32 {
            bail!("limits.pids must be at least 32");
        }
        Ok(())
    }

    /// Returns the settings as TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings are plain data")
    }

    /// Returns where the administration socket is.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }
}

fn read(path: &Path) -> anyhow::Result<Config> {
    use std::io::Read;
    let what = || format!("read settings from `{}`", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(what)?;
    file.take(FILE_MAX).read_to_string(&mut text).with_context(what)?;
    toml::from_str(&text).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_survives_the_round_trip_through_toml() {
        let mut config = Config::default();
        config.limits.cpus = Some(1.5);
        config.limits.memory_mb = Some(512);
        config.image.ca_file = Some("/x.pem".into());
        config.url_port = Some(443);
        assert_eq!(toml::from_str::<Config>(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sprited.toml");
        std::fs::write(&file, "domain = \"a.example\"\nlisten = \"127.0.0.1:1\"\n").unwrap();
        let overrides = Overrides { domain: Some("b.example".into()), ..Overrides::default() };
        let config = Config::load(Some(&file), overrides).unwrap();
        assert_eq!(config.domain, "b.example");
        assert_eq!(config.listen.port(), 1);
    }

    #[test]
    fn a_misspelt_setting_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sprited.toml");
        std::fs::write(&file, "data_dri = \"/x\"\n").unwrap();
        let error = Config::load(Some(&file), Overrides::default()).unwrap_err();
        assert!(format!("{error:#}").contains("data_dri"), "{error:#}");
    }

    #[test]
    fn a_bucket_is_not_there_yet_and_said_so() {
        let overrides = Overrides { bucket: Some("s3://x".into()), ..Overrides::default() };
        let error = Config::load(None, overrides).unwrap_err();
        assert!(error.to_string().contains("not supported yet"), "{error}");
    }
}
