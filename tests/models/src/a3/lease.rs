//! The lease row in a few bytes, and the shipping rules on it: each change is made by [`lease::change::Change::on`] on the
//! real row, which is remembered for the next time. What the bytes leave out (texts) no rule reads.

use lease::change::{Change, Drain, Terms};
use lease::ids::{Beat, BootId, ClusterId, Epoch, Incarnation, InstanceId, Lineage, NodeId, Nonce, Rev};
use lease::policy::Policy;
use lease::record::{DeadState, Holder, Intent, Nominee, Pause, ProofOfDeath, Row};
use lease::rules::Rule;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// A node by its place in the configuration; at most three.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node(pub(super) u8);

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Node {
    pub(super) fn all(count: u8) -> impl Iterator<Item = Self> {
        (0..count).map(Self)
    }
    pub(super) fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }
    pub(super) fn place(self) -> usize {
        usize::from(self.0)
    }
    pub(super) fn bit(self) -> u8 {
        1 << self.0
    }
    pub(super) fn id(self) -> NodeId {
        NodeId::new(self.name()).expect("a valid name")
    }
    pub(super) fn instance(self) -> InstanceId {
        InstanceId::new(format!("i-0{}", self.name())).expect("a valid name")
    }
    pub(super) fn incarnation(self) -> Incarnation {
        Incarnation::new(format!("inc-{}", self.name())).expect("a valid name")
    }
    pub(super) fn of(name: &str) -> Self {
        let place = NAMES.iter().position(|known| *known == name).expect("a node of the model");
        Self(u8::try_from(place).expect("three nodes"))
    }
    fn of_incarnation(incarnation: &Incarnation) -> Self {
        Self::of(incarnation.as_str().strip_prefix("inc-").expect("an incarnation of the model"))
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which launch of a node's instance; proof of death is about one.
pub(super) type Launch = u8;

/// `pendingTime` of a launch, as the identity document states it.
pub(super) fn launched(launch: Launch) -> String {
    format!("2026-01-01T00:0{launch}:00Z")
}

/// A node in one boot: what stands in the row as its holder.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Boot {
    pub(super) node: Node,
    pub(super) launch: Launch,
}

impl fmt::Debug for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.launch {
            0 => write!(f, "{:?}", self.node),
            launch => write!(f, "{:?}'{launch}", self.node),
        }
    }
}

impl Boot {
    pub(super) fn holder(self) -> Holder {
        Holder {
            node: self.node.id(),
            incarnation: self.node.incarnation(),
            instance: self.node.instance(),
            boot: BootId::new(format!("boot-{}", self.launch)).expect("a valid name"),
            launched: launched(self.launch),
        }
    }
    fn of(holder: &Holder) -> Self {
        let launch = holder.boot.as_str().strip_prefix("boot-").and_then(|text| text.parse().ok());
        Self { node: Node::of(holder.node.as_str()), launch: launch.expect("a boot of the model") }
    }
}

/// A nomination; bound to `epoch` and `beat`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Nomination {
    pub(super) node: Node,
    pub(super) epoch: u8,
    pub(super) beat: u8,
    pub(super) rule: Rule,
    /// AWS's word that this instance is dead: whose, and how.
    pub(super) proof: Option<(Node, DeadState)>,
    pub(super) lossy: bool,
}

impl fmt::Debug for Nomination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} by {} at {}.{}", self.node, self.rule, self.epoch, self.beat)?;
        match self.proof {
            Some((node, state)) => write!(f, " on proof that {node:?} is {state:?}"),
            None => Ok(()),
        }
    }
}

