//! Until when a run may act, and patience until then.

use crate::cloud::{Cloud, CloudError};
use lease::time::Millis;

/// Kept for telling what happened.
pub const RESERVE: Millis = Millis(2_500);
/// First and longest pause before a read is repeated. The calls underneath have tried for a second or two already.
const PAUSE: Millis = Millis(200);
const PAUSE_LIMIT: Millis = Millis(2_000);

/// When the function must be done, on [`Cloud::elapsed`]'s scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Millis);

impl Deadline {
    /// Time left for acting; what telling needs is kept back.
    #[must_use]
    pub fn left(self, cloud: &impl Cloud) -> Millis {
        self.0.minus(cloud.elapsed()).minus(RESERVE)
    }

    /// Reads until AWS answers, while time is left: a throttled describe must not leave a failover half done. Only for
    /// what may safely be done twice.
    ///
    /// # Errors
    /// [`CloudError`] that trying again does not mend, or the last one when the time was over.
    pub async fn insist<T, F>(self, cloud: &impl Cloud, read: impl Fn() -> F) -> Result<T, CloudError>
    where
        F: Future<Output = Result<T, CloudError>>,
    {
        let mut pause = PAUSE;
        loop {
            match read().await {
                Err(error) if error.is_passing() && self.left(cloud) > pause => {
                    tracing::warn!(%error, "reading again");
                    // Full jitter on the upper half: parallel runs must not meet again.
                    let jitter = Millis(cloud.random() % (pause.0 / 2 + 1));
                    cloud.sleep(Millis(pause.0 / 2).plus(jitter)).await;
                    pause = PAUSE_LIMIT.min(Millis(pause.0 * 2));
                }
                ended => return ended,
            }
        }
    }
}
