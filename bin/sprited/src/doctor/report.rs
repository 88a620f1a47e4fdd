//! All findings together, for people and for programs.

use std::fmt;

use serde::Serialize;
use sprite_network::{Check, Status};

/// What `--json` prints. Fields are only ever added.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The worst of all.
    status: Status,
    checks: Vec<Check>,
}

impl Report {
    pub(crate) fn new(checks: Vec<Check>) -> Self {
        let status = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
        Self { status, checks }
    }

    /// Says whether sprites cannot work on this host as it is.
    pub(crate) fn has_failed(&self) -> bool {
        self.status == Status::Fail
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.title.len()).max().unwrap_or(0);
        for Check { status, title, detail, fix, .. } in &self.checks {
            writeln!(f, "{:4}  {title:width$}  {detail}", word(*status))?;
            for (number, line) in fix.iter().flat_map(|fix| fix.lines()).enumerate() {
                let label = if number == 0 { "fix:" } else { "" };
                writeln!(f, "      {:width$}  {label:4} {line}", "")?;
            }
        }
        let count = |wanted| self.checks.iter().filter(|check| check.status == wanted).count();
        match self.status {
            Status::Ok => writeln!(f, "\nThis host is ready."),
            Status::Warn => writeln!(
                f,
                "\nThis host can run sprites; {} of what was checked needs a look.",
                count(Status::Warn)
            ),
            Status::Fail => {
                writeln!(f, "\nThis host cannot run sprites yet: mend what says FAIL.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        Report::new(vec![
            Check::ok("root", "root", "running as root"),
            Check::warn("disk", "disk space", "little left", "free some\nor more"),
        ])
    }

    #[test]
    fn people_see_each_fix_below_its_finding() {
        let expected = "\
ok    root        running as root
warn  disk space  little left
                  fix: free some
                       or more

This host can run sprites; 1 of what was checked needs a look.
";
        assert_eq!(sample().to_string(), expected);
    }

    #[test]
    fn programs_see_the_worst_status_first() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["status"], "warn");
        assert_eq!(json["checks"][0]["id"], "root");
        assert!(json["checks"][0].get("fix").is_none());
        assert!(!sample().has_failed());
        assert!(Report::new(vec![Check::fail("a", "b", "c", "d")]).has_failed());
    }
}
