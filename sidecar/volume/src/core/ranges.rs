//! Which of many ranges meet one: kept by cells, so that a request looks only at what is near it.

use crate::by_number::ByNumber;
use crate::ids::Span;

/// log2 of the bytes of a cell: most requests lie in one or two.
const CELL: u32 = 16;
/// A range over more cells is kept apart, and always looked at: there are few.
const WIDE: u64 = 64;

#[derive(Debug)]
pub(super) struct Ranges<K> {
    cells: ByNumber<(u32, u64), Vec<(K, Span)>>,
    wide: Vec<(K, Span)>,
}

fn cells(span: Span) -> std::ops::RangeInclusive<u64> {
    span.at >> CELL..=(span.end().max(span.at + 1) - 1) >> CELL
}

fn is_wide(span: Span) -> bool {
    let cells = cells(span);
    cells.end() - cells.start() >= WIDE
}

impl<K: Copy + Ord> Ranges<K> {
    pub(super) fn new() -> Self {
        Self { cells: ByNumber::default(), wide: Vec::new() }
    }

    pub(super) fn insert(&mut self, key: K, span: Span) {
        if is_wide(span) {
            self.wide.push((key, span));
            return;
        }
        for cell in cells(span) {
            self.cells.entry((span.volume.0, cell)).or_default().push((key, span));
        }
    }

    pub(super) fn remove(&mut self, key: K, span: Span) {
        if is_wide(span) {
            self.wide.retain(|(other, _)| *other != key);
            return;
        }
        for cell in cells(span) {
            let cell = (span.volume.0, cell);
            if let Some(here) = self.cells.get_mut(&cell) {
                here.retain(|(other, _)| *other != key);
                if here.is_empty() {
                    self.cells.remove(&cell);
                }
            }
        }
    }

    /// Whose ranges meet this one, each once, in order.
    pub(super) fn meeting(&self, span: Span) -> Vec<K> {
        let mut found: Vec<K> = Vec::new();
        let mut look = |ranges: &[(K, Span)]| {
            found.extend(ranges.iter().filter(|(_, other)| other.overlaps(span)).map(|(key, _)| *key));
        };
        look(&self.wide);
        if is_wide(span) {
            self.cells.values().for_each(|here| look(here));
        } else {
            for cell in cells(span) {
                if let Some(here) = self.cells.get(&(span.volume.0, cell)) {
                    look(here);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Ranges;
    use crate::ids::{Span, VolumeNo};
    use proptest::prelude::*;

    fn span() -> impl Strategy<Value = Span> {
        (0_u32..2, 0_u64..4000, prop_oneof![1_u64..300, 1_u64..9000]).prop_map(|(volume, at, len)| Span {
            volume: VolumeNo(volume),
            at: at * 4096,
            len: len * 4096,
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_looking_at_all_finds(spans in prop::collection::vec(span(), 1..60), gone in 0_usize..30, asked in span()) {
            let mut ranges = Ranges::new();
            spans.iter().enumerate().for_each(|(key, span)| ranges.insert(key, *span));
            let gone = gone.min(spans.len());
            (0..gone).for_each(|key| ranges.remove(key, spans[key]));
            let expected: Vec<usize> = (gone..spans.len()).filter(|key| spans[*key].overlaps(asked)).collect();
            prop_assert_eq!(ranges.meeting(asked), expected);
            (gone..spans.len()).for_each(|key| ranges.remove(key, spans[key]));
            prop_assert!(ranges.cells.is_empty() && ranges.wide.is_empty());
        }
    }
}
