//! What can happen in A2, and what follows.

use super::clocks::{Age, Right, Watch};
use super::state::{LATE, Pending, Ping, Pong, Role, State};
use super::{A2, HEARD_WITHIN, Mistake};
use crate::rows::{self, Member, Members, NODES, Packed, Want};
use lease::authority::Standing;
use lease::ids::Epoch;
use node::rules::{Asked, Reply, Sequel};

const MARK_OF_OTHERS: u8 = 14;
const MARK_OF_THE_DEAD: u8 = 15;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One tick of real time, in which the first holder's machine may be suspended.
    Tick {
        asleep: bool,
    },
    Ping {
        from: usize,
        to: usize,
    },
    /// A ping and its answer, at once.
    Exchange {
        from: usize,
        to: usize,
    },
    /// A standby answers with a promise, if it may give one.
    Promise {
        node: usize,
    },
    /// The promise arrives.
    Count {
        node: usize,
    },
    /// A standby asks for the row.
    Ask {
        node: usize,
    },
    /// A standby has read the row.
    Look {
        node: usize,
    },
    /// A node sends a conditional write.
    Propose {
        node: usize,
        want: Want,
    },
    /// The table applies it.
    Land {
        node: usize,
    },
    /// The table applies the request of a process that is gone.
    LandLate {
        new: Packed,
    },
    /// The answer "applied" arrives.
    Answer {
        node: usize,
    },
    /// The row has moved on: only its beat can still tell what became of the write.
    AnswerLost {
        node: usize,
    },
    Nominate {
        node: usize,
    },
    /// A holder stops and stands by.
    Demote {
        node: usize,
    },
    Restart {
        node: usize,
    },
    /// Only where a mistake makes it possible: a function judges that the lease is over.
    Force {
        node: usize,
    },
    /// Only where a mistake makes it possible: a node serves on finding that the row names it.
    TakeOver {
        node: usize,
    },
}

