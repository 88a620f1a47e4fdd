//! Serves a device to the kernel: reads requests into slots, answers from slots.
//!
//! A server begins with what a keeper granted. It first deals with every request that its
//! predecessor left behind, then reads new ones. It may be killed at any instant.
//!
//! # Invariants
//! - All slots of the predecessor are dealt with before the first request is read.
//! - A request is executed only if its slot is not marked as done; the mark precedes the reply.
//! - Requests and replies are in slots whose pages are present and locked in this process.
//! - A thread without a free slot does not read.

mod reader;
mod recover;
pub(crate) mod shared;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use sprite_types::ErrorKind;

use crate::device::Device;
use crate::fault::Faults;
use crate::keeper::{CallError, Client, Granted, Keeping};
use crate::layout::{HEADER_BYTES, Layout, LayoutError};
use crate::server::shared::Shared;
use crate::sys::{memory, process};

pub use recover::Recovery;

/// How a server reads. Since 0.1.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that read requests. A device that answers later needs two, one that does its work
    /// in `submit` as many as it should do at once. Default 4.
    pub threads: u16,
    /// The smallest range that discarding gives back, in bytes; a power of two from 4096 on.
    /// Default 64 KiB.
    pub discard_bytes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { threads: 4, discard_bytes: 64 << 10 }
    }
}

/// Why a server did not start. The keeper gives the slots to another one once this process ends.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is out of bounds.
    #[error("setting `{name}` is {value}, allowed is {allowed}")]
    Setting { name: &'static str, value: u64, allowed: String },
    /// The slots were made by a release whose layout this one does not know. Nothing was touched.
    #[error("read the layout of the slots")]
    Layout { source: LayoutError },
    /// The device is not as long as the disk that the kernel sees.
    #[error("the device has {device_bytes} bytes, the disk {disk_bytes}")]
    Length { device_bytes: u64, disk_bytes: u64 },
    /// A slot is in a state that does not exist.
    #[error("slot {slot} is in state {state}")]
    State { slot: u16, state: u32 },
    /// A slot is done, but its reply is not one.
    #[error("slot {slot} holds a result of a wrong length")]
    Reply { slot: u16 },
    /// The slots could not be mapped or locked into memory (limit of locked memory?).
    #[error("lock {bytes} bytes of request slots into memory")]
    Memory { bytes: u64, source: io::Error },
    /// The system refused something else.
    #[error("{doing}")]
    System { doing: &'static str, source: io::Error },
}

impl StartError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting { .. } | Self::Length { .. } => ErrorKind::Invalid,
            Self::Layout { source: LayoutError::Version { .. } } => ErrorKind::Unsupported,
            Self::Layout { .. } | Self::State { .. } | Self::Reply { .. } => ErrorKind::Corrupt,
            Self::Memory { .. } => ErrorKind::Limited,
            Self::System { .. } => ErrorKind::Internal,
        }
    }
}

/// Why a server serves no longer.
#[derive(Debug)]
pub enum End {
    /// The kernel has closed the disk for good: it was given up, or its keeper too is gone.
    Disconnected,
    /// Reading requests fails again and again. Nothing is lost; a successor may do better.
    Failed(io::Error),
    /// The device panicked. What it was doing is not answered but left to a successor, as after
    /// any other death; end the process.
    Panicked,
}

/// Requests that a drain did not see the end of.
#[derive(Debug, thiserror::Error)]
#[error("{in_flight} requests are still with the device")]
pub struct StillBusy {
    pub in_flight: usize,
}

/// Threads that serve a device. Dropping it ends the reading; requests that the device has not
/// answered by then stay for the successor.
pub struct Server {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
    recovery: Recovery,
    incarnation: u32,
    memory: OwnedFd,
    mount: OwnedFd,
    keeper: OwnedFd,
}

impl Server {
    /// Takes over where the predecessor was killed, if there was one, and serves from then on.
    ///
    /// Every request left behind has been answered or given to the device when this returns.
    ///
    /// # Errors
    /// See [`StartError`]; end the process then, so that the keeper can grant to another.
    pub fn start(
        granted: Granted,
        device: Arc<dyn Device>,
        settings: &Settings,
    ) -> Result<Self, StartError> {
        Self::start_inner(granted, device, settings, Faults::default())
    }

    /// As [`Server::start`], with faults.
    ///
    /// # Errors
    /// As [`Server::start`].
    #[cfg(feature = "test-util")]
    pub fn start_with_faults(
        granted: Granted,
        device: Arc<dyn Device>,
        settings: &Settings,
        faults: Faults,
    ) -> Result<Self, StartError> {
        Self::start_inner(granted, device, settings, faults)
    }

