//! A queue whose sender never waits: what is full lets the oldest go. For messages of which the newest counts.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Mutex<VecDeque<T>>,
    most: usize,
    filled: Notify,
    dropped: AtomicU64,
    /// The receiver works on the last one it took.
    busy: AtomicBool,
}

impl<T> Mailbox<T> {
    /// At most `most` wait.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            queue: Mutex::new(VecDeque::new()),
            most,
            filled: Notify::new(),
            dropped: AtomicU64::new(0),
            busy: AtomicBool::new(false),
        }
    }

    pub fn put(&self, item: T) {
        let mut queue = self.lock();
        if queue.len() >= self.most {
            queue.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        queue.push_back(item);
        drop(queue);
        self.filled.notify_one();
    }

    /// The oldest, once there is one. For one receiver; nothing is lost when the wait is given up.
    pub async fn next(&self) -> T {
        loop {
            {
                let mut queue = self.lock();
                let item = queue.pop_front();
                self.busy.store(item.is_some(), Ordering::Relaxed);
                if let Some(item) = item {
                    return item;
                }
            }
            self.filled.notified().await;
        }
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Those that wait, and the one that the receiver took and has not come back from.
    pub fn pending(&self) -> usize {
        let queue = self.lock();
        queue.len() + usize::from(self.busy.load(Ordering::Relaxed))
    }

    /// How many were let go so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<T>> {
        self.queue.lock().expect("no thread panics while it holds this")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_go_first_out_and_first_lost() {
        let mailbox = Mailbox::new(2);
        for number in 0..4 {
            mailbox.put(number);
        }
        assert_eq!((mailbox.next().await, mailbox.next().await, mailbox.dropped()), (2, 3, 2));
    }

    #[tokio::test]
    async fn a_waiting_receiver_is_woken() {
        let mailbox = std::sync::Arc::new(Mailbox::new(2));
        let waiting = tokio::spawn({
            let mailbox = std::sync::Arc::clone(&mailbox);
            async move { mailbox.next().await }
        });
        tokio::task::yield_now().await;
        mailbox.put(7);
        assert_eq!(waiting.await.expect("woken"), 7);
    }
}
