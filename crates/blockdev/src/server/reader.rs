//! One of the threads that read requests.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::abi;
use crate::device::Device;
use crate::fault::Point;
use crate::layout::{ATTEMPTS, STATE, State};
use crate::server::End;
use crate::server::shared::Shared;
use crate::sys::process;

/// Failed reads in a row after which a thread gives up.
const FAILURES_MAX: u32 = 16;

/// Why serving has ended, once it has.
#[derive(Default)]
pub(crate) struct Ending {
    end: Mutex<Option<End>>,
    changed: Condvar,
}

impl Ending {
    /// Notes the end; the first reason stays.
    pub(crate) fn set(&self, end: End) {
        let mut slot = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(end);
        self.changed.notify_all();
    }

    pub(crate) fn wait(&self, limit: Duration) -> Option<End> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, _) = self
            .changed
            .wait_timeout_while(end, limit, |end| end.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        match &*end {
            None => None,
            Some(End::Disconnected) => Some(End::Disconnected),
            Some(End::Panicked) => Some(End::Panicked),
            // Errors of the system cannot be cloned, but made again from their number.
            Some(End::Failed(error)) => {
                Some(End::Failed(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(0))))
            }
        }
    }
}

/// Notes the end of a thread that panics, be it in the device's code or in ours.
struct NotePanic<'a>(&'a Ending);

impl Drop for NotePanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set(End::Panicked);
        }
    }
}

/// Reads and dispatches until there are no more slots to be had or the disk is gone.
pub(crate) fn run(shared: &Arc<Shared>, device: &dyn Device) {
    let ending = &shared.ending;
    let _note = NotePanic(ending);
    process::allow_waking();
    let mut failures = 0;
    while let Some((mut control, mut data)) = shared.take_slot() {
        // The header must be seen as empty before the kernel may fill it: from it alone a
        // successor tells whether a request was delivered.
        control.head_mut().fill(0);
        control.store(ATTEMPTS, 0);
        control.store(STATE, State::Armed.number());
        match control.receive(shared.fuse.as_fd(), &mut data) {
            Ok(received) if received > 0 && received == abi::stated_len(control.head()) => {
                failures = 0;
                shared.faults.reached(Point::Received, &control);
                control.store(STATE, State::Taken.number());
                shared.dispatch(device, (control, data));
            }
            Ok(received) => {
                tracing::error!(received, "the kernel delivered half a request");
                failures += 1;
                shared.free_slot((control, data));
            }
            Err(error) => {
                shared.free_slot((control, data));
                match error.raw_os_error() {
                    // Woken to stop; or the request was given up while it was being read.
                    Some(libc::EINTR | libc::EAGAIN | libc::ENOENT) => {}
                    Some(libc::ENODEV | libc::ECONNABORTED) => {
                        ending.set(End::Disconnected);
                        return;
                    }
                    _ => {
                        tracing::error!(%error, "reading a request failed");
                        failures += 1;
                        if failures >= FAILURES_MAX {
                            ending.set(End::Failed(error));
                            return;
                        }
                    }
                }
            }
        }
    }
}
