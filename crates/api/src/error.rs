//! The one error object of all JSON answers.

use serde::{Deserialize, Serialize};
use sprite_types::ErrorKind;

/// Body of every JSON answer that is not a success.
///
/// Types are strict: the official Go SDK shows the raw body if a field has another type.
/// Source: contract, http-api 2.1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Machine code, such as `unauthorized`.
    pub error: String,
    /// Text for people; SDKs show it first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Validation errors, when there is more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// What to do next, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// POSIX code of a filesystem error, such as `ENOENT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Path of a filesystem error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The limit that was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// How many exist now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_count: Option<i64>,
    /// Seconds to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<i64>,
}

impl ApiError {
    /// Makes an error from its code and a text for people.
    #[must_use]
    pub fn new(error: impl Into<String>, message: impl Into<String>) -> Self {
        Self { error: error.into(), message: message.into(), ..Self::default() }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The one table from error kinds to HTTP statuses and exit codes of the CLI.
const TABLE: [(ErrorKind, u16, u8); 11] = [
    (ErrorKind::Invalid, 400, 1),
    (ErrorKind::Unauthorized, 401, 1),
    (ErrorKind::Forbidden, 403, 1),
    (ErrorKind::NotFound, 404, 1),
    (ErrorKind::Conflict, 409, 1),
    (ErrorKind::Limited, 429, 1),
    (ErrorKind::Internal, 500, 1),
    (ErrorKind::Corrupt, 500, 1),
    (ErrorKind::Unsupported, 501, 1),
    (ErrorKind::Unavailable, 503, 1),
    (ErrorKind::Fenced, 503, 1),
];

/// Returns the HTTP status for a kind of error.
#[must_use]
pub fn status_of(kind: ErrorKind) -> u16 {
    TABLE.iter().find(|row| row.0 == kind).map_or(500, |row| row.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_status() {
        assert_eq!(status_of(ErrorKind::NotFound), 404);
        assert_eq!(status_of(ErrorKind::Unsupported), 501);
        assert_eq!(TABLE.len(), 11);
    }

    #[test]
    fn absent_fields_are_left_out() {
        let error = ApiError::new("sprite not found", "");
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"error":"sprite not found"}"#);
    }
}
