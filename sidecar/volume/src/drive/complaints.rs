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
            tracing::warn!(?why, "hanging up on a peer: {}", meaning(why));
        }
    }

    /// The other side did.
    pub(super) fn was_hung_up_on(&mut self, why: Bye) {
        if why != Bye::Closing && is_news(&mut self.there, why, clock::now()) {
            tracing::warn!(?why, "a peer hung up: {}", meaning(why));
        }
    }
}

/// For operators: what it means, and what to do where somebody must.
fn meaning(why: Bye) -> &'static str {
    match why {
        Bye::Closing => "in order",
        Bye::Stranger => {
            "it is of another cluster, has other chunks or another number of volumes, or one that is smaller than where the volumes are led: \
             compare `leasehold volume dump-metadata` of both; `leasehold volume resize` makes a volume larger"
        }
        Bye::NotNow => "writes of this epoch are not let in at present; it is tried again",
        Bye::Diverged => {
            "both hold writes that the other never had: `leasehold volume status` where the volumes are led says what to do"
        }
        Bye::DiskFailed => "the disk under the volumes failed, or stands still",
        Bye::Confused => "a frame did not fit; if it happens again, see that both are of the same release",
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
