//! Points at which a test stops a request.

use tokio::sync::watch;

use crate::{Key, Operation};

/// Where a request stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before it has had any effect.
    Before,
    /// When it was carried out and its answer is under way.
    After,
}

/// A request that stops, or will. Dropping it lets the request go on.
#[derive(Debug)]
pub struct Pause {
    reached: watch::Receiver<bool>,
    released: watch::Sender<bool>,
}

impl Pause {
    /// Waits until a request has come to the point.
    pub async fn reached(&mut self) {
        // An error: the request ended, so it has been there.
        let _ = self.reached.wait_for(|reached| *reached).await;
    }

    /// Lets the request go on.
    pub fn release(self) {}
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.released.send_replace(true);
    }
}

/// The request's side of a pause.
pub(super) struct Gate {
    reached: watch::Sender<bool>,
    released: watch::Receiver<bool>,
}

/// A pause that no request has come to.
pub(super) struct Armed {
    operation: Operation,
    key: Option<Key>,
    when: When,
    gate: Gate,
}

pub(super) fn pair(operation: Operation, key: Option<Key>, when: When) -> (Pause, Armed) {
    let (reached_sender, reached) = watch::channel(false);
    let (released, released_receiver) = watch::channel(false);
    let gate = Gate { reached: reached_sender, released: released_receiver };
    (Pause { reached, released }, Armed { operation, key, when, gate })
}

/// Takes the oldest pause that a request comes to.
pub(super) fn take(
    armed: &mut Vec<Armed>,
    operation: Operation,
    name: &str,
    when: When,
) -> Option<Gate> {
    let at = armed.iter().position(|armed| {
        armed.operation == operation
            && armed.when == when
            && armed.key.as_ref().is_none_or(|key| key.as_str() == name)
    })?;
    Some(armed.remove(at).gate)
}

/// Waits at a pause, if there is one.
pub(super) async fn pass(gate: Option<Gate>) {
    if let Some(mut gate) = gate {
        gate.reached.send_replace(true);
        // An error: the test dropped it, which releases as well.
        let _ = gate.released.wait_for(|released| *released).await;
    }
}
