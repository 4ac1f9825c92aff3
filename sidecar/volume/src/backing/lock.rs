//! Ranges of the disk that are being changed.
//!
//! A write that does not cover whole blocks reads what is around it, changes its part and writes the blocks back. Another
//! write into those blocks in between would be undone. So such a write holds its blocks *alone*, and every other change
//! holds its own *together* with others of its kind: of two writes of whole blocks that overlap, either may win.
//!
//! Who holds a range never waits for another, so nobody waits for ever; who waits has its turn in the order of arrival, as
//! far as ranges overlap.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(super) struct RangeLock {
    table: Mutex<Table>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// In the order of arrival; a handful, as many as requests are outstanding.
    entries: Vec<Entry>,
    next: u64,
    /// Threads that wait: where there are none, nobody is woken, which would be a system call for each write.
    waiting: usize,
}

#[derive(Debug)]
struct Entry {
    ticket: u64,
    range: Range<u64>,
    alone: bool,
}

impl Entry {
    fn excludes(&self, range: &Range<u64>, alone: bool) -> bool {
        (self.alone || alone) && self.range.start < range.end && range.start < self.range.end
    }
}

/// A range that is held. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    lock: Arc<RangeLock>,
    ticket: u64,
}

impl RangeLock {
    /// Holds a range together with others, if that can be had at once.
    #[must_use]
    pub(super) fn try_together(self: &Arc<RangeLock>, range: Range<u64>) -> Option<Held> {
        let mut table = self.table();
        if table.entries.iter().any(|entry| entry.excludes(&range, false)) {
            return None;
        }
        Some(self.enter(&mut table, range, false))
    }

    /// Holds a range together with others; waits on the calling thread until it can be had.
    #[must_use]
    pub(super) fn together(self: &Arc<RangeLock>, range: Range<u64>) -> Held {
        self.wait(range, false)
    }

    /// Holds a range alone; waits on the calling thread until it can be had.
    #[must_use]
    pub(super) fn alone(self: &Arc<RangeLock>, range: Range<u64>) -> Held {
        self.wait(range, true)
    }

    fn wait(self: &Arc<RangeLock>, range: Range<u64>, alone: bool) -> Held {
        let mut table = self.table();
        // It stands in the table while it waits, so that what comes later and overlaps does not pass it.
        let held = self.enter(&mut table, range.clone(), alone);
        while table.entries.iter().any(|entry| entry.ticket < held.ticket && entry.excludes(&range, alone)) {
            table.waiting += 1;
            table = self.freed.wait(table).unwrap_or_else(PoisonError::into_inner);
            table.waiting -= 1;
        }
        held
    }

    fn enter(self: &Arc<RangeLock>, table: &mut Table, range: Range<u64>, alone: bool) -> Held {
        let ticket = table.next;
        table.next += 1;
        table.entries.push(Entry { ticket, range, alone });
        Held { lock: Arc::clone(self), ticket }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.lock.table();
        let place = table.entries.iter().position(|entry| entry.ticket == self.ticket).expect("it stands until now");
        table.entries.swap_remove(place);
        if table.waiting > 0 {
            self.lock.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RangeLock;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn whole_blocks_overlap_freely() {
        let lock = Arc::new(RangeLock::default());
        let _one = lock.try_together(0..8192).unwrap();
        let _two = lock.try_together(4096..12_288).unwrap();
    }

    #[test]
    fn nothing_comes_near_a_range_held_alone() {
        let lock = Arc::new(RangeLock::default());
        let alone = lock.alone(4096..8192);
        assert!(lock.try_together(0..4097).is_none());
        assert!(lock.try_together(8191..8192).is_none());
        assert!(lock.try_together(0..4096).is_some());
        assert!(lock.try_together(8192..9000).is_some());
        drop(alone);
        assert!(lock.try_together(0..8192).is_some());
    }

    #[test]
    fn who_waits_is_let_in_and_not_passed() {
        let lock = Arc::new(RangeLock::default());
        let first = lock.together(0..4096);
        let is_in = Arc::new(AtomicBool::new(false));
        let waiting = std::thread::spawn({
            let (lock, is_in) = (Arc::clone(&lock), Arc::clone(&is_in));
            move || {
                let _alone = lock.alone(0..4096);
                is_in.store(true, Ordering::SeqCst);
            }
        });
        // It stands in line: from now on nobody passes it.
        while lock.try_together(0..4096).is_some() {
            std::thread::yield_now();
        }
        assert!(!is_in.load(Ordering::SeqCst));
        drop(first);
        waiting.join().unwrap();
        assert!(lock.try_together(0..4096).is_some());
    }

    /// Numbers in halves of a block, changed only under the lock: none is lost.
    #[test]
    fn changes_of_parts_of_a_block_are_not_undone() {
        let lock = Arc::new(RangeLock::default());
        let block = Arc::new(std::sync::Mutex::new([0u64; 4]));
        let threads: Vec<_> = (0..4usize)
            .map(|part| {
                let (lock, block) = (Arc::clone(&lock), Arc::clone(&block));
                std::thread::spawn(move || {
                    for _ in 0..500 {
                        let _held = lock.alone(0..4096);
                        let mut copy = *block.lock().unwrap();
                        std::thread::yield_now();
                        copy[part] += 1;
                        *block.lock().unwrap() = copy;
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*block.lock().unwrap(), [500; 4]);
    }
}
