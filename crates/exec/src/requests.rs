//! Remembers what became of recent create requests, so that a repeated one is harmless.

use std::collections::{HashMap, VecDeque};

use sprite_link::guest::SessionCreated;
use tokio::sync::watch;

/// Requests remembered; a host repeats one within seconds or never.
const REQUESTS_MAX: usize = 1024;

/// What became of a request, once it is known. The sender is gone without a value if the
/// process could not even be tried.
pub(crate) type Outcome = watch::Receiver<Option<SessionCreated>>;

/// Recent requests by their id.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    outcomes: HashMap<String, Outcome>,
    order: VecDeque<String>,
}

impl Requests {
    /// Returns the outcome of an earlier request of that id.
    pub(crate) fn get(&self, id: &str) -> Option<Outcome> {
        self.outcomes.get(id).cloned()
    }

    /// Registers a new request. One without an id is not remembered.
    pub(crate) fn enter(&mut self, id: &str, outcome: Outcome) {
        if id.is_empty() {
            return;
        }
        if self.order.len() == REQUESTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.outcomes.remove(&oldest);
        }
        self.order.push_back(id.to_owned());
        self.outcomes.insert(id.to_owned(), outcome);
    }

    /// Forgets a request, so that it may be tried again.
    pub(crate) fn forget(&mut self, id: &str) {
        self.outcomes.remove(id);
        self.order.retain(|known| known != id);
    }
}
