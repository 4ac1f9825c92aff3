//! [`Cloud`] for a simulated function: each call is put on a board, and its future waits until the world has answered.
//! The world polls the function by hand; nothing in here knows what time it is but by what the world has written down.

use crate::dice::Dice;
use crate::trace::Us;
use ipnet::IpNet;
use lambdas::cloud::{Cloud, CloudError, Found, Tables};
use lambdas::decide::{Described, Sighting};
use lambdas::topology::{Interface, InterfaceId, RouteTable, Subnet, SubnetId, TableId, Vpc, VpcId};
use lease::change::Write;
use lease::config::ClusterConfig;
use lease::events::Event;
use lease::ids::{ClusterId, InstanceId, NodeId};
use lease::outcome::Outcome;
use lease::record::Row;
use lease::time::Millis;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// What a function asks of the world.
#[derive(Clone, Debug)]
pub enum Ask {
    Sleep(Millis),
    Row,
    Config,
    Heartbeat(NodeId),
    Write(Arc<Write>, Millis),
    Record { time: String, id: String, detail: String },
    History(usize),
    Announce(Box<Event>),
    Instances,
    Interfaces,
    RouteTables(Tables),
    Subnets,
    Vpcs,
    Route { create: bool, table: TableId, to: InterfaceId },
    LetForward(InterfaceId),
    Stop(InstanceId),
}

/// What the world answers.
#[derive(Clone, Debug)]
pub enum Answer {
    Slept,
    Row(Result<Option<Arc<Row>>, CloudError>),
    Config(Result<Arc<ClusterConfig>, CloudError>),
    Heartbeat(Result<Option<Box<Sighting>>, CloudError>),
    Written(Outcome),
    Done(Result<(), CloudError>),
    History(Result<Vec<(String, String, serde_json::Value)>, CloudError>),
    Instances(Found<InstanceId, Described>),
    Interfaces(Found<InterfaceId, Interface>),
    RouteTables(Found<TableId, RouteTable>),
    Subnets(Found<SubnetId, Subnet>),
    Vpcs(Found<VpcId, Vpc>),
}

#[derive(Debug)]
struct Board {
    now: Us,
    dice: Dice,
    calls: u32,
    asked: Vec<(u32, Ask)>,
    answers: BTreeMap<u32, Answer>,
    wakers: BTreeMap<u32, Waker>,
}

/// One run's view of the world.
#[derive(Debug)]
pub struct RunCloud(Mutex<Board>);

impl RunCloud {
    #[must_use]
    pub fn new(now: Us, dice: Dice) -> Self {
        let board = Board { now, dice, calls: 0, asked: Vec::new(), answers: BTreeMap::new(), wakers: BTreeMap::new() };
        Self(Mutex::new(board))
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Before each poll.
    pub fn set_now(&self, now: Us) {
        self.board().now = now;
    }

    /// After each poll: what was asked in it.
    pub fn take_asked(&self) -> Vec<(u32, Ask)> {
        std::mem::take(&mut self.board().asked)
    }

    pub fn answered(&self, call: u32, answer: Answer) {
        let waker = {
            let mut board = self.board();
            board.answers.insert(call, answer);
            board.wakers.remove(&call)
        };
        // Combinators in the function poll only what was woken.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn ask(&self, ask: Ask) -> Call<'_> {
        Call { cloud: self, ask: Some(ask), id: 0 }
    }
}

/// One call: asked at the first poll, as a real request is sent.
struct Call<'a> {
    cloud: &'a RunCloud,
    ask: Option<Ask>,
    id: u32,
}

