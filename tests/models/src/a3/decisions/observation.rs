//! What a run has seen, in a few bytes, and what [`lambdas::decide::decide`] makes of it.

use crate::a3::lease::{Launch, Lease, Memo, Node, Nomination, cluster, launched};
use lambdas::decide::{
    Action, Described, Hint, Marks, Missing, Observation, Sighting, acceptance_limit, decide, launch,
};
use lease::config::{ClusterConfig, Member};
use lease::heartbeat::{Hearing, Heartbeat, Replica};
use lease::ids::{Beat, BootId, Epoch, Lineage, Nonce};
use lease::policy::Policy;
use lease::rules::Rule;
use lease::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// As often as EC2 is asked at most; from then on its word stands.
const LAST_LOOK: u8 = 12;

/// Why a run looks at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::a3) enum Why {
    /// `long`: silent for longer than a nominee may take.
    Suspected {
        node: Node,
        place: (u8, u8),
        hears: bool,
        long: bool,
    },
    StoodStill {
        place: (u8, u8),
    },
    /// EC2's event that the node's instance is stopped.
    Stopped {
        node: Node,
    },
    Released {
        node: Node,
        epoch: u8,
    },
    Joined {
        node: Node,
    },
    Look,
    /// An operator asks for a move.
    Move,
    /// The holder asks to be relieved.
    Relief {
        node: Node,
        epoch: u8,
    },
    /// An operator insists. `stop`: the holder's instance may be stopped first.
    Force {
        stop: bool,
    },
}

/// A node's heartbeat item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::a3) struct Beats {
    /// It hears its peers, or none of them.
    pub(super) hears: bool,
    /// Whether it advanced while the run looked; `None`: looked at once.
    pub(super) advanced: Option<bool>,
    pub(super) launch: Launch,
}

/// An instance as EC2 describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::a3) struct Instance {
    pub(super) running: bool,
    pub(super) launch: Launch,
}

/// A run's observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::a3) struct Seen {
    pub(super) why: Why,
    pub(super) row: Lease,
    pub(super) heartbeats: Option<[Beats; 3]>,
    pub(super) instances: Option<[Instance; 3]>,
    /// EC2 was asked as often as it is worth.
    pub(super) asked_enough: bool,
    pub(super) row_moves: Option<bool>,
    /// One bit for each node.
    pub(super) gave_up_on: u8,
}

/// What shall be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verdict {
    Nothing(Rule),
    Blocked(Rule),
    Nominate(Nomination),
    /// A request to move to this node.
    Intend(Node, Rule),
    Stop,
    LookAgain(Wanted),
}

/// What a decision still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct Wanted {
    pub(super) heartbeats: bool,
    /// Of these nodes, a bit for each.
    pub(super) movement: u8,
    pub(super) instances: bool,
    pub(super) row: bool,
    /// It takes time: the row is read again afterwards.
    pub(super) slow: bool,
}

/// The decision function.
pub(super) struct Decider {
    config: ClusterConfig,
    known: Memo<Seen, Verdict>,
}

impl Decider {
    pub(super) fn new(nodes: u8) -> Self {
        let member = |node: Node| Member { name: node.id(), instance: node.instance(), priority: 100 };
        let nodes = Node::all(nodes).map(member).collect();
        let config = ClusterConfig {
            cluster: cluster(),
            nodes,
            virtual_ips: Vec::new(),
            ports: None,
            policy: Policy::default(),
        };
        Self { config, known: Memo::new() }
    }

    pub(super) fn decide(&self, seen: &Seen) -> Verdict {
        // No rule reads `rev`.
        let seen = Seen { row: Lease { rev: 0, ..seen.row }, ..*seen };
        self.known.get(seen, || {
            let decision = decide(&self.observation(&seen));
            match decision.action {
                Action::Nothing => Verdict::Nothing(decision.rule),
                Action::Block { .. } => Verdict::Blocked(decision.rule),
                Action::Nominate(nominee) => Verdict::Nominate(Nomination::of(&nominee)),
                Action::Stop(_) => Verdict::Stop,
                Action::LookAgain(missing) => Verdict::LookAgain(wanted(&missing)),
                Action::Intend(intent) => Verdict::Intend(Node::of(intent.to.as_str()), intent.rule),
                Action::Found(_) => unreachable!("there is a row"),
            }
        })
    }

