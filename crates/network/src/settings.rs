//! What a person may choose.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::cidr::Cidr;
use crate::error::NetworkError;

/// Every interface of ours begins with this, whichever `sprited` made it.
pub(crate) const FAMILY: &str = "spr";
/// Table shared by every `sprited` of a host; see `forwarding`.
pub(crate) const UPLINKS_TABLE: &str = "sprites_uplinks";
/// See [`NetworkSettings::runtime_dir`].
pub(crate) const RUNTIME_DIR: &str = "/run";
/// What an interface name leaves for the prefix: 15 characters less a machine's 10.
const PREFIX_MAX: usize = 5;

/// How sprites reach the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Addresses of sprites, /8 to /29. The first usable one is the gateway.
    pub range: Cidr,
    /// Table of nftables with our rules; begins with `sprites`. One `sprited` each.
    pub table: String,
    /// Begins the name of each interface: `spr` and at most 2 of [a-z0-9-]. No prefix may begin
    /// another's.
    pub interface_prefix: String,
    /// Resolvers that queries are passed on to; empty: those of `resolv_conf`.
    pub upstreams: Vec<SocketAddr>,
    /// Where the host's resolvers are listed. Read again when it changes.
    pub resolv_conf: PathBuf,
    /// Private networks that sprites may reach all the same.
    pub allow_private: Vec<Cidr>,
    /// Answer DNS on the gateway.
    pub dns: bool,
    /// Connections that one sprite may have open to the outside; 0: as many as it likes. Keeps
    /// one sprite from filling the table of connections that all share.
    pub connections_max: u32,
    /// Where files live that a reboot removes: our locks, and notes to other programs.
    pub runtime_dir: PathBuf,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            range: Cidr::new(Ipv4Addr::new(10, 77, 0, 0), 16),
            table: "sprites".to_owned(),
            interface_prefix: "spr-".to_owned(),
            upstreams: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            allow_private: Vec::new(),
            dns: true,
            connections_max: 16_384,
            runtime_dir: PathBuf::from(RUNTIME_DIR),
        }
    }
}

impl NetworkSettings {
    /// Returns these settings with range, table and prefix of the `index`th further `sprited`
    /// on the same host, so that several run side by side.
    #[must_use]
    pub fn instance(&self, index: u8) -> Self {
        Self {
            range: Cidr::new(Ipv4Addr::new(10, 78, index, 0), 24),
            table: format!("sprites_{index:02x}"),
            interface_prefix: format!("{FAMILY}{index:02x}"),
            ..self.clone()
        }
    }

    /// Returns the host's address on every sprite's link.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.range.first().to_bits() + 1)
    }

    /// Checks what [`NetworkSettings`] says of each field. Names end up in the firewall's
    /// rules, so nothing else may be in them.
    pub(crate) fn validate(&self) -> Result<(), NetworkError> {
        let invalid = |message: String| Err(NetworkError::Settings { message });
        if !(8..=29).contains(&self.range.prefix_len()) {
            return invalid(format!("address range `{}` is not a /8 to /29", self.range));
        }
        let word = |text: &str, extra: u8| {
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == extra)
        };
        let table = &self.table;
        if !table.starts_with("sprites")
            || table.len() > 32
            || !word(table, b'_')
            || table == UPLINKS_TABLE
        {
            return invalid(format!("`{table}` cannot be the table: expected sprites[a-z0-9_]*"));
        }
        let prefix = &self.interface_prefix;
        if !prefix.starts_with(FAMILY) || prefix.len() > PREFIX_MAX || !word(prefix, b'-') {
            return invalid(format!(
                "`{prefix}` cannot begin interface names: expected spr and at most 2 of [a-z0-9-]"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_instances_are_valid_and_apart() {
        let base = NetworkSettings::default();
        base.validate().unwrap();
        assert_eq!(base.gateway(), Ipv4Addr::new(10, 77, 0, 1));
        for index in 0..=255 {
            let instance = base.instance(index);
            instance.validate().unwrap();
            assert!(!instance.range.overlaps(base.range));
            assert!(!instance.interface_prefix.starts_with(&base.interface_prefix));
        }
    }

    #[test]
    fn nothing_but_a_name_reaches_the_rules() {
        let base = NetworkSettings::default();
        for table in ["", "filter", "sprites; flush ruleset", "sprites\n", "sprites_uplinks"] {
            assert!(NetworkSettings { table: table.into(), ..base.clone() }.validate().is_err());
        }
        for prefix in ["", "eth", "spr\"x", "sprite", "spr*"] {
            let settings = NetworkSettings { interface_prefix: prefix.into(), ..base.clone() };
            assert!(settings.validate().is_err(), "{prefix}");
        }
        for range in ["10.0.0.0/7", "10.0.0.0/30"] {
            let settings = NetworkSettings { range: range.parse().unwrap(), ..base.clone() };
            assert!(settings.validate().is_err(), "{range}");
        }
    }
}
