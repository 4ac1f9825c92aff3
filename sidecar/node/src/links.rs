//! What this node hears of its peers, in both directions of the peer link.

use super::event::Ping;
use lease::ids::{Beat, Epoch, Incarnation, NodeId};
use lease::record::Holder;
use lease::time::{Millis, Moment};
use std::collections::{BTreeMap, VecDeque};

/// Pings in flight that are remembered for their send time: 16 s at the default interval, far beyond any promise.
const SENT_MAX: usize = 64;
/// A standby promises only while at most this many pings went unanswered: beyond it its answers do not get through, and
/// promising on would keep it from taking over from a holder that has stopped to count on it.
const UNANSWERED_MAX: u64 = 8;

/// One peer, as this node hears it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Link {
    /// Who spoke last under this name.
    peer: Option<Holder>,
    /// As holder: the last ping's number, and when those in flight were sent.
    number: u64,
    sent: VecDeque<(u64, Moment)>,
    answered: u64,
    last_pong: Option<Moment>,
    answering_since: Option<Moment>,
    ready: bool,
    /// As standby: the last ping's arrival, and whether it showed that the answers get through.
    last_ping: Option<Moment>,
    heard_back: bool,
}

/// All peers of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Links(BTreeMap<NodeId, Link>);

impl Links {
    pub(super) fn to(peers: impl IntoIterator<Item = NodeId>) -> Self {
        Self(peers.into_iter().map(|peer| (peer, Link::default())).collect())
    }

    /// Answers of an earlier epoch show nothing about this one.
    pub(super) fn new_epoch(&mut self) {
        for link in self.0.values_mut() {
            link.sent.clear();
            link.last_pong = None;
            link.answering_since = None;
            link.ready = false;
        }
    }

    pub(super) fn names(&self) -> Vec<NodeId> {
        self.0.keys().cloned().collect()
    }

    /// The next ping to `peer`, remembered as sent at `now`.
    pub(super) fn ping(&mut self, peer: &NodeId, epoch: Epoch, beat: Beat, now: Moment) -> Option<Ping> {
        let link = self.0.get_mut(peer)?;
        link.number += 1;
        if link.sent.len() == SENT_MAX {
            link.sent.pop_front();
        }
        link.sent.push_back((link.number, now));
        Some(Ping { number: link.number, epoch, beat, answered: link.answered })
    }

    /// A ping arrived. Returns whether the sender gets this node's answers, as the ping shows.
    pub(super) fn pinged(&mut self, from: &Holder, ping: &Ping, now: Moment) -> bool {
        let Some(link) = self.0.get_mut(&from.node) else { return false };
        link.peer = Some(from.clone());
        link.last_ping = Some(now);
        link.heard_back = ping.number.saturating_sub(ping.answered) <= UNANSWERED_MAX;
        link.heard_back
    }

    /// An answer arrived: when its ping had been sent, unless it is none of ours or too old to know.
    pub(super) fn ponged(
        &mut self,
        from: &Holder,
        number: u64,
        ready: bool,
        now: Moment,
        lost_after: Millis,
    ) -> Option<Moment> {
        let link = self.0.get_mut(&from.node)?;
        let at = link.sent.iter().position(|(sent, _)| *sent == number)?;
        let (_, sent) = link.sent[at];
        link.sent.drain(..=at);
        let known =
            link.peer.as_ref().is_some_and(|peer| peer.incarnation == from.incarnation && peer.boot == from.boot);
        // `None` as well: the connection was lost and is back, whoever named itself on it first.
        if !known
            || link.answering_since.is_none()
            || link.last_pong.is_none_or(|last| now.longest_since(last) > lost_after)
        {
            link.answering_since = Some(now);
        }
        link.peer = Some(from.clone());
        link.answered = link.answered.max(number);
        link.last_pong = Some(now);
        link.ready = ready;
        Some(sent)
    }

    pub(super) fn lost(&mut self, node: &NodeId) {
        if let Some(link) = self.0.get_mut(node) {
            link.answering_since = None;
        }
    }

    /// How long the member with this incarnation has not answered a ping of this epoch; `None`: it never has.
    pub(super) fn unanswered_for(&self, member: &Incarnation, now: Moment) -> Option<Millis> {
        let link = self.0.values().find(|link| link.peer.as_ref().is_some_and(|peer| peer.incarnation == *member))?;
        link.last_pong.map(|at| now.longest_since(at))
    }

    /// Peers that have answered without a break for `since`, from a first answer to a last one, and are fit to continue, as they
    /// named themselves. What has passed since the last answer does not count: a link that comes and goes would be well in it.
    pub(super) fn answering(&self, since: Millis, silence: Millis, now: Moment) -> Vec<Holder> {
        self.0
            .values()
            .filter(|link| link.ready && link.last_pong.is_some_and(|at| now.longest_since(at) < silence))
            .filter(|link| {
                let answers = link.answering_since.zip(link.last_pong);
                answers.is_some_and(|(first, last)| last.shortest_since(first) >= since)
            })
            .filter_map(|link| link.peer.clone())
            .collect()
    }

    /// Peers fit to continue that have answered at or after `since`, as they named themselves.
    pub(super) fn answered_since(&self, since: Moment) -> Vec<Holder> {
        self.0
            .values()
            .filter(|link| link.ready && link.last_pong.is_some_and(|at| at.monotonic_raw_us > since.monotonic_raw_us))
            .filter_map(|link| link.peer.clone())
            .collect()
    }

    /// Since the last ping of this peer; `None`: there was none.
    pub(super) fn ping_silence(&self, peer: &NodeId, now: Moment) -> Option<Millis> {
        self.0.get(peer)?.last_ping.map(|at| now.shortest_since(at))
    }

    /// Whether this peer's pings arrive and show that the answers get through.
    pub(super) fn hears(&self, peer: &NodeId, within: Millis, now: Moment) -> bool {
        self.0
            .get(peer)
            .is_some_and(|link| link.heard_back && link.last_ping.is_some_and(|at| now.shortest_since(at) < within))
    }

    /// Since anything was heard of this peer.
    pub(super) fn silence(&self, peer: &NodeId, now: Moment) -> Option<Millis> {
        let link = self.0.get(peer)?;
        [link.last_ping, link.last_pong].into_iter().flatten().map(|at| now.shortest_since(at)).min()
    }
}
