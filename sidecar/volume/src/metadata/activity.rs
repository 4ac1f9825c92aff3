//! The activity log: which extents may be being written.
//!
//! A transaction's page: `number u64, updates u16, context u16, context's first slot u16, free u16`, at 32 up to 64 updates
//! (`slot u16, extent u32`), at 416 up to 919 slots as they are after it. Each transaction repeats the next part of the slots,
//! so that a cycle through the ring tells all of them.

use super::geometry::{Geometry, RING};
use super::page::{Draft, Kind, PAGE, Reader};
use crate::by_number::ByNumber;
use bytes::Bytes;
use std::collections::BTreeSet;

/// Extents that one transaction lets in.
const UPDATES: usize = 64;
const UPDATES_AT: usize = 32;
/// Slots that one transaction repeats: what is left of the page.
const CONTEXT: usize = 919;
const CONTEXT_AT: usize = UPDATES_AT + UPDATES * 6;
/// No extent: a group has fewer.
const EMPTY: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heat {
    Free,
    /// In a transaction that is not durable yet.
    Arriving,
    Hot,
}

#[derive(Clone, Debug)]
struct Place {
    extent: u32,
    heat: Heat,
    /// Writes in it that are not known to be durable everywhere: it stays.
    claims: u32,
    /// Since the hand last passed.
    used: bool,
}

const FREE: Place = Place { extent: EMPTY, heat: Heat::Free, claims: 0, used: false };

/// What to do so that waiting requests get on.
#[derive(Debug)]
pub(super) enum Plan {
    Nothing,
    /// Write this transaction.
    Transaction {
        page: u64,
        bytes: Bytes,
    },
    /// The bitmaps of these extents must be durable first; then ask again.
    Save(Vec<u32>),
}

#[derive(Debug)]
pub(super) struct ActivityLog {
    places: Vec<Place>,
    /// Where each hot or arriving extent is.
    index: ByNumber<u32, usize>,
    hand: usize,
    /// The next slot to be repeated.
    cursor: usize,
    /// Of the last transaction.
    number: u64,
    /// The last plan found no slot for who waits: all are claimed.
    full: bool,
    /// Since then something was released, or became durable: it may have room.
    eased: bool,
    /// Rises whenever something got hot.
    heat: u64,
}

impl ActivityLog {
    pub(super) fn blank(slots: u16) -> Self {
        Self {
            places: vec![FREE; usize::from(slots)],
            index: ByNumber::default(),
            hand: 0,
            cursor: 0,
            number: 0,
            full: false,
            eased: false,
            heat: 0,
        }
    }

    /// The ring of a log in which nothing has happened.
    pub(super) fn blank_ring() -> impl Iterator<Item = (u64, Bytes)> {
        let bytes = transaction(0, &[], 0, &[]);
        (0..RING).map(move |number| (Geometry::ring_page(number), bytes.clone()))
    }

    pub(super) fn is_hot(&self, extent: u32) -> bool {
        self.index.get(&extent).is_some_and(|at| self.places[*at].heat == Heat::Hot)
    }

