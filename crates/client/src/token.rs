//! The bearer token: never printed.

use std::fmt;

/// A bearer token. `Debug` shows only the org it belongs to.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// A text that cannot be a token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Nothing but white space.
    #[error("the token is empty")]
    Empty,
    /// It would break out of its header line, or is not a token at all.
    #[error("the token has characters that a token never has (white space or control characters)")]
    Characters,
}

impl Token {
    /// Makes a token of a text, without the white space around it.
    ///
    /// # Errors
    /// The text is empty, or has characters that no header value may have.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Characters);
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the whole token. Give it to nothing that prints.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the org's slug: the text before the first `/`, if there is one.
    #[must_use]
    pub fn org(&self) -> Option<&str> {
        self.0.split_once('/').map(|(org, _)| org).filter(|org| !org.is_empty())
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}/…)", self.org().unwrap_or(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_print_its_secret() {
        let token = Token::new(" my-org/org-1/tok-1/secret\n").unwrap();
        assert_eq!(format!("{token:?}"), "Token(my-org/…)");
        assert_eq!(token.org(), Some("my-org"));
        assert_eq!(token.reveal(), "my-org/org-1/tok-1/secret");
    }

    #[test]
    fn a_token_cannot_add_header_lines() {
        assert_eq!(Token::new("a\r\nX: y"), Err(TokenError::Characters));
        assert_eq!(Token::new("  "), Err(TokenError::Empty));
        assert_eq!(Token::new("plain").unwrap().org(), None);
    }
}
