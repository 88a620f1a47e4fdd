//! What may be wrong with this host's network, and how to mend it.
//!
//! Facts are gathered first; what follows from them is decided without looking at the host
//! again. Nothing is changed: what must be tried is tried in a network namespace of its own.

mod decide;
mod facts;
mod firewall;

use serde::Serialize;

use crate::settings::NetworkSettings;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something will not work, or not well.
    Warn,
    /// Nothing will work.
    Fail,
}

/// One finding about the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked, for programs. Never changes its meaning.
    pub id: &'static str,
    /// The same for people.
    pub title: &'static str,
    /// How bad it is.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to type or change, if something is to be mended. May have several lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    /// Makes a finding that all is well.
    pub fn ok(id: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { id, title, status: Status::Ok, detail: detail.into(), fix: None }
    }

    /// Makes a finding that something will not work well.
    pub fn warn(
        id: &'static str,
        title: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (detail, fix) = (detail.into(), Some(fix.into()));
        Self { id, title, status: Status::Warn, detail, fix }
    }

    /// Makes a finding that nothing will work.
    pub fn fail(
        id: &'static str,
        title: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (detail, fix) = (detail.into(), Some(fix.into()));
        Self { id, title, status: Status::Fail, detail, fix }
    }
}

/// Looks at the host's network and says what it means for sprites.
pub async fn network_checks(settings: &NetworkSettings) -> Vec<Check> {
    let facts = facts::gather(settings).await;
    decide::all(settings, &facts)
}
