//! Parameters of exec, attach and kill (contract, exec-protocol 3 and http-api 6.2).

use std::time::Duration;

use serde::Deserialize;

use crate::format::{parse_duration, parse_signal};
use crate::query::Query;

/// Signal of a kill that names none.
const SIGTERM: i32 = 15;
/// Time before SIGKILL of a kill that names none.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A parameter that cannot be used; the text is for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParamError(pub String);

/// What an exec URL asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecTarget {
    /// Start a command.
    Start(ExecRequest),
    /// Follow a session that runs (`?id=` and `?session_id=`; old clients send the parameters of
    /// a command beside it, which then mean nothing).
    Attach {
        /// As the client gave it.
        session_id: String,
        /// The client's terminal.
        size: TerminalSize,
    },
}

/// Size of a terminal in characters, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Width.
    pub cols: Option<u16>,
    /// Height.
    pub rows: Option<u16>,
}

/// A command to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The command line, `argv[0]` included. May be empty if `path` is given.
    pub argv: Vec<String>,
    /// Program to run, if not `argv[0]`.
    pub path: Option<String>,
    /// Variables over the default environment, in order.
    pub env: Vec<(String, String)>,
    /// Working directory; absent: the home directory.
    pub dir: Option<String>,
    /// Give it a terminal.
    pub tty: bool,
    /// Size of that terminal.
    pub size: TerminalSize,
    /// Whether input will come.
    pub stdin: bool,
    /// Keep running when the last client leaves.
    pub detachable: bool,
    /// How long to keep running after the last client left; zero is without limit.
    pub max_run_after_disconnect: Option<Duration>,
}

impl ExecTarget {
    /// Reads the query of an exec URL.
    ///
    /// # Errors
    /// A parameter is malformed, or there is neither a command nor a session.
    pub fn from_query(query: &Query) -> Result<Self, ParamError> {
        let session_id = text(query, "id").or_else(|| text(query, "session_id"));
        Ok(match session_id {
            Some(id) => {
                Self::Attach { session_id: id.to_owned(), size: TerminalSize::from_query(query)? }
            }
            None => Self::Start(ExecRequest::from_query(query)?),
        })
    }
}

impl TerminalSize {
    /// Reads `cols` and `rows`; 0 counts as absent.
    ///
    /// # Errors
    /// One of them is not a number from 0 to 65,535.
    pub fn from_query(query: &Query) -> Result<Self, ParamError> {
        let side = |key| {
            query.number::<u16>(key).map(|side| side.filter(|&side| side > 0)).map_err(ParamError)
        };
        Ok(Self { cols: side("cols")?, rows: side("rows")? })
    }
}

impl ExecRequest {
    /// Reads the parameters of a command.
    ///
    /// # Errors
    /// A parameter is malformed, or there is no command.
    pub fn from_query(query: &Query) -> Result<Self, ParamError> {
        let argv: Vec<String> = query
            .pairs()
            .iter()
            .filter(|(key, _)| key == "cmd" || key == "cmd[]")
            .map(|(_, value)| value.clone())
            .collect();
        let path = text(query, "path").map(str::to_owned);
        // An empty word names no program either.
        if path.is_none() && argv.first().is_none_or(String::is_empty) {
            return Err(ParamError("No command specified".to_owned()));
        }
        let tty = flag(query, "tty")?.unwrap_or(false);
        let request = Self {
            argv,
            path,
            env: query.all("env").map(variable).collect::<Result<_, _>>()?,
            dir: text(query, "dir").map(str::to_owned),
            tty,
            size: TerminalSize::from_query(query)?,
            stdin: flag(query, "stdin")?.unwrap_or(tty),
            detachable: flag(query, "detachable")?.unwrap_or(false),
            max_run_after_disconnect: text(query, "max_run_after_disconnect")
                .map(|value| {
                    parse_duration(value).ok_or_else(|| {
                        ParamError("`max_run_after_disconnect` must be a duration".to_owned())
                    })
                })
                .transpose()?,
        };
        request.check_nul()?;
        Ok(request)
    }

