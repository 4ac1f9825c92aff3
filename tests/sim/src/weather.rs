//! What a seed's world is like: its size, its pace, and which faults it has at all. Each seed enables a random subset
//! (swarm testing, Groce et al. 2012): faults that mask each other are also met without each other.

use crate::data::Durability;
use crate::dice::Dice;
use crate::stories::{BEGINS, Story};
use crate::trace::Us;

/// Every kind of fault that is injected at a moment of its own. Background noise (lost answers, late events, dying
/// functions) comes on top, by [`Noise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One direction of one peer link is cut.
    CutOneWay,
    /// Both directions of one link.
    CutLink,
    /// One node from all others.
    CutNode,
    /// A link comes and goes.
    Flap,
    /// A link takes up to a second.
    SlowLink,
    /// One node cannot reach the table.
    TableCut,
    /// Nobody can.
    TableOutage,
    /// The table does what it is asked, its answers are lost.
    TableMute,
    /// The table turns requests away.
    TableThrottled,
    /// The way to the table and back takes long.
    TableSlow,
    /// A node's credentials are refused: at once, and each time.
    TableDenied,
    /// One node from its peers and from the table.
    Isolate,
    /// Some nodes from the others, and soon after one side from the table.
    Partition,
    /// One node's way to the table becomes slow, and soon after it is cut from all.
    FailSlowly,
    /// SIGKILL of the daemon; the workload lives on.
    KillDaemon,
    /// The operating system crashes and boots.
    Crash,
    /// The instance is stopped, and started later.
    StopInstance,
    /// The daemon dies after a certain effect of one of its next steps; half the time the machine with it.
    CrashAtEffect,
    /// SIGSTOP of the daemon.
    Pause,
    /// The VM stands still, its clocks go on.
    Stall,
    /// The VM stands still and its clocks with it.
    Freeze,
    /// The machine is suspended: one of its clocks counts that.
    Suspend,
    /// SIGTERM of the daemon, and a start later.
    ShutDown,
    /// A resource fails its checks.
    ResourceFails,
    /// The workload does not end when it is told to.
    WorkloadStuck,
    /// A disk takes seconds.
    DiskStall,
    /// A clock changes its rate.
    Drift,
    /// No function runs.
    NoFunctions,
    /// Events wait or are lost.
    NoBus,
    /// An event of the last minute comes again.
    OldEvent,
    /// EC2 answers nothing.
    NoEc2,
    /// A running function stands still for a while, and goes on.
    FreezeRun,
    /// A running function is killed.
    KillRun,
    /// The operator asks for a switchover.
    Switchover,
    /// The operator pauses the cluster, and resumes later.
    PauseCluster,
    /// The operator forces a failover.
    Force,
    /// The same, accepting the loss of data.
    ForceLossy,
    /// A replica is formatted: a new incarnation with nothing in it.
    Wipe,
    /// A replica is restored from an old snapshot: a new incarnation with old data.
    Restore,
    /// Somebody else changes a route, or an interface's check.
    Meddle,
    /// A daemon ends again and again soon after its start.
    RestartLoop,
    /// The row is deleted, and put back later as it was.
    RowLost,
    /// The row is overwritten with an older state, and put back later as it was.
    RowOld,
    /// The cluster's configuration is deployed anew: other timers, loss allowed or not, a node less for a while.
    Reconfigure,
}

