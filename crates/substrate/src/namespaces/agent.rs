//! The agent's process: started, watched and killed without ever mistaking another for it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use sprite_link::boot::BootSpec;
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::process::{ChildStdin, Command};
use tokio::sync::watch;

use super::sys;

/// Names a process of this host beyond reuse of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pid: i32,
    /// Clock ticks between the host's start and the process's, field 22 of `/proc/PID/stat`.
    start_ticks: u64,
}

impl Process {
    /// Looks a process up; `None` if there is none of that number.
    fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        start_ticks(&stat).map(|start_ticks| Self { pid, start_ticks })
    }
}

/// Reads field 22 of `/proc/PID/stat`. The command's name, field 2, may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The agent. Clones are the same process.
#[derive(Clone)]
pub(crate) struct Agent(Arc<Inner>);

struct Inner {
    process: Process,
    pidfd: AsyncFd<OwnedFd>,
    /// How it ended, where we are its parent.
    status: watch::Receiver<Option<String>>,
}

impl Agent {
    /// Starts the program. It waits on the returned input for its boot spec.
    pub(crate) fn spawn(program: &Path, log: &Path) -> io::Result<(Self, ChildStdin)> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // The interrupt key of the terminal must not reach machines.
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take().expect("its input is a pipe");
        let pid =
            child.id().and_then(|id| i32::try_from(id).ok()).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = open_pidfd(pid)?;
        let process = Process::of(pid).ok_or(io::ErrorKind::NotFound)?;
        let (status_out, status) = watch::channel(None);
        tokio::spawn(async move {
            let how = match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => format!("its exit is unknown: {error}"),
            };
            status_out.send_replace(Some(how));
        });
        Ok((Self(Arc::new(Inner { process, pidfd, status })), stdin))
    }

    /// Takes over an agent that another `sprited` started; `None` if it is gone.
    pub(crate) fn find(process: Process) -> Option<Self> {
        let pidfd = open_pidfd(process.pid).ok()?;
        // Checked after the descriptor was opened: it cannot become another process now.
        if Process::of(process.pid) != Some(process) {
            return None;
        }
        let status = watch::channel(None).1;
        Some(Self(Arc::new(Inner { process, pidfd, status })))
    }

    pub(crate) fn process(&self) -> Process {
        self.0.process
    }

    /// Writes the boot spec and closes the input.
    pub(crate) async fn tell(&self, mut stdin: ChildStdin, boot: &BootSpec) -> io::Result<()> {
        stdin.write_all(&serde_json::to_vec(boot)?).await?;
        stdin.shutdown().await
    }

    /// Kills the process; everything of its machine ends with it.
    pub(crate) fn kill(&self) {
        // It fails only for a process that has ended.
        let _ = pidfd_send_signal(self.0.pidfd.get_ref(), Signal::KILL);
    }

    /// Waits until the process has ended and says how.
    pub(crate) async fn ended(&self) -> String {
        // Readable once the process is dead, whoever its parent is.
        let _ = self.0.pidfd.readable().await;
        let mut status = self.0.status.clone();
        match status.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "the agent ended".to_owned(),
        }
    }
}

fn open_pidfd(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    sys::watch(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_forge_the_start_time() {
        let fields: Vec<String> = (3..=52).map(|i| (i * 10).to_string()).collect();
        let stat = format!("42 (a) 1 2 (b)) {}", fields.join(" "));
        assert_eq!(start_ticks(&stat), Some(220));
        assert_eq!(start_ticks("42 (short) S 1"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn our_own_process_is_found_and_a_reused_number_is_not() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = Process::of(pid).unwrap();
        assert_eq!(Process::of(pid), Some(own));
        let other = Process { start_ticks: own.start_ticks + 1, ..own };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            assert!(Agent::find(own).is_some());
            assert!(Agent::find(other).is_none());
        });
    }
}
