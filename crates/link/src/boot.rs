//! What a guest agent is told once, at its start, before there is a link.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sprite_types::{BootId, MachineId};

/// Everything the agent of the `namespaces` substrate needs. Written to its standard input as
/// JSON, never to its command line: arguments are visible to every user of the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BootSpec {
    /// The machine's id.
    pub machine_id: MachineId,
    /// This start of it.
    pub boot_id: BootId,
    /// Shared secret for the link's hello, 64 hex digits.
    pub link_secret: String,
    /// Where to listen for the host.
    pub link_socket: PathBuf,
    /// Block device with the ext4 root disk.
    pub root_device: PathBuf,
    /// First host uid and gid of the container's 65,536.
    pub id_base: u32,
    /// The machine's cgroup, per hierarchy: absolute directories that exist already and have
    /// their limits set. The agent makes children below them.
    pub cgroup_dirs: Vec<PathBuf>,
    /// Absolute directory of the machine in the cgroup2 hierarchy, if the host mounts one.
    /// Also contained in `cgroup_dirs`.
    #[serde(default)]
    pub cgroup2_dir: Option<PathBuf>,
    /// The host's side of the network.
    #[serde(default)]
    pub network: Option<NetworkSpec>,
    /// Programs to offer inside: host file and absolute path in the sprite.
    #[serde(default)]
    pub tools: Vec<Tool>,
    /// Allow netfilter inside (iptables, nft, docker's bridge). Off by default: it is a large
    /// kernel surface.
    #[serde(default)]
    pub allow_netfilter: bool,
    /// Name and environment.
    pub identity: Identity,
}

/// One end of a routed point-to-point veth pair per machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Name of the host's end, at most 15 characters.
    pub host_interface: String,
    /// The sprite's IPv4 address, without a mask; it is used as a /32.
    pub address: String,
    /// Gateway and resolver: the host's address on that link.
    pub gateway: String,
    /// MTU in bytes of the path to the outside.
    pub mtu: u32,
}

/// Commands that make a machine's veth pair, for `ip -batch -`, and the settings that go with
/// it. Text only: who runs it is the agent's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethBatch {
    /// Input of `ip -batch -` in the host's network namespace. Makes the pair; the far end is
    /// born in the network namespace of the container, so the host never sees its name.
    pub create: String,
    /// Files below `/proc/sys`, as the host's namespace shows them, and what to write. To be
    /// written after `create` and before `connect`. Those that do not exist (a kernel without
    /// IPv6) are skipped.
    pub host_sysctls: Vec<(String, &'static str)>,
    /// Input of `ip -batch -` in the host's network namespace: address, up, route. Traffic
    /// flows from here on.
    pub connect: String,
    /// Input of `ip -batch -` in the container's network namespace.
    pub guest: String,
    /// Files below `/proc/sys`, as the container's namespace shows them, and what to write,
    /// before `guest`.
    pub guest_sysctls: Vec<(String, &'static str)>,
}

impl NetworkSpec {
    /// Name of the interface inside the sprite.
    pub const GUEST_INTERFACE: &str = "eth0";

    /// Returns what connects the container with the init process `container_pid` (as the host
    /// counts) to the host. If the pair was made, removing `host_interface` undoes all of it.
    #[must_use]
    pub fn veth_batch(&self, container_pid: i32) -> VethBatch {
        let Self { host_interface: host, address, gateway, mtu } = self;
        let guest = Self::GUEST_INTERFACE;
        let v4 = |file: &str| format!("/proc/sys/net/ipv4/conf/{host}/{file}");
        let v6 = |interface: &str| format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        VethBatch {
            create: format!(
                "link add {host} mtu {mtu} type veth peer name {guest} mtu {mtu} \
                 netns {container_pid}\n"
            ),
            host_sysctls: vec![
                // No link-local address, no neighbour discovery: there is no IPv6 path.
                (v6(host), "1"),
                (v4("forwarding"), "1"),
                // Only the sprite's own address may come from there, whatever the firewall says.
                (v4("rp_filter"), "1"),
                // Answer ARP for the gateway only, not for each address that the host has.
                (v4("arp_ignore"), "1"),
                (v4("accept_redirects"), "0"),
                (v4("send_redirects"), "0"),
                (v4("accept_source_route"), "0"),
            ],
            connect: format!(
                "address add {gateway}/32 dev {host}\n\
                 link set {host} up\n\
                 route add {address}/32 dev {host} src {gateway}\n"
            ),
            guest: format!(
                "link set lo up\n\
                 address add {address}/32 dev {guest}\n\
                 link set {guest} up\n\
                 route add {gateway}/32 dev {guest} src {address}\n\
                 route add default via {gateway} dev {guest} src {address}\n"
            ),
            guest_sysctls: vec![(v6("default"), "1"), (v6(guest), "1")],
        }
    }
}

/// A host program offered inside a sprite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// File on the host.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: String,
}

/// What makes a machine this sprite's machine. Set at boot, or later when a machine of the
/// pool is claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Host name inside.
    pub hostname: String,
    /// The sprite's id, name, org and URL, for `sprite-env info`.
    pub sprite_id: String,
    /// See `sprite_id`.
    pub sprite_name: String,
    /// See `sprite_id`.
    pub org: String,
    /// See `sprite_id`.
    pub url: String,
    /// The sprite's own environment, over the default one.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veth_pair_is_point_to_point() {
        let spec = NetworkSpec {
            host_interface: "spr-abcdefghij".into(),
            address: "10.77.0.2".into(),
            gateway: "10.77.0.1".into(),
            mtu: 1400,
        };
        let batch = spec.veth_batch(77);
        assert_eq!(
            batch.create,
            "link add spr-abcdefghij mtu 1400 type veth peer name eth0 mtu 1400 netns 77\n"
        );
        assert_eq!(
            batch.connect,
            "address add 10.77.0.1/32 dev spr-abcdefghij\n\
             link set spr-abcdefghij up\n\
             route add 10.77.0.2/32 dev spr-abcdefghij src 10.77.0.1\n"
        );
        assert_eq!(
            batch.guest,
            "link set lo up\n\
             address add 10.77.0.2/32 dev eth0\n\
             link set eth0 up\n\
             route add 10.77.0.1/32 dev eth0 src 10.77.0.2\n\
             route add default via 10.77.0.1 dev eth0 src 10.77.0.2\n"
        );
        let forwarding = "/proc/sys/net/ipv4/conf/spr-abcdefghij/forwarding";
        assert!(batch.host_sysctls.contains(&(forwarding.to_owned(), "1")));
    }
}