impl Kind {
    pub const ALL: [Self; 44] = [
        Self::CutOneWay,
        Self::CutLink,
        Self::CutNode,
        Self::Flap,
        Self::SlowLink,
        Self::TableCut,
        Self::TableOutage,
        Self::TableMute,
        Self::TableThrottled,
        Self::TableSlow,
        Self::TableDenied,
        Self::Isolate,
        Self::Partition,
        Self::FailSlowly,
        Self::KillDaemon,
        Self::Crash,
        Self::StopInstance,
        Self::CrashAtEffect,
        Self::Pause,
        Self::Stall,
        Self::Freeze,
        Self::Suspend,
        Self::ShutDown,
        Self::ResourceFails,
        Self::WorkloadStuck,
        Self::DiskStall,
        Self::Drift,
        Self::NoFunctions,
        Self::NoBus,
        Self::OldEvent,
        Self::NoEc2,
        Self::FreezeRun,
        Self::KillRun,
        Self::Switchover,
        Self::PauseCluster,
        Self::Force,
        Self::ForceLossy,
        Self::Wipe,
        Self::Restore,
        Self::Meddle,
        Self::RestartLoop,
        Self::RowLost,
        Self::RowOld,
        Self::Reconfigure,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CutOneWay => "link cut one way",
            Self::CutLink => "link cut",
            Self::CutNode => "node cut from its peers",
            Self::Flap => "link flapping",
            Self::SlowLink => "link slow",
            Self::TableCut => "table out of a node's reach",
            Self::TableOutage => "table outage",
            Self::TableMute => "table's answers lost",
            Self::TableThrottled => "table throttled",
            Self::TableSlow => "table slow",
            Self::TableDenied => "table denied to a node",
            Self::Isolate => "node cut from all",
            Self::Partition => "cluster partitioned",
            Self::FailSlowly => "node slow, then cut from all",
            Self::KillDaemon => "daemon killed",
            Self::Crash => "machine crashed",
            Self::StopInstance => "instance stopped",
            Self::CrashAtEffect => "crash between effects",
            Self::Pause => "daemon paused",
            Self::Stall => "VM stalled",
            Self::Freeze => "VM and its clocks frozen",
            Self::Suspend => "machine suspended",
            Self::ShutDown => "daemon shut down",
            Self::ResourceFails => "resource failed",
            Self::WorkloadStuck => "workload stuck",
            Self::DiskStall => "disk stalled",
            Self::Drift => "clock changed its rate",
            Self::NoFunctions => "functions down",
            Self::NoBus => "bus down",
            Self::OldEvent => "old event again",
            Self::NoEc2 => "EC2's API down",
            Self::FreezeRun => "function frozen",
            Self::KillRun => "function killed",
            Self::Switchover => "switchover asked",
            Self::PauseCluster => "cluster paused",
            Self::Force => "failover forced",
            Self::ForceLossy => "failover forced, loss accepted",
            Self::Wipe => "replica wiped",
            Self::Restore => "replica restored from a snapshot",
            Self::Meddle => "routes meddled with",
            Self::RestartLoop => "daemon restarting in a loop",
            Self::RowLost => "row deleted",
            Self::RowOld => "row put back to an old state",
            Self::Reconfigure => "configuration deployed anew",
        }
    }

    /// How often this kind is drawn against the others.
    fn weight(self) -> u64 {
        match self {
            Self::Isolate => 6,
            Self::Crash | Self::FailSlowly => 4,
            Self::Switchover
            | Self::KillDaemon
            | Self::Pause
            | Self::StopInstance
            | Self::CrashAtEffect
            | Self::Partition
            | Self::OldEvent => 3,
            Self::CutLink
            | Self::Freeze
            | Self::Suspend
            | Self::TableSlow
            | Self::SlowLink
            | Self::TableCut
            | Self::TableMute
            | Self::CutOneWay
            | Self::ShutDown => 2,
            _ => 1,
        }
    }
}

/// One seed in this many is a story.
const STORIES: u64 = 5;
/// The leases that clusters are configured with.
pub const TTLS: [u64; 5] = [3_000, 3_000, 3_000, 2_000, 5_000];

/// Chances in a million of what may go wrong with each single message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noise {
    /// A request to the table: lost, applied without an answer, applied later, turned away.
    pub table: u32,
    /// A message between peers: lost, doubled, out of order.
    pub link: u32,
    /// An event: lost, doubled, minutes late.
    pub event: u32,
    /// A mutating call of EC2: unanswered, and applied now, later or never; throttled.
    pub ec2: u32,
    /// A function, at each await: killed or frozen.
    pub run: u32,
}

#[derive(Clone, Debug)]
pub struct Weather {
    pub nodes: usize,
    pub ttl_ms: u64,
    /// Data is replicated. Where no volumes are configured, a replica is nothing but its name.
    pub volumes: bool,
    /// Asynchronous standbys may take over (R240) from the start: data may be lost then, and is not counted as lost.
    pub lossy: bool,
    /// The node whose replica follows asynchronously, by its configuration.
    pub follower: Option<usize>,
    /// One single fault instead of many, and service promised during it.
    pub story: Option<Story>,
    /// Faults come for this long.
    pub length: Us,
    /// Kinds that this seed has, with their weights added up.
    kinds: Vec<(u64, Kind)>,
    /// Mean time between two injections.
    pub every: Us,
    /// Longest duration of a fault, in ttl.
    pub longest_ttl: u64,
    pub noise: Noise,
    /// How old EC2's descriptions may be.
    pub describe_lag: Us,
    /// Mean time between two client operations.
    pub op_every: Us,
    pub sectors: usize,
    /// What a disk takes for something, usually at most.
    pub disk_us: Us,
    /// Clients write several sectors at once.
    pub bursts: bool,
    /// By what a write counts as acknowledged.
    pub durability: Durability,
    /// Starting and stopping the workload.
    pub start_us: Us,
    pub stop_us: Us,
    /// Clocks off their rate by up to ρ from the start.
    pub drift: bool,
    /// Then the first node's clocks are fast, and not slow.
    pub first_is_fast: bool,
}

