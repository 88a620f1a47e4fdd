//! Exit codes and error messages: what failed, why, and what to type.

use std::fmt;
use std::io;
use std::process::ExitCode;

use sprite_client::Error as ClientError;
use sprite_types::ErrorKind;

use crate::output::{Style, To, clean, paint, talk};

/// The process's exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    pub(crate) const SUCCESS: Self = Self(0);
}

/// After Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;
/// After the reader of our output left, as a shell reports SIGPIPE.
const BROKEN_PIPE: u8 = 141;

/// An error with what to type next.
#[derive(Debug)]
pub(crate) struct Hinted {
    source: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The whole chain: this type stands for it.
        write!(f, "{:#}", self.source)
    }
}

impl std::error::Error for Hinted {}

/// Wrong use of the command line that only shows at run time; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// The user pressed Ctrl-C in a prompt.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Adds what to type next.
pub(crate) trait WithHint<T> {
    /// Adds a hint, in place of the one that would be derived from the error.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithHint<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| Hinted { source: error.into(), hint: hint.into() }.into())
    }
}

/// Prints an error and returns its exit code.
pub(crate) fn print(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::from(BROKEN_PIPE);
    }
    if error.is::<Interrupted>() {
        return ExitCode::from(INTERRUPTED);
    }
    talk!("{} {}", paint("Error:", Style::Bad, To::Stderr), clean(&format!("{error:#}")));
    for detail in details(error) {
        talk!("{detail}");
    }
    if let Some(hint) = hint(error) {
        talk!("{} {}", paint("hint:", Style::Bold, To::Stderr), clean(&hint));
    }
    ExitCode::from(if original(error).is::<Usage>() { 2 } else { 1 })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    // Only our own stdout fails as a bare `io::Error`; connections wrap theirs.
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Returns the error without its hint.
fn original(error: &anyhow::Error) -> &anyhow::Error {
    error.downcast_ref::<Hinted>().map_or(error, |hinted| &hinted.source)
}

fn client_error(error: &anyhow::Error) -> Option<&ClientError> {
    original(error).chain().find_map(|cause| cause.downcast_ref())
}

/// Numbers worth knowing beside the message.
fn details(error: &anyhow::Error) -> Vec<String> {
    let Some(refusal) = client_error(error).and_then(ClientError::refusal) else {
        return Vec::new();
    };
    let mut details = Vec::new();
    if let Some(limit) = refusal.error.limit {
        let now = refusal.error.current_count.map(|now| format!(", now {now}"));
        details.push(format!("       limit {limit}{}", now.unwrap_or_default()));
    }
    if refusal.kind() == ErrorKind::Internal
        && let Some(id) = &refusal.request_id
    {
        details.push(format!("       request {}", clean(id)));
    }
    details
}

fn hint(error: &anyhow::Error) -> Option<String> {
    match error.downcast_ref::<Hinted>() {
        Some(hinted) => Some(hinted.hint.clone()),
        None => client_hint(client_error(error)?),
    }
}

/// Derives what to type next from what a call answered.
fn client_hint(error: &ClientError) -> Option<String> {
    let text = match error {
        ClientError::Address { .. } => "an address looks like http://127.0.0.1:7780".to_owned(),
        ClientError::Connect { source, .. } if is_certificate_problem(source) => {
            "for a private certificate authority: SSL_CERT_FILE=/path/to/ca.pem sprite …".to_owned()
        }
        ClientError::Connect { address, .. } => format!(
            "is the server running? `curl {address}/healthz` asks it; \
             `sprite login <url>` or SPRITES_API_URL chooses another"
        ),
        ClientError::Refused { refusal, .. } => {
            if let Some(hint) = &refusal.error.hint {
                return Some(hint.clone());
            }
            match refusal.kind() {
                ErrorKind::Unauthorized => {
                    "`sprite login` stores a new token; SPRITE_TOKEN overrides the stored one"
                        .to_owned()
                }
                ErrorKind::Limited | ErrorKind::Unavailable => {
                    let wait = refusal.retry_after?;
                    format!("try again in {} s", wait.as_secs())
                }
                ErrorKind::NotFound if refusal.error.error == "sprite not found" => {
                    "`sprite list` shows your sprites".to_owned()
                }
                _ => return None,
            }
        }
        ClientError::Timeout { .. } => "the server may be busy; try again".to_owned(),
        ClientError::Transport { .. } | ClientError::Protocol { .. } => return None,
    };
    Some(text)
}

fn is_certificate_problem(source: &io::Error) -> bool {
    let text = format!("{source:?}");
    text.contains("InvalidCertificate") || text.contains("certificate authorities")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_stdout_is_no_error_but_a_broken_connection_is() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::new(pipe())));
        let connection = ClientError::Transport { what: "list".into(), source: pipe().into() };
        assert!(!is_broken_pipe(&connection.into()));
    }

    #[test]
    fn a_hint_given_wins_over_one_derived() {
        let error =
            || ClientError::Connect { address: "http://h".into(), source: io::Error::other("no") };
        let plain: anyhow::Error = error().into();
        assert!(hint(&plain).unwrap().contains("http://h/healthz"));
        let given = Err::<(), _>(error()).hint("type this").unwrap_err();
        assert_eq!(hint(&given).as_deref(), Some("type this"));
        assert_eq!(format!("{given:#}"), "connect to http://h: no");
    }
}
