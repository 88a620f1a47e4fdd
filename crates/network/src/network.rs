//! The handle: prepares the host and gives machines their place in it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::Value;
use sprite_link::boot::NetworkSpec;
use sprite_types::MachineId;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::command::{self, Tool, nft};
use crate::dns::{self, Admitted, Resolver, Upstreams};
use crate::error::NetworkError;
use crate::leases::Leases;
use crate::locks::{self, TableLock};
use crate::settings::NetworkSettings;
use crate::watch::TableWatch;
use crate::{docker, forwarding, kernel, rules, unmanaged};

/// How often the host is looked at: an uplink may have appeared, or somebody flushed the rules.
const RECONCILE_EVERY: Duration = Duration::from_secs(10);
const DNS_PORT: u16 = 53;

/// The network of a host's sprites. Cheap to clone; with the last clone the resolver stops, and
/// the rules stay, for machines that outlive `sprited`.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    settings: NetworkSettings,
    leases: Mutex<Leases>,
    admitted: Admitted,
    mtu: AtomicU32,
    /// Serialises everything that changes the host, so that a reconcile never undoes a change
    /// under way.
    changing: tokio::sync::Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
    lock: Mutex<Option<TableLock>>,
}

impl Network {
    /// Checks the settings. Touches nothing.
    ///
    /// # Errors
    /// - [`NetworkError::Settings`]: one cannot be used.
    pub fn open(settings: NetworkSettings) -> Result<Self, NetworkError> {
        settings.validate()?;
        Ok(Self(Arc::new(Inner {
            leases: Mutex::new(Leases::new(settings.range)),
            settings,
            admitted: Admitted::default(),
            mtu: AtomicU32::new(1500),
            changing: tokio::sync::Mutex::new(()),
            tasks: Mutex::default(),
            lock: Mutex::default(),
        })))
    }

    /// Finds a free instance of the settings (see [`NetworkSettings::instance`]) and claims it,
    /// for a `sprited` that lives beside others. Skips ranges that the host routes elsewhere.
    ///
    /// # Errors
    /// - [`NetworkError::Exhausted`]: there are 256 already.
    /// - Else as [`Network::prepare`].
    pub async fn open_instance(base: &NetworkSettings) -> Result<Self, NetworkError> {
        let routes = kernel::routes().await?;
        let mut start = [0];
        let _ = getrandom::fill(&mut start);
        for offset in 0..=255 {
            let settings = base.instance(start[0].wrapping_add(offset));
            let is_routed = routes
                .iter()
                .any(|r| r.network.prefix_len() >= 16 && r.network.overlaps(settings.range));
            if is_routed {
                continue;
            }
            let network = Self::open(settings)?;
            match network.claim() {
                Ok(()) => {}
                Err(NetworkError::InUse { .. }) => continue,
                Err(error) => return Err(error),
            }
            // What a killed one left is taken over, unless its machines still run.
            if !kernel::has_interfaces(&network.0.settings.interface_prefix).await? {
                nft(&rules::remove(&network.0.settings.table), "claim a firewall table").await?;
                return Ok(network);
            }
        }
        Err(NetworkError::Exhausted { range: base.instance(0).range })
    }

    /// Returns the settings in force.
    #[must_use]
    pub fn settings(&self) -> &NetworkSettings {
        &self.0.settings
    }

    /// Makes the host ready: firewall, forwarding, resolver. Repeating it is harmless, and what
    /// was admitted before stays admitted, also by an earlier `sprited`.
    ///
    /// # Errors
    /// - [`NetworkError::InUse`]: another `sprited` has these settings.
    /// - [`NetworkError::Missing`]: `nft` or `ip` is not installed.
    /// - [`NetworkError::Dns`]: something else answers on the gateway's port 53.
    pub async fn prepare(&self) -> Result<(), NetworkError> {
        self.claim()?;
        {
            let _changing = self.0.changing.lock().await;
            let _shared = locks::shared(&self.0.settings.runtime_dir).await?;
            let routes = kernel::routes().await?;
            self.0.mtu.store(kernel::outside_mtu(&routes).await?, Ordering::Relaxed);
            let hosts = kernel::routed_hosts(&routes, self.0.settings.range);
            self.0.leases().avoid(hosts);
            self.0.apply_rules("").await?;
            forwarding::ensure(&routes).await?;
            docker::ensure(&self.0.settings.interface_prefix).await?;
            unmanaged::ensure(&self.0.settings.runtime_dir).await;
        }
        self.start_tasks()
    }

