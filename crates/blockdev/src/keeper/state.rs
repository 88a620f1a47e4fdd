//! The keeper's loop: one event after the other, never waiting for a client.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::keeper::disk::Disk;
use crate::keeper::wire::{DEPOSITS_MAX, Message, Refusal};
use crate::keeper::{CLIENTS_MAX, Ended, KeeperError};
use crate::layout;
use crate::socket::{self, ReceiveError};
use crate::sys::process::{Peer, peer};

/// How long a keeper lacks the means for another connection before it tries again.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// A keeper at work.
pub(super) struct State<'a> {
    /// None in a replacement until a server brings one.
    disk: Option<Disk>,
    listener: &'a OwnedFd,
    clients: Vec<ClientState>,
    server: Option<Process>,
    deposits: Vec<(u32, OwnedFd)>,
    /// Counts servers.
    incarnation: u32,
    /// Counts connections.
    nonce: u64,
}

/// A process that cannot be mistaken for a later one of the same number.
struct Process {
    pid: i32,
    /// Readable once no thread of the process is left. Until then one of them may still be
    /// inside a write to the cache.
    pidfd: OwnedFd,
}

struct ClientState {
    socket: OwnedFd,
    pid: i32,
    /// The process, until it is the server.
    pidfd: Option<OwnedFd>,
    nonce: u64,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Asks for this and that.
    Visitor,
    /// Gets the disk when its server is gone.
    Waiting,
    /// Was sent the disk, and has not said that it got it.
    Granted,
    /// Has the disk.
    Server,
}

/// What to do with a client after a message.
enum Verdict {
    Keep,
    Drop,
    End,
}

