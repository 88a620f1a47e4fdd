//! The launcher's children: entering, running, and ended but not yet said so.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid,
};

use super::enter::Report;
use crate::error::SpawnError;
use crate::message::Entered;
use crate::spec::Target;
use crate::sys;

/// How soon a child that has ended but cannot be reaped is looked at again: a tracer inside may
/// hold it for as long as it likes.
const REAP_RETRY: Duration = Duration::from_millis(50);
/// Most that a child may report, in bytes.
const REPORT_MAX: usize = 256 * 1024;

/// A process that the launcher made and has not reaped.
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) leaf: String,
    /// Whether it has a controlling terminal.
    pub(super) terminal: bool,
    pub(super) stage: Stage,
    /// Not to be polled before then.
    pub(super) retry_at: Option<Instant>,
}

/// How far a child is.
pub(super) enum Stage {
    /// On its way in. The pipe ends when it has become the command, or has failed.
    Entering { request: u64, report: OwnedFd, bytes: Vec<u8> },
    /// Answered for; its end will be reported.
    Running,
    /// Nobody waits for its end.
    Forgotten,
}

/// What a child's report pipe said when it ended.
pub(super) enum Outcome {
    Entered(Entered),
    Failed(SpawnError),
}

impl Child {
    pub(super) fn number(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Reads more of the report. Returns the outcome once the pipe has ended.
    pub(super) fn read_report(&mut self) -> Option<Outcome> {
        let Stage::Entering { report, bytes, .. } = &mut self.stage else { return None };
        let mut chunk = [0; 4096];
        loop {
            match rustix::io::read(&*report, &mut chunk) {
                Ok(0) => return Some(outcome(bytes)),
                Ok(count) if bytes.len() < REPORT_MAX => bytes.extend_from_slice(&chunk[..count]),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) => return Some(outcome(bytes)),
            }
        }
    }

    /// Reaps the child if it has ended. Returns its exit code, 128 + n for signals.
    pub(super) fn reap(&mut self, now: Instant) -> Option<i32> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => Some(
                status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
                    .unwrap_or(128),
            ),
            // It has ended, or the pidfd would not have said so, but somebody traces it.
            Ok(None) | Err(Errno::INTR) => {
                self.retry_at = Some(now + REAP_RETRY);
                None
            }
            Err(_) => Some(128),
        }
    }

    /// Sends a signal. While a child is not reaped, its number and that of its process group
    /// cannot belong to anybody else.
    pub(super) fn signal(&self, signal: Signal, target: Target) -> rustix::io::Result<()> {
        match (target, &self.stage) {
            // It has no group of its own until it has entered.
            (Target::Process, _) | (_, Stage::Entering { .. }) => {
                pidfd_send_signal(&self.pidfd, signal)
            }
            (Target::Group, _) => kill_process_group(self.pid, signal),
            (Target::SessionGroup(group), _) => {
                let group = Pid::from_raw(group).filter(|_| group > 1).ok_or(Errno::SRCH)?;
                // Its session is named by our unreaped child, so it is inside the container.
                if sys::session_of(group)? != self.number() {
                    return Err(Errno::SRCH);
                }
                kill_process_group(group, signal)
            }
        }
    }
}

fn outcome(bytes: &[u8]) -> Outcome {
    let mut entered = None;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Report::Entered(what)) => entered = Some(what),
            Ok(Report::Failed(error)) => return Outcome::Failed(error),
            Err(_) => break,
        }
    }
    match entered {
        Some(what) => Outcome::Entered(what),
        None => Outcome::Failed(SpawnError::Internal {
            message: "the process ended while entering the container".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_a_failure_means_that_the_command_runs() {
        let entered = br#"{"Entered":{"inner_pid":2,"program":"/bin/ls","dir":"/"}}"#;
        assert!(matches!(outcome(entered), Outcome::Entered(what) if what.program == "/bin/ls"));
        let mut both = [&entered[..], b"\n"].concat();
        both.extend(br#"{"Failed":{"NotFound":{"message":"m"}}}"#);
        assert!(matches!(outcome(&both), Outcome::Failed(error) if error.exit_code() == Some(127)));
        assert!(matches!(outcome(b""), Outcome::Failed(SpawnError::Internal { .. })));
    }
}
