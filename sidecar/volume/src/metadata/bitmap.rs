//! One peer's bitmap: the chunks that may differ from that peer's.
//!
//! A page: `page u32, free u32, tag u64, version u64`, at 32 up to 507 words, one per extent.

use super::geometry::{Geometry, PAGE_WORDS};
use super::page::{Draft, Kind, Reader};
use bytes::Bytes;
use std::collections::BTreeMap;

const WORDS_AT: usize = 32;

/// What memory knows of a page that the disk does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsaved {
    /// Cleared bits: saved when there is time.
    Clears,
    /// Set bits: must be durable before an extent of this page leaves the activity log.
    Sets,
}

#[derive(Debug)]
pub(super) struct Bitmap {
    tag: u64,
    words: Vec<u64>,
    ones: u64,
    unsaved: BTreeMap<u32, Unsaved>,
    /// On their way to the disk; gone from `unsaved` unless they changed again.
    saving: Vec<u32>,
    version: u64,
}

impl Bitmap {
    /// Everything may differ: as the disk says too, for no page of it bears this tag.
    pub(super) fn full(tag: u64, geometry: &Geometry) -> Self {
        let words: Vec<u64> = (0..geometry.extents()).map(|extent| geometry.full(extent)).collect();
        let ones = words.iter().map(|word| u64::from(word.count_ones())).sum();
        Self { tag, words, ones, unsaved: BTreeMap::new(), saving: Vec::new(), version: 0 }
    }

    /// From the disk; what can not be read is full, and to be written so: a page that fails to be read once may be read well the
    /// next time, as it was. Also says how many pages that were.
    pub(super) fn recover(tag: u64, geometry: &Geometry, mut read: impl FnMut(u32) -> Option<Bytes>) -> (Self, u32) {
        let mut map = Self::full(tag, geometry);
        let mut bad = 0;
        for page in 0..geometry.bitmap_pages() {
            match map.decode(page, read(page).as_deref()) {
                Some((version, words)) => {
                    let from = (page * PAGE_WORDS) as usize;
                    map.words[from..from + words.len()].copy_from_slice(&words);
                    map.version = map.version.max(version);
                }
                None => {
                    bad += 1;
                    map.unsaved.insert(page, Unsaved::Sets);
                }
            }
        }
        map.ones = map.words.iter().map(|word| u64::from(word.count_ones())).sum();
        (map, bad)
    }

    fn decode(&self, page: u32, bytes: Option<&[u8]>) -> Option<(u64, Vec<u64>)> {
        let mut read = Reader::open(bytes, Kind::Bitmap).ok()?;
        let (number, _, tag) = (read.u32("page").ok()?, read.u32("free").ok()?, read.u64("tag").ok()?);
        let version = read.u64("version").ok()?;
        if number != page || tag != self.tag {
            return None;
        }
        read.skip_to(WORDS_AT);
        let words = self.range(page).map(|_| read.u64("word").ok()).collect::<Option<Vec<_>>>()?;
        Some((version, words))
    }

    fn range(&self, page: u32) -> std::ops::Range<usize> {
        let from = (page * PAGE_WORDS) as usize;
        from..(from + PAGE_WORDS as usize).min(self.words.len())
    }

    pub(super) fn word(&self, extent: u32) -> u64 {
        self.words[extent as usize]
    }

    /// Chunks that may differ.
    pub(super) fn ones(&self) -> u64 {
        self.ones
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(super) fn set(&mut self, extent: u32, mask: u64) {
        let word = &mut self.words[extent as usize];
        let new = mask & !*word;
        if new != 0 {
            *word |= new;
            self.ones += u64::from(new.count_ones());
            self.unsaved.insert(extent / PAGE_WORDS, Unsaved::Sets);
        }
    }

    pub(super) fn clear(&mut self, extent: u32, mask: u64) {
        let word = &mut self.words[extent as usize];
        let gone = mask & *word;
        if gone != 0 {
            *word &= !gone;
            self.ones -= u64::from(gone.count_ones());
            self.unsaved.entry(extent / PAGE_WORDS).or_insert(Unsaved::Clears);
        }
    }

    /// Whether all set bits of this extent are durable. By page: a word's own state is not kept.
    pub(super) fn is_saved(&self, extent: u32) -> bool {
        let page = extent / PAGE_WORDS;
        self.unsaved.get(&page) != Some(&Unsaved::Sets) && !self.saving.contains(&page)
    }

    /// The page of this extent, if it holds set bits that are not durable.
    pub(super) fn unsaved_page_of(&self, extent: u32) -> Option<u32> {
        let page = extent / PAGE_WORDS;
        (self.unsaved.get(&page) == Some(&Unsaved::Sets)).then_some(page)
    }

    /// Up to `max` pages that differ from the disk's.
    pub(super) fn unsaved_pages(&self, max: usize) -> Vec<u32> {
        self.unsaved.keys().copied().take(max).collect()
    }

    /// The page's bytes, to be written now; [`Self::saved`] once they are durable.
    pub(super) fn save(&mut self, page: u32) -> Bytes {
        self.unsaved.remove(&page);
        self.saving.push(page);
        self.version += 1;
        let mut draft = Draft::new(Kind::Bitmap);
        draft.u32(page);
        draft.u32(0);
        draft.u64(self.tag);
        draft.u64(self.version);
        draft.fill_to(WORDS_AT);
        for word in &self.words[self.range(page)] {
            draft.u64(*word);
        }
        draft.seal()
    }

    pub(super) fn saved(&mut self) {
        self.saving.clear();
    }
}
