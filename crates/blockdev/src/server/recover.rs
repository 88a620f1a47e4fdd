//! Dealing with what a predecessor left in the slots.

use std::sync::Arc;

use crate::abi;
use crate::device::Device;
use crate::layout::{ATTEMPTS, STATE, State};
use crate::server::StartError;
use crate::server::shared::{Shared, Slot};

/// What a server found in the slots when it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Requests that were executed (again): delivered by the kernel, not marked as done.
    pub executed: usize,
    /// Of those, the ones that the predecessor itself may not have known of: the kernel had
    /// filled the slot and no instruction ran after that.
    pub unseen: usize,
    /// Requests whose result was sent (again), but which were not executed.
    pub answered: usize,
    /// The highest number of times that one of the requests was executed after a death. A number
    /// that grows from server to server means that this request kills them.
    pub attempts_max: u32,
}

/// Checks that all slots are in a state that exists and hold whole replies, before any is touched.
pub(crate) fn check(slots: &[Slot]) -> Result<(), StartError> {
    for (control, _) in slots {
        let (slot, state) = (control.index(), control.state());
        match State::from_number(state) {
            None => return Err(StartError::State { slot, state }),
            Some(State::Done) if !control.has_whole_reply() => {
                return Err(StartError::Reply { slot });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Answers, executes or frees every slot.
pub(crate) fn run(shared: &Arc<Shared>, device: &dyn Device, slots: Vec<Slot>) -> Recovery {
    let mut recovery = Recovery::default();
    for (control, data) in slots {
        let state = State::from_number(control.state()).expect("checked before");
        match state {
            State::Armed if abi::stated_len(control.head()) != 0 => {
                recovery.unseen += 1;
                execute(shared, device, (control, data), &mut recovery);
            }
            State::Taken => execute(shared, device, (control, data), &mut recovery),
            State::Free | State::Armed => shared.free_slot((control, data)),
            State::Done => {
                recovery.answered += 1;
                shared.reply(&control);
                shared.free_slot((control, data));
            }
        }
    }
    recovery
}

fn execute(shared: &Arc<Shared>, device: &dyn Device, slot: Slot, recovery: &mut Recovery) {
    let attempts = slot.0.load(ATTEMPTS).saturating_add(1);
    slot.0.store(ATTEMPTS, attempts);
    slot.0.store(STATE, State::Taken.number());
    recovery.executed += 1;
    recovery.attempts_max = recovery.attempts_max.max(attempts);
    shared.dispatch(device, slot);
}