    /// Chooses an address and an interface name for a machine; the same ones when asked again.
    ///
    /// # Errors
    /// - [`NetworkError::Exhausted`]: every address is in use.
    pub fn allocate(&self, machine: &MachineId) -> Result<NetworkSpec, NetworkError> {
        let settings = &self.0.settings;
        let host_interface = format!("{}{}", settings.interface_prefix, machine.tail());
        let address = self.0.leases().allocate(&host_interface);
        let address = address.ok_or(NetworkError::Exhausted { range: settings.range })?;
        Ok(NetworkSpec {
            host_interface,
            address: address.to_string(),
            gateway: settings.gateway().to_string(),
            mtu: self.0.mtu.load(Ordering::Relaxed),
        })
    }

    /// Lets the machine's interface talk, with its own address only. Do it before the interface
    /// is made.
    ///
    /// # Errors
    /// - [`NetworkError::Misfit`]: the spec is not from [`Network::allocate`].
    /// - [`NetworkError::Command`]: the firewall refused.
    pub async fn admit(&self, spec: &NetworkSpec) -> Result<(), NetworkError> {
        let address = self.0.address_of(spec)?;
        let _changing = self.0.changing.lock().await;
        let pair = [(spec.host_interface.as_str(), address)];
        nft(&rules::admit(&self.0.settings.table, pair), "admit a sprite").await?;
        self.0.admitted.insert(address);
        Ok(())
    }

    /// Ends what [`Network::allocate`] and [`Network::admit`] began, and removes the interface
    /// if it is still there. Repeating it is harmless.
    ///
    /// # Errors
    /// - [`NetworkError::Command`]: the firewall refused; the address stays taken.
    pub async fn release(&self, spec: &NetworkSpec) -> Result<(), NetworkError> {
        let Ok(address) = self.0.address_of(spec) else { return Ok(()) };
        let _changing = self.0.changing.lock().await;
        self.0.admitted.remove(address);
        let interface = spec.host_interface.as_str();
        nft(&rules::expel(&self.0.settings.table, [(interface, address)]), "expel a sprite")
            .await?;
        // Normally it goes with the machine's network namespace, perhaps at this moment.
        let exists = || kernel::forwarding_path(interface).exists();
        if exists() {
            let delete = ["link", "delete", "dev", interface];
            let deleted = command::run(Tool::Ip, &delete, "", "remove an interface").await;
            if let Err(error) = deleted
                && exists()
            {
                let error = &error as &dyn std::error::Error;
                warn!(interface, error, "interface not removed");
            }
        }
        self.0.leases().release(interface);
        Ok(())
    }

    /// Takes over a machine that an earlier `sprited` started.
    ///
    /// # Errors
    /// - [`NetworkError::Misfit`]: its address or interface does not fit the settings, or is
    ///   somebody else's. Restart the machine.
    pub async fn adopt(&self, spec: &NetworkSpec) -> Result<(), NetworkError> {
        let misfit = || NetworkError::Misfit {
            interface: spec.host_interface.clone(),
            address: spec.address.clone(),
        };
        let settings = &self.0.settings;
        let address: Ipv4Addr = spec.address.parse().map_err(|_| misfit())?;
        let tail = spec.host_interface.strip_prefix(&settings.interface_prefix);
        let is_ours = tail.is_some_and(|tail| format!("mch-{tail}").parse::<MachineId>().is_ok())
            && spec.gateway == settings.gateway().to_string()
            && self.0.leases().adopt(&spec.host_interface, address);
        if !is_ours {
            return Err(misfit());
        }
        self.admit(spec).await
    }

