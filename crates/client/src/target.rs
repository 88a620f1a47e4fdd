//! Request targets: path segments and query strings, encoded.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but RFC 3986 *unreserved* characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A request target under construction.
#[derive(Clone)]
pub(crate) struct Target {
    text: String,
    has_query: bool,
}

impl Target {
    /// Begins with a path that needs no encoding, such as `/v1/sprites`.
    pub(crate) fn new(path: &str) -> Self {
        Self { text: path.to_owned(), has_query: false }
    }

    /// Adds a path segment, whatever it contains.
    pub(crate) fn segment(mut self, segment: &str) -> Self {
        self.text.push('/');
        // A lone dot segment would be resolved away on the server's side.
        match segment {
            "." => self.text.push_str("%2E"),
            ".." => self.text.push_str("%2E%2E"),
            _ => self.text.extend(utf8_percent_encode(segment, SEGMENT)),
        }
        self
    }

    /// Adds a query parameter.
    pub(crate) fn query(mut self, key: &str, value: &str) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.extend(form_urlencoded::byte_serialize(key.as_bytes()));
        self.text.push('=');
        self.text.extend(form_urlencoded::byte_serialize(value.as_bytes()));
        self
    }

    /// Adds a query parameter if there is a value.
    pub(crate) fn query_opt(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(key, value),
            None => self,
        }
    }

    /// Adds a query parameter if it is set.
    pub(crate) fn flag(self, key: &str, set: bool) -> Self {
        if set { self.query(key, "true") } else { self }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the target without its query, which may hold environment values.
    pub(crate) fn path(&self) -> &str {
        self.text.split('?').next().unwrap_or(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_values_cannot_break_out() {
        let target = Target::new("/v1/sprites")
            .segment("a/b?c d")
            .segment("..")
            .query("cmd", "a b&c=d\r\n")
            .query("cmd", "ü");
        assert_eq!(
            target.as_str(),
            "/v1/sprites/a%2Fb%3Fc%20d/%2E%2E?cmd=a+b%26c%3Dd%0D%0A&cmd=%C3%BC"
        );
        assert_eq!(target.path(), "/v1/sprites/a%2Fb%3Fc%20d/%2E%2E");
    }
}
