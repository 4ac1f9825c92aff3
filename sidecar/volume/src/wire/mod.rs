//! What a primary and a standby say to each other. Pure: bytes in, frames out, and the other way round.
//!
//! ```text
//!  primary                                              standby
//!    HELLO(identity, volumes, features) ──────────────▶
//!    ◀──────────────────────────────── CAPS(the same), or FENCED(promised epoch), or BYE(why)
//!    GENERATIONS, PROMISE ────────────────────────────▶ older epochs drained and refused for good, durably
//!    ◀──────────────── GENERATIONS, BITMAP.. (what may differ), PROMISED
//!    VERDICT ─────────────────────────────────────────▶ the same by its own reckoning, or BYE
//!    WRITE ZERO TRIM FLUSH BARRIER.. ─────────────────▶ in the order of their sequence
//!    ◀─────────────────────── WRITTEN(ranges) DURABLE(up to) NACK
//!    RESYNC, COPY, COMPARE.. CAUGHT_UP ───────────────▶ in the same stream
//!    ◀─────────────────────────── SAME / DIFFERS, IN_SYNC
//!    VERIFY, FETCH.. ─────────────────────────────────▶ in the same stream, of who is in sync
//!    ◀─────────────────────────── SAME / DIFFERS(digest), FETCHED(data)
//!    PING(settled up to) ◀────────────────────────────▶ PONG
//!    ROUND.. ─────────────────────────────────────────▶ in the stream of who follows asynchronously, which says REACHED(round)
//!    LAG(ms) ─────────────────────────────────────────▶ before PROMISED, and is told with each PONG how far behind it is
//! ```
//!
//! Every frame names epoch and session. Data frames have a place in the session's stream, without gaps: a frame that is
//! missing is noticed, and one of an earlier session can not be taken for one of this. A frame never spans connections.
//! What is received is bounded before anything is allocated for it, and checked before anybody acts on it. Data may travel packed by
//! LZ4, to who says in its HELLO or CAPS that it unpacks them: the frame is the same to both machines.

mod decode;
mod header;
mod message;
mod pack;
#[cfg(test)]
mod tests;

pub use decode::Decoder;
pub use header::{FUA, HEADER, Header, LAST, MAGIC, MANDATORY, MAX_CONTROL, MAX_DATA, MAX_SPAN, PACKED, VERSION};
pub use message::{
    BITMAP_WORDS_MAX, Bye, FETCHES, FOLLOWS, INTACT, Introduction, Message, ROUNDS, Refusal, UNPACKS, Verdict,
    WRITTEN_RANGES_MAX,
};

use crate::ids::{Sequence, Session};
use lease::ids::Epoch;

/// One frame: who speaks in which dialogue, and what is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The primary's epoch; in `FENCED`, the epoch that the standby has promised.
    pub epoch: Epoch,
    pub session: Session,
    /// In a frame of the stream its place; in what answers one, that one's place; else 0.
    pub sequence: Sequence,
    pub message: Message,
}

/// Why a stream of bytes is not a dialogue any more. All of them end the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("no frame begins here: found {found:#010x}")]
    Magic { found: u32 },
    #[error("version {found} is spoken, this program speaks {VERSION}")]
    Version { found: u8 },
    #[error("header checksum: computed {computed:#010x}, found {found:#010x}")]
    HeaderChecksum { computed: u32, found: u32 },
    #[error("payload checksum of kind {kind}: computed {computed:#010x}, found {found:#010x}")]
    PayloadChecksum { kind: u8, computed: u32, found: u32 },
    #[error("kind {kind} with {length} bytes, at most {limit} are allowed")]
    TooLong { kind: u8, length: u32, limit: u32 },
    #[error("kind {kind} must be understood and is not")]
    Unknown { kind: u8 },
    #[error("kind {kind} with flags {flags:#06x}")]
    Flags { kind: u8, flags: u16 },
    #[error("kind {kind}: range of {count} bytes at {offset}")]
    Range { kind: u8, offset: u64, count: u64 },
    #[error("kind {kind}: {what} is malformed")]
    Malformed { kind: u8, what: &'static str },
}