    pub(super) fn is_arriving(&self, extent: u32) -> bool {
        self.index.contains_key(&extent)
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn heat(&self) -> u64 {
        self.heat
    }

    pub(super) fn hot(&self) -> impl Iterator<Item = u32> {
        self.places.iter().filter(|place| place.heat == Heat::Hot).map(|place| place.extent)
    }

    /// The extent stays hot until it is released as often. It is hot.
    pub(super) fn claim(&mut self, extent: u32) {
        let place = &mut self.places[self.index[&extent]];
        place.claims += 1;
        place.used = true;
    }

    pub(super) fn release(&mut self, extent: u32) {
        let place = &mut self.places[self.index[&extent]];
        place.claims = place.claims.checked_sub(1).expect("released as often as claimed");
        self.eased |= place.claims == 0;
    }

    /// The next transaction, for requests that wait in this order, each for its extents; `saved`: the bitmaps' pages of an
    /// extent are durable. Not to be called before the last transaction is durable.
    ///
    /// The first in the row can always be let in once earlier claims end: nobody behind it keeps a slot from it.
    pub(super) fn plan<'a>(&mut self, waiting: impl Iterator<Item = &'a [u32]>, saved: impl Fn(u32) -> bool) -> Plan {
        let mut waiting = waiting.peekable();
        if self.full && waiting.peek().is_some() && !std::mem::take(&mut self.eased) {
            return Plan::Nothing;
        }
        let mut wanted = BTreeSet::new();
        let mut updates: Vec<(usize, u32)> = Vec::new();
        let mut unsaved = Vec::new();
        self.full = false;
        'all: for extents in waiting {
            wanted.extend(extents.iter().copied());
            for extent in extents.iter().filter(|extent| !self.index.contains_key(extent)).copied().collect::<Vec<_>>()
            {
                if updates.len() == UPDATES {
                    break 'all;
                }
                let Some(at) = self.victim(&wanted, &saved, &mut unsaved) else {
                    self.full = unsaved.is_empty();
                    break 'all;
                };
                self.index.remove(&self.places[at].extent);
                self.places[at] = Place { extent, heat: Heat::Arriving, claims: 0, used: true };
                self.index.insert(extent, at);
                updates.push((at, extent));
            }
        }
        if updates.is_empty() {
            return if unsaved.is_empty() { Plan::Nothing } else { Plan::Save(unsaved) };
        }
        self.number += 1;
        let end = (self.cursor + CONTEXT).min(self.places.len());
        let bytes = transaction(self.number, &updates, self.cursor, &self.places[self.cursor..end]);
        self.cursor = if end == self.places.len() { 0 } else { end };
        Plan::Transaction { page: Geometry::ring_page(self.number), bytes }
    }

    /// The last transaction is durable: what it lets in is hot.
    pub(super) fn arrived(&mut self) {
        for place in self.places.iter_mut().filter(|place| place.heat == Heat::Arriving) {
            place.heat = Heat::Hot;
        }
        self.heat += 1;
        self.eased = true;
    }

    /// A slot to use again: the hand goes round and takes what was not used since its last passing.
    fn victim(
        &mut self,
        wanted: &BTreeSet<u32>,
        saved: &impl Fn(u32) -> bool,
        unsaved: &mut Vec<u32>,
    ) -> Option<usize> {
        for _ in 0..2 * self.places.len() {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.places.len();
            let place = &mut self.places[at];
            match place.heat {
                Heat::Free => return Some(at),
                Heat::Hot if place.claims == 0 && !wanted.contains(&place.extent) => {
                    if std::mem::take(&mut place.used) {
                        continue;
                    }
                    if saved(place.extent) {
                        return Some(at);
                    }
                    if unsaved.len() < UPDATES && !unsaved.contains(&place.extent) {
                        unsaved.push(place.extent);
                    }
                }
                Heat::Hot | Heat::Arriving => {}
            }
        }
        None
    }

    /// The log as its ring tells, for a group of this many extents; `None`: the ring is not whole, and any extent may have
    /// been hot.
    pub(super) fn recover(slots: u16, extents: u32, mut read: impl FnMut(u64) -> Option<Bytes>) -> Option<Self> {
        let mut ring = Vec::new();
        for at in 0..RING {
            ring.push(Transaction::decode(read(Geometry::ring_page(at)).as_deref())?);
        }
        let last = ring.iter().map(|transaction| transaction.number).max().unwrap_or_default();
        // Each place holds the latest of its numbers; where none was written yet, a blank one.
        let latest = |place: u64| (last + RING - place).checked_rem(RING).map_or(0, |back| last.saturating_sub(back));
        if !ring.iter().zip(0..).all(|(transaction, place)| transaction.number == latest(place)) {
            return None;
        }
        ring.sort_by_key(|transaction| transaction.number);
        let mut log = Self::blank(slots);
        log.number = last;
        for (slot, extent) in ring.iter().flat_map(|transaction| &transaction.slots) {
            *log.places.get_mut(usize::from(*slot))? = match *extent {
                EMPTY => FREE,
                extent if extent < extents => Place { extent, heat: Heat::Hot, claims: 0, used: false },
                _ => return None,
            };
        }
        for (at, place) in log.places.iter().enumerate() {
            if place.heat == Heat::Hot && log.index.insert(place.extent, at).is_some() {
                return None;
            }
        }
        Some(log)
    }
}

fn transaction(number: u64, updates: &[(usize, u32)], first: usize, context: &[Place]) -> Bytes {
    let short = |count: usize| u16::try_from(count).expect("counts and slots fit");
    let mut draft = Draft::new(Kind::Transaction);
    draft.u64(number);
    draft.u16(short(updates.len()));
    draft.u16(short(context.len()));
    draft.u16(short(first));
    draft.fill_to(UPDATES_AT);
    for (slot, extent) in updates {
        draft.u16(short(*slot));
        draft.u32(*extent);
    }
    draft.fill_to(CONTEXT_AT);
    for place in context {
        draft.u32(place.extent);
    }
    draft.seal()
}

/// What one page of the ring says of slots.
struct Transaction {
    number: u64,
    slots: Vec<(u16, u32)>,
}

impl Transaction {
    fn decode(page: Option<&[u8]>) -> Option<Self> {
        let mut read = Reader::open(page.filter(|page| page.len() == PAGE), Kind::Transaction).ok()?;
        let number = read.u64("number").ok()?;
        let (updates, context, first) = (read.u16("updates").ok()?, read.u16("context").ok()?, read.u16("first").ok()?);
        if usize::from(updates) > UPDATES || usize::from(context) > CONTEXT {
            return None;
        }
        let mut slots = Vec::new();
        read.skip_to(UPDATES_AT);
        for _ in 0..updates {
            slots.push((read.u16("slot").ok()?, read.u32("extent").ok()?));
        }
        read.skip_to(CONTEXT_AT);
        for at in 0..context {
            slots.push((first.checked_add(at)?, read.u32("extent").ok()?));
        }
        Some(Self { number, slots })
    }
}
