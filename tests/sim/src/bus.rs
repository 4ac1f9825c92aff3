//! The event bus and its rules: what nodes, functions and EC2 put on it wakes `failover`; once, twice, late, or never.

use crate::trace::Us;
use crate::world::{Happening, World};
use lease::events::{Event, SOURCE};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

/// EventBridge retries for a day; the deployment drops what is older than a minute.
const LATEST: Us = crate::run::MAX_EVENT_AGE;

#[derive(Debug, Default)]
pub struct Bus {
    /// While above zero, events wait.
    pub down: u32,
    waiting: Vec<(Us, Put)>,
    /// While above zero, whatever is put is lost.
    pub losing: u32,
    /// What was put within the last minute: any of it may come once more.
    past: VecDeque<(Us, Put)>,
    pub put: u64,
}

/// An event on the bus, as its rule hands it to the function.
#[derive(Clone, Debug)]
pub struct Put {
    pub payload: Arc<Value>,
    pub what: &'static str,
}

impl Put {
    #[must_use]
    pub fn ec2(what: &'static str, detail: Value) -> Self {
        Self { payload: Arc::new(json!({ "source": "aws.ec2", "detail-type": what, "detail": detail })), what }
    }
}

impl World {
    /// An event of ours; only what the rules match goes on (cdk/contract.json, `wake_failover`).
    pub(crate) fn emit_event(&mut self, event: &Event) {
        let wakes = matches!(
            event,
            Event::HolderSuspected(_)
                | Event::ResourceFailed(_)
                | Event::HandoverRequested(_)
                | Event::NodeJoined(_)
                | Event::FailoverAccepted(_)
        );
        if wakes {
            let detail: Value = serde_json::from_str(&event.detail()).expect("events are JSON");
            let what = event.detail_type();
            let payload = Arc::new(json!({ "source": SOURCE, "detail-type": what, "detail": detail }));
            self.put(Put { payload, what });
        }
    }

    pub(crate) fn put(&mut self, put: Put) {
        self.bus.put += 1;
        self.bus.past.push_back((self.now, put.clone()));
        while self.bus.past.front().is_some_and(|(at, _)| self.now - at >= LATEST) {
            self.bus.past.pop_front();
        }
        if self.bus.losing > 0 {
            self.counts.events_lost += 1;
            return;
        }
        if self.bus.down > 0 {
            if self.dice.below(2) == 0 {
                self.bus.waiting.push((self.now, put));
            } else {
                self.counts.events_lost += 1;
            }
            return;
        }
        let mut copies = 1;
        let mut late = 0;
        if self.dice.happens(self.weather.noise.event) && !self.healed {
            match self.dice.below(3) {
                0 => {
                    self.counts.events_lost += 1;
                    return;
                }
                1 => {
                    self.counts.events_doubled += 1;
                    copies = self.dice.between(2, 4);
                }
                _ => {
                    self.counts.events_late += 1;
                    late = self.dice.skewed(500_000, LATEST);
                }
            }
        }
        for _ in 0..copies {
            let at = self.now + late + self.dice.between(15_000, 80_000);
            let what = Happening::Invoke { put: put.clone() };
            if late > 0 { self.queue.push_late(at, what) } else { self.queue.push(at, what) }
        }
    }

    /// An event of the last minute is delivered again; of EC2's rather than of ours. False: there was none.
    pub(crate) fn repeat_event(&mut self) -> bool {
        let now = self.now;
        let past: Vec<_> =
            self.bus.past.iter().filter(|(at, _)| now - at < LATEST).map(|(_, put)| put.clone()).collect();
        let of_ec2: Vec<_> = past.iter().filter(|put| put.payload["source"] == "aws.ec2").cloned().collect();
        let from = if of_ec2.is_empty() || self.dice.below(3) == 0 { past } else { of_ec2 };
        if from.is_empty() {
            return false;
        }
        let put = from[self.dice.index(from.len())].clone();
        self.trace.line(self.now, "bus", || format!("delivers again: {} {}", put.what, put.payload["detail"]));
        let at = self.now + self.dice.between(15_000, 80_000);
        self.queue.push(at, Happening::Invoke { put });
        true
    }

    pub(crate) fn bus_back(&mut self) {
        for (since, put) in std::mem::take(&mut self.bus.waiting) {
            if self.now - since < LATEST {
                self.put(put);
            }
        }
    }
}