    fn check_nul(&self) -> Result<(), ParamError> {
        let mut texts = self.argv.iter().chain(&self.path).chain(&self.dir);
        let nul = texts.any(|text| text.contains('\0'))
            || self.env.iter().any(|(name, value)| name.contains('\0') || value.contains('\0'));
        if nul { Err(ParamError("a parameter contains a NUL byte".to_owned())) } else { Ok(()) }
    }

    /// Writes the query that [`ExecRequest::from_query`] reads.
    #[must_use]
    pub fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for argument in &self.argv {
            query.append_pair("cmd", argument);
        }
        if let Some(path) = self.path.as_ref().or(self.argv.first()) {
            query.append_pair("path", path);
        }
        for (name, value) in &self.env {
            query.append_pair("env", &format!("{name}={value}"));
        }
        if let Some(dir) = &self.dir {
            query.append_pair("dir", dir);
        }
        if self.tty {
            query.append_pair("tty", "true");
            self.size.append_to(&mut query);
        }
        query.append_pair("stdin", if self.stdin { "true" } else { "false" });
        if self.detachable {
            query.append_pair("detachable", "true");
        }
        if let Some(limit) = self.max_run_after_disconnect {
            query.append_pair("max_run_after_disconnect", &format!("{}s", limit.as_secs_f64()));
        }
        query.finish()
    }
}

impl TerminalSize {
    /// Appends `cols` and `rows`, as far as they are known.
    pub fn append_to(&self, query: &mut form_urlencoded::Serializer<'_, String>) {
        for (key, side) in [("cols", self.cols), ("rows", self.rows)] {
            if let Some(side) = side {
                query.append_pair(key, &side.to_string());
            }
        }
    }
}

/// How a session is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Signal number.
    pub signal: i32,
    /// Time before SIGKILL; zero sends the signal and does not wait.
    pub timeout: Duration,
}

impl Kill {
    /// Reads the query and the JSON body of a kill; the query wins. An empty body is fine.
    ///
    /// # Errors
    /// The body is not such JSON, or there is no such signal or duration.
    pub fn from_request(query: &Query, body: &[u8]) -> Result<Self, ParamError> {
        #[derive(Default, Deserialize)]
        struct Body {
            signal: Option<TextOrNumber>,
            timeout: Option<TextOrNumber>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum TextOrNumber {
            Text(String),
            Number(serde_json::Number),
        }
        let owned = |value: Option<TextOrNumber>| {
            value.map(|value| match value {
                TextOrNumber::Text(text) => text,
                TextOrNumber::Number(number) => number.to_string(),
            })
        };
        let body = if body.iter().all(u8::is_ascii_whitespace) {
            Body::default()
        } else {
            serde_json::from_slice(body)
                .map_err(|error| ParamError(format!("the body is not a kill request: {error}")))?
        };
        let signal = text(query, "signal").map(str::to_owned).or_else(|| owned(body.signal));
        let timeout = text(query, "timeout").map(str::to_owned).or_else(|| owned(body.timeout));
        Ok(Self {
            signal: match signal.filter(|signal| !signal.is_empty()) {
                Some(signal) => parse_signal(&signal)
                    .ok_or_else(|| ParamError("`signal` must be a signal".to_owned()))?,
                None => SIGTERM,
            },
            timeout: match timeout.filter(|timeout| !timeout.is_empty()) {
                Some(timeout) => parse_duration(&timeout)
                    .ok_or_else(|| ParamError("`timeout` must be a duration".to_owned()))?,
                None => KILL_TIMEOUT,
            },
        })
    }
}

/// Empty values count as absent: some clients send every key they know.
fn text<'a>(query: &'a Query, key: &str) -> Option<&'a str> {
    query.get(key).filter(|value| !value.is_empty())
}

fn flag(query: &Query, key: &str) -> Result<Option<bool>, ParamError> {
    query.bool(key).map_err(ParamError)
}

