//! What a machine keeps, and how much of it there may be.

use super::repair::REPAIRS_MAX;
use super::verify::WINDOW;
use super::{REQUESTS_MAX, RETAINED_WRITES, Replica, Role};
use crate::ids::PEERS_MAX;

/// States that are not known to be durable at a peer: one for each change of the members on its way.
const STATES: usize = 64;

impl Replica {
    /// What is kept of each kind, and its bound. `requests`: how many may be unanswered here.
    pub(crate) fn sizes(&self, requests: usize) -> Vec<(&'static str, usize, usize)> {
        assert!(requests <= REQUESTS_MAX, "no more are taken");
        let windows = self.windows;
        let chunks = PEERS_MAX * windows.reading;
        // What is asked of a standby beside the writes; and what it is asked to make durable beside what is asked of the primary.
        let asked = windows.under_way + STATES + WINDOW + REPAIRS_MAX;
        let flushes = windows.under_way / windows.flush_after + 1;
        match &self.role {
            Role::Leading(primary) => {
                let ops = primary.ops.len();
                let mut sizes = vec![
                    ("kept writes", ops, RETAINED_WRITES + requests),
                    ("open writes", primary.open.len(), requests),
                    ("reads", primary.reads.len(), requests),
                    ("reads done", primary.reads_done.len(), requests),
                    ("flushes", primary.flushes.len(), requests),
                    ("heard of", primary.heard_of.len(), 0),
                    ("works", self.works.len(), 2 * requests + 2 * chunks + 4 + WINDOW + REPAIRS_MAX),
                ];
                let [fetches, under_way] = primary.repairs.sizes();
                sizes.push(("failed reads", fetches, requests + chunks + WINDOW));
                sizes.push(("repairs", under_way, REPAIRS_MAX));
                for dialogue in primary.peers.values().filter_map(|peer| peer.dialogue.as_ref()) {
                    sizes.push(("places", dialogue.places.len(), ops + asked));
                    sizes.push(("kept places", dialogue.kept.len(), ops));
                    sizes.push(("elders", dialogue.elders, ops));
                    let [under_way, to_copy] = dialogue.resync.sizes();
                    sizes.push(("chunks under way", under_way, windows.under_way));
                    sizes.push(("chunks to copy", to_copy, under_way));
                }
                let retained: u64 = primary.ops.values().map(|op| op.span.len).sum();
                assert_eq!(primary.retained, retained, "what is retained is counted");
                sizes
            }
            Role::Standby(standby) => {
                let Some(standing) = &standby.session else {
                    return vec![("works of nobody", self.works.len(), RETAINED_WRITES)];
                };
                let copies = usize::from(self.store.geometry().slots()) * 64;
                vec![
                    ("queue", standing.queue.len(), RETAINED_WRITES + requests + asked + flushes),
                    ("open", standing.open.len(), RETAINED_WRITES + requests + asked),
                    ("ended and not told", standing.ended.len(), 0),
                    ("unsettled", standing.unsettled.len(), RETAINED_WRITES + requests + copies),
                    ("probes", standing.probes.len(), super::follower::PROBES_MAX),
                    ("digests", standing.digests.len(), windows.under_way + WINDOW),
                    ("flushes wanted", standing.flushes_wanted.len(), super::standby::FLUSHES_WANTED),
                ]
            }
        }
    }
}
