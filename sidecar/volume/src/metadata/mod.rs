//! What a replica remembers beside its data. Pure: pages in, pages out; whoever owns the disk writes them.
//!
//! One area per replica, for all volumes of its group: at the tail of the first backing device, or in a file of its own
//! for devices that already hold data. All of it in pages of 4 KiB, each with magic, version, kind and CRC32C, written whole.
//!
//! ```text
//!  page 0      superblock A     lineage, incarnation, sizes, promised epoch, whole or not, generations, peers
//!  page 1      superblock B     the same: a change is durable once both copies are
//!  page 2..4   free: written before the first flush, that makes durable what a killed process left in a cache
//!  page 4..68  activity log     a ring of transactions; names the extents (64 chunks) that may be being written
//!  page 68..   bitmaps          one per peer: a bit for each chunk that may differ from that peer's
//! ```
//!
//! # What is relied on
//!
//! The disk writes sectors of 512 bytes whole, and what it has confirmed to be flushed stays. Nothing else: pages tear, and
//! what was written since the last flush survives in any part and any order.
//!
//! - **Superblock.** Both copies are written, one after the other, so that neither a torn write nor one copy that rots takes
//!   back a promise. The newer valid copy counts. Without a valid copy the replica is refused: it may have promised anything.
//! - **Activity log.** An extent is durably hot before data in it changes, and stays so while a write in it is not known to be
//!   durable everywhere (a claim). After a crash each hot extent counts as different from every peer's. A ring that is not
//!   whole says nothing: then everything counts as different. So does a transaction that a crash tore, although nothing had
//!   relied on it: it can not be told from one that was confirmed and has rotted. Disks that write 4 KiB whole (NVMe, EBS)
//!   do not tear it.
//! - **Bitmap.** Bits live in memory; a page must be durable before an extent that it covers leaves the log. A page that cannot
//!   be read counts as all ones. Cleared bits are saved when there is time: a bit that is set for nothing costs a
//!   comparison, one that is missing costs data.
//! - **Peers** have a bitmap each, bound to the incarnation and to a tag that every page repeats: pages of an earlier
//!   occupant of the same place are not valid, and what is not valid is all ones.

mod activity;
mod bitmap;
mod geometry;
mod grow;
mod locator;
mod page;
mod store;
mod superblock;
#[cfg(test)]
mod tests;

pub use geometry::{EXTENT_CHUNKS, Geometry, Unfit};
pub use grow::{Ungrown, grown};
pub use locator::Locator;
pub use page::{PAGE, PageFault};
pub use store::{Batch, Recovery, Store};
pub use superblock::{DataState, Peer, Slot, Superblock, Undo, unclaimed};

/// Why an area can not be used. None of these is repaired by itself: what was promised in it is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "no superblock can be read (A: {a}; B: {b}): this is no replica, or it has promised what nobody knows any more"
    )]
    NoSuperblock { a: PageFault, b: PageFault },
    #[error(transparent)]
    Unfit(#[from] Unfit),
}