fn variable(text: &str) -> Result<(String, String), ParamError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(ParamError("`env` must be NAME=value".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(query: &str) -> Result<ExecRequest, ParamError> {
        ExecRequest::from_query(&Query::parse(query))
    }

    #[test]
    fn what_the_sdks_send_is_understood() {
        let request =
            start("cmd=sh&cmd=-c&cmd=echo+hi&path=sh&env=A%3Db%3Dc&env=E%3D&dir=%2Ftmp&stdin=true")
                .unwrap();
        assert_eq!(request.argv, ["sh", "-c", "echo hi"]);
        assert_eq!(request.path.as_deref(), Some("sh"));
        assert_eq!(request.env, [("A".into(), "b=c".into()), ("E".into(), String::new())]);
        assert_eq!(request.dir.as_deref(), Some("/tmp"));
        assert!(request.stdin && !request.tty && !request.detachable);

        let request = start("cmd=bash&tty=true&rows=24&cols=80&detachable=true").unwrap();
        assert!(request.stdin && request.tty && request.detachable);
        assert_eq!(request.size, TerminalSize { cols: Some(80), rows: Some(24) });
        assert!(!start("cmd=true").unwrap().stdin);
        assert!(start("path=bash").unwrap().argv.is_empty());
        assert_eq!(start("cmd[]=a&cmd[]=b").unwrap().argv, ["a", "b"]);
    }

    #[test]
    fn an_id_means_attach_whatever_stands_beside_it() {
        for query in ["id=42", "session_id=42&path=&cmd=", "id=42&cmd=bash&tty=true"] {
            let target = ExecTarget::from_query(&Query::parse(query)).unwrap();
            let size = TerminalSize::default();
            assert_eq!(target, ExecTarget::Attach { session_id: "42".into(), size });
        }
    }

    #[test]
    fn unusable_parameters_are_named() {
        for query in ["", "cmd=", "cmd=&cmd=a", "path=&tty=true"] {
            assert_eq!(start(query), Err(ParamError("No command specified".into())));
        }
        for (query, word) in [
            ("cmd=a&tty=maybe", "tty"),
            ("cmd=a&cols=99999", "cols"),
            ("cmd=a&rows=-1", "rows"),
            ("cmd=a&env=novalue", "env"),
            ("cmd=a&env==x", "env"),
            ("cmd=a%00b", "NUL"),
            ("cmd=a&max_run_after_disconnect=soon", "max_run_after_disconnect"),
        ] {
            assert!(start(query).unwrap_err().0.contains(word), "{query}");
        }
    }

    #[test]
    fn a_written_query_reads_back() {
        let request = ExecRequest {
            argv: vec!["a b".into(), "ü=&+".into()],
            path: Some("a b".into()),
            env: vec![("K".into(), "v=w".into())],
            dir: Some("/x".into()),
            tty: true,
            size: TerminalSize { cols: Some(1), rows: Some(2) },
            stdin: true,
            detachable: true,
            max_run_after_disconnect: Some(Duration::from_millis(1500)),
        };
        assert_eq!(start(&request.to_query()), Ok(request));
    }

    #[test]
    fn kills_come_by_query_or_body_and_the_query_wins() {
        let kill = |query: &str, body: &str| {
            Kill::from_request(&Query::parse(query), body.as_bytes())
                .map(|kill| (kill.signal, kill.timeout.as_secs()))
        };
        assert_eq!(kill("", ""), Ok((15, 10)));
        assert_eq!(kill("signal=sigint&timeout=0s", ""), Ok((2, 0)));
        assert_eq!(kill("", r#"{"signal":"SIGKILL","timeout":5}"#), Ok((9, 5)));
        assert_eq!(kill("signal=1", r#"{"signal":9}"#), Ok((1, 10)));
        assert!(kill("signal=BOGUS", "").is_err());
        assert!(kill("timeout=x", "").is_err());
        assert!(kill("", "[").is_err());
    }
}