    /// Expels whatever was admitted by an earlier `sprited` and not adopted. Do it once, when
    /// every machine that is left has been adopted.
    ///
    /// # Errors
    /// - [`NetworkError::Command`]: the firewall refused.
    pub async fn prune(&self) -> Result<(), NetworkError> {
        let _changing = self.0.changing.lock().await;
        let table = &self.0.settings.table;
        let in_kernel = forwarding::elements(table, "sources").await?.unwrap_or_default();
        let wanted = self.0.pairs();
        let stale: Vec<_> =
            in_kernel.iter().filter_map(parse_pair).filter(|p| !wanted.contains(p)).collect();
        if !stale.is_empty() {
            info!(count = stale.len(), "expelling sprites that are gone");
        }
        let stale = stale.iter().map(|(interface, address)| (interface.as_str(), *address));
        nft(&rules::expel(table, stale), "expel sprites that are gone").await
    }

    /// Repairs what others changed: rules that were flushed, uplinks that appeared, docker that
    /// was started. Runs by itself every 10 s, and as soon as a firewall table was removed:
    /// until flushed rules are back, private networks are open to sprites.
    ///
    /// # Errors
    /// As [`Network::prepare`].
    pub async fn reconcile(&self) -> Result<(), NetworkError> {
        self.0.reconcile().await
    }

    /// Stops the resolver and lets the next `sprited` in; rules and machines stay. For the end
    /// of a `sprited` whose machines go on.
    pub async fn close(&self) {
        self.stop_tasks().await;
        *self.0.lock_of(&self.0.lock) = None;
    }

    /// Removes everything from the host and restores what was before. Machines must be stopped.
    ///
    /// # Errors
    /// - [`NetworkError::Command`]: the firewall refused; repeat it.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        self.stop_tasks().await;
        let _changing = self.0.changing.lock().await;
        let _shared = locks::shared(&self.0.settings.runtime_dir).await?;
        docker::remove(&self.0.settings.interface_prefix).await;
        nft(&rules::remove(&self.0.settings.table), "remove the firewall").await?;
        if forwarding::restore().await? {
            unmanaged::remove(&self.0.settings.runtime_dir).await;
        }
        *self.0.lock_of(&self.0.lock) = None;
        Ok(())
    }

    /// Keeps every other `sprited` from the same table, until torn down or dropped.
    fn claim(&self) -> Result<(), NetworkError> {
        let mut held = self.0.lock_of(&self.0.lock);
        if held.is_some() {
            return Ok(());
        }
        let settings = &self.0.settings;
        *held = Some(TableLock::take(&settings.runtime_dir, &settings.table)?);
        Ok(())
    }

    async fn stop_tasks(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock_of(&self.0.tasks));
        tasks.shutdown().await;
    }

    fn start_tasks(&self) -> Result<(), NetworkError> {
        let settings = &self.0.settings;
        let mut tasks = self.0.lock_of(&self.0.tasks);
        if !tasks.is_empty() {
            return Ok(());
        }
        if settings.dns {
            let gateway = settings.gateway();
            let (udp, tcp) = dns::bind(gateway, DNS_PORT)
                .map_err(|source| NetworkError::Dns { gateway, source })?;
            let upstreams =
                Upstreams::new(&settings.upstreams, settings.resolv_conf.clone(), gateway);
            let resolver = Arc::new(Resolver::new(upstreams));
            tasks.spawn(dns::serve(udp, tcp, resolver, self.0.admitted.clone()));
        }
        tasks.spawn(reconcile_for_ever(Arc::downgrade(&self.0)));
        Ok(())
    }
}

