//! What an operator should know, whoever asks or not. Nothing is decided by it.

use super::verify::{Difference, Verification};
use crate::ids::Span;
use lease::ids::Incarnation;

/// Something that is worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Two copies differ where they must not. Told for the first few of one verification.
    Differs(Difference),
    /// A verification is over.
    Verified(Box<Verification>),
    /// The local disk could not read this; a peer could, and what was asked was answered.
    Served { span: Span, by: Incarnation },
    /// What the local disk could not read was written to it again.
    Repaired { span: Span },
    /// A resync goes on without keeping what it overwrites: until it ends, no whole image can be had here.
    NotKept,
    /// The local disk could not read this, and no peer in step could.
    Unreadable { span: Span },
}

/// How often what was met, since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes that were compared with a peer's, for each peer.
    pub compared_bytes: u64,
    /// Chunks that were found to differ from a peer's, for each peer and each time.
    pub differing_chunks: u64,
    /// Reads that the local disk failed: those that a peer served, those that were written anew then, and those that nobody served.
    pub reads_served: u64,
    pub reads_repaired: u64,
    pub reads_failed: u64,
}
