//! Setting up the log, once per process.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The variable that chooses what is logged.
const FILTER_VARIABLE: &str = "SPRITES_LOG";

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object per line, for programs.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is not a log format: expected `text` or `json`")),
        }
    }
}

/// What to log and how.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged where `SPRITES_LOG` is not set, e.g. `info`.
    pub default_filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, default_filter: "info".to_owned() }
    }
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter's text is wrong. Tell the person who wrote it.
    #[error("`{filter}` is not a log filter")]
    Filter {
        /// The text.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// This process logs already.
    #[error("logging is already set up")]
    Twice,
}

/// Starts logging to standard error.
///
/// # Errors
/// See [`InitError`]; nothing is set up then.
pub fn init(settings: &LogSettings) -> Result<(), InitError> {
    let wanted = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let filter = parse(wanted.as_deref().unwrap_or(&settings.default_filter))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    let started = match settings.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| InitError::Twice)
}

fn parse(filter: &str) -> Result<EnvFilter, InitError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| InitError::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_named_in_the_error() {
        assert!(parse("info,sprite_network=debug").is_ok());
        let error = parse("info,sprite_network=loud").unwrap_err();
        assert_eq!(error.to_string(), "`info,sprite_network=loud` is not a log filter");
    }

    #[test]
    fn a_second_start_is_refused() {
        init(&LogSettings::default()).unwrap();
        assert!(matches!(init(&LogSettings::default()), Err(InitError::Twice)));
    }
}
