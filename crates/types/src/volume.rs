//! Numbers of a volume: who may write it, which cut of it, which transaction, which block.
//!
//! Names in the bucket carry them as 16 lower-case hex digits, so that a sorted listing is in
//! their order.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not exactly 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 16 lower-case hex digits")]
pub struct Hex16Error;

/// Returns the value of exactly 16 lower-case hex digits.
fn parse_hex16(text: &str) -> Result<u64, Hex16Error> {
    let valid = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !valid {
        return Err(Hex16Error);
    }
    u64::from_str_radix(text, 16).map_err(|_| Hex16Error)
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Returns the number after this one.
            ///
            /// # Panics
            /// After 2^64 - 1, which no count of real events reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("counts of events stay below 2^64"))
            }

            /// Returns the fixed-width form used in the bucket: 16 lower-case hex digits.
            #[must_use]
            pub fn to_hex(self) -> String {
                format!("{:016x}", self.0)
            }

            /// Reads the fixed-width form.
            ///
            /// # Errors
            /// If the text is anything but 16 lower-case hex digits.
            pub fn from_hex(text: &str) -> Result<Self, Hex16Error> {
                parse_hex16(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            /// Prints decimal digits, for people.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }
    };
}

number!(
    /// Which claim to write a volume or database: raised at each, never reused. Of two writers
    /// the one with the higher generation is right.
    Generation
);
number!(
    /// One sealed, consistent cut of a volume.
    Epoch
);
number!(
    /// One transaction of a database in the bucket, counted from 1; 0 is before the first.
    Txid
);

/// A block of a volume, counted from 0.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BlockIndex(pub u32);

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Listings are sorted as text; the order of names must be the order of numbers.
    #[test]
    fn hex_names_sort_as_their_numbers() {
        let mut names: Vec<String> =
            [0, 9, 10, 255, 256, u64::MAX].map(|n| Txid(n).to_hex()).to_vec();
        let sorted = names.clone();
        names.sort();
        assert_eq!(names, sorted);
        assert_eq!(Txid::from_hex(&names[3]), Ok(Txid(255)));
    }

    #[test]
    fn only_the_fixed_width_form_is_a_name() {
        for text in ["", "1", "00000000000000FF", "+00000000000000f", "000000000000000ff"] {
            assert_eq!(Generation::from_hex(text), Err(Hex16Error), "{text}");
        }
    }

    #[test]
    fn numbers_print_for_people_and_read_back() {
        assert_eq!(Epoch(17).to_string(), "17");
        assert_eq!("17".parse(), Ok(Epoch(17)));
    }
}
