//! What systemd is told. Outside systemd all of it is silence.

use lease::time::{Millis, Moment};
use sd_notify::NotifyState;

/// The watchdog's pulse, given by the core itself: a core that hangs stops it, and systemd ends the daemon and, with it,
/// the workload.
#[derive(Debug)]
pub struct Notifier {
    every: Option<Millis>,
    last: Option<Moment>,
    status: String,
}

impl Notifier {
    #[must_use]
    pub fn new() -> Self {
        // Three pulses in each interval, so that one may be late.
        let every =
            sd_notify::watchdog_enabled().map(|limit| Millis(u64::try_from(limit.as_millis() / 3).unwrap_or(1_000)));
        Self { every, last: None, status: String::new() }
    }

    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    pub fn status(&mut self, status: String) {
        if status != self.status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// The core has stepped at `now`, and the heartbeat's task is alive.
    pub fn pulse(&mut self, now: Moment) {
        let Some(every) = self.every else { return };
        if self.last.is_none_or(|last| now.longest_since(last) >= every) {
            self.last = Some(now);
            tell(&[NotifyState::Watchdog]);
        }
    }
}

impl Default for Notifier {
    fn default() -> Self {
        Self::new()
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd does not take the notification");
    }
}
