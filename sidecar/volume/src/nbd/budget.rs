//! How much memory requests may take. A request that finds no room waits, and its connection is not read meanwhile, so that
//! the sender is held back by its own socket.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted; smaller requests count as one.
const UNIT_BYTES: u32 = 4096;
/// Data of one connection's requests: two of the largest, or sixty-four of 1 MiB.
const CONNECTION_MAX_BYTES: u32 = 64 << 20;
/// Data of all connections' requests, unless told otherwise: four connections at their limits.
pub const MEMORY_MAX_BYTES: u64 = 256 << 20;

/// The memory of all connections.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Semaphore>);

impl Memory {
    /// Never less than one connection's limit, so that every request finds room some time.
    #[must_use]
    pub fn new(bytes: u64) -> Memory {
        let units = bytes.max(u64::from(CONNECTION_MAX_BYTES)) / u64::from(UNIT_BYTES);
        Memory(Arc::new(Semaphore::new(
            usize::try_from(units).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS),
        )))
    }
}

/// One connection's access to it.
pub struct Budget {
    memory: Memory,
    units: Rc<Cell<u32>>,
    acquiring: Option<Acquiring>,
}

type Acquiring = Pin<Box<dyn Future<Output = OwnedSemaphorePermit>>>;

/// Room for one request's data. It is free again when this is dropped.
#[derive(Debug, Default)]
pub struct Reserved {
    _room: Option<Room>,
}

#[derive(Debug)]
struct Room {
    units: u32,
    of: Rc<Cell<u32>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.of.set(self.of.get() - self.units);
    }
}

impl Budget {
    #[must_use]
    pub fn new(memory: Memory) -> Budget {
        Budget { memory, units: Rc::default(), acquiring: None }
    }

    /// Room for so many bytes. While it is pending it is asked for the same bytes again. Where the connection's own requests
    /// are in the way nobody is woken: who sends a reply asks again anyway.
    pub fn poll_reserve(&mut self, cx: &mut Context<'_>, bytes: u32) -> Poll<Reserved> {
        if bytes == 0 {
            return Poll::Ready(Reserved::default());
        }
        let units = bytes.div_ceil(UNIT_BYTES);
        if self.units.get() + units > CONNECTION_MAX_BYTES / UNIT_BYTES {
            return Poll::Pending;
        }
        let permit = match &mut self.acquiring {
            Some(acquiring) => ready!(acquiring.as_mut().poll(cx)),
            None => match Arc::clone(&self.memory.0).try_acquire_many_owned(units) {
                Ok(permit) => permit,
                Err(_) => {
                    let semaphore = Arc::clone(&self.memory.0);
                    let mut acquiring: Acquiring =
                        Box::pin(async move { semaphore.acquire_many_owned(units).await.expect("it is never closed") });
                    match acquiring.as_mut().poll(cx) {
                        Poll::Ready(permit) => permit,
                        Poll::Pending => {
                            self.acquiring = Some(acquiring);
                            return Poll::Pending;
                        }
                    }
                }
            },
        };
        self.acquiring = None;
        self.units.set(self.units.get() + units);
        let room = Room { units, of: Rc::clone(&self.units), _permit: permit };
        Poll::Ready(Reserved { _room: Some(room) })
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("units", &self.units).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, CONNECTION_MAX_BYTES, Memory};
    use std::task::{Context, Poll, Waker};

    fn reserve(budget: &mut Budget, bytes: u32) -> Option<super::Reserved> {
        match budget.poll_reserve(&mut Context::from_waker(Waker::noop()), bytes) {
            Poll::Ready(room) => Some(room),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_connection_has_its_own_limit() {
        let mut budget = Budget::new(Memory::new(1 << 30));
        let half = reserve(&mut budget, CONNECTION_MAX_BYTES / 2).unwrap();
        let _other = reserve(&mut budget, CONNECTION_MAX_BYTES / 2).unwrap();
        assert!(reserve(&mut budget, 1).is_none());
        assert!(reserve(&mut budget, 0).is_some(), "what has no data waits for nothing");
        drop(half);
        assert!(reserve(&mut budget, 1).is_some());
    }

    #[test]
    fn all_connections_have_one_limit_together() {
        let memory = Memory::new(u64::from(CONNECTION_MAX_BYTES));
        let (mut one, mut two) = (Budget::new(memory.clone()), Budget::new(memory.clone()));
        let first = reserve(&mut one, CONNECTION_MAX_BYTES).unwrap();
        assert!(reserve(&mut two, 4096).is_none());
        drop(first);
        let second = reserve(&mut two, 4096).unwrap();
        assert!(reserve(&mut one, CONNECTION_MAX_BYTES).is_none());
        drop(second);
        assert!(reserve(&mut one, CONNECTION_MAX_BYTES).is_some());
        drop(one);
        assert_eq!(memory.0.available_permits(), 16_384);
    }
}
