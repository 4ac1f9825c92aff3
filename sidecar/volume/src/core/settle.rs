//! The end of each step: what may start is started, what is due is said, and the node hears before anybody relies on it.

use super::{Answer, Effect, Guard, Io, Owner, Refusal, Replica, Report, Role};
use crate::wire::Message;
use lease::ids::{Epoch, Incarnation};
use lease::time::Moment;
use std::collections::BTreeSet;

impl Replica {
    /// The local disk has answered.
    pub(super) fn done(&mut self, io: Io, answer: Answer) {
        let failed = answer == Answer::Failed;
        if failed && (self.read_failed(io) || self.keep_failed(io)) {
            return;
        }
        let Some((owner, changes)) = self.works.done(io) else { return };
        match owner {
            Owner::Read(id) => match answer {
                Answer::Data(data) => self.primary_read(id, Ok(data)),
                Answer::Done | Answer::Digest(_) | Answer::Failed => self.primary_read(id, Err(Refusal::Io)),
            },
            // Never masked: whoever has failed to write holds what nobody knows.
            _ if failed && changes => self.fail(),
            Owner::Orphan => {}
            Owner::Write(number) => self.primary_wrote(number),
            Owner::Flush(number) => self.primary_flushed(number),
            Owner::Chunk { slot, session, extent, bit, .. } => self.chunk_read(slot, session, (extent, bit), answer),
            Owner::Verify { run, span } => self.verify_read(run, span, &answer),
            Owner::Repair(span) => self.repaired(span),
            Owner::Keep { extent, bit } => self.chunk_kept(extent, bit),
            Owner::StreamRead(at) => match answer {
                Answer::Data(data) => self.stream_read(at, Some(data)),
                Answer::Done | Answer::Digest(_) | Answer::Failed => self.stream_read(at, None),
            },
            Owner::Stream(at) => match answer {
                Answer::Digest(digest) => self.stream_digest(at, Some(digest)),
                // What can not be read differs: it is written anew.
                Answer::Failed => self.stream_digest(at, None),
                Answer::Done | Answer::Data(_) => self.stream_done(at),
            },
            Owner::StreamFlush(up_to) => self.stream_flushed(up_to),
        }
    }

    pub(super) fn settle(&mut self, now: Moment) {
        if self.omits(Guard::SureFirst) {
            self.store.trust();
        }
        loop {
            let before = self.out.len();
            let hasty = self.omits(Guard::HotFirst);
            while let Some((io, owner, job)) = self.works.start(&mut self.store, now, hasty) {
                match owner {
                    Owner::Write(number) => self.primary_starts(number, now),
                    Owner::Stream(at) => self.standby_starts(at, &job),
                    Owner::Repair(span) => self.repair_starts(span),
                    Owner::Orphan
                    | Owner::Read(_)
                    | Owner::Flush(_)
                    | Owner::Chunk { .. }
                    | Owner::Verify { .. }
                    | Owner::Keep { .. }
                    | Owner::StreamRead(_)
                    | Owner::StreamFlush(_) => {}
                }
                self.out.push(Effect::Submit { io, job });
            }
            self.report();
            match &self.role {
                Role::Standby(_) => self.settle_standby(),
                Role::Leading(_) => self.settle_primary(now),
            }
            self.pump_verify(now);
            if let Some(batch) = self.store.next_batch(self.works.heating(), self.works.is_empty()) {
                self.persisting = Some(now);
                self.out.push(Effect::Persist(batch));
            }
            // What was taken in this turn starts in this one, not at the next tick.
            let is_usual = self.out[before..].iter().all(|effect| self.is_usual(effect));
            if is_usual && !self.works.has_fresh() {
                return;
            }
        }
    }

    /// What goes on with every write makes nothing else possible: a second look would find nothing.
    fn is_usual(&self, effect: &Effect) -> bool {
        match effect {
            Effect::Submit { .. } => true,
            Effect::Send { frame, .. } => matches!(
                frame.message,
                Message::Write { .. } | Message::Zero { .. } | Message::Trim { .. } | Message::Written { .. }
            ),
            // Whoever held up what waited may hold up nothing any more, which the node is told.
            Effect::Answer { .. } => self.reported.missing.is_empty(),
            Effect::Persist(_) | Effect::HangUp { .. } | Effect::Report(_) | Effect::DropKept | Effect::Tell(_) => {
                false
            }
        }
    }

