//! What a volume is in the bucket: names of its objects, and the small documents among them.
//!
//! ```text
//! format/<n>.json                    which formats everybody here must understand
//! orgs/<owner>/volumes/<vol>/
//!     volume/<n>.json                what the volume is: enough to adopt it without anything else
//!     generations/<n>.json           claims (crate `lease`)
//!     map/…                          the block map (crate `ltx`)
//!     packs/<generation>/<name>.pack blocks
//!     pins/<child>.json              who else reads what this volume wrote
//!     condemned/<name>.json          what the collector wants to delete
//!     deleted/<n>.json               tombstone, or its undo
//! ```
//!
//! # Invariants
//! - Everything of an org is below `orgs/<org>/`, everything of a volume below its own folder.
//! - Documents are create-only; of a numbered one the highest counts.
//! - A document of a version that this program does not know is an error, never absent.
//!
//! # Not here
//! Reading and writing the objects; when.

mod document;
mod layout;
mod records;

pub use document::{DocumentError, decode, encode};
pub use layout::{Owner, PackName, VolumeFolder, format_folder, volumes_of};
pub use records::{Format, FrontEnd, Parent, Pin, Tombstone, VolumeRecord};
