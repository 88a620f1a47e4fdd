//! What the two ends of one connection tell each other past the HTTP library in the middle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use super::head::HeadError;

/// Something about a request that does not fit through the HTTP library.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parked {
    /// The query of a request whose target was too long.
    Query(String),
    /// There was no usable request; this is the answer to give.
    Refused(HeadError),
}

/// Whether the next request may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// The answer to the last one is not finished.
    Closed,
    /// It is.
    Open,
    /// It was 101: what follows is no longer HTTP.
    Switched,
}

/// Shared by the adapter below the library and the service above it, one per connection.
///
/// At most one request is between the two at a time, so one place for parked things is enough.
#[derive(Debug)]
pub(crate) struct Signal {
    /// Unguessable, so that no client can write a target that looks like one of ours.
    key: String,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    in_flight: bool,
    switched: bool,
    parked: Option<Parked>,
    reader: Option<Waker>,
}

impl Signal {
    /// # Panics
    /// If the kernel has no randomness to give.
    pub(crate) fn new() -> Arc<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the kernel's random source answers");
        let key = format!("~{:032x}", u128::from_le_bytes(random));
        Arc::new(Self { key, inner: Mutex::default() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // The guarded values are plain and always valid, whatever panicked meanwhile.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the gate: a request is on its way to the service. Returns the query that stands
    /// for what was parked.
    pub(crate) fn begin(&self, parked: Option<Parked>) -> &str {
        let mut inner = self.inner();
        inner.in_flight = true;
        inner.parked = parked;
        &self.key
    }

    /// Returns what was parked for the request with this (short) query.
    pub(crate) fn take(&self, query: Option<&str>) -> Option<Parked> {
        let parked = self.inner().parked.take();
        parked.filter(|_| query == Some(&self.key))
    }

    /// The answer is 101.
    pub(crate) fn switch(&self) {
        self.change(|inner| inner.switched = true);
    }

    /// The answer was written, or given up.
    pub(crate) fn finish(&self) {
        self.change(|inner| inner.in_flight = false);
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner();
        change(&mut inner);
        let reader = inner.reader.take();
        drop(inner);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Looks at the gate; if it is closed, wakes the caller when it opens.
    pub(crate) fn gate(&self, context: &Context<'_>) -> Gate {
        let mut inner = self.inner();
        if inner.switched {
            Gate::Switched
        } else if inner.in_flight {
            inner.reader = Some(context.waker().clone());
            Gate::Closed
        } else {
            Gate::Open
        }
    }
}

/// Opens the gate when dropped; travels with the answer's body.
#[derive(Debug)]
pub(crate) struct InFlight(pub(crate) Arc<Signal>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_claim_what_was_parked_for_another_request() {
        let signal = Signal::new();
        let key = signal.begin(Some(Parked::Query("a=b".into()))).to_owned();
        assert_eq!(signal.take(Some("~00")), None);
        assert_eq!(signal.take(Some(&key)), None, "parked for one request only");
        signal.begin(Some(Parked::Query("a=b".into())));
        assert_eq!(signal.take(Some(&key)), Some(Parked::Query("a=b".into())));
    }
}