impl Nomination {
    pub(super) fn nominee(self) -> Nominee {
        Nominee {
            node: self.node.id(),
            incarnation: self.node.incarnation(),
            epoch: Epoch(self.epoch.into()),
            beat: Beat(self.beat.into()),
            rule: self.rule,
            reason: String::new(),
            proof: self.proof.map(|(node, state)| ProofOfDeath { instance: node.instance(), state }),
            lossy: self.lossy,
        }
    }
    pub(super) fn of(nominee: &Nominee) -> Self {
        let proof = nominee.proof.as_ref();
        Self {
            node: Node::of(nominee.node.as_str()),
            epoch: small(nominee.epoch.0),
            beat: small(nominee.beat.0),
            rule: nominee.rule,
            proof: proof.map(|proof| {
                let name = proof.instance.as_str().strip_prefix("i-0").expect("an instance of the model");
                (Node::of(name), proof.state)
            }),
            lossy: nominee.lossy,
        }
    }
}

/// A request to move. `id`: the rev of the row that it was made on; no two are made on the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Request {
    pub(super) id: u8,
    pub(super) to: Node,
    pub(super) rule: Rule,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "move to {:?} by {}", self.to, self.rule)
    }
}

impl Request {
    fn nonce(id: u8) -> Nonce {
        Nonce::new(format!("i{id}")).expect("a valid name")
    }
    fn intent(self) -> Intent {
        Intent { id: Self::nonce(self.id), to: self.to.id(), rule: self.rule, reason: String::new() }
    }
    fn of(intent: &Intent) -> Self {
        let id = intent.id.as_str()[1..].parse().expect("a request of the model");
        Self { id, to: Node::of(intent.to.as_str()), rule: intent.rule }
    }
}

fn small(number: u64) -> u8 {
    u8::try_from(number).expect("a small model has small numbers")
}

/// The row.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    pub(super) rev: u8,
    pub(super) epoch: u8,
    pub(super) beat: u8,
    pub(super) holder: Option<Boot>,
    /// One bit for each node.
    pub(super) in_sync: u8,
    pub(super) activated: bool,
    pub(super) nominee: Option<Nomination>,
    pub(super) request: Option<Request>,
    pub(super) paused: bool,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}.{} ", self.epoch, self.beat)?;
        match self.holder {
            None => f.write_str("nobody")?,
            Some(holder) => write!(f, "{holder:?}{}", if self.activated { " active" } else { " not active yet" })?,
        }
        let in_sync: Vec<_> = Node::all(3).filter(|node| self.in_sync & node.bit() != 0).collect();
        write!(f, " in sync {in_sync:?}")?;
        if let Some(nominee) = self.live_nominee() {
            write!(f, " nominee {:?} by {}", nominee.node, nominee.rule)?;
        }
        if let Some(request) = self.request {
            write!(f, " {request:?}")?;
        }
        if self.paused { f.write_str(" paused") } else { Ok(()) }
    }
}

impl Lease {
    /// Epoch 1 of `a`, active, everybody in sync.
    pub(super) fn first(nodes: u8) -> Self {
        Self {
            rev: 1,
            epoch: 1,
            beat: 0,
            holder: Some(Boot { node: Node(0), launch: 0 }),
            in_sync: (1 << nodes) - 1,
            activated: true,
            nominee: None,
            request: None,
            paused: false,
        }
    }
    /// By `Row::open_intent`: it is still to be carried out.
    pub(super) fn open_request(&self) -> Option<Request> {
        self.request.and_then(|_| self.row().open_intent().map(Request::of))
    }
    /// By `Row::done_intent`: its target holds.
    pub(super) fn done_request(&self) -> Option<Request> {
        self.request.and_then(|_| self.row().done_intent().map(Request::of))
    }
    pub(super) fn live_nominee(&self) -> Option<Nomination> {
        self.nominee.filter(|nominee| (nominee.epoch, nominee.beat) == (self.epoch, self.beat))
    }
    /// What watchers time their wait from.
    pub(super) fn place(&self) -> (u8, u8) {
        (self.epoch, self.beat)
    }
    pub(super) fn row(&self) -> Row {
        let members = Node::all(3).filter(|node| self.in_sync & node.bit() != 0);
        Row {
            cluster: cluster(),
            rev: Rev(self.rev.into()),
            lineage: Lineage::new("lineage").expect("a valid name"),
            epoch: Epoch(self.epoch.into()),
            holder: self.holder.map(Boot::holder),
            beat: Beat(self.beat.into()),
            in_sync: members.map(Node::incarnation).collect(),
            activated: self.activated,
            nominee: self.nominee.map(Nomination::nominee),
            intent: self.request.map(Request::intent),
            paused: self.paused.then(|| Pause { reason: String::new() }),
            ttl_ms: terms().ttl_ms,
            lossy_ok: terms().lossy_ok,
            nonce: nonce(),
        }
    }
    fn of(row: &Row) -> Self {
        Self {
            rev: small(row.rev.0),
            epoch: small(row.epoch.0),
            beat: small(row.beat.0),
            holder: row.holder.as_ref().map(Boot::of),
            in_sync: row.in_sync.iter().map(|member| Node::of_incarnation(member).bit()).sum(),
            activated: row.activated,
            nominee: row.nominee.as_ref().map(Nomination::of),
            request: row.intent.as_ref().map(Request::of),
            paused: row.paused.is_some(),
        }
    }
}

