//! Where things are: chunks and extents of a group's volumes, and the pages of its metadata.

use super::page::PAGE;
use crate::ids::{PEERS_MAX, Span, VOLUMES_MAX, VolumeNo};

/// Chunks in an extent: one word of a bitmap. With the default chunk of 64 KiB an extent is 4 MiB.
pub const EXTENT_CHUNKS: u64 = 64;
/// Chunks of 4 KiB to 1 MiB. At 64 KiB a bitmap takes 2 MiB of memory per TiB and peer, at 4 KiB 32 MiB: with seven peers
/// 224 MiB per TiB, below the 256 MiB that a replica may take.
const SHIFTS: std::ops::RangeInclusive<u8> = 12..=20;
/// Bytes of a group, all volumes together: 64 TiB, what one EBS volume can have. Keeps extents within a u32 with room to spare.
const GROUP_MAX: u64 = 64 << 40;
/// Slots of the activity log: from what two small requests need to 8192, 32 GiB to compare after a crash.
const SLOTS: std::ops::RangeInclusive<u16> = 2..=8192;

/// Words in a page of a bitmap: 507 extents, about 2 GiB.
pub(super) const PAGE_WORDS: u32 = 507;
/// Pages in the ring of the activity log: many times what a cycle through all slots takes.
pub(super) const RING: u64 = 64;
const RING_AT: u64 = 4;
const BITMAPS_AT: u64 = RING_AT + RING;

/// The shape of a group: fixed when it is formatted, but for volumes that become larger ([`super::grown`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    chunk_shift: u8,
    slots: u16,
    volumes: Vec<u64>,
    /// First extent of each volume, and behind them how many there are. An extent belongs to one volume.
    firsts: Vec<u32>,
}

/// Sizes that no group can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("{found} volumes: a group has 1 to {VOLUMES_MAX}")]
    Volumes { found: usize },
    #[error("volume of {found} bytes: whole pages of {PAGE} bytes, at least one, together at most {GROUP_MAX}")]
    Size { found: u64 },
    #[error("chunks of 2^{found} bytes: from 2^{} to 2^{} are possible", SHIFTS.start(), SHIFTS.end())]
    Chunk { found: u8 },
    #[error("{found} slots of activity log: from {} to {} are possible", SLOTS.start(), SLOTS.end())]
    Slots { found: u16 },
}

impl Geometry {
    /// # Errors
    /// [`Unfit`], with what is possible.
    pub fn new(volumes: Vec<u64>, chunk_shift: u8, slots: u16) -> Result<Self, Unfit> {
        if volumes.is_empty() || volumes.len() > VOLUMES_MAX {
            return Err(Unfit::Volumes { found: volumes.len() });
        }
        if !SHIFTS.contains(&chunk_shift) {
            return Err(Unfit::Chunk { found: chunk_shift });
        }
        if !SLOTS.contains(&slots) {
            return Err(Unfit::Slots { found: slots });
        }
        let extent = EXTENT_CHUNKS << chunk_shift;
        let (mut firsts, mut total) = (vec![0], 0_u64);
        for size in &volumes {
            total = total.saturating_add(*size);
            if *size == 0 || size % PAGE as u64 != 0 || total > GROUP_MAX {
                return Err(Unfit::Size { found: *size });
            }
            let last = *firsts.last().expect("it begins with one");
            firsts.push(last + u32::try_from(size.div_ceil(extent)).expect("64 TiB have 2^28 extents at most"));
        }
        Ok(Self { chunk_shift, slots, volumes, firsts })
    }

    #[must_use]
    pub fn chunk_shift(&self) -> u8 {
        self.chunk_shift
    }
    /// How many extents can be hot at once.
    #[must_use]
    pub fn slots(&self) -> u16 {
        self.slots
    }
    /// Size of each volume, in bytes.
    #[must_use]
    pub fn volumes(&self) -> &[u64] {
        &self.volumes
    }
    #[must_use]
    pub fn extents(&self) -> u32 {
        *self.firsts.last().expect("it begins with one")
    }

