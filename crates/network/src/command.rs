//! Running the host's tools.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::NetworkError;

/// A tool that takes longer is stuck.
const LIMIT: Duration = Duration::from_secs(20);
/// How much of a tool's complaint is worth showing.
const MESSAGE_MAX: usize = 600;

/// A host program we run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Nft,
    Ip,
    Iptables,
    IptablesLegacy,
    Networkctl,
    Nmcli,
    Unshare,
}

impl Tool {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Ip => "ip",
            Self::Iptables => "iptables",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Networkctl => "networkctl",
            Self::Nmcli => "nmcli",
            Self::Unshare => "unshare",
        }
    }

    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Nft => "nftables",
            Self::Ip => "iproute2",
            Self::Iptables | Self::IptablesLegacy => "iptables",
            Self::Networkctl => "systemd",
            Self::Nmcli => "network-manager",
            Self::Unshare => "util-linux",
        }
    }

    /// Says whether the program is there.
    pub(crate) fn exists(self) -> bool {
        find(self.name()).is_some()
    }
}

/// Finds a program where system programs are. `PATH` is not asked: for a service or under
/// `sudo` it may lack `/usr/sbin`.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// Runs a tool with `input` and returns its standard output.
///
/// # Errors
/// - [`NetworkError::Missing`]: it is not installed.
/// - [`NetworkError::Command`]: it failed, was stuck, or did not start.
pub(crate) async fn run(
    tool: Tool,
    arguments: &[&str],
    input: &str,
    what: &'static str,
) -> Result<String, NetworkError> {
    let program = tool.name();
    let failed = |message: String| NetworkError::Command { program, what, message };
    let path = find(program).ok_or(NetworkError::Missing { program, package: tool.package() })?;
    let output = match tokio::time::timeout(LIMIT, output(&path, arguments, input)).await {
        Ok(output) => output.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("nothing for {} s", LIMIT.as_secs()))),
    };
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let message = String::from_utf8_lossy(&output.stderr);
        let message: String = message.trim().chars().take(MESSAGE_MAX).collect();
        Err(failed(if message.is_empty() { output.status.to_string() } else { message }))
    }
}

/// Runs `nft -f -` with a transaction. Does nothing if it is empty.
pub(crate) async fn nft(transaction: &str, what: &'static str) -> Result<(), NetworkError> {
    if transaction.is_empty() {
        return Ok(());
    }
    run(Tool::Nft, &["-f", "-"], transaction, what).await.map(drop)
}

async fn output(path: &Path, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(path)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
    let write = async {
        // A tool that ends before it has read everything says why on its own.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let (_, output) = tokio::join!(write, child.wait_with_output());
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tools_complaint_is_passed_on() {
        if !Tool::Ip.exists() {
            return;
        }
        let error = run(Tool::Ip, &["nonsense"], "", "list links").await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("list links: `ip` says: Object \"nonsense\""), "{text}");
    }
}