    /// Whether the node knows all that there is to say. Asked in each turn, so nothing is copied for it.
    fn is_reported(&self, (promised, closed): (Epoch, Option<u64>)) -> bool {
        let told = &self.reported;
        let same = (told.consistent, told.promised, told.failed, told.stranger, told.closed)
            == (self.is_whole(), promised, self.failed, self.stranger, closed);
        same && match &self.role {
            Role::Standby(standby) => {
                let nothing = told.mirrored.is_empty() && told.missing.is_empty() && told.diverged.is_empty();
                told.caught_up == standby.caught_up && nothing && told.fenced_by.is_none()
            }
            Role::Leading(primary) => {
                told.caught_up.is_none()
                    && told.fenced_by == primary.fenced_by
                    && told.diverged == primary.diverged
                    && are(primary.mirrored(), &told.mirrored)
                    && are(primary.missing(), &told.missing)
            }
        }
    }

    /// Tells the node what has changed, before anything follows from it. What was promised, and that nothing more is taken, is told
    /// together and once it is durable: whoever asks for an epoch on a report knows of every one that this data was promised to.
    fn report(&mut self) {
        let knows = self.is_promised();
        if !knows && !self.failed && self.reported.number == 0 {
            return;
        }
        let promised = if knows { self.store.superblock().promised } else { self.reported.promised };
        let closed = if knows { self.closed } else { self.reported.closed };
        if self.is_reported((promised, closed)) {
            return;
        }
        let mut report = Report {
            number: self.reported.number,
            consistent: self.is_whole(),
            promised,
            failed: self.failed,
            stranger: self.stranger,
            closed,
            ..Report::default()
        };
        match &self.role {
            Role::Standby(standby) => report.caught_up = standby.caught_up,
            Role::Leading(primary) => {
                report.mirrored = primary.mirrored().cloned().collect();
                report.missing = primary.missing().cloned().collect();
                report.fenced_by = primary.fenced_by;
                report.diverged = primary.diverged.clone();
            }
        }
        report.number += 1;
        if let Role::Leading(primary) = &mut self.role {
            let unsaid: BTreeSet<_> = self.reported.mirrored.difference(&report.mirrored).cloned().collect();
            for peer in primary.peers.values_mut().filter(|peer| unsaid.contains(&peer.incarnation)) {
                peer.unsaid = Some(report.number);
            }
        }
        self.reported = report.clone();
        self.out.push(Effect::Report(report));
    }
}

/// Whether these, each once, are those.
fn are<'a>(mut these: impl Iterator<Item = &'a Incarnation>, those: &BTreeSet<Incarnation>) -> bool {
    let mut left = those.len();
    these.all(|one| {
        left = left.wrapping_sub(1);
        those.contains(one)
    }) && left == 0
}

#[cfg(test)]
mod tests {
    use crate::core::rate::Limits;
    use crate::core::{Ask, Effect, Event, Follow, Job, Replica, RequestId, Setup};
    use crate::ids::{Life, Span, VolumeNo};
    use crate::metadata::{Geometry, Store};
    use lease::ids::{Epoch, Incarnation, Lineage};
    use lease::time::Moment;
    use std::collections::BTreeSet;

    /// The machine after this event and all batches of metadata that it asks for; what else it said.
    fn step(machine: &mut Replica, event: Event) -> Vec<Effect> {
        let (mut out, mut events) = (Vec::new(), vec![event]);
        while let Some(event) = events.pop() {
            let mut effects = Vec::new();
            machine.step(event, Moment::default(), &mut effects);
            for effect in effects {
                match effect {
                    Effect::Persist(batch) => events.push(Event::Persisted { batch: batch.number }),
                    other => out.push(other),
                }
            }
        }
        out
    }

    #[test]
    fn what_is_taken_in_a_step_starts_in_that_step() {
        let geometry = Geometry::new(vec![1 << 20], 16, 8).expect("it fits");
        let (lineage, me) = (Lineage::new("l").expect("valid"), Incarnation::new("r1").expect("valid"));
        let (store, _) = Store::format(lineage, me, geometry);
        let mut machine = Replica::new(
            Setup {
                life: Life(1),
                write_through: false,
                follow: Follow::Sync,
                resync: Limits::default(),
                keeps: false,
            },
            store,
            false,
        );
        step(&mut machine, Event::Tick);
        step(&mut machine, Event::Promise { epoch: Epoch(1) });
        step(&mut machine, Event::Lead { epoch: Epoch(1), need: BTreeSet::new() });
        let span = Span { volume: VolumeNo(0), at: 0, len: 4096 };
        let said = step(&mut machine, Event::Ask { id: RequestId(1), ask: Ask::Read(span) });
        let started = |effect: &Effect| matches!(effect, Effect::Submit { job, .. } if *job == Job::Read(span));
        assert!(said.iter().any(started), "{said:?}");
    }
}
