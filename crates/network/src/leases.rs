//! Which machine has which address. Decides only; nothing here touches the host.
//!
//! # Invariants
//! - No two interfaces have one address, and the network's first two and last are never given.
//! - A freed address is given again only after the others had their turn: connections of its
//!   former owner may still be known to the kernel, and must not end up with the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::cidr::Cidr;

/// Addresses by interface.
#[derive(Debug)]
pub(crate) struct Leases {
    range: Cidr,
    /// Where the search for a free address begins.
    next: u32,
    by_interface: BTreeMap<String, Ipv4Addr>,
    taken: BTreeSet<Ipv4Addr>,
    /// Addresses that the host routes already, by nobody we know.
    foreign: BTreeSet<Ipv4Addr>,
}

impl Leases {
    pub(crate) fn new(range: Cidr) -> Self {
        Self {
            range,
            next: range.first().to_bits() + 2,
            by_interface: BTreeMap::new(),
            taken: BTreeSet::new(),
            foreign: BTreeSet::new(),
        }
    }

    /// Returns the interface's address, choosing one if it has none; `None` if all are given.
    pub(crate) fn allocate(&mut self, interface: &str) -> Option<Ipv4Addr> {
        if let Some(address) = self.by_interface.get(interface) {
            return Some(*address);
        }
        let (lowest, highest) = self.bounds();
        let start = self.next.clamp(lowest, highest);
        let address = (start..=highest)
            .chain(lowest..start)
            .map(Ipv4Addr::from_bits)
            .find(|address| !self.taken.contains(address) && !self.foreign.contains(address))?;
        let following = address.to_bits() + 1;
        self.next = if following > highest { lowest } else { following };
        self.insert(interface, address);
        Some(address)
    }

    /// Takes over what an earlier run gave; false if it cannot be.
    pub(crate) fn adopt(&mut self, interface: &str, address: Ipv4Addr) -> bool {
        let (lowest, highest) = self.bounds();
        let fits = (lowest..=highest).contains(&address.to_bits());
        match self.by_interface.get(interface) {
            Some(known) => *known == address,
            None if !fits || self.taken.contains(&address) => false,
            None => {
                self.foreign.remove(&address);
                self.insert(interface, address);
                true
            }
        }
    }

    /// Frees the interface's address.
    pub(crate) fn release(&mut self, interface: &str) {
        if let Some(address) = self.by_interface.remove(interface) {
            self.taken.remove(&address);
        }
    }

    /// Avoids addresses that the host routes somewhere already, until they are adopted.
    pub(crate) fn avoid(&mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        let taken = &self.taken;
        self.foreign = addresses.into_iter().filter(|address| !taken.contains(address)).collect();
    }

    /// Returns every interface with its address.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, Ipv4Addr)> {
        self.by_interface.iter().map(|(interface, address)| (interface.as_str(), *address))
    }

    fn insert(&mut self, interface: &str, address: Ipv4Addr) {
        self.by_interface.insert(interface.to_owned(), address);
        self.taken.insert(address);
    }

    /// Lowest and highest address to give: after the network's own and the gateway, before the
    /// broadcast address.
    fn bounds(&self) -> (u32, u32) {
        (self.range.first().to_bits() + 2, self.range.last().to_bits() - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small() -> Leases {
        Leases::new("10.77.0.0/29".parse().unwrap())
    }

    #[test]
    fn addresses_are_given_in_turn_and_all_of_them() {
        let mut leases = small();
        let given: Vec<_> =
            (0..5).map(|i| leases.allocate(&format!("if{i}")).unwrap().octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert_eq!(leases.allocate("one-too-many"), None);
        assert_eq!(leases.allocate("if3").unwrap().octets()[3], 5, "asking again changes nothing");
    }

    #[test]
    fn a_freed_address_is_the_last_to_be_given_again() {
        let mut leases = small();
        leases.allocate("a").unwrap();
        leases.release("a");
        let given: Vec<_> =
            (0..5).map(|i| leases.allocate(&format!("if{i}")).unwrap().octets()[3]).collect();
        assert_eq!(given, [3, 4, 5, 6, 2]);
    }

    #[test]
    fn an_address_that_is_routed_already_is_avoided_until_adopted() {
        let mut leases = small();
        leases.avoid([Ipv4Addr::new(10, 77, 0, 2)]);
        assert_eq!(leases.allocate("a").unwrap().octets()[3], 3);
        assert!(leases.adopt("b", Ipv4Addr::new(10, 77, 0, 2)));
        assert!(!leases.adopt("c", Ipv4Addr::new(10, 77, 0, 2)));
        assert!(!leases.adopt("d", Ipv4Addr::new(10, 77, 0, 1)), "the gateway");
        assert!(!leases.adopt("d", Ipv4Addr::new(10, 77, 0, 7)), "the broadcast address");
        assert!(!leases.adopt("d", Ipv4Addr::new(10, 78, 0, 2)), "another range");
    }

    proptest! {
        /// Against the obvious model: a map without duplicate values.
        #[test]
        fn no_two_interfaces_share_an_address(
            steps in proptest::collection::vec((0..12u8, any::<bool>()), 0..200)
        ) {
            let mut leases = small();
            for (interface, give) in steps {
                let interface = format!("if{interface}");
                if give {
                    let before = leases.all().count();
                    let known = leases.by_interface.contains_key(&interface);
                    let given = leases.allocate(&interface);
                    prop_assert_eq!(given.is_none(), before == 5 && !known);
                } else {
                    leases.release(&interface);
                }
                let addresses: BTreeSet<_> = leases.all().map(|(_, address)| address).collect();
                prop_assert_eq!(addresses.len(), leases.all().count());
                prop_assert_eq!(&addresses, &leases.taken);
                prop_assert!(addresses.iter().all(|a| (2..=6).contains(&a.octets()[3])));
            }
        }
    }
}
