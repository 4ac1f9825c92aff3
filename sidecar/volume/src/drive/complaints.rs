//! Peers are tried again several times a second: what stays wrong is said once a minute, and at once when it is something else.

use super::clock;
use crate::wire::Bye;
use lease::time::{Millis, Moment};

const AGAIN_AFTER: Millis = Millis(60_000);

#[derive(Debug, Default)]
pub(super) struct Complaints {
    here: Option<(Bye, Moment)>,
    there: Option<(Bye, Moment)>,
}

impl Complaints {
    /// This side ended a connection.
    pub(super) fn hung_up(&mut self, why: Bye) {
        if why != Bye::Closing && is_news(&mut self.here, why, clock::now()) {
            tracing::warn!(?why, "hanging up on a peer");
        }
    }

    /// The other side did.
    pub(super) fn was_hung_up_on(&mut self, why: Bye) {
        if why != Bye::Closing && is_news(&mut self.there, why, clock::now()) {
            tracing::warn!(?why, "a peer hung up");
        }
    }
}

fn is_news(last: &mut Option<(Bye, Moment)>, why: Bye, now: Moment) -> bool {
    let news = last.is_none_or(|(what, at)| what != why || now.longest_since(at) >= AGAIN_AFTER);
    if news {
        *last = Some((why, now));
    }
    news
}

#[cfg(test)]
mod tests {
    use super::is_news;
    use crate::wire::Bye;
    use lease::time::{Millis, Moment};

    #[test]
    fn the_same_is_news_after_a_minute_and_something_else_at_once() {
        let (mut last, start) = (None, Moment::default());
        assert!(is_news(&mut last, Bye::DiskFailed, start));
        assert!(!is_news(&mut last, Bye::DiskFailed, start.after(Millis(59_999))));
        assert!(is_news(&mut last, Bye::NotNow, start.after(Millis(59_999))));
        assert!(is_news(&mut last, Bye::DiskFailed, start.after(Millis(60_000))));
        assert!(is_news(&mut last, Bye::DiskFailed, start.after(Millis(120_000))));
    }
}