    /// Whether the range lies on a volume.
    #[must_use]
    pub fn holds(&self, span: Span) -> bool {
        let size = self.volumes.get(span.volume.0 as usize);
        span.len > 0 && size.is_some_and(|size| span.at.checked_add(span.len).is_some_and(|end| end <= *size))
    }

    /// The extents that the range touches, each with the chunks of it that it touches. The range lies on a volume.
    pub fn touched(&self, span: Span) -> impl Iterator<Item = (u32, u64)> + Clone {
        let first = u64::from(self.firsts[span.volume.0 as usize]);
        let (from, to) = (span.at >> self.chunk_shift, (span.end() - 1) >> self.chunk_shift);
        (from / EXTENT_CHUNKS..=to / EXTENT_CHUNKS).map(move |extent| {
            let base = extent * EXTENT_CHUNKS;
            let low = from.max(base) - base;
            let high = to.min(base + EXTENT_CHUNKS - 1) - base;
            let mask = (u64::MAX << low) & (u64::MAX >> (EXTENT_CHUNKS - 1 - high));
            (u32::try_from(first + extent).expect("extents fit"), mask)
        })
    }

    /// The bytes of one chunk.
    #[must_use]
    pub fn chunk(&self, extent: u32, bit: u32) -> Span {
        let volume = self.firsts.partition_point(|first| *first <= extent) - 1;
        let within = u64::from(extent - self.firsts[volume]) * EXTENT_CHUNKS + u64::from(bit);
        let at = within << self.chunk_shift;
        let len = (self.volumes[volume].saturating_sub(at)).min(1 << self.chunk_shift);
        Span { volume: VolumeNo(u32::try_from(volume).expect("few volumes")), at, len }
    }

    /// The number that this extent has where volumes have other sizes; `None`: it begins behind their ends.
    #[must_use]
    pub fn extent_in(&self, extent: u32, other: &Geometry) -> Option<u32> {
        let first = Span { len: 1, ..self.chunk(extent, 0) };
        other.holds(first).then(|| other.touched(first).next().expect("a byte lies in an extent").0)
    }

    /// The chunks of an extent that lie as a whole within volumes of these sizes.
    #[must_use]
    pub fn within(&self, extent: u32, volumes: &[u64]) -> u64 {
        let first = self.chunk(extent, 0);
        let (mine, theirs) = (self.volumes[first.volume.0 as usize], volumes[first.volume.0 as usize]);
        if theirs >= mine {
            return self.full(extent);
        }
        let chunks = theirs.saturating_sub(first.at) >> self.chunk_shift;
        if chunks >= EXTENT_CHUNKS { u64::MAX } else { (1 << chunks) - 1 }
    }

    /// The chunks that an extent really has: the last one of a volume may end early.
    #[must_use]
    pub fn full(&self, extent: u32) -> u64 {
        let first = self.chunk(extent, 0);
        let chunks = (self.volumes[first.volume.0 as usize] - first.at).div_ceil(1 << self.chunk_shift);
        if chunks >= EXTENT_CHUNKS { u64::MAX } else { (1 << chunks) - 1 }
    }

    // --- the pages of the metadata -------------------------------------------------------------------------------

    /// Pages between the superblocks and the ring: several, so that a batch of them is flushed and not only written through.
    pub(super) const FREE: std::ops::Range<u64> = 2..RING_AT;

    pub(super) fn ring_page(number: u64) -> u64 {
        RING_AT + number % RING
    }

    /// Pages of one peer's bitmap.
    pub(super) fn bitmap_pages(&self) -> u32 {
        self.extents().div_ceil(PAGE_WORDS)
    }

    pub(super) fn bitmap_page(&self, slot: usize, page: u32) -> u64 {
        BITMAPS_AT + slot as u64 * u64::from(self.bitmap_pages()) + u64::from(page)
    }

    /// Bytes of the whole area: 288 KiB and about 14 MiB per TiB with the default chunk.
    #[must_use]
    pub fn area(&self) -> u64 {
        self.bitmap_page(PEERS_MAX, 0) * PAGE as u64
    }
}
