//! The way of a command to the group's thread, and of its answer back.

use crate::core::{Command, Objection};
use crate::drive::Order;
use tokio::sync::{mpsc, oneshot};

/// Asks a running group. It does not keep the group running.
#[derive(Clone, Debug)]
pub struct Commander(pub(crate) mpsc::WeakUnboundedSender<Order>);

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undone {
    #[error(transparent)]
    Objection(#[from] Objection),
    #[error("the volumes are being shut down")]
    Ended,
}

impl Commander {
    /// Does it, if nothing is against it. Returns the number of the verification that is under way or was the last, 0: none.
    ///
    /// # Errors
    /// [`Undone`]: nothing has changed.
    pub async fn command(&self, command: Command) -> Result<u64, Undone> {
        let (answer, answered) = oneshot::channel();
        let orders = self.0.upgrade().ok_or(Undone::Ended)?;
        orders.send(Order::Command(command, answer)).map_err(|_| Undone::Ended)?;
        drop(orders);
        Ok(answered.await.map_err(|_| Undone::Ended)??)
    }
}
