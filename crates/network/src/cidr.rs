//! IPv4 networks.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network in CIDR notation. The bits after the prefix are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    first: u32,
    prefix_len: u8,
}

/// A text that is not an IPv4 network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IPv4 network such as 10.77.0.0/16")]
pub struct CidrError(String);

impl Cidr {
    /// Makes the network that `address` is in; `prefix_len` above 32 counts as 32.
    #[must_use]
    pub const fn new(address: Ipv4Addr, prefix_len: u8) -> Self {
        let prefix_len = if prefix_len > 32 { 32 } else { prefix_len };
        Self { first: address.to_bits() & mask(prefix_len), prefix_len }
    }

    /// Returns the number of fixed bits.
    #[must_use]
    pub const fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// Returns the address whose free bits are all zero.
    #[must_use]
    pub const fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first)
    }

    /// Returns the address whose free bits are all one.
    #[must_use]
    pub const fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first | !mask(self.prefix_len))
    }

    /// Says whether the address is in this network.
    #[must_use]
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix_len) == self.first
    }

    /// Says whether the two networks share an address.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }
}

const fn mask(prefix_len: u8) -> u32 {
    if prefix_len == 0 { 0 } else { u32::MAX << (32 - prefix_len) }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Reads `a.b.c.d/n`, or an address alone as `/32`. Bits after the prefix must be zero:
    /// they are more often a slip than meant.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError(text.chars().take(40).collect());
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, len)) => (address, len.parse::<u8>().map_err(|_| wrong())?),
            None => (text, 32),
        };
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let cidr = Self::new(address, prefix_len);
        if prefix_len > 32 || cidr.first() != address { Err(wrong()) } else { Ok(cidr) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.prefix_len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_read_and_print() {
        for text in ["10.77.0.0/16", "0.0.0.0/0", "203.0.113.7/32"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        assert_eq!("1.2.3.4".parse::<Cidr>().unwrap().prefix_len(), 32);
        for text in ["", "10.77.0.1/16", "10.77.0.0/33", "10.77.0.0/", "::/0", "10.77/16"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn overlap_is_mutual() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        for (a, b, overlap) in [
            ("10.0.0.0/8", "10.77.0.0/16", true),
            ("10.77.0.0/16", "10.78.0.0/16", false),
            ("0.0.0.0/0", "1.2.3.4/32", true),
        ] {
            assert_eq!(cidr(a).overlaps(cidr(b)), overlap, "{a} {b}");
            assert_eq!(cidr(b).overlaps(cidr(a)), overlap, "{b} {a}");
        }
        assert_eq!(cidr("10.77.0.0/16").last(), Ipv4Addr::new(10, 77, 255, 255));
    }
}
