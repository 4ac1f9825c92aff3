//! The functions: each invocation is the shipping code's own future, polled by hand, so that it can be killed at any
//! await, stand still in the middle of a call and go on much later, run twice, or not at all.

use crate::cloud::{Answer, Ask, RunCloud};
use crate::store::Want;
use crate::trace::Us;
use crate::world::{Happening, Message, Who, World};
use lambdas::cloud::CloudError;
use lambdas::converge::Deadline;
use lambdas::decide::Sighting;
use lambdas::{operate, watch};
use lease::ids::ClusterId;
use lease::time::Millis;
use serde_json::Value;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// As deployed (cdk/lib/control-plane.ts).
const FAILOVER_LIMIT: Us = 60_000_000;
const WATCH_LIMIT: Us = 50_000_000;
/// Events older than this are dropped (cdk/lib/control-plane-function.ts).
pub const MAX_EVENT_AGE: Us = 60_000_000;
/// `lease::table`'s patience.
const PATIENCE_MS: u64 = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Failover,
    Watch,
}

/// One invocation under way.
pub struct Run {
    pub function: Function,
    pub what: &'static str,
    cloud: Arc<RunCloud>,
    future: Pin<Box<dyn Future<Output = Value>>>,
    pub frozen_until: Us,
    /// How many answers it has had, and which of them was the last one with the row, and with the routes.
    answers: u64,
    row_at: u64,
    routes_at: u64,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {}", self.function, self.what)
    }
}

#[derive(Debug, Default)]
pub struct Functions {
    pub runs: BTreeMap<u64, Run>,
    count: u64,
    /// What the warm `watch` remembers; a cold start forgets it.
    memory: Arc<watch::Memory>,
    /// While above zero, nothing is started.
    pub down: u32,
    /// Invocations that wait for the functions to be back: since when.
    waiting: Vec<(Us, Arc<Value>, &'static str)>,
}

impl World {
    /// Lambda takes an invocation of `failover`.
    pub(crate) fn invoke(&mut self, payload: Arc<Value>, what: &'static str) {
        if self.functions.down > 0 {
            self.functions.waiting.push((self.now, payload, what));
            return;
        }
        let cold = if self.dice.below(3) == 0 { self.dice.between(60_000, 400_000) } else { 0 };
        let at = self.now + self.dice.between(3_000, 15_000) + cold;
        self.queue.push(at, Happening::Start { payload, what });
    }

    /// The functions are back: what has waited, and is not too old, runs now.
    pub(crate) fn functions_back(&mut self) {
        for (since, payload, what) in std::mem::take(&mut self.functions.waiting) {
            if self.now - since < MAX_EVENT_AGE {
                self.invoke(payload, what);
            }
        }
    }

    pub(crate) fn start_failover(&mut self, payload: Arc<Value>, what: &'static str) {
        let cloud = Arc::new(RunCloud::new(self.now, self.dice.split()));
        let (shared, cluster) = (Arc::clone(&cloud), self.cluster.clone());
        let deadline = Deadline(Millis((self.now + FAILOVER_LIMIT) / 1_000));
        let future = async move { operate::handle(&*shared, &[cluster], &payload, deadline).await };
        self.start(Function::Failover, what, cloud, Box::pin(future), FAILOVER_LIMIT);
    }

    pub(crate) fn start_watch(&mut self) {
        if self.functions.down > 0 {
            return;
        }
        if self.dice.below(4) == 0 {
            self.functions.memory = Arc::default();
        }
        let cloud = Arc::new(RunCloud::new(self.now, self.dice.split()));
        let (shared, cluster, memory) = (Arc::clone(&cloud), self.cluster.clone(), Arc::clone(&self.functions.memory));
        let deadline = Deadline(Millis((self.now + WATCH_LIMIT) / 1_000));
        let future = async move {
            let clusters: [ClusterId; 1] = [cluster];
            watch::answer(&watch::visit_all(&*shared, &clusters, &memory, deadline).await)
        };
        self.start(Function::Watch, "the minute", cloud, Box::pin(future), WATCH_LIMIT);
    }

    fn start(
        &mut self,
        function: Function,
        what: &'static str,
        cloud: Arc<RunCloud>,
        future: Pin<Box<dyn Future<Output = Value>>>,
        limit: Us,
    ) {
        self.functions.count += 1;
        let run = self.functions.count;
        self.counts.runs += 1;
        self.tell_run(run, || format!("{function:?} starts: {what}"));
        self.functions
            .runs
            .insert(run, Run { function, what, cloud, future, frozen_until: 0, answers: 0, row_at: 0, routes_at: 0 });
        self.queue.push(self.now + limit, Happening::RunLimit { run });
        self.poll(run);
    }

    pub(crate) fn tell_run(&mut self, run: u64, text: impl FnOnce() -> String) {
        self.trace.mark(self.now, run);
        self.trace.line(self.now, "function", || format!("#{run} {}", text()));
    }

    /// Lambda ends what takes too long, wherever it stands.
    pub(crate) fn run_limit(&mut self, run: u64) {
        if self.functions.runs.contains_key(&run) {
            self.kill_run(run, "its time is over");
        }
    }

    pub(crate) fn kill_run(&mut self, run: u64, why: &str) {
        self.tell_run(run, || format!("killed: {why}"));
        self.functions.runs.remove(&run);
        self.forget_writes(Who::Run { run });
    }

