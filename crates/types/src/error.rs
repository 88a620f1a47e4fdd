//! What the caller of a failed operation should do next.

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
