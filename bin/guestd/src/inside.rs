//! What the agent does inside the container: helpers that the launcher runs there, and the
//! agent's side of talking to them.
//!
//! A helper gets one unix socket, reads a JSON request until its end, and answers with a text:
//! empty if all went well. It runs with the container's rights on the container's files, so the
//! paths here can mislead only those who made them misleading.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use sprite_container::{HelperFn, Launcher, User};
use sprite_link::boot::{Identity, NetworkSpec};

/// Where programs of the sprite find the management API. Source: contract, in-sprite 4.
pub(crate) const API_SOCKET: &str = "/.sprite/api.sock";
/// How long a helper may take; it touches a few files of the root disk.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_MAX: u64 = 4096;
/// Ends the line of `/etc/hosts` that is ours.
const HOSTS_MARK: &str = "# this sprite";

/// The helpers to register with the launcher.
pub const HELPERS: &[(&str, HelperFn)] = &[
    (sprite_files::HELPER, sprite_files::helper_main),
    ("identity", identity_helper),
    ("api-socket", api_socket_helper),
];

/// What the sprite's files say about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Naming {
    pub(crate) hostname: String,
    /// Absent without a network.
    pub(crate) address: Option<String>,
    pub(crate) resolver: Option<String>,
}

impl Naming {
    pub(crate) fn of(identity: &Identity, network: Option<&NetworkSpec>) -> Self {
        Self {
            hostname: identity.hostname.clone(),
            address: network.map(|network| network.address.clone()),
            resolver: network.map(|network| network.gateway.clone()),
        }
    }
}

/// Makes the sprite know its name, address and resolver.
pub(crate) async fn set_naming(launcher: &Launcher, naming: &Naming) -> io::Result<()> {
    let request = serde_json::to_vec(naming)?;
    let (mut ours, theirs) = UnixStream::pair()?;
    launcher.helper(User::Root, "identity", theirs.into()).await.map_err(io::Error::other)?;
    ask(move || {
        prepare(&mut ours, &request)?;
        let mut answer = String::new();
        ours.take(ANSWER_MAX).read_to_string(&mut answer)?;
        if answer.is_empty() { Ok(()) } else { Err(io::Error::other(answer)) }
    })
    .await
}

/// Binds the management socket inside and returns it.
pub(crate) async fn bind_api_socket(launcher: &Launcher) -> io::Result<UnixListener> {
    let (mut ours, theirs) = UnixStream::pair()?;
    launcher.helper(User::Root, "api-socket", theirs.into()).await.map_err(io::Error::other)?;
    ask(move || {
        prepare(&mut ours, b"")?;
        let (answer, fd) = receive_with_fd(&ours)?;
        let fd = fd.ok_or_else(|| io::Error::other(answer))?;
        Ok(UnixListener::from(fd))
    })
    .await
}

async fn ask<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn prepare(socket: &mut UnixStream, request: &[u8]) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(request)?;
    socket.shutdown(Shutdown::Write)
}

fn receive_with_fd(socket: &UnixStream) -> io::Result<(String, Option<OwnedFd>)> {
    let mut text = vec![0; usize::try_from(ANSWER_MAX).unwrap_or(4096)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((String::from_utf8_lossy(&text[..received.bytes]).into_owned(), fd))
}

/// Runs a helper's work and tells how it went.
fn serve(socket: OwnedFd, work: impl FnOnce(&[u8], &UnixStream) -> io::Result<()>) -> i32 {
    let mut socket = UnixStream::from(socket);
    let mut request = Vec::new();
    let result = match Read::by_ref(&mut socket).take(1 << 20).read_to_end(&mut request) {
        Ok(_) => work(&request, &socket),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            // Without the agent there is nobody to tell.
            let _ = socket.write_all(error.to_string().as_bytes());
            1
        }
    }
}

fn identity_helper(socket: OwnedFd) -> i32 {
    serve(socket, |request, _| {
        let naming: Naming = serde_json::from_slice(request)?;
        rustix::system::sethostname(naming.hostname.as_bytes())?;
        let Naming { hostname, address, resolver } = naming;
        replace("/etc/hostname", |_| format!("{hostname}\n"))?;
        replace("/etc/hosts", |before| hosts(before, &hostname, address.as_deref()))?;
        match resolver {
            Some(resolver) => replace("/etc/resolv.conf", |_| format!("nameserver {resolver}\n")),
            None => Ok(()),
        }
    })
}

/// Keeps a user's `/etc/hosts` but for the one line about this sprite.
fn hosts(before: Option<&str>, hostname: &str, address: Option<&str>) -> String {
    let default = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let lines = before.unwrap_or(default).lines().filter(|line| !line.ends_with(HOSTS_MARK));
    let mut text: String = lines.flat_map(|line| [line, "\n"]).collect();
    let address = address.unwrap_or("127.0.1.1");
    text.push_str(&format!("{address}\t{hostname}\t{HOSTS_MARK}\n"));
    text
}

/// Replaces a file's content at once or not at all, and only if it changes. A link is replaced
/// by the file.
fn replace(path: &str, change: impl FnOnce(Option<&str>) -> String) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    let is_file = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    let before = if is_file { read_small(path).ok() } else { None };
    let after = change(before.as_deref());
    if before.as_ref() == Some(&after) {
        return Ok(());
    }
    let unfinished = format!("{path}.sprite-new");
    // From a boot that was cut short.
    let _ = std::fs::remove_file(&unfinished);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).open(&unfinished).map_err(named)?;
    file.write_all(after.as_bytes()).map_err(named)?;
    file.set_permissions(PermissionsExt::from_mode(0o644)).map_err(named)?;
    std::fs::rename(&unfinished, path).map_err(named)
}

fn read_small(path: &str) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(1 << 20).read_to_string(&mut text)?;
    Ok(text)
}

fn api_socket_helper(socket: OwnedFd) -> i32 {
    serve(socket, |_, agent| {
        let path = Path::new(API_SOCKET);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o666))?;
        let fds = [listener.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        sendmsg(agent, &[IoSlice::new(b"ok")], &mut control, SendFlags::empty())?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_hosts_are_kept() {
        let first = hosts(None, "demo", Some("10.77.0.2"));
        assert!(first.contains("127.0.0.1\tlocalhost\n"));
        assert!(first.ends_with("10.77.0.2\tdemo\t# this sprite\n"));
        let edited = format!("1.2.3.4 mine\n{first}5.6.7.8 also\n");
        let second = hosts(Some(&edited), "renamed", Some("10.77.0.9"));
        assert!(second.contains("1.2.3.4 mine\n") && second.contains("5.6.7.8 also\n"));
        assert!(!second.contains("demo") && second.contains("10.77.0.9\trenamed"));
        assert_eq!(hosts(Some(&second), "renamed", Some("10.77.0.9")), second);
    }

    #[test]
    fn descriptors_come_through_with_their_answer() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let fds = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&theirs, &[IoSlice::new(b"ok")], &mut control, SendFlags::empty()).unwrap();
        let (text, fd) = receive_with_fd(&ours).unwrap();
        assert_eq!(text, "ok");
        assert!(fd.is_some());
        drop(theirs);
        assert!(receive_with_fd(&ours).unwrap().1.is_none());
    }
}