impl A2 {
    pub(super) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        let room = state.row.rev() < self.max_rev;
        steps.push(Step::Tick { asleep: false });
        if state.sleeps > 0 {
            steps.push(Step::Tick { asleep: true });
        }
        for node in 0..self.nodes {
            let (me, member) = (&state.nodes[node], State::member(node));
            match me.role {
                Role::Holding => {
                    for to in (0..self.nodes).filter(|to| *to != node) {
                        if self.delays || self.one_way {
                            steps.push(Step::Ping { from: node, to });
                        } else if self.promises(state, to, &self.ping(state, node)) {
                            steps.push(Step::Exchange { from: node, to });
                        }
                    }
                    if !state.rightful(node) || !self.serves(state, node) {
                        steps.push(Step::Demote { node });
                    }
                }
                Role::Standby => {
                    steps.push(Step::Look { node });
                    if self.errs(Mistake::WaitFromAsking) {
                        steps.push(Step::Ask { node });
                    }
                    let named = state.row.holder() == Some(member) && self.errs(Mistake::ServeOnLateAcceptance);
                    if me.pending.is_none() && (named || rows::is_handed_over(state.row, member, me.past)) {
                        steps.push(Step::TakeOver { node });
                    }
                }
            }
            if state.pings[node].is_some_and(|ping| self.promises(state, node, &ping)) {
                steps.push(Step::Promise { node });
            }
            if state.pongs[node].is_some() && !self.one_way {
                steps.push(Step::Count { node });
            }
            if state.restarts > 0 {
                steps.push(Step::Restart { node });
            }
            if room && state.row.nominee() != Some(member) && self.nominated(state, node).is_some() {
                steps.push(Step::Nominate { node });
            }
            if room && self.errs(Mistake::JudgedByFunction) && state.row.nominee() == Some(member) {
                steps.push(Step::Force { node });
            }
            if let Some(pending) = &me.pending {
                if room && self.lands(state, pending) && !(self.one_way && node == 0) {
                    steps.push(Step::Land { node });
                }
                if pending.landed {
                    steps.push(Step::Answer { node });
                    if state.row != pending.new {
                        steps.push(Step::AnswerLost { node });
                    }
                }
            } else if room {
                self.proposals(state, node, steps);
            }
        }
        if room {
            steps.extend(state.late.iter().flatten().map(|new| Step::LandLate { new: *new }));
        }
    }

    fn proposals(&self, state: &State, node: usize, steps: &mut Vec<Step>) {
        let (me, member) = (&state.nodes[node], State::member(node));
        let mut propose = |want: Want| {
            if self.proposed(state, node, want).is_some() {
                steps.push(Step::Propose { node, want });
            }
        };
        match me.role {
            Role::Standby => {
                if self.may_accept(state, node) {
                    propose(Want::Accept);
                }
                // An epoch of this node's past is never resumed.
                let follows = match self.mistake {
                    Some(Mistake::LateAcceptanceAtOnce) => !me.watch.is_bound(me.rate),
                    _ => me.watch.may_follow(state.row, me.rate),
                };
                if state.row.holder() == Some(member) && follows {
                    propose(Want::Restart { clean: false });
                }
            }
            Role::Holding => {
                propose(Want::Renew);
                if self.members_change {
                    for other in (0..self.nodes).filter(|other| *other != node).map(State::member) {
                        propose(Want::Shrink(other));
                        propose(Want::Grow(other));
                    }
                }
            }
        }
    }

    // --- guards ------------------------------------------------------------------------------------------------

    fn proposed(&self, state: &State, node: usize, want: Want) -> Option<Packed> {
        let used = |mark: u8| {
            state.row.nonce() == mark
                || state.nodes.iter().any(|node| node.pending.is_some_and(|pending| pending.new.nonce() == mark))
        };
        let mark = (1..MARK_OF_OTHERS).find(|mark| !used(*mark)).expect("few writes are alive at a time");
        rows::on(state.row, State::member(node), state.nodes[node].epoch, want, mark)
    }

    fn nominated(&self, state: &State, node: usize) -> Option<Packed> {
        let lossy = self.lossy && node + 1 == self.nodes;
        rows::on(state.row, State::member(node), 0, Want::Nominate { proof: false, lossy }, MARK_OF_OTHERS)
    }

    fn may_accept(&self, state: &State, node: usize) -> bool {
        let me = &state.nodes[node];
        let mut watch = me.watch;
        if self.errs(Mistake::AcceptDespitePromise) {
            watch.promised = None;
        }
        watch.may_accept(state.row, State::member(node), me.rate, self.errs(Mistake::WaitOnlyTtl))
    }

    fn lands(&self, state: &State, pending: &Pending) -> bool {
        let takes_epoch = matches!(pending.want, Want::Accept | Want::Restart { .. });
        let base_epoch = pending.new.epoch() - u8::from(takes_epoch);
        let on_rev = pending.new.rev() == state.row.rev() + 1;
        let on_epoch = self.errs(Mistake::ConditionOnEpoch) && state.row.epoch() == base_epoch;
        !pending.landed && (on_rev || on_epoch)
    }

    fn promises(&self, state: &State, node: usize, ping: &Ping) -> bool {
        let me = &state.nodes[node];
        let accepting = me.pending.is_some_and(|pending| pending.want == Want::Accept);
        let known = me.watch.seen.map_or(0, |(epoch, ..)| epoch);
        let from = State::member(ping.from.into());
        let asked = Asked {
            epoch: Epoch(ping.epoch.into()),
            known: Epoch(known.into()),
            rightful: known != ping.epoch || state.row.epoch() != known || state.row.holder() == Some(from),
            heard_back: !self.one_way || ping.heard || self.errs(Mistake::PromiseForEver),
            idle: me.role == Role::Standby,
            accepting: accepting && !self.errs(Mistake::PromiseWhileAccepting),
        };
        // Where lossy failover is allowed: the one that is no member is out of reach of the holder.
        let linked = !(self.lossy && node + 1 == self.nodes);
        linked && asked.reply() == Reply::Promise
    }

    fn ping(&self, state: &State, from: usize) -> Ping {
        let heard = state.unheard <= HEARD_WITHIN;
        let epoch = state.nodes[from].epoch;
        Ping { from: u8::try_from(from).expect("few nodes"), epoch, sent: Age::NOW, heard }
    }

    // --- effects -----------------------------------------------------------------------------------------------

    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Tick { asleep } => self.tick(state, asleep),
            Step::Ping { from, to } => state.pings[to] = Some(self.ping(state, from)),
            Step::Exchange { from, to } => {
                state.pings[to] = Some(self.ping(state, from));
                self.take(state, Step::Promise { node: to });
                self.take(state, Step::Count { node: to });
            }
            Step::Promise { node } => {
                let ping = state.pings[node].take().expect("only then it is a step");
                let watch = &mut state.nodes[node].watch;
                watch.promised = Some(Age::NOW);
                state.pongs[node] = Some(Pong { to: ping.from, epoch: ping.epoch, sent: ping.sent });
            }
            Step::Count { node } => {
                let pong = state.pongs[node].take().expect("only then it is a step");
                let holder = &mut state.nodes[usize::from(pong.to)];
                if holder.role == Role::Holding && holder.epoch == pong.epoch {
                    let sent = if self.errs(Mistake::PromiseFromAnswer) { Age::NOW } else { pong.sent };
                    let known = &mut holder.right.promises[node];
                    *known = Some(known.map_or(sent, |known| known.min(sent)));
                }
            }
            Step::Ask { node } => state.nodes[node].asked = Some(Age::NOW),
            Step::Look { node } => {
                let at = state.nodes[node].asked.take().unwrap_or(Age::NOW);
                state.nodes[node].watch.saw(state.row.epoch(), state.row.beat(), at);
            }
            Step::Propose { node, want } => {
                let new = self.proposed(state, node, want).expect("only then it is a step");
                let made_on = (state.row.epoch(), state.row.beat());
                let me = &mut state.nodes[node];
                // Who writes on a row has read it.
                me.watch.saw(made_on.0, made_on.1, Age::NOW);
                me.pending = Some(Pending { want, new, made_on, sent: Age::NOW, landed: false });
                if let Want::Grow(peer) = want
                    && !self.errs(Mistake::GrowNeedsLate)
                {
                    // `Authority::needs`: whoever is needed anew has not promised, and nobody is alone who needs somebody.
                    me.right.need = rows::need::needs(me.right.need, peer);
                    me.right.promises[peer.node()] = None;
                }
            }
            Step::Land { node } => {
                let mut pending = state.nodes[node].pending.expect("only then it is a step");
                pending.new = pending.new.with_rev(state.row.rev() + 1);
                pending.landed = true;
                state.nodes[node].pending = Some(pending);
                self.apply(state, pending.new);
            }
            Step::LandLate { new } => self.apply(state, new),
            Step::Answer { node } => {
                let pending = state.nodes[node].pending.take().expect("only then it is a step");
                self.settled(state, node, pending);
            }
            Step::AnswerLost { node } => {
                let pending = state.nodes[node].pending.take().expect("only then it is a step");
                assert!(!rows::applied_after_conflict(pending.new, state.row, true), "every nonce is one write's");
                if rows::is_in(pending.new, pending.made_on, state.row) {
                    self.settled(state, node, Pending { new: state.row, ..pending });
                }
            }
            Step::Nominate { node } => {
                let new = self.nominated(state, node).expect("only then it is a step");
                self.apply(state, new);
            }
            Step::Demote { node } => self.stand_down(state, node),
            Step::Restart { node } => {
                state.restarts -= 1;
                let kept = state.nodes[node].watch;
                self.end_process(state, node);
                let watch = &mut state.nodes[node].watch;
                *watch = Watch::started(Age::NOW);
                if self.errs(Mistake::PromiseForgotten) {
                    *watch = Watch { promised: None, ..kept };
                }
                // Whatever epoch the row gives it belongs to an earlier process.
                state.nodes[node].past = state.row.epoch();
            }
            Step::Force { node } => {
                let me = State::member(node);
                let new = rows::on(state.row, me, 0, Want::Accept, MARK_OF_OTHERS).expect("it is nominated");
                self.apply(state, new);
                self.hold(state, node, new, Age::NOW);
            }
            Step::TakeOver { node } => {
                let row = state.row;
                self.hold(state, node, row, Age::LONG_AGO);
            }
        }
    }

    fn tick(&self, state: &mut State, asleep: bool) {
        state.sleeps -= u8::from(asleep);
        if self.one_way {
            state.unheard = (state.unheard + 1).min(HEARD_WITHIN + 6);
        }
        if self.one_way {
            // Else the rule would have to be judged by how long a ping may take.
            state.pings = [None; NODES];
        }
        let sleeps = |node: usize| asleep && node == 0;
        for (at, node) in state.nodes.iter_mut().enumerate() {
            let asleep = sleeps(at);
            node.right
                .lease
                .iter_mut()
                .chain(node.right.promises.iter_mut().flatten())
                .for_each(|age| age.pass(asleep));
            node.watch.pass(asleep);
            node.pending.iter_mut().for_each(|pending| pending.sent.pass(asleep));
            node.asked.iter_mut().for_each(|age| age.pass(asleep));
        }
        // By the clock of who sent the ping.
        state.pings.iter_mut().flatten().for_each(|ping| ping.sent.pass(sleeps(ping.from.into())));
        state.pongs.iter_mut().flatten().for_each(|pong| pong.sent.pass(sleeps(pong.to.into())));
    }

    fn apply(&self, state: &mut State, new: Packed) {
        state.row = new;
        state.late = [None; LATE];
    }

    /// A write of this node was applied: `node::Node::settled`.
    fn settled(&self, state: &mut State, node: usize, pending: Pending) {
        let Pending { want, new, sent, .. } = pending;
        state.nodes[node].watch.saw(new.epoch(), new.beat(), Age::NOW);
        match rows::sequel(want) {
            Sequel::Holds => self.hold(state, node, new, sent),
            Sequel::StandsBy | Sequel::Nothing => unreachable!("nobody wants it here"),
            Sequel::HoldsOn => {
                let me = &mut state.nodes[node];
                if me.role != Role::Holding || me.epoch != new.epoch() {
                    return;
                }
                let sent = if self.errs(Mistake::LeaseFromAnswer) { Age::NOW } else { sent };
                me.right.lease = Some(me.right.lease.map_or(sent, |known| known.min(sent)));
                self.prove(&mut me.right, new, State::member(node));
            }
        }
    }

    fn hold(&self, state: &mut State, node: usize, row: Packed, sent: Age) {
        let me = &mut state.nodes[node];
        (me.role, me.epoch) = (Role::Holding, row.epoch());
        me.right = Right { lease: Some(sent), ..Right::default() };
        self.prove(&mut me.right, row, State::member(node));
        if state.rightful(node) {
            // Known to be held; in the program its activation follows.
            state.row = state.row.with_activated(1);
        }
    }

    /// The machine looks at its gate before it looks at anything else: a right that has ended is gone for the epoch.
    pub(super) fn close_gates(&self, before: &State, state: &mut State) {
        for node in 0..self.nodes {
            let (was, is) = (&before.nodes[node], &state.nodes[node]);
            let holds_on = is.role == Role::Holding && was.role == Role::Holding && was.epoch == is.epoch;
            if holds_on && self.serves(before, node) && !self.serves(state, node) {
                self.stand_down(state, node);
            }
        }
    }

    /// A holder stops: its workload is killed, and it stands by.
    fn stand_down(&self, state: &mut State, node: usize) {
        let past = state.nodes[node].epoch;
        self.end_process(state, node);
        state.nodes[node].past = past;
    }

    /// `Authority::proven`: members stay with what they promised, others go.
    fn prove(&self, right: &mut Right, row: Packed, me: Member) {
        right.need = rows::need::proven(right.need, row.in_sync().without(me));
        right.proven = true;
        right.lossy = row.lossy_ok() && !self.errs(Mistake::PromisesThoughLossy);
        for node in 0..NODES {
            if !right.need.has(State::member(node)) {
                right.promises[node] = None;
            }
        }
    }

    fn end_process(&self, state: &mut State, node: usize) {
        let me = &mut state.nodes[node];
        if let Some(pending) = me.pending.take()
            && pending.new.rev() == state.row.rev() + 1
        {
            let late = Some(pending.new.with_nonce(MARK_OF_THE_DEAD));
            if !state.late.contains(&late) {
                let free = state.late.iter_mut().find(|place| place.is_none()).expect("room for every late request");
                *free = late;
                state.late.sort_unstable();
            }
        }
        (me.role, me.epoch, me.right, me.asked, me.past) = (Role::Standby, 0, Right::default(), None, 0);
    }

    /// One state for all that nobody can tell apart.
    pub(super) fn tidy(&self, state: &mut State) {
        let how = self.counting();
        let row = state.row;
        for node in 0..self.nodes {
            let member = State::member(node);
            let me = &mut state.nodes[node];
            // Never to be applied any more: its writer may know.
            if let Some(pending) = me.pending
                && !pending.landed
                && row.rev() >= pending.new.rev()
                && !(self.errs(Mistake::ConditionOnEpoch)
                    && pending.want == Want::Accept
                    && row.epoch() < pending.new.epoch())
            {
                me.pending = None;
            }
            // What is over is as if it had never been.
            let only = |right: Right| right.standing(me.rate, how) != Standing::None;
            if me.right.lease.is_some_and(|_| !me.right.lease_runs(me.rate, how)) {
                me.right.lease = None;
            }
            for other in 0..NODES {
                let alone = Members::default().with(State::member(other));
                let promise = Right { lease: None, need: alone, proven: true, lossy: false, ..me.right };
                if me.right.promises[other].is_some() && !only(promise) {
                    me.right.promises[other] = None;
                }
            }
            me.watch.settle(me.rate);
            if me.role == Role::Holding {
                // Whoever holds is not its own nominee.
                me.watch.seen.iter_mut().for_each(|(_, _, age)| *age = Age::LONG_AGO);
            }
            if !how.ignores_suspension {
                // A holder believes the clock that counts more, and none counts less for having stood.
                let ages = me.right.lease.iter_mut().chain(me.right.promises.iter_mut().flatten());
                ages.chain(me.pending.iter_mut().map(|pending| &mut pending.sent)).for_each(|age| age.raw = age.boot);
            }
            // An old holder that never had a right in its epoch is a standby to all that may happen.
            let rightful = me.role == Role::Holding && me.epoch == row.epoch() && row.holder() == Some(member);
            if !self.reopens
                && me.role == Role::Holding
                && !rightful
                && me.right.standing(me.rate, how) == Standing::None
                && me.pending.is_none()
            {
                (me.role, me.epoch, me.right) = (Role::Standby, 0, Right::default());
            }
            // Whoever the row does not name now is named in a later epoch only.
            if row.holder() != Some(member) || me.past < row.epoch() {
                me.past = 0;
            }
        }
        for node in 0..NODES {
            // A promise that will count for nothing when it arrives need not be asked for.
            let counts = |from: u8, epoch: u8, sent: Age| {
                let holder = &state.nodes[usize::from(from)];
                let alone = Members::default().with(State::member(node));
                let mut right = Right { need: alone, proven: true, ..Right::default() };
                right.promises[node] = Some(sent);
                let late = self.errs(Mistake::PromiseFromAnswer) || right.standing(holder.rate, how) != Standing::None;
                holder.role == Role::Holding && holder.epoch == epoch && late
            };
            if state.pings[node].is_some_and(|ping| !counts(ping.from, ping.epoch, ping.sent)) {
                state.pings[node] = None;
            }
            if state.pongs[node].is_some_and(|pong| !counts(pong.to, pong.epoch, pong.sent)) {
                state.pongs[node] = None;
            }
        }
    }
}
