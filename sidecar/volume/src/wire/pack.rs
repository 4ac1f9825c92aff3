//! Payloads of data by LZ4, where both sides of a link want it: what shrinks travels so, the rest as it is.
//!
//! A packed payload: CRC32C of the content u32, one LZ4 block. The header's count is the content's length, and the checksum of
//! the payload is over what travels: what was damaged on its way is refused before anything is unpacked.

use super::{MAX_DATA, Violation};
use bytes::Bytes;

/// Shorter payloads travel as they are: there is little to gain.
const LEAST: usize = 512;
/// What stands before the block.
const HEAD: usize = 4;
/// No LZ4 block says more than so many bytes with each of its own.
const RATIO_MAX: u64 = 255;

/// The packed form, if it is shorter by an eighth at the least: else unpacking it costs more than it saves.
pub(super) fn pack(content: &Bytes) -> Option<Bytes> {
    if content.len() < LEAST {
        return None;
    }
    let mut out = vec![0; HEAD + lz4_flex::block::get_maximum_output_size(content.len())];
    out[..HEAD].copy_from_slice(&crc32c::crc32c(content).to_le_bytes());
    let length = lz4_flex::block::compress_into(content, &mut out[HEAD..]).ok()?;
    out.truncate(HEAD + length);
    if out.len() > content.len() / 8 * 7 {
        return None;
    }
    // It waits for the link beside its content: with what it needs, and not with what it might have needed.
    out.shrink_to_fit();
    Some(out.into())
}

/// Whether so many bytes can be what so much content was packed into: looked at before anything is allocated for it.
pub(super) fn is_possible(length: u32, count: u64) -> bool {
    let block = u64::from(length).saturating_sub(HEAD as u64);
    u64::from(length) < count && count <= u64::from(MAX_DATA) && count <= block * RATIO_MAX
}

/// The content of a packed payload, exactly `count` bytes of it.
pub(super) fn unpack(kind: u8, payload: &[u8], count: u64) -> Result<Bytes, Violation> {
    let malformed = |what| Violation::Malformed { kind, what };
    let (head, block) = payload.split_first_chunk::<HEAD>().ok_or_else(|| malformed("packed data"))?;
    let length = usize::try_from(count).map_err(|_| malformed("packed data"))?;
    let mut content = vec![0; length];
    // It writes nowhere else, and says what it wrote.
    let written = lz4_flex::block::decompress_into(block, &mut content).map_err(|_| malformed("packed data"))?;
    if written != length || crc32c::crc32c(&content) != u32::from_le_bytes(*head) {
        return Err(malformed("packed data"));
    }
    Ok(content.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(len: usize) -> Bytes {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u8::try_from(state >> 24).expect("a byte")
        };
        (0..len).map(|_| next()).collect::<Vec<u8>>().into()
    }

    #[test]
    fn what_does_not_shrink_travels_as_it_is() {
        assert_eq!(pack(&noise(65_536)), None);
        assert_eq!(pack(&Bytes::from(vec![7; LEAST - 1])), None, "too short to be worth it");
        assert!(pack(&Bytes::from(vec![7; 65_536])).is_some_and(|packed| packed.len() < 1_000));
    }

    /// A few bytes that say that they are many: nothing is allocated for what no block can hold, and nothing beyond what was said.
    #[test]
    fn a_bomb_is_refused() {
        assert!(!is_possible(100, 96 * RATIO_MAX + 1) && is_possible(100, 96 * RATIO_MAX));
        assert!(!is_possible(4, 1) && !is_possible(0, 0) && !is_possible(512, 512), "nor what did not shrink");
        assert!(!is_possible(u32::MAX, u64::from(MAX_DATA) + 1));
        let content = Bytes::from(vec![7; 1 << 20]);
        let packed = pack(&content).expect("it shrinks");
        for count in [1, (1 << 20) - 1, (1 << 20) + 1] {
            assert!(unpack(32, &packed, count).is_err(), "{count} bytes are said to be in it");
        }
        assert_eq!(unpack(32, &packed, 1 << 20), Ok(content));
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(runs in prop::collection::vec((any::<u8>(), 1..2_000_usize), 1..60)) {
            let content: Vec<u8> = runs.into_iter().flat_map(|(byte, count)| vec![byte; count]).collect();
            let content = Bytes::from(content);
            if let Some(packed) = pack(&content) {
                prop_assert!(is_possible(u32::try_from(packed.len()).expect("short"), content.len() as u64));
                prop_assert_eq!(unpack(32, &packed, content.len() as u64), Ok(content));
            }
        }

        #[test]
        fn whatever_arrives_is_unpacked_or_refused(payload in prop::collection::vec(any::<u8>(), 0..300), count in 0..100_000_u64) {
            if let Ok(content) = unpack(32, &payload, count) {
                prop_assert_eq!(content.len() as u64, count);
            }
        }

        #[test]
        fn a_damaged_block_is_noticed(at in 0..200_usize, bit in 0..8_u32) {
            let content: Bytes = noise(256).repeat(8).into();
            let mut packed = pack(&content).expect("it shrinks").to_vec();
            let at = at % packed.len();
            packed[at] ^= 1 << bit;
            let unpacked = unpack(32, &packed, content.len() as u64);
            prop_assert!(unpacked.is_err() || unpacked == Ok(content));
        }
    }
}
