//! Points at which a test stops or kills a server, and rules that a test breaks.
//!
//! Without the feature `test-util` all of this is empty and costs nothing.

use crate::sys::memory::Control;

/// A moment in the life of a request.
#[cfg_attr(not(feature = "test-util"), expect(unreachable_pub, reason = "public for tests"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The kernel has delivered it; nothing in the slot says so but its header.
    Received,
    /// The device has done it; nothing in the slot says so.
    Executed,
    /// The slot says that it is done; the kernel has no reply.
    Marked,
    /// The kernel has the reply; the slot is not free yet.
    Replied,
}

#[cfg(feature = "test-util")]
pub use enabled::{Faults, Probed};

#[cfg(feature = "test-util")]
mod enabled {
    use std::sync::Arc;

    use super::{Control, Point};
    use crate::abi;

    /// The request that has reached a point.
    #[derive(Clone, Copy, Debug)]
    pub struct Probed {
        /// FUSE's number of the kind of request.
        pub opcode: u32,
        /// Where on the disk, in bytes, if the request has a place.
        pub offset: u64,
    }

    type Probe = Arc<dyn Fn(Point, Probed) + Send + Sync>;

    /// What a test does to a server. The default does nothing.
    #[derive(Clone, Default)]
    pub struct Faults {
        /// Called at every point of every request.
        pub probe: Option<Probe>,
        /// Breaks a rule: requests are answered without being marked as done.
        pub skip_mark: bool,
        /// Breaks a rule: the slots' pages are not made present.
        pub absent_pages: bool,
    }

    impl Faults {
        pub(crate) fn reached(&self, point: Point, control: &Control) {
            if let Some(probe) = &self.probe {
                let head = control.head();
                probe(point, Probed { opcode: abi::opcode(head), offset: abi::offset(head) });
            }
        }

        pub(crate) fn skips_mark(&self) -> bool {
            self.skip_mark
        }

        pub(crate) fn leaves_pages_absent(&self) -> bool {
            self.absent_pages
        }
    }
}

/// Nothing, in a build without faults.
#[cfg(not(feature = "test-util"))]
#[derive(Clone, Default)]
pub(crate) struct Faults(());

#[cfg(not(feature = "test-util"))]
impl Faults {
    pub(crate) fn reached(&self, _: Point, _: &Control) {}

    pub(crate) fn skips_mark(&self) -> bool {
        false
    }

    pub(crate) fn leaves_pages_absent(&self) -> bool {
        false
    }
}
