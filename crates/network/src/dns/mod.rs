//! The resolver on the gateway: passes queries on to the host's resolvers.
//!
//! It runs on the host, so a resolver on `127.0.0.53` or in a private network works, although
//! sprites themselves can reach neither. Answers are passed on as they are: a name that leads to
//! a private address is stopped by the firewall, not here.
//!
//! # Invariants
//! - A query is passed on only if it comes from an admitted address and is one well-formed
//!   question; everything else is dropped in silence.
//! - What an upstream says is believed only if its address, our random port, our random id and
//!   the question fit.
//! - A sprite has a bounded number of queries under way, and so have all of them together.

mod exchange;
mod forwarder;
mod message;
mod slots;
mod upstreams;

pub(crate) use forwarder::{Admitted, Resolver, bind, serve};
pub(crate) use upstreams::{Upstreams, parse_resolv_conf};
