//! What the threads of a server share: the slots that are free, and answering.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::abi::{self, Answer, Call};
use crate::device::{Device, DeviceError, Done, OnSuccess, ReadBuffer, Request, WriteData};
use crate::fault::{Faults, Point};
use crate::layout::{Layout, OUT_HEADER_BYTES, REPLY_BYTES, STATE, State};
use crate::server::reader::Ending;
use crate::sys::memory::{Control, Data};

/// A whole slot: both of its handles.
pub(crate) type Slot = (Control, Data);

/// One server's state.
pub(crate) struct Shared {
    pub(crate) fuse: OwnedFd,
    pub(crate) layout: Layout,
    pub(crate) discard_bytes: u32,
    pub(crate) faults: Faults,
    pub(crate) replies_failed: AtomicU64,
    pub(crate) ending: Ending,
    pool: Mutex<Pool>,
    changed: Condvar,
}

struct Pool {
    free: Vec<Slot>,
    /// Per slot, the handle that came back while the other is still out.
    halves: Vec<Half>,
    closed: bool,
}

enum Half {
    None,
    Control(Control),
    Data(Data),
}

impl Shared {
    pub(crate) fn new(fuse: OwnedFd, layout: Layout, discard_bytes: u32, faults: Faults) -> Self {
        let halves = (0..layout.slots()).map(|_| Half::None).collect();
        Self {
            fuse,
            layout,
            discard_bytes,
            faults,
            replies_failed: AtomicU64::new(0),
            ending: Ending::default(),
            pool: Mutex::new(Pool {
                free: Vec::with_capacity(layout.slots().into()),
                halves,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // Every change of the pool is one assignment, so a panic elsewhere leaves it whole.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a free slot; none once the pool is closed.
    pub(crate) fn take_slot(&self) -> Option<Slot> {
        let mut pool = self.pool();
        loop {
            if pool.closed {
                return None;
            }
            match pool.free.pop() {
                Some(slot) => return Some(slot),
                None => {
                    pool = self.changed.wait(pool).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Gives out no more slots.
    pub(crate) fn close(&self) {
        self.pool().closed = true;
        self.changed.notify_all();
    }

    /// How many slots are in use.
    pub(crate) fn in_flight(&self) -> usize {
        usize::from(self.layout.slots()) - self.pool().free.len()
    }

    /// Waits until no slot is in use, for `limit` at most. Tells how many still are.
    pub(crate) fn wait_idle(&self, limit: std::time::Duration) -> usize {
        let slots = usize::from(self.layout.slots());
        let (pool, _) = self
            .changed
            .wait_timeout_while(self.pool(), limit, |pool| pool.free.len() < slots)
            .unwrap_or_else(PoisonError::into_inner);
        slots - pool.free.len()
    }

    /// Puts a slot back whose request is over, or that never held one.
    pub(crate) fn free_slot(&self, (control, data): Slot) {
        control.store(STATE, State::Free.number());
        self.pool().free.push((control, data));
        self.changed.notify_all();
    }

    fn return_control(&self, control: Control) {
        let mut pool = self.pool();
        let half = &mut pool.halves[usize::from(control.index())];
        match std::mem::replace(half, Half::None) {
            Half::Data(data) => {
                drop(pool);
                self.free_slot((control, data));
            }
            _ => *half = Half::Control(control),
        }
    }

    pub(crate) fn return_data(&self, index: u16, data: Data) {
        let mut pool = self.pool();
        let half = &mut pool.halves[usize::from(index)];
        match std::mem::replace(half, Half::None) {
            Half::Control(control) => {
                drop(pool);
                self.free_slot((control, data));
            }
            _ => *half = Half::Data(data),
        }
    }

    /// Answers or executes the request in `slot`, whose state is `Taken`.
    pub(crate) fn dispatch(self: &Arc<Self>, device: &dyn Device, (control, data): Slot) {
        let call = abi::parse(control.head(), &self.layout);
        let index = control.index();
        let done = |control, on_success| Done::new(control, on_success, Arc::clone(self));
        match call {
            Call::NoReply => self.free_slot((control, data)),
            Call::Answer(answer) => {
                self.return_data(index, data);
                self.answer(control, answer);
            }
            Call::Read { offset, len } => {
                let buffer = ReadBuffer::new(index, data, len as usize, Arc::clone(self));
                let done = done(control, OnSuccess::Data { len });
                device.submit(Request::Read { offset, buffer }, done);
            }
            Call::Write { offset, len } => {
                let data = WriteData::new(index, data, len as usize, Arc::clone(self));
                let done = done(control, OnSuccess::Written { len });
                device.submit(Request::Write { offset, data }, done);
            }
            Call::Flush => {
                self.return_data(index, data);
                device.submit(Request::Flush, done(control, OnSuccess::Empty));
            }
            Call::Zero { offset, len, discard } => {
                self.return_data(index, data);
                let done = done(control, OnSuccess::Empty);
                device.submit(Request::Zero { offset, len, discard }, done);
            }
        }
    }

    /// Answers what the device was asked.
    pub(crate) fn answer_device(
        &self,
        mut control: Control,
        on_success: OnSuccess,
        result: Result<(), DeviceError>,
    ) {
        let answer = match (result, on_success) {
            (Err(error), _) => Answer::Error(abi::errno(error)),
            (Ok(()), OnSuccess::Empty) => Answer::Empty,
            (Ok(()), OnSuccess::Written { len }) => Answer::Written { len },
            (Ok(()), OnSuccess::Data { len }) => {
                let unique = abi::unique(control.head());
                abi::write_out_header(control.out_mut(), unique, 0, len as usize);
                control.store(REPLY_BYTES.0, len);
                control.store(REPLY_BYTES.1, 1);
                return self.finish(control);
            }
        };
        self.answer(control, answer);
    }

    fn answer(&self, mut control: Control, answer: Answer) {
        let unique = abi::unique(control.head());
        let (head, body) = control.out_mut().split_at_mut(OUT_HEADER_BYTES);
        let (error, len) = abi::write_answer(body, answer, &self.layout, self.discard_bytes);
        abi::write_out_header(head, unique, error, len);
        control.store(REPLY_BYTES.0, u32::try_from(len).expect("a small body"));
        control.store(REPLY_BYTES.1, 0);
        self.finish(control);
    }

    /// Marks, then replies, then frees. In this order: a request that may have been answered is
    /// never executed again.
    fn finish(&self, control: Control) {
        self.faults.reached(Point::Executed, &control);
        if !self.faults.skips_mark() {
            control.store(STATE, State::Done.number());
        }
        self.faults.reached(Point::Marked, &control);
        self.reply(&control);
        self.faults.reached(Point::Replied, &control);
        self.return_control(control);
    }

    /// Sends the reply that lies in the slot.
    pub(crate) fn reply(&self, control: &Control) {
        match control.send(self.fuse.as_fd()) {
            Ok(()) => {}
            // Answered before, by a server that did not live to note it; or nobody waits.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => {
                self.replies_failed.fetch_add(1, Ordering::Relaxed);
                let opcode = abi::opcode(control.head());
                tracing::warn!(%error, opcode, "the kernel refused a reply");
            }
        }
    }
}