impl Future for Call<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let mut board = self.cloud.board();
        if let Some(ask) = self.ask.take() {
            board.calls += 1;
            let id = board.calls;
            board.asked.push((id, ask));
            board.wakers.insert(id, context.waker().clone());
            drop(board);
            self.id = id;
            return Poll::Pending;
        }
        match board.answers.remove(&self.id) {
            Some(answer) => Poll::Ready(answer),
            None => {
                board.wakers.insert(self.id, context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The world answers each call in its kind; anything else is a bug of the simulator.
macro_rules! expect {
    ($answer:expr, $kind:path) => {
        match $answer {
            $kind(found) => found,
            other => unreachable!("asked for {}, answered {other:?}", stringify!($kind)),
        }
    };
}

impl Cloud for RunCloud {
    fn elapsed(&self) -> Millis {
        Millis(self.board().now / 1_000)
    }

    fn wall_clock(&self) -> String {
        wall_clock(self.board().now)
    }

    fn random(&self) -> u64 {
        self.board().dice.roll()
    }

    async fn sleep(&self, span: Millis) {
        let _ = self.ask(Ask::Sleep(span)).await;
    }

    async fn row(&self, _: &ClusterId) -> Result<Option<Row>, CloudError> {
        expect!(self.ask(Ask::Row).await, Answer::Row).map(|row| row.map(|row| Row::clone(&row)))
    }

    async fn config(&self, cluster: &ClusterId) -> Result<Option<ClusterConfig>, CloudError> {
        let found = expect!(self.ask(Ask::Config).await, Answer::Config)?;
        Ok(Some(ClusterConfig::clone(&found)).filter(|config| config.cluster == *cluster))
    }

    async fn store_config(&self, _: &ClusterId, _: &str) -> Result<(), CloudError> {
        unreachable!("only `configure` stores configurations, and it is not simulated")
    }

    async fn remove_config(&self, _: &ClusterId) -> Result<(), CloudError> {
        unreachable!("only `configure` removes configurations, and it is not simulated")
    }

    async fn heartbeat(&self, _: &ClusterId, node: &NodeId) -> Result<Option<Sighting>, CloudError> {
        let found = expect!(self.ask(Ask::Heartbeat(node.clone())).await, Answer::Heartbeat)?;
        Ok(found.map(|sighting| *sighting))
    }

    async fn write(&self, write: &Write, budget: Millis) -> Outcome {
        expect!(self.ask(Ask::Write(Arc::new(write.clone()), budget)).await, Answer::Written)
    }

    async fn record(&self, _: &ClusterId, time: &str, id: &str, detail: &str) -> Result<(), CloudError> {
        let ask = Ask::Record { time: time.into(), id: id.into(), detail: detail.into() };
        expect!(self.ask(ask).await, Answer::Done)
    }

    async fn history(
        &self,
        _: &ClusterId,
        limit: usize,
    ) -> Result<Vec<(String, String, serde_json::Value)>, CloudError> {
        expect!(self.ask(Ask::History(limit)).await, Answer::History)
    }

    async fn announce(&self, event: &Event) -> Result<(), CloudError> {
        expect!(self.ask(Ask::Announce(Box::new(event.clone()))).await, Answer::Done)
    }

    async fn instances(&self, ids: &[InstanceId]) -> Found<InstanceId, Described> {
        let found = expect!(self.ask(Ask::Instances).await, Answer::Instances)?;
        Ok(found.into_iter().filter(|(id, _)| ids.contains(id)).collect())
    }

    async fn interfaces_of(&self, instances: &[InstanceId]) -> Found<InterfaceId, Interface> {
        let found = expect!(self.ask(Ask::Interfaces).await, Answer::Interfaces)?;
        let owned =
            |interface: &Interface| interface.attached.as_ref().is_some_and(|(owner, _)| instances.contains(owner));
        Ok(found.into_iter().filter(|(_, interface)| owned(interface)).collect())
    }

    async fn interfaces(&self, ids: &[InterfaceId]) -> Found<InterfaceId, Interface> {
        let found = expect!(self.ask(Ask::Interfaces).await, Answer::Interfaces)?;
        Ok(found.into_iter().filter(|(id, _)| ids.contains(id)).collect())
    }

    async fn route_tables(&self, which: &Tables) -> Found<TableId, RouteTable> {
        expect!(self.ask(Ask::RouteTables(which.clone())).await, Answer::RouteTables)
    }

    async fn subnets(&self, _: &[VpcId]) -> Found<SubnetId, Subnet> {
        expect!(self.ask(Ask::Subnets).await, Answer::Subnets)
    }

    async fn vpcs(&self, _: &[VpcId]) -> Found<VpcId, Vpc> {
        expect!(self.ask(Ask::Vpcs).await, Answer::Vpcs)
    }

    async fn replace_route(&self, table: &TableId, _: IpNet, to: &InterfaceId) -> Result<(), CloudError> {
        let ask = Ask::Route { create: false, table: table.clone(), to: to.clone() };
        expect!(self.ask(ask).await, Answer::Done)
    }

    async fn create_route(&self, table: &TableId, _: IpNet, to: &InterfaceId) -> Result<(), CloudError> {
        let ask = Ask::Route { create: true, table: table.clone(), to: to.clone() };
        expect!(self.ask(ask).await, Answer::Done)
    }

    async fn let_forward(&self, interface: &InterfaceId) -> Result<(), CloudError> {
        expect!(self.ask(Ask::LetForward(interface.clone())).await, Answer::Done)
    }

    async fn stop(&self, instance: &InstanceId) -> Result<(), CloudError> {
        expect!(self.ask(Ask::Stop(instance.clone())).await, Answer::Done)
    }
}

/// RFC 3339: the simulation begins at ten o'clock and lasts minutes.
#[must_use]
pub fn wall_clock(now: Us) -> String {
    let ms = now / 1_000;
    format!("2026-11-22T{:02}:{:02}:{:02}.{:03}Z", 10 + ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000)
}