impl Weather {
    #[must_use]
    pub fn of(dice: &mut Dice) -> Self {
        let calm = dice.below(50) == 0;
        let noise = |dice: &mut Dice, most: u64| {
            if calm || dice.below(2) == 0 { 0 } else { u32::try_from(dice.skewed(0, most)).unwrap_or(0) }
        };
        // A fifth to nearly all of the kinds.
        let share = dice.between(20, 90);
        let mut kinds = Vec::new();
        let mut sum = 0;
        let lossy = dice.below(8) == 0;
        for kind in Kind::ALL {
            // With a frozen clock nothing is promised where loss is allowed: no standby's refusal stands behind the lease.
            let possible = !(lossy && kind == Kind::Freeze);
            if !calm && dice.below(100) < share && possible {
                sum += kind.weight();
                kinds.push((sum, kind));
            }
        }
        let mut all = Self {
            follower: None,
            story: None,
            // A third one is what loss of data can be allowed for.
            nodes: if dice.below(3) == 0 || (lossy && dice.below(2) == 0) { 3 } else { 2 },
            ttl_ms: TTLS[dice.index(TTLS.len())],
            volumes: dice.below(4) != 0,
            lossy,
            length: dice.between(50, 110) * 1_000_000,
            kinds,
            every: dice.skewed(1_000_000, 12_000_000),
            longest_ttl: [1, 3, 10][dice.index(3)],
            noise: Noise {
                table: noise(dice, 60_000),
                link: noise(dice, 100_000),
                event: noise(dice, 400_000),
                ec2: noise(dice, 300_000),
                run: noise(dice, 20_000),
            },
            describe_lag: if dice.below(2) == 0 { 0 } else { dice.below(4_000_000) },
            op_every: dice.skewed(15_000, 150_000),
            sectors: [4, 16, 64][dice.index(3)],
            disk_us: dice.skewed(300, 150_000),
            bursts: dice.below(2) == 0,
            durability: Durability::ALL[dice.index(Durability::ALL.len())],
            start_us: dice.skewed(20_000, 1_500_000),
            stop_us: dice.skewed(10_000, 1_500_000),
            drift: dice.below(3) != 0,
            first_is_fast: dice.below(2) == 0,
        };
        if all.volumes && dice.below(if lossy { 2 } else { 5 }) == 0 {
            all.follower = Some(all.nodes - 1);
        }
        if dice.below(STORIES) == 0 { Self::told(Story::of(dice), &all) } else { all }
    }

    /// The same sizes, paces and clocks, quiet but for one fault.
    #[must_use]
    pub fn told(story: Story, like: &Self) -> Self {
        Self {
            story: Some(story),
            kinds: Vec::new(),
            noise: Noise::default(),
            describe_lag: 0,
            lossy: false,
            // Who follows so is no member: in a story each node can be counted on.
            follower: None,
            disk_us: like.disk_us.min(8_000),
            length: BEGINS + 7_000_000 + 13 * like.ttl_ms * 1_000,
            ..like.clone()
        }
    }

    /// A world without faults.
    #[must_use]
    pub fn calm(nodes: usize) -> Self {
        Self {
            nodes,
            ttl_ms: 3_000,
            volumes: true,
            lossy: false,
            follower: None,
            story: None,
            length: 20_000_000,
            kinds: Vec::new(),
            every: 1_000_000,
            longest_ttl: 1,
            noise: Noise::default(),
            describe_lag: 0,
            op_every: 50_000,
            sectors: 8,
            disk_us: 500,
            bursts: false,
            durability: Durability::Through,
            start_us: 60_000,
            stop_us: 30_000,
            drift: false,
            first_is_fast: false,
        }
    }

    /// Whether loss may be allowed while it lasts. Not beside frozen clocks, for the reason above.
    #[must_use]
    pub fn may_lose(&self) -> bool {
        let has = |kind: Kind| self.kinds.iter().any(|(_, one)| *one == kind);
        self.lossy || (has(Kind::Reconfigure) && !has(Kind::Freeze))
    }

    /// A kind of fault, by weight; `None` where this seed has none.
    pub fn draw(&self, dice: &mut Dice) -> Option<Kind> {
        let (sum, _) = *self.kinds.last()?;
        let at = dice.below(sum);
        self.kinds.iter().find(|(upto, _)| at < *upto).map(|(_, kind)| *kind)
    }

    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        self.kinds.iter().map(|(_, kind)| kind.name()).collect()
    }
}
