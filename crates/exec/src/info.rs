//! What is known about a session from outside its task.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sprite_link::guest::SessionView;
use sprite_types::{Clock, SessionId, Timestamp};
use tokio::time::Instant;

use crate::rate::RateMeter;

/// A session that wrote something within this time counts as active.
const ACTIVE_WITHIN: Duration = Duration::from_secs(5);
/// Longest command line that is told, in bytes: with every character escaped it still fits a
/// session frame and a WebSocket message.
const COMMAND_MAX: usize = 8 * 1024;

#[derive(Debug)]
struct Activity {
    meter: RateMeter,
    last: Option<Timestamp>,
}

/// Facts and counters of one session.
#[derive(Debug)]
pub(crate) struct SessionInfo {
    pub(crate) id: SessionId,
    pub(crate) command: String,
    pub(crate) workdir: String,
    pub(crate) created: Timestamp,
    pub(crate) tty: bool,
    pub(crate) pid: i32,
    pub(crate) leaf: String,
    size: AtomicU32,
    activity: Mutex<Activity>,
}

impl SessionInfo {
    pub(crate) fn new(
        id: SessionId,
        mut command: String,
        workdir: String,
        created: Timestamp,
        size: Option<(u16, u16)>,
        process: (i32, String),
    ) -> Self {
        let told = (0..=COMMAND_MAX).rev().find(|&at| command.is_char_boundary(at));
        command.truncate(told.unwrap_or(0));
        let (cols, rows) = size.unwrap_or((80, 24));
        let activity = Activity { meter: RateMeter::new(Instant::now()), last: None };
        Self {
            id,
            command,
            workdir,
            created,
            tty: size.is_some(),
            pid: process.0,
            leaf: process.1,
            size: AtomicU32::new(u32::from(cols) << 16 | u32::from(rows)),
            activity: Mutex::new(activity),
        }
    }

    pub(crate) fn set_size(&self, cols: u16, rows: u16) {
        self.size.store(u32::from(cols) << 16 | u32::from(rows), Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: usize, clock: &dyn Clock) {
        let mut activity = self.activity.lock().expect("no panic while counting");
        activity.meter.add(Instant::now(), bytes);
        activity.last = Some(clock.now());
    }

    pub(crate) fn view(&self, clock: &dyn Clock) -> SessionView {
        let mut activity = self.activity.lock().expect("no panic while counting");
        let size = self.size.load(Ordering::Relaxed);
        SessionView {
            session_id: self.id,
            command: self.command.clone(),
            workdir: self.workdir.clone(),
            created: self.created,
            tty: self.tty,
            cols: (size >> 16) as u16,
            rows: (size & 0xffff) as u16,
            bytes_per_second: activity.meter.bytes_per_second(Instant::now()),
            is_active: activity.last.is_some_and(|last| clock.now().since(last) < ACTIVE_WITHIN),
            last_activity: activity.last,
        }
    }
}