pub(super) fn cluster() -> ClusterId {
    ClusterId::new("web").expect("a valid name")
}

fn nonce() -> Nonce {
    Nonce::new("n").expect("a valid name")
}

fn terms() -> Terms {
    Terms { ttl_ms: Policy::default().ttl_ms, lossy_ok: false }
}

/// A change to the row that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wish {
    Renew(Boot),
    Grow(Boot, Node),
    Nominate(Nomination),
    Accept(Boot),
    Activate(Boot),
    HandOver(Boot, Boot),
    Release(Boot),
    Restart(Boot),
    Intend(Request),
    /// The request with this id.
    ClearIntent(u8),
    Pause,
    Resume,
}

impl Wish {
    fn change(self, epoch: u8) -> Change {
        let epoch = Epoch(epoch.into());
        match self {
            Self::Renew(me) => Change::Renew { me: me.holder(), epoch },
            Self::Grow(me, peer) => Change::Grow { me: me.holder(), epoch, peer: peer.incarnation() },
            Self::Nominate(nomination) => Change::Nominate(nomination.nominee()),
            Self::Accept(me) => Change::Accept { me: me.holder(), terms: terms() },
            Self::Activate(me) => Change::Activate { me: me.holder(), epoch },
            Self::HandOver(me, to) => Change::HandOver { me: me.holder(), epoch, to: to.holder(), terms: terms() },
            Self::Release(me) => Change::Release { me: me.holder(), epoch },
            Self::Restart(me) => Change::Restart { me: me.holder(), after: Drain::Clean, terms: terms() },
            Self::Intend(request) => Change::Intend(request.intent()),
            Self::ClearIntent(id) => Change::ClearIntent { id: Request::nonce(id) },
            Self::Pause => Change::Pause(Pause { reason: String::new() }),
            Self::Resume => Change::Resume,
        }
    }
}

/// What a pure function answered before. The same question has the same answer.
pub(super) struct Memo<K, V>(Mutex<HashMap<K, V>>);

impl<K: Copy + Eq + Hash, V: Clone> Memo<K, V> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
    pub(super) fn get(&self, key: K, answer: impl FnOnce() -> V) -> V {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(key).or_insert_with(answer).clone()
    }
}

/// The row's own rules.
pub(super) struct RowRules(Memo<(Lease, Wish, u8), Option<Lease>>);

impl RowRules {
    pub(super) fn new() -> Self {
        Self(Memo::new())
    }
    /// The row after `wish` of one who believes to be in `epoch`; `None`: not legal.
    pub(super) fn after(&self, row: &Lease, wish: Wish, epoch: u8) -> Option<Lease> {
        self.0.get((*row, wish, epoch), || {
            wish.change(epoch).on(&row.row(), nonce()).ok().map(|write| Lease::of(&write.row))
        })
    }
}