    fn observation(&self, seen: &Seen) -> Observation {
        let nodes = || self.config.nodes.iter().map(|member| Node::of(member.name.as_str()));
        let sighting = |node: Node, beats: Beats| Sighting {
            seq: 1,
            heartbeat: self.heartbeat(node, beats),
            advanced: beats.advanced,
        };
        let described = |instance: Instance| Described {
            state: if instance.running { "running" } else { "stopped" }.into(),
            launched: launch::seconds(&launched(instance.launch)),
        };
        Observation {
            hint: self.hint(seen.why, &seen.row),
            config: self.config.clone(),
            row: Some(seen.row.row()),
            heartbeats: seen
                .heartbeats
                .map(|all| nodes().map(|node| (node.id(), sighting(node, all[node.place()]))).collect()),
            instances: seen
                .instances
                .map(|all| nodes().map(|node| (node.instance(), described(all[node.place()]))).collect()),
            instance_looks: u32::from(if seen.asked_enough { LAST_LOOK } else { u8::from(seen.instances.is_some()) }),
            row_moves: seen.row_moves,
            gave_up_on: nodes().filter(|node| seen.gave_up_on & node.bit() != 0).map(Node::id).collect(),
            marks: Marks {
                intent: Nonce::new("i").expect("a valid name"),
                lineage: Lineage::new("lineage").expect("a valid name"),
            },
        }
    }

    fn hint(&self, why: Why, row: &Lease) -> Hint {
        let (epoch, beat) = (|epoch: u8| Epoch(epoch.into()), |beat: u8| Beat(beat.into()));
        match why {
            Why::Suspected { node, place, hears, long } => Hint::Suspected {
                node: node.id(),
                epoch: epoch(place.0),
                beat: beat(place.1),
                silent_ms: if long {
                    acceptance_limit(&self.config, row.row().ttl_ms).plus(Millis(1))
                } else {
                    self.config.policy.suspect_ms
                },
                hears,
            },
            Why::StoodStill { place } => Hint::StoodStill { epoch: epoch(place.0), beat: beat(place.1) },
            Why::Stopped { node } => Hint::InstanceState { instance: node.instance(), state: "stopped".into() },
            Why::Released { node, epoch: of } => {
                Hint::Released { node: node.id(), epoch: epoch(of), reason: String::new() }
            }
            Why::Joined { node } => Hint::Joined { node: node.id() },
            Why::Look => Hint::Look,
            Why::Move => Hint::Switchover { to: None, reason: String::new() },
            Why::Relief { node, epoch: of } => {
                Hint::Relief { node: node.id(), epoch: epoch(of), reason: String::new() }
            }
            Why::Force { stop } => {
                Hint::Force { to: None, accept_data_loss: false, force_stop: stop, reason: String::new() }
            }
        }
    }

    fn heartbeat(&self, node: Node, beats: Beats) -> Heartbeat {
        let hearing = Hearing { linked: beats.hears, silent_ms: Millis::ZERO, promise_left_ms: Millis::ZERO };
        let peers = self.config.nodes.iter().filter(|member| member.name != node.id());
        let hears: BTreeMap<_, _> = peers.map(|member| (member.name.clone(), hearing.clone())).collect();
        Heartbeat {
            cluster: cluster(),
            node: node.id(),
            instance: node.instance(),
            boot: BootId::new(format!("boot-{}", beats.launch)).expect("a valid name"),
            launched: launched(beats.launch),
            incarnation: node.incarnation(),
            version: String::new(),
            peer_address: String::new(),
            fingerprint: String::new(),
            role: "standby".into(),
            epoch: Epoch(0),
            beat: Beat(0),
            hears,
            resources: Vec::new(),
            replica: Replica { consistent: true, asynchronous: false, lag_ms: None },
        }
    }
}

fn wanted(missing: &[Missing]) -> Wanted {
    let mut wanted = Wanted::default();
    let bits = |nodes: &BTreeSet<lease::ids::NodeId>| nodes.iter().map(|node| Node::of(node.as_str()).bit()).sum();
    for what in missing {
        match what {
            Missing::Heartbeats => wanted.heartbeats = true,
            Missing::Movement { nodes, .. } => {
                wanted.movement = bits(nodes);
                wanted.slow = true;
            }
            Missing::Instances { after } => {
                wanted.instances = true;
                wanted.slow |= *after > Millis::ZERO;
            }
            Missing::RowMovement { .. } => {
                wanted.row = true;
                wanted.slow = true;
            }
        }
    }
    wanted
}