impl<'a> State<'a> {
    pub(super) fn new(disk: Option<Disk>, listener: &'a OwnedFd) -> Self {
        Self {
            disk,
            listener,
            clients: Vec::new(),
            server: None,
            deposits: Vec::new(),
            incarnation: 0,
            nonce: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<Ended, KeeperError> {
        loop {
            let events = self.wait().map_err(|error| KeeperError::System {
                doing: "wait for events",
                source: error.into(),
            })?;
            if self.server.is_some() && events.watched {
                let server = self.server.take().expect("watched because it is there");
                tracing::info!(pid = server.pid, "server gone");
                self.clients.retain(|client| !matches!(client.role, Role::Granted | Role::Server));
            }
            if self.server.is_none() && self.disk.as_ref().is_some_and(|disk| !disk.is_connected())
            {
                return Ok(Ended::Disconnected);
            }
            for nonce in events.clients {
                let Some(index) = self.clients.iter().position(|c| c.nonce == nonce) else {
                    continue;
                };
                match self.hear(index) {
                    Verdict::Keep => {}
                    Verdict::Drop => self.drop_client(index),
                    Verdict::End => return Ok(Ended::Stopped),
                }
            }
            self.grant_to_waiting();
            if events.listener {
                self.accept();
            }
        }
    }

    fn wait(&self) -> Result<Events, Errno> {
        loop {
            // While a server reads, every request would wake us too: then only its end counts.
            let watched = match (&self.server, &self.disk) {
                (Some(server), _) => PollFd::new(&server.pidfd, PollFlags::IN),
                (None, Some(disk)) => PollFd::new(&disk.fuse, PollFlags::empty()),
                // Anything that never does anything by itself.
                (None, None) => PollFd::new(self.listener, PollFlags::empty()),
            };
            let mut fds = vec![PollFd::new(self.listener, PollFlags::IN), watched];
            fds.extend(self.clients.iter().map(|c| PollFd::new(&c.socket, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            }
            let happened = |index: usize| !fds[index].revents().is_empty();
            let clients = self.clients.iter().enumerate().filter(|(index, _)| happened(index + 2));
            let clients = clients.map(|(_, client)| client.nonce).collect();
            return Ok(Events { listener: happened(0), watched: happened(1), clients });
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(self.listener, flags) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                // It stays in the queue, and what is missing comes back or does not.
                std::thread::sleep(ACCEPT_PAUSE);
                return;
            }
        };
        match self.admit(socket) {
            Ok(client) => self.clients.push(client),
            Err(error) => tracing::warn!(%error, "connection refused"),
        }
    }

    fn admit(&mut self, socket: OwnedFd) -> io::Result<ClientState> {
        let Peer { pid, uid } = peer(&socket)?;
        if uid != 0 {
            return Err(io::Error::other(format!("peer has user id {uid}")));
        }
        if self.clients.len() >= CLIENTS_MAX {
            return Err(io::Error::other("too many connections"));
        }
        let process = Pid::from_raw(pid)
            .ok_or_else(|| io::Error::other("peer is outside of our pid namespace"))?;
        // The process may have ended since it connected, and its number be another's. That this
        // is not so shows when it repeats the nonce, which it gets only now.
        let pidfd = Some(pidfd_open(process, PidfdFlags::empty())?);
        self.nonce += 1;
        let hello = Message::Hello { nonce: self.nonce, layout: layout::VERSION };
        socket::send(&socket, &hello, &[])?;
        Ok(ClientState { socket, pid, pidfd, nonce: self.nonce, role: Role::Visitor })
    }

    fn drop_client(&mut self, index: usize) {
        let client = self.clients.remove(index);
        // It gave up waiting just when it was its turn. The process may live long.
        if client.role == Role::Granted {
            tracing::info!(pid = client.pid, "disk not taken");
            self.server = None;
        }
    }

    /// Handles what has come from a client.
    fn hear(&mut self, index: usize) -> Verdict {
        let client = &self.clients[index];
        let (message, fds) = match socket::receive_now(&client.socket) {
            Ok(received) => received,
            Err(ReceiveError::TimedOut) => return Verdict::Keep,
            Err(ReceiveError::Closed) => return Verdict::Drop,
            Err(error) => {
                tracing::warn!(%error, pid = client.pid, "connection dropped");
                return Verdict::Drop;
            }
        };
        match self.answer(index, message, fds) {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::warn!(%error, pid = self.clients[index].pid, "client not answered");
                Verdict::Drop
            }
        }
    }

    fn answer(
        &mut self,
        index: usize,
        message: Message,
        mut fds: Vec<OwnedFd>,
    ) -> Result<Verdict, Errno> {
        let role = self.clients[index].role;
        let reply = match message {
            Message::Take { nonce } => match self.may_take(index, nonce) {
                Ok(()) => {
                    self.clients[index].role = Role::Waiting;
                    return Ok(Verdict::Keep);
                }
                Err(refusal) => Message::Refused(refusal),
            },
            Message::Ok if role == Role::Granted => {
                self.clients[index].role = Role::Server;
                tracing::info!(pid = self.clients[index].pid, "disk taken");
                return Ok(Verdict::Keep);
            }
            Message::Deposit { key } if role == Role::Server && fds.len() == 1 => {
                self.deposit(key, fds.remove(0))
            }
            Message::Withdraw { key } if role == Role::Server => {
                self.deposits.retain(|(kept, _)| *kept != key);
                Message::Ok
            }
            Message::Mount => {
                let socket = &self.clients[index].socket;
                match &self.disk {
                    Some(disk) => {
                        socket::send(socket, &Message::MountGranted, &[disk.mount.as_fd()])?;
                        return Ok(Verdict::Keep);
                    }
                    None => Message::Refused(Refusal::Disconnected),
                }
            }
            Message::Adopt { nonce, incarnation } => {
                match self.adopt(index, nonce, incarnation, fds) {
                    Ok(()) => Message::Ok,
                    Err(refusal) => Message::Refused(refusal),
                }
            }
            Message::Status => Message::StatusIs {
                server_pid: self.server.as_ref().map_or(0, |s| s.pid.cast_unsigned()),
                incarnation: self.incarnation,
                connected: self.is_connected(),
                waiting: self.clients.iter().any(|client| client.role == Role::Waiting),
            },
            Message::Stop if self.server.is_some() => Message::Refused(Refusal::Busy),
            Message::Stop => {
                socket::send(&self.clients[index].socket, &Message::Ok, &[])?;
                return Ok(Verdict::End);
            }
            _ => Message::Refused(Refusal::Unexpected),
        };
        socket::send(&self.clients[index].socket, &reply, &[])?;
        Ok(Verdict::Keep)
    }

    fn may_take(&self, index: usize, nonce: u64) -> Result<(), Refusal> {
        let client = &self.clients[index];
        if client.role != Role::Visitor || client.nonce != nonce {
            return Err(Refusal::Unexpected);
        }
        if self.clients.iter().any(|other| other.role == Role::Waiting) {
            return Err(Refusal::Busy);
        }
        // Two servers in one process would not be told apart by its end.
        if self.server.as_ref().is_some_and(|server| server.pid == client.pid) {
            return Err(Refusal::Busy);
        }
        if self.is_connected() { Ok(()) } else { Err(Refusal::Disconnected) }
    }

    fn is_connected(&self) -> bool {
        self.disk.as_ref().is_some_and(Disk::is_connected)
    }

    /// Takes a disk from the process that serves it.
    fn adopt(
        &mut self,
        index: usize,
        nonce: u64,
        incarnation: u32,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let client = &mut self.clients[index];
        let Ok([fuse, memory, mount]) = <[OwnedFd; 3]>::try_from(fds) else {
            return Err(Refusal::Unexpected);
        };
        if client.nonce != nonce || self.disk.is_some() {
            return Err(Refusal::Unexpected);
        }
        let Some(pidfd) = client.pidfd.take() else { return Err(Refusal::Unexpected) };
        client.role = Role::Server;
        self.server = Some(Process { pid: client.pid, pidfd });
        self.disk = Some(Disk { fuse, memory, mount });
        self.incarnation = incarnation;
        tracing::info!(pid = client.pid, "disk adopted");
        Ok(())
    }

    fn deposit(&mut self, key: u32, fd: OwnedFd) -> Message {
        let full = self.deposits.len() >= DEPOSITS_MAX;
        match self.deposits.iter_mut().find(|(kept, _)| *kept == key) {
            Some((_, kept)) => *kept = fd,
            None if full => return Message::Refused(Refusal::Full),
            None => self.deposits.push((key, fd)),
        }
        Message::Ok
    }

    /// Hands the disk to who waits for it, if nobody has it.
    fn grant_to_waiting(&mut self) {
        let (None, Some(disk)) = (&self.server, &self.disk) else { return };
        let waiting = self.clients.iter_mut().position(|client| client.role == Role::Waiting);
        let Some(index) = waiting else { return };
        let client = &mut self.clients[index];
        let pidfd = client.pidfd.take().expect("not the server yet");
        // From here on the process may have the descriptors: its end is waited for.
        self.incarnation += 1;
        client.role = Role::Granted;
        let pid = client.pid;
        self.server = Some(Process { pid, pidfd });
        let keys = self.deposits.iter().map(|(key, _)| *key).collect();
        let mut fds = vec![disk.fuse.as_fd(), disk.memory.as_fd(), disk.mount.as_fd()];
        fds.extend(self.deposits.iter().map(|(_, fd)| fd.as_fd()));
        let granted = Message::Granted { incarnation: self.incarnation, keys };
        match socket::send(&client.socket, &granted, &fds) {
            Ok(()) => tracing::info!(pid, incarnation = self.incarnation, "disk granted"),
            Err(error) => {
                tracing::warn!(%error, pid, "disk not granted");
                self.drop_client(index);
            }
        }
    }
}

struct Events {
    listener: bool,
    /// The server is gone; or, without one, something happened to the kernel's side.
    watched: bool,
    /// The clients, by nonce, that have sent something or hung up.
    clients: Vec<u64>,
}
