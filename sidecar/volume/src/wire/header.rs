//! The 64 bytes before each payload. All numbers are little endian.
//!
//! ```text
//!  0 magic u32      4 version u8   5 kind u8   6 flags u16   8 length u32 (of the payload)   12 volume u32
//! 16 epoch u64     24 session u64             32 sequence u64
//! 40 offset u64    48 count u64               56 CRC32C of the payload u32   60 CRC32C of bytes 0..60 u32
//! ```

use super::Violation;
use crate::ids::{Sequence, Session};
use lease::ids::Epoch;

/// Length of a header, in bytes.
pub const HEADER: usize = 64;
/// "LHRP", as it stands in the stream.
pub const MAGIC: u32 = u32::from_le_bytes(*b"LHRP");
/// What this program speaks. The header's layout is the same in all versions.
pub const VERSION: u8 = 1;

/// Payload of data, in bytes: what one request of a front end may carry at most (NBD clients send up to 32 MiB).
pub const MAX_DATA: u32 = 32 << 20;
/// Length of a range that carries no payload, in bytes: the same, so that one request touches few extents.
pub const MAX_SPAN: u64 = MAX_DATA as u64;
/// Payload of everything that carries no data, in bytes. The largest, a `BITMAP`, is cut to fit.
pub const MAX_CONTROL: u32 = 64 << 10;

/// Who does not know this kind must hang up: skipping it would leave the replicas apart.
pub const MANDATORY: u16 = 1;
/// Stable before it is acknowledged.
pub const FUA: u16 = 2;
/// The last frame of its list.
pub const LAST: u16 = 4;
/// The payload is packed (`pack.rs`), and the count is that of its content.
pub const PACKED: u16 = 8;

/// A header whose own checksum and bounds were right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: u8,
    pub flags: u16,
    pub length: u32,
    pub volume: u32,
    pub epoch: Epoch,
    pub session: Session,
    pub sequence: Sequence,
    pub offset: u64,
    pub count: u64,
    pub payload_crc: u32,
}

impl Header {
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(4, &[VERSION, self.kind]);
        put(6, &self.flags.to_le_bytes());
        put(8, &self.length.to_le_bytes());
        put(12, &self.volume.to_le_bytes());
        put(16, &self.epoch.0.to_le_bytes());
        put(24, &self.session.0.to_le_bytes());
        put(32, &self.sequence.0.to_le_bytes());
        put(40, &self.offset.to_le_bytes());
        put(48, &self.count.to_le_bytes());
        put(56, &self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header and checks all that can be checked without the payload: nothing is to be allocated for one that fails.
    ///
    /// # Errors
    /// [`Violation`]: the connection is of no use any more.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, Violation> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if u32_at(0) != MAGIC {
            return Err(Violation::Magic { found: u32_at(0) });
        }
        let crc = crc32c::crc32c(&bytes[..60]);
        if u32_at(60) != crc {
            return Err(Violation::HeaderChecksum { computed: crc, found: u32_at(60) });
        }
        if bytes[4] != VERSION {
            return Err(Violation::Version { found: bytes[4] });
        }
        let header = Self {
            kind: bytes[5],
            flags: u16_at(6),
            length: u32_at(8),
            volume: u32_at(12),
            epoch: Epoch(u64_at(16)),
            session: Session(u64_at(24)),
            sequence: Sequence(u64_at(32)),
            offset: u64_at(40),
            count: u64_at(48),
            payload_crc: u32_at(56),
        };
        if header.length > MAX_DATA {
            return Err(Violation::TooLong { kind: header.kind, length: header.length, limit: MAX_DATA });
        }
        Ok(header)
    }

    /// # Errors
    /// [`Violation::PayloadChecksum`].
    pub fn check(&self, payload: &[u8]) -> Result<(), Violation> {
        let computed = crc32c::crc32c(payload);
        if computed == self.payload_crc {
            Ok(())
        } else {
            Err(Violation::PayloadChecksum { kind: self.kind, computed, found: self.payload_crc })
        }
    }
}