    fn start_inner(
        granted: Granted,
        device: Arc<dyn Device>,
        settings: &Settings,
        faults: Faults,
    ) -> Result<Self, StartError> {
        let layout = read_layout(&granted.memory)?;
        check(settings, &layout)?;
        let (device_bytes, disk_bytes) = (device.len_bytes(), layout.len_bytes());
        if device_bytes != disk_bytes {
            return Err(StartError::Length { device_bytes, disk_bytes });
        }
        let system = |doing| move |source| StartError::System { doing, source };
        process::prepare_waking().map_err(system("set a signal's handler"))?;
        become_io_flusher();
        let present = !faults.leaves_pages_absent();
        let slots = memory::map_slots(granted.memory.as_fd(), &layout, present)
            .map_err(|source| StartError::Memory { bytes: layout.total_bytes() as u64, source })?;
        recover::check(&slots)?;

        let Granted { fuse, memory, mount, keeper, incarnation, .. } = granted;
        let shared = Arc::new(Shared::new(fuse, layout, settings.discard_bytes, faults));
        let recovery = recover::run(&shared, &*device, slots);
        tracing::info!(?recovery, "disk taken over");
        let readers = Vec::new();
        let mut server = Self { shared, readers, recovery, incarnation, memory, mount, keeper };
        for number in 0..settings.threads {
            let (shared, device) = (Arc::clone(&server.shared), Arc::clone(&device));
            let reader = std::thread::Builder::new()
                .name(format!("disk-{number}"))
                .spawn(move || reader::run(&shared, &*device))
                .map_err(system("start a thread"))?;
            server.readers.push(reader);
        }
        Ok(server)
    }

    /// What the predecessor had left.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Requests that have been read and not answered, and threads that wait for one.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight()
    }

    /// Replies that the kernel did not take. Each was an I/O error to somebody.
    #[must_use]
    pub fn replies_failed(&self) -> u64 {
        self.shared.replies_failed.load(Ordering::Relaxed)
    }

    /// Whether the keeper lives. Without it the disk works, but does not survive this process.
    #[must_use]
    pub fn has_keeper(&self) -> bool {
        !crate::socket::is_closed(&self.keeper)
    }

    /// Gives copies of everything to a keeper started with
    /// [`crate::keeper::run_replacement`], after the old one was lost. What was deposited there
    /// is to be deposited again.
    ///
    /// # Errors
    /// See [`CallError`]; serving goes on.
    pub fn move_to(&mut self, client: Client) -> Result<Keeping, CallError> {
        let disk = [self.shared.fuse.as_fd(), self.memory.as_fd(), self.mount.as_fd()];
        self.keeper = client.adopt(self.incarnation, &disk)?;
        Keeping::new(&self.keeper)
    }

    /// Waits until serving has ended by itself; none if it has not within `limit`.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<End> {
        self.shared.ending.wait(limit)
    }

    /// Stops reading and waits until all that was read is answered: for a planned change of
    /// servers. End the process afterwards; requests wait in the kernel for the successor.
    ///
    /// # Errors
    /// [`StillBusy`] if the device takes longer than `limit`. Reading has stopped all the same;
    /// call again, or end the process and leave the rest to the successor.
    pub fn drain(&mut self, limit: Duration) -> Result<(), StillBusy> {
        self.stop_reading();
        match self.shared.wait_idle(limit) {
            0 => Ok(()),
            in_flight => Err(StillBusy { in_flight }),
        }
    }

    fn stop_reading(&mut self) {
        self.shared.close();
        // A signal that comes just before the thread enters its read is lost, so send it again.
        while self.readers.iter().any(|reader| !reader.is_finished()) {
            self.readers.iter().filter(|reader| !reader.is_finished()).for_each(process::wake);
            std::thread::sleep(Duration::from_millis(1));
        }
        for reader in self.readers.drain(..) {
            if reader.join().is_err() {
                tracing::error!("a thread that serves a disk panicked");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_reading();
    }
}

fn read_layout(memory: &OwnedFd) -> Result<Layout, StartError> {
    let system = |source: rustix::io::Errno| StartError::System {
        doing: "read the slots' memory",
        source: source.into(),
    };
    let mut header = [0; HEADER_BYTES];
    let read = rustix::io::pread(memory, &mut header, 0).map_err(system)?;
    let len = rustix::fs::fstat(memory).map_err(system)?.st_size;
    let len = if read == HEADER_BYTES { u64::try_from(len).unwrap_or(0) } else { 0 };
    Layout::decode(&header, len).map_err(|source| StartError::Layout { source })
}

fn check(settings: &Settings, layout: &Layout) -> Result<(), StartError> {
    let Settings { threads, discard_bytes } = *settings;
    // One slot more than threads, or a device that answers later would stop the reading.
    let threads_max = layout.slots().saturating_sub(1).max(1);
    if threads == 0 || threads > threads_max {
        let allowed = format!("1 to {threads_max} (the slots are {})", layout.slots());
        return Err(StartError::Setting { name: "threads", value: threads.into(), allowed });
    }
    if !discard_bytes.is_power_of_two() || !(4096..=1 << 20).contains(&discard_bytes) {
        let allowed = "a power of two from 4096 to 1048576".to_owned();
        return Err(StartError::Setting {
            name: "discard_bytes",
            value: discard_bytes.into(),
            allowed,
        });
    }
    Ok(())
}

/// Tells the kernel that this process is part of writing pages back, so that its own allocations
/// do not wait for pages that it would have to write. Threads started later inherit it.
fn become_io_flusher() {
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::warn!(%error, "not marked as part of the I/O path, low memory may stall the disk");
    }
}
