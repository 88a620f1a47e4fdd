//! Devices for tests and measurements.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use rustix::fs::FallocateFlags;

use crate::device::{Device, DeviceError, Done, Request};
pub use crate::fault::{Faults, Point, Probed};
use crate::server::{Server, Settings, StartError};

/// A plain file as a disk. Answers within `submit`.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    len_bytes: u64,
}

impl FileDevice {
    /// Serves a file of at least `len_bytes`; the file's own end may be a hole.
    #[must_use]
    pub fn new(file: File, len_bytes: u64) -> Self {
        Self { file, len_bytes }
    }

    fn execute(&self, request: Request) -> std::io::Result<()> {
        match request {
            Request::Read { offset, mut buffer } => self.file.read_exact_at(&mut buffer, offset),
            Request::Write { offset, data } => self.file.write_all_at(&data, offset),
            Request::Flush => self.file.sync_data(),
            Request::Zero { offset, len, .. } => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(rustix::fs::fallocate(self.file.as_fd(), mode, offset, len)?)
            }
        }
    }
}

impl Device for FileDevice {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn submit(&self, request: Request, done: Done) {
        let result = self.execute(request).map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull => DeviceError::NoSpace,
            _ => DeviceError::Io,
        });
        done.finish(result);
    }
}

type Job = (Request, Done);

/// Another device, whose answers come later and from other threads.
pub struct Deferred {
    len_bytes: u64,
    jobs: Option<mpsc::Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
}

impl Deferred {
    /// Gives every request to one of `workers` threads.
    #[must_use]
    pub fn new(device: impl Device, workers: usize) -> Self {
        let device = std::sync::Arc::new(device);
        let (jobs, inbox) = mpsc::channel::<Job>();
        let inbox = std::sync::Arc::new(Mutex::new(inbox));
        let len_bytes = device.len_bytes();
        let workers = (0..workers)
            .map(|_| {
                let (device, inbox) = (device.clone(), inbox.clone());
                std::thread::spawn(move || {
                    let next = || inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    while let Ok((request, done)) = next() {
                        device.submit(request, done);
                    }
                })
            })
            .collect();
        Self { len_bytes, jobs: Some(jobs), workers }
    }
}

impl Device for Deferred {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn submit(&self, request: Request, done: Done) {
        if let Some(jobs) = &self.jobs {
            // The workers end only after this sender is gone.
            let _ = jobs.send((request, done));
        }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// Starts a server that breaks rules or stops at points.
///
/// # Errors
/// As [`Server::start`].
pub fn start_with_faults(
    granted: crate::keeper::Granted,
    device: std::sync::Arc<dyn Device>,
    settings: &Settings,
    faults: Faults,
) -> Result<Server, StartError> {
    Server::start_with_faults(granted, device, settings, faults)
}
