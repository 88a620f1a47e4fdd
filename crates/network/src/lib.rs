//! Per-machine network: addresses, firewall rules, DNS.
//!
//! Each machine has one routed point-to-point link to the host: no shared segment, no neighbours.
//! What a sprite may reach is decided on the host's side of that link:
//!
//! | from a sprite to | |
//! |---|---|
//! | public addresses | yes, from the host's own address |
//! | other sprites | no |
//! | private networks, link-local and cloud metadata addresses | no, unless allowed |
//! | any address of the host | no, but DNS and ping on the gateway |
//! | anything over IPv6 | no |
//!
//! # Not here
//! Making the link itself: the guest agent does, with
//! [`NetworkSpec::veth_batch`](sprite_link::boot::NetworkSpec::veth_batch).

mod check;
mod cidr;
mod command;
mod dns;
mod docker;
mod error;
mod forwarding;
mod kernel;
mod leases;
mod locks;
mod network;
mod rules;
mod settings;
mod sys;
mod unmanaged;
mod watch;

pub use check::{Check, Status, network_checks};
pub use cidr::{Cidr, CidrError};
pub use error::NetworkError;
pub use network::Network;
pub use settings::NetworkSettings;
pub use sprite_link::boot::NetworkSpec;
