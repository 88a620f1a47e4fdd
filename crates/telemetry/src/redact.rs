//! Values that may be used but not printed.

use std::fmt;

/// A value whose `Debug` and `Display` say `[redacted]`, so that a secret inside a struct
/// cannot reach a log by way of a derive.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value; where this is called, look at what becomes of it.
    pub const fn reveal(&self) -> &T {
        &self.0
    }

    /// Unwraps the value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> From<T> for Redacted<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_debug_does_not_tell_the_secret() {
        #[derive(Debug)]
        struct Login {
            token: Redacted<String>,
        }
        let login = Login { token: "hunter2".to_owned().into() };
        assert_eq!(format!("{login:?}"), "Login { token: [redacted] }");
        assert_eq!(format!("{}", login.token), "[redacted]");
        assert_eq!(login.token.reveal(), "hunter2");
    }
}