impl Inner {
    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.lock_of(&self.leases)
    }

    fn lock_of<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the address leased to the spec's interface, if that is the spec's address.
    fn address_of(&self, spec: &NetworkSpec) -> Result<Ipv4Addr, NetworkError> {
        let leases = self.leases();
        let mut all = leases.all();
        all.find(|(interface, address)| {
            *interface == spec.host_interface && address.to_string() == spec.address
        })
        .map(|(_, address)| address)
        .ok_or_else(|| NetworkError::Misfit {
            interface: spec.host_interface.clone(),
            address: spec.address.clone(),
        })
    }

    fn pairs(&self) -> Vec<(String, Ipv4Addr)> {
        let leases = self.leases();
        leases.all().map(|(interface, address)| (interface.to_owned(), address)).collect()
    }

    /// Replaces our rules, and admits whom `admissions` names in the same transaction.
    async fn apply_rules(&self, admissions: &str) -> Result<(), NetworkError> {
        let what = "set up the firewall";
        let text = format!("{}{admissions}", rules::table(&self.settings));
        let Err(error) = nft(&text, what).await else { return Ok(()) };
        // Some kernels come without the module that counts connections. Better no limit than
        // no network; `doctor` tells.
        let unlimited = NetworkSettings { connections_max: 0, ..self.settings.clone() };
        let text = format!("{}{admissions}", rules::table(&unlimited));
        if self.settings.connections_max == 0 || nft(&text, what).await.is_err() {
            return Err(error);
        }
        warn!("this kernel cannot count connections: sprites may open as many as they like");
        Ok(())
    }

    async fn reconcile(&self) -> Result<(), NetworkError> {
        let _changing = self.changing.lock().await;
        let _shared = locks::shared(&self.settings.runtime_dir).await?;
        // First, since every moment without rules counts.
        if forwarding::elements(&self.settings.table, "sources").await?.is_none() {
            warn!("somebody removed the firewall's rules: putting them back");
            let pairs = self.pairs();
            let pairs = pairs.iter().map(|(interface, address)| (interface.as_str(), *address));
            self.apply_rules(&rules::admit(&self.settings.table, pairs)).await?;
        }
        let routes = kernel::routes().await?;
        self.mtu.store(kernel::outside_mtu(&routes).await?, Ordering::Relaxed);
        forwarding::ensure(&routes).await?;
        // A service that applies sysctl.d to new interfaces may have been later than the agent.
        for (interface, _) in self.pairs() {
            if kernel::is_forwarding(&interface)? == Some(false) {
                warn!(interface, "somebody turned forwarding off: turning it on again");
                kernel::set_forwarding(&interface, true)?;
            }
        }
        docker::ensure(&self.settings.interface_prefix).await?;
        unmanaged::ensure(&self.settings.runtime_dir).await;
        Ok(())
    }
}

async fn removed(watch: Option<&TableWatch>) -> std::io::Result<()> {
    match watch {
        Some(watch) => watch.removed().await,
        None => std::future::pending().await,
    }
}

async fn reconcile_for_ever(inner: Weak<Inner>) {
    let mut timer = tokio::time::interval(RECONCILE_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    timer.tick().await;
    let mut watch = TableWatch::open()
        .inspect_err(|error| warn!(%error, "a reload of the host's firewall is noticed late"))
        .ok();
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            result = removed(watch.as_ref()) => if let Err(error) = result {
                warn!(%error, "changes of the host's firewall are not seen any more");
                watch = None;
            },
        }
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = inner.reconcile().await {
            warn!(error = &error as &dyn std::error::Error, "network not reconciled");
        }
    }
}

/// Reads `{"concat": ["spr-…", "10.77.0.2"]}`.
fn parse_pair(element: &Value) -> Option<(String, Ipv4Addr)> {
    let pair = element["concat"].as_array()?;
    Some((pair.first()?.as_str()?.to_owned(), pair.get(1)?.as_str()?.parse().ok()?))
}
