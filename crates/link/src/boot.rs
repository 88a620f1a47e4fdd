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
