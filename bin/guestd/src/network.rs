//! The machine's end of the network: a veth pair, made with `ip` from text that the host's
//! network code has agreed to.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sprite_link::boot::NetworkSpec;

/// Where `ip` is looked for; the agent's own environment may have no `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Connects the container. `namespace` is its network namespace, `init_pid` its init.
///
/// # Errors
/// In words, with what `ip` said.
pub(crate) fn connect(spec: &NetworkSpec, init_pid: i32, namespace: OwnedFd) -> io::Result<()> {
    let batch = spec.veth_batch(init_pid);
    run_ip(&batch.create)?;
    write_sysctls(&batch.host_sysctls)?;
    // A thread of its own goes in: settings and `ip` follow the thread that asks.
    let (guest, sysctls) = (batch.guest, batch.guest_sysctls);
    let thread = std::thread::Builder::new().spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        write_sysctls(&sysctls)?;
        run_ip(&guest)
    })?;
    let inside = thread.join().map_err(|_| io::Error::other("the thread panicked"))?;
    inside.and_then(|()| run_ip(&batch.connect))
}

fn run_ip(input: &str) -> io::Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("run `ip`: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it does not read to the end it says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    if child.wait()?.success() {
        return Ok(());
    }
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(io::Error::other(format!("`ip` failed: {said}")))
}

fn write_sysctls(settings: &[(String, &str)]) -> io::Result<()> {
    for (path, value) in settings {
        match std::fs::write(path, value) {
            Ok(()) => {}
            // A kernel without IPv6, for one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        }
    }
    Ok(())
}
