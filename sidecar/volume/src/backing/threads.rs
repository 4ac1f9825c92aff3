//! The engine of threads: each takes a job, blocks in the kernel with it, and takes the next. For kernels that forbid
//! `io_uring`, and for what `io_uring` has no operation for.

use super::disk::Disk;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Something to do with the disk that may block.
pub(super) type Job = Box<dyn FnOnce(&Disk) + Send>;

/// Threads that do jobs. Dropped, they do what is queued and end.
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Bounded by who submits: a front end's limit on outstanding requests.
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    is_ending: bool,
}

impl Workers {
    /// # Errors
    /// Where the system has no more threads.
    pub(super) fn start(disk: &Arc<Disk>, count: usize) -> std::io::Result<Workers> {
        let shared = Arc::new(Shared { queue: Mutex::default(), filled: Condvar::new() });
        let mut workers = Workers { shared: Arc::clone(&shared), threads: Vec::with_capacity(count) };
        for _ in 0..count {
            let (shared, disk) = (Arc::clone(&shared), Arc::clone(disk));
            let thread =
                std::thread::Builder::new().name("volume-disk".to_owned()).spawn(move || shared.work(&disk))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    pub(super) fn submit(&self, job: Job) {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(job);
        // Nobody to wake where all are busy: they look at the queue before they sleep.
        if queue.idle > 0 {
            drop(queue);
            self.shared.filled.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, disk: &Disk) {
        loop {
            let job = {
                let mut queue = self.lock();
                loop {
                    if let Some(job) = queue.jobs.pop_front() {
                        break job;
                    }
                    if queue.is_ending {
                        return;
                    }
                    queue.idle += 1;
                    queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
                    queue.idle -= 1;
                }
            };
            job(disk);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().is_ending = true;
        self.shared.filled.notify_all();
        for thread in self.threads.drain(..) {
            // A job that panicked has told so; its request was answered as failed when the job was dropped.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}
