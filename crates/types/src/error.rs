//! What the caller of a failed operation should do next, and what it was.

/// Named for what the *caller does next*; HTTP statuses and exit codes are derived from it in
/// one table, in `sprite-api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong; change it.
    Invalid,
    /// There is no such thing; check the name.
    NotFound,
    /// It exists already or is in the wrong state; look at it first.
    Conflict,
    /// Nobody was authenticated; present a valid token.
    Unauthorized,
    /// Authenticated, but not allowed.
    Forbidden,
    /// A limit was reached; wait or ask for more.
    Limited,
    /// Not now; retry with backoff.
    Unavailable,
    /// Somebody newer owns this; stop, retrying never succeeds.
    Fenced,
    /// Stored bytes are damaged; restore an older state.
    Corrupt,
    /// This build does not do that yet.
    Unsupported,
    /// A bug or a broken host; report it.
    Internal,
}

/// Prints an error with all its causes, outermost first. For logs, and for reasons that are kept
/// as text; an answer to a client says only what is meant for it.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open volume")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_names_every_cause_once() {
        let inner = std::io::Error::other("no answer");
        assert_eq!(chain(&Outer(inner)), "open volume: no answer");
    }
}