    /// A call is answered; whoever stands still learns of it later (see `World::deliver`).
    pub(crate) fn answer(&mut self, run: u64, call: u32, answer: Answer) {
        let Some(running) = self.functions.runs.get_mut(&run) else { return };
        running.answers += 1;
        match &answer {
            Answer::Row(Ok(_)) => running.row_at = running.answers,
            Answer::RouteTables(Ok(_)) => running.routes_at = running.answers,
            _ => {}
        }
        running.cloud.answered(call, answer);
        self.poll(run);
    }

    fn poll(&mut self, run: u64) {
        let Some(running) = self.functions.runs.get_mut(&run) else { return };
        running.cloud.set_now(self.now);
        let mut context = Context::from_waker(Waker::noop());
        let polled = running.future.as_mut().poll(&mut context);
        let asked = running.cloud.take_asked();
        if let Poll::Ready(value) = polled {
            self.functions.runs.remove(&run);
            self.forget_writes(Who::Run { run });
            self.tell_run(run, || format!("answers {value}"));
            return;
        }
        for (call, ask) in asked {
            self.asked(run, call, ask);
        }
        if self.dice.happens(self.weather.noise.run) && !self.healed {
            if self.dice.below(2) == 0 {
                self.counts.runs_killed += 1;
                self.kill_run(run, "the environment died");
            } else {
                self.counts.runs_frozen += 1;
                let span = self.dice.skewed(50_000, 40_000_000);
                self.freeze_run(run, span);
            }
        }
    }

    pub(crate) fn freeze_run(&mut self, run: u64, span: Us) {
        let until = self.now + span;
        let Some(running) = self.functions.runs.get_mut(&run) else { return };
        running.frozen_until = until;
        self.tell_run(run, || format!("frozen for {:.3} s", span as f64 / 1e6));
    }

    fn asked(&mut self, run: u64, call: u32, ask: Ask) {
        let who = Who::Run { run };
        let unreachable = |what: &str| CloudError::Table { message: format!("{what}: no answer"), passing: true };
        let reachable = {
            let path = self.path(&who);
            path.cut == 0
                && path.mute == 0
                && path.denied == 0
                && (path.throttled == 0 || self.dice.below(2) == 0)
                && !(self.dice.happens(self.weather.noise.table) && self.dice.below(8) == 0)
        };
        let quick = self.now + self.dice.between(3_000, 12_000);
        let slow = self.now + PATIENCE_MS * 1_000;
        let mut reply = |at: Us, answer: Answer| {
            self.queue.push(at, Happening::To { who, what: Message::Answer { call, answer } });
        };
        match ask {
            Ask::Sleep(span) => reply(self.now + span.0 * 1_000, Answer::Slept),
            Ask::Row => self.row_read(who, Want::Call(call), PATIENCE_MS),
            Ask::Write(write, budget) => self.row_write(who, Want::Call(call), write, budget.0),
            Ask::Config if reachable => reply(quick, Answer::Config(Ok(Arc::clone(&self.config)))),
            Ask::Config => reply(slow, Answer::Config(Err(unreachable("reading the configuration")))),
            Ask::Heartbeat(node) if reachable => {
                let host = self.hosts.iter().position(|host| host.me.node == node);
                let item = host.and_then(|host| self.store.heartbeats[host].clone());
                let sighting = item.map(|(seq, heartbeat)| {
                    let heartbeat = lease::heartbeat::Heartbeat::clone(&heartbeat);
                    Box::new(Sighting { seq, heartbeat, advanced: None })
                });
                reply(quick, Answer::Heartbeat(Ok(sighting)));
            }
            Ask::Heartbeat(_) => reply(slow, Answer::Heartbeat(Err(unreachable("reading a heartbeat")))),
            Ask::Record { time, id, detail } if reachable => {
                let detail = serde_json::from_str(&detail).expect("the functions record JSON");
                self.store.history.push((time, id, detail));
                reply(quick, Answer::Done(Ok(())));
            }
            Ask::Record { .. } => reply(slow, Answer::Done(Err(unreachable("writing the history")))),
            Ask::History(limit) if reachable => {
                let newest = self.store.history.iter().rev().take(limit).cloned().collect();
                reply(quick, Answer::History(Ok(newest)));
            }
            Ask::History(_) => reply(slow, Answer::History(Err(unreachable("reading the history")))),
            Ask::Announce(event) => {
                self.emit_event(&event);
                self.queue
                    .push(quick, Happening::To { who, what: Message::Answer { call, answer: Answer::Done(Ok(())) } });
            }
            Ask::Route { .. } => {
                // I8: what takes time is done before the row is read that a change rests on.
                let running = self.functions.runs.get(&run);
                if running.is_some_and(|running| running.row_at < running.routes_at) {
                    let what = format!(
                        "function #{run} changes a route on a row that it read before it looked at the network"
                    );
                    self.broken("I8", what);
                }
                self.ask_ec2(run, call, ask);
            }
            Ask::Instances
            | Ask::Interfaces
            | Ask::RouteTables(_)
            | Ask::Subnets
            | Ask::Vpcs
            | Ask::LetForward(_)
            | Ask::Stop(_) => self.ask_ec2(run, call, ask),
        }
    }
}
