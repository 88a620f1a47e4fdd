//! Ending a session and telling how it goes. Source: contract, http-api 6.2.

use std::time::Duration;

use sprite_types::SessionId;
use tokio::sync::{mpsc, watch};

/// How long the process has to go after SIGKILL before the story ends without it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// One step of ending a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KillStep {
    /// A signal was sent to the process group.
    Signal { number: i32, session: SessionId },
    /// The process did not stop in time.
    Timeout,
    /// The process is gone.
    Exited,
    /// The process is gone after SIGKILL.
    Killed,
    /// It could not be done.
    Error { message: String },
    /// Always last. Without a code if nobody waited for the end.
    Complete { exit_code: Option<i32> },
}

/// Why a session cannot be ended.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KillError {
    /// There never was such a session, or it ended long ago.
    #[error("session not found: {0}")]
    NotFound(SessionId),
    /// It ended lately.
    #[error("session already exited: {0}")]
    Ended(SessionId),
    /// No such signal.
    #[error("invalid signal {0}")]
    BadSignal(i32),
}

/// Sends `signal`, waits, and insists. Ends early if nobody listens to `steps` any more, but
/// never between a timeout and its SIGKILL.
pub(crate) async fn run<S, F>(
    session: SessionId,
    first: i32,
    timeout: Duration,
    mut exited: watch::Receiver<Option<i32>>,
    steps: mpsc::Sender<KillStep>,
    signal: S,
) where
    S: Fn(i32) -> F,
    F: Future<Output = ()>,
{
    // A listener that left does not change what is done, so errors of `send` do not matter.
    signal(first).await;
    let _ = steps.send(KillStep::Signal { number: first, session }).await;
    if timeout.is_zero() {
        let _ = steps.send(KillStep::Complete { exit_code: None }).await;
        return;
    }
    if let Some(code) = exit_within(&mut exited, timeout).await {
        let gone = if first == libc::SIGKILL { KillStep::Killed } else { KillStep::Exited };
        let _ = steps.send(gone).await;
        let _ = steps.send(KillStep::Complete { exit_code: Some(code) }).await;
        return;
    }
    let _ = steps.send(KillStep::Timeout).await;
    signal(libc::SIGKILL).await;
    let _ = steps.send(KillStep::Signal { number: libc::SIGKILL, session }).await;
    let code = exit_within(&mut exited, KILL_PATIENCE).await;
    let last = match code {
        Some(_) => KillStep::Killed,
        None => KillStep::Error { message: "the process did not end after SIGKILL".into() },
    };
    let _ = steps.send(last).await;
    let _ = steps.send(KillStep::Complete { exit_code: code }).await;
}

async fn exit_within(exited: &mut watch::Receiver<Option<i32>>, timeout: Duration) -> Option<i32> {
    let code = tokio::time::timeout(timeout, exited.wait_for(Option::is_some)).await;
    // The task is never gone before it has told the exit code.
    code.ok()?.ok().and_then(|code| *code)
}
