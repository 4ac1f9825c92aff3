//! The scheduler: what is due, in order of simulated time, and of arrival where the time is the same.

use crate::trace::Us;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug)]
struct Due<T> {
    at: Us,
    order: u64,
    /// Held back by a fault: comes at once when faults stop.
    late: bool,
    what: T,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T> Eq for Due<T> {}
impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Due<T>>,
    count: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), count: 0 }
    }
}

impl<T> Queue<T> {
    pub fn push(&mut self, at: Us, what: T) {
        self.count += 1;
        self.heap.push(Due { at, order: self.count, late: false, what });
    }

    pub fn push_late(&mut self, at: Us, what: T) {
        self.count += 1;
        self.heap.push(Due { at, order: self.count, late: true, what });
    }

    pub fn pop(&mut self) -> Option<(Us, T)> {
        self.heap.pop().map(|due| (due.at, due.what))
    }

    /// How many were ever queued.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What faults have held back comes by `at` at the latest.
    pub fn hurry(&mut self, at: Us) {
        let mut all = std::mem::take(&mut self.heap).into_vec();
        for due in all.iter_mut().filter(|due| due.late) {
            due.at = due.at.min(at);
        }
        self.heap = all.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_time_then_by_arrival_and_the_late_hurried() {
        let mut queue = Queue::default();
        queue.push(5, "b");
        queue.push(5, "c");
        queue.push(1, "a");
        queue.push_late(900, "d");
        queue.hurry(6);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(1, "a"), (5, "b"), (5, "c"), (6, "d")]);
    }
}
