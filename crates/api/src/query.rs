//! Query strings: repeated keys keep their order, `+` is a space.

/// A decoded query string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string as browsers write it. Bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn parse(raw: &str) -> Self {
        Self(form_urlencoded::parse(raw.as_bytes()).into_owned().collect())
    }

    /// Returns the first value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Returns all values of `key`, in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Returns all pairs, in order.
    #[must_use]
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// Returns a boolean; `None` if absent, `Err` with a text if it is something else.
    ///
    /// # Errors
    /// The value is neither `true`, `false`, `1` nor `0`.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, String> {
        self.get(key)
            .map(|text| {
                crate::format::parse_bool(text)
                    .ok_or_else(|| format!("`{key}` must be true or false"))
            })
            .transpose()
    }

    /// Returns a number; `None` if absent.
    ///
    /// # Errors
    /// The value is not a number of that type.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, String> {
        self.get(key)
            .map(|text| text.parse().map_err(|_| format!("`{key}` must be a number in range")))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_keep_their_order_and_plus_is_a_space() {
        let query = Query::parse("cmd=sh&cmd=-c&cmd=echo+a%2Bb&tty=1");
        assert_eq!(query.all("cmd").collect::<Vec<_>>(), ["sh", "-c", "echo a+b"]);
        assert_eq!(query.bool("tty"), Ok(Some(true)));
        assert!(Query::parse("tty=maybe").bool("tty").is_err());
    }
}
