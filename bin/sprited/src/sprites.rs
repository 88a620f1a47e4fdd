//! Opens what sprites are made of, in order.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use sprite_catalog::Catalog;
use sprite_container::cgroup::Hierarchies;
use sprite_disk::Disks;
use sprite_lifecycle::{ImageState, LifecycleSettings, ReadyImage, Sprites, Storage, UrlSettings};
use sprite_link::boot::Tool;
use sprite_network::{Network, NetworkSettings};
use sprite_substrate::{Fake, Namespaces, NamespacesSettings, Substrate};
use sprite_types::{ByteSize, ImageId, SystemClock};
use tokio::sync::watch;

use crate::config::Config;
use crate::{host, image};

/// First of the host's user ids that machines get: above those that distributions hand out.
const ID_BASE: u32 = 1 << 30;
/// Distance between the id ranges of several daemons on one host.
const ID_SPAN: u32 = 1 << 26;

/// Everything below the API.
pub(crate) struct Parts {
    pub(crate) catalog: Catalog,
    pub(crate) sprites: Sprites,
    pub(crate) image: watch::Receiver<ImageState>,
    pub(crate) disks: Option<Disks>,
    pub(crate) network: Option<Network>,
}

/// Opens the catalog; fails if another `sprited` has it.
pub(crate) fn open_catalog(config: &Config) -> anyhow::Result<Catalog> {
    let data_dir = &config.data_dir;
    create_private(data_dir)?;
    let host_id = host::host_id(data_dir)?;
    Catalog::open(data_dir, host_id, Arc::new(SystemClock))
        .with_context(|| format!("open the records in `{}`", data_dir.display()))
}

/// Opens everything. `alone` is whether this daemon owns the host's default network range;
/// others take a free one.
pub(crate) async fn open(config: &Config, url_port: u16, alone: bool) -> anyhow::Result<Parts> {
    let catalog = open_catalog(config)?;
    let (substrate, storage, disks, network, image) = match config.substrate.as_str() {
        "fake" => {
            let ready = ReadyImage { id: ImageId::generate(), path: "/dev/null".into() };
            let image = watch::channel(ImageState::Ready(ready)).1;
            let fake = Fake::new(config.data_dir.join("homes"));
            (Substrate::Fake(fake), Storage::None, None, None, image)
        }
        _ => {
            let network = open_network(config, alone).await?;
            let disks = Disks::open(sprite_disk::Settings::new(config.data_dir.join("disks")))
                .context("open the disks")?;
            let substrate = open_namespaces(config, &network)?;
            let image = image::prepare(config.image.clone());
            let storage = Storage::Files(disks.clone());
            (Substrate::Namespaces(substrate), storage, Some(disks), Some(network), image)
        }
    };
    let sprites = Sprites::start(
        lifecycle(config, url_port),
        catalog.clone(),
        substrate,
        storage,
        image.clone(),
        Arc::new(SystemClock),
    )
    .await
    .context("take over the sprites of the catalog")?;
    if let Some(network) = &network {
        // After the machines that still run were adopted: what is left belongs to none.
        network.prune().await.context("clean up the host's network")?;
    }
    Ok(Parts { catalog, sprites, image, disks, network })
}

async fn open_network(config: &Config, alone: bool) -> anyhow::Result<Network> {
    let parse = |text: &String| text.parse().with_context(|| format!("network range `{text}`"));
    let settings = NetworkSettings {
        range: parse(&config.network.range)?,
        allow_private: config.network.allow_private.iter().map(parse).collect::<Result<_, _>>()?,
        upstreams: config.network.resolvers.clone(),
        ..NetworkSettings::default()
    };
    let network =
        if alone { Network::open(settings) } else { Network::open_instance(&settings).await };
    let network = network.context("open the network")?;
    network.prepare().await.context("prepare the host's network")?;
    Ok(network)
}

fn open_namespaces(config: &Config, network: &Network) -> anyhow::Result<Namespaces> {
    let machines_dir = config.data_dir.join("machines");
    create_private(&machines_dir)?;
    let tools = vec![Tool {
        source: host::program("sprite-env")?,
        target: "/.sprite/bin/sprite-env".to_owned(),
    }];
    // Daemons with ranges of their own for addresses have ranges of their own for ids.
    let index = u32::from(network.settings().gateway().octets()[2]) % 32;
    let base = if network.settings().table == NetworkSettings::default().table {
        ID_BASE
    } else {
        ID_BASE + ID_SPAN * (1 + index)
    };
    let settings = NamespacesSettings {
        machines_dir,
        guestd: host::program("sprite-guestd")?,
        tools,
        id_base: base,
    };
    let cgroups = Hierarchies::detect().context("find the host's cgroups")?;
    Ok(Namespaces::new(settings, cgroups, network.clone()))
}

fn lifecycle(config: &Config, port: u16) -> LifecycleSettings {
    let default_port = if config.url_scheme == "https" { 443 } else { 80 };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    LifecycleSettings {
        url: UrlSettings {
            scheme: config.url_scheme.clone(),
            domain: config.domain.clone(),
            port: Some(config.url_port.unwrap_or(port)).filter(|&port| port != default_port),
        },
        running_max: config.limits.running_max,
        boots_max: cores + 1,
        memory_default: config.limits.memory_mb.map_or_else(half_of_memory, ByteSize::mib),
        cpus_default: config.limits.cpus,
        pids_max: config.limits.pids,
    }
}

/// Half of the host's memory: one sprite that leaks must not take the host down.
fn half_of_memory() -> ByteSize {
    let info = rustix::system::sysinfo();
    ByteSize(info.totalram.saturating_mul(u64::from(info.mem_unit)) / 2)
}

/// Makes a folder that only root may enter.
pub(crate) fn create_private(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)))
        .with_context(|| format!("make the folder `{}`", dir.display()))
}
