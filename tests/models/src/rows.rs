//! The row as one number, and the shipping rules on it.
//!
//! A search makes millions of states, and a real [`Row`] is full of strings. So a state holds a [`Packed`] row, and each
//! rule is asked through a table of what it said before: unpacked, the real function called, its answer packed. Few
//! different questions are ever asked; what decides is the code that ships.

use lease::accept::{Ground, Hindrance, Vigil};
use lease::authority::Authority;
use lease::change::{Change, Drain, Expect, Terms, Write};
use lease::ids::{Beat, Epoch, Incarnation, Nonce, Rev};
use lease::outcome::Outcome;
use lease::policy::Policy;
use lease::record::{DeadState, Holder, Nominee, ProofOfDeath, Row};
use lease::rules::Rule;
use lease::time::{Millis, Moment};
use node::rules::{self, Sequel};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

/// Nodes at most.
pub const NODES: usize = 3;
/// Incarnations of a node at most.
pub const INCARNATIONS: u8 = 3;

/// One incarnation of one node's replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(pub u8);

impl Member {
    #[must_use]
    pub fn of(node: usize, incarnation: u8) -> Self {
        Self(u8::try_from(node).expect("few nodes") * INCARNATIONS + incarnation)
    }

    #[must_use]
    pub fn node(self) -> usize {
        usize::from(self.0 / INCARNATIONS)
    }

    /// With its node numbered anew.
    pub(crate) fn renumbered(self, to: impl Fn(usize) -> usize) -> Self {
        Self::of(to(self.node()), self.0 % INCARNATIONS)
    }

    /// As it is called in traces: the node's letter, and the incarnation where it is not the first.
    #[must_use]
    pub fn name(self) -> String {
        let primes = "'".repeat(usize::from(self.0 % INCARNATIONS));
        format!("{}{primes}", node_name(self.node()))
    }
}

/// A node's letter.
#[must_use]
pub fn node_name(node: usize) -> char {
    ['A', 'B', 'C'][node]
}

/// A set of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Members(pub u16);

impl Members {
    #[must_use]
    pub fn with(self, member: Member) -> Self {
        Self(self.0 | 1 << member.0)
    }

    #[must_use]
    pub fn without(self, member: Member) -> Self {
        Self(self.0 & !(1 << member.0))
    }

    #[must_use]
    pub fn has(self, member: Member) -> bool {
        self.0 & 1 << member.0 != 0
    }

    #[must_use]
    pub fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub fn each(self) -> impl Iterator<Item = Member> {
        (0..16).map(Member).filter(move |member| self.has(*member))
    }

    /// With each member's node numbered anew.
    pub(crate) fn renumbered(self, to: impl Fn(usize) -> usize) -> Self {
        self.each().fold(Self::default(), |set, member| set.with(member.renumbered(&to)))
    }

    /// "{A, B}".
    #[must_use]
    pub fn names(self) -> String {
        format!("{{{}}}", self.each().map(Member::name).collect::<Vec<_>>().join(", "))
    }
}

/// A [`Row`] in 64 bits. Not in it: the cluster's name and the ttl, which never change here, intent and pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packed(pub u64);

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident, $with:ident: $at:literal, $bits:literal;)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(self) -> u8 {
            u8::try_from(self.0 >> $at & ((1 << $bits) - 1)).expect("a few bits")
        }
        #[must_use]
        pub(crate) fn $with(self, value: u8) -> Self {
            assert!(u64::from(value) < 1 << $bits, concat!(stringify!($name), " is too large to pack"));
            Self(self.0 & !(((1 << $bits) - 1) << $at) | u64::from(value) << $at)
        })*
    };
}

impl Packed {
    fields! {
        rev, with_rev: 0, 5;
        epoch, with_epoch: 5, 4;
        beat, with_beat: 9, 5;
        nonce, with_nonce: 14, 4;
        lineage, with_lineage: 18, 1;
        activated_bit, with_activated: 19, 1;
        lossy_bit, with_lossy: 20, 1;
        /// 0: nobody, else the member + 1.
        holder_code, with_holder: 21, 4;
        /// 0: nobody, else the member + 1. Always bound to the row's (epoch, beat).
        nominee_code, with_nominee: 25, 4;
        proof_bit, with_proof: 29, 1;
        nominee_lossy_bit, with_nominee_lossy: 30, 1;
    }

    /// A row as a cluster in service has it.
    #[must_use]
    pub fn held(holder: Member, in_sync: Members) -> Self {
        Self(0).with_rev(1).with_epoch(1).with_beat(1).with_activated(1).with_holder(holder.0 + 1).with_in_sync(in_sync)
    }

    #[must_use]
    pub fn in_sync(self) -> Members {
        Members(u16::try_from(self.0 >> 32 & 0xffff).expect("16 bits"))
    }

    pub(crate) fn with_in_sync(self, members: Members) -> Self {
        Self(self.0 & !(0xffff << 32) | u64::from(members.0) << 32)
    }

    #[must_use]
    pub fn holder(self) -> Option<Member> {
        self.holder_code().checked_sub(1).map(Member)
    }

    #[must_use]
    pub fn nominee(self) -> Option<Member> {
        self.nominee_code().checked_sub(1).map(Member)
    }

    /// With each node numbered anew.
    pub(crate) fn renumbered(self, to: impl Fn(usize) -> usize + Copy) -> Self {
        let code = |member: Option<Member>| member.map_or(0, |member| member.renumbered(to).0 + 1);
        self.with_holder(code(self.holder()))
            .with_nominee(code(self.nominee()))
            .with_in_sync(self.in_sync().renumbered(to))
    }

    #[must_use]
    pub fn activated(self) -> bool {
        self.activated_bit() == 1
    }

    #[must_use]
    pub fn lossy_ok(self) -> bool {
        self.lossy_bit() == 1
    }

    /// "rev 3, epoch 2 held by B (not activated), in sync {B}".
    #[must_use]
    pub fn tells(self) -> String {
        let holder = self.holder().map_or("nobody".into(), Member::name);
        let activated = if self.activated() || self.holder().is_none() { "" } else { ", not activated" };
        let nominee = self.nominee().map_or(String::new(), |nominee| format!(", nominee {}", nominee.name()));
        format!(
            "rev {}: epoch {} held by {holder}{activated}, in sync {}{nominee}",
            self.rev(),
            self.epoch(),
            self.in_sync().names()
        )
    }

    /// The real row.
    #[must_use]
    pub fn unpack(self) -> Row {
        let names = &*NAMES;
        let (epoch, beat) = (Epoch(self.epoch().into()), Beat(self.beat().into()));
        Row {
            cluster: "web".parse().expect("a valid name"),
            rev: Rev(self.rev().into()),
            lineage: format!("line-{}", self.lineage()).parse().expect("a valid name"),
            epoch,
            holder: self.holder().map(|member| names[usize::from(member.0)].clone()),
            beat,
            in_sync: self.in_sync().each().map(|member| names[usize::from(member.0)].incarnation.clone()).collect(),
            activated: self.activated(),
            nominee: self.nominee().map(|member| {
                nominee(member, epoch, beat, self.proof_bit() == 1, self.nominee_lossy_bit() == 1, self.holder())
            }),
            intent: None,
            paused: None,
            ttl_ms: TTL,
            lossy_ok: self.lossy_ok(),
            nonce: nonce(self.nonce()),
        }
    }

    fn pack(row: &Row) -> Self {
        let small = |number: u64| u8::try_from(number).expect("a small bound");
        let mut packed = Self(0)
            .with_rev(small(row.rev.0))
            .with_epoch(small(row.epoch.0))
            .with_beat(small(row.beat.0))
            .with_nonce(row.nonce.as_str()[1..].parse().expect("a nonce of ours"))
            .with_lineage(row.lineage.as_str()["line-".len()..].parse().expect("a lineage of ours"))
            .with_activated(row.activated.into())
            .with_lossy(row.lossy_ok.into())
            .with_in_sync(pack_members(row.in_sync.iter()))
            .with_holder(row.holder.as_ref().map_or(0, |holder| member_of(&holder.incarnation).0 + 1));
        if let Some(nominee) = &row.nominee {
            assert_eq!(
                (nominee.epoch, nominee.beat),
                (row.epoch, row.beat),
                "each write that moves the beat ends a nomination"
            );
            packed = packed
                .with_nominee(member_of(&nominee.incarnation).0 + 1)
                .with_proof(nominee.proof.is_some().into())
                .with_nominee_lossy(nominee.lossy.into());
        }
        packed
    }
}

/// The lease that every row here is held under, and its policy: the widest rate bound that policy allows, so that one
/// slow and one fast clock differ by half.
pub const TTL: Millis = Millis(2_400);

/// The policy of every node here: checked like a user's.
#[must_use]
pub fn policy() -> Policy {
    let policy = Policy::with_rate_bound(TTL, 200_000);
    policy.check().expect("the models' policy is an allowed one");
    policy
}

/// How long a watcher of these rows waits, by that policy; no promise lasts longer.
#[must_use]
pub fn policy_wait() -> Millis {
    static WAIT: LazyLock<Millis> = LazyLock::new(|| policy().wait_for(TTL).max(policy().forgotten_promise_ms()));
    *WAIT
}

static NAMES: LazyLock<Vec<Holder>> = LazyLock::new(|| {
    (0..NODES)
        .flat_map(|node| (0..INCARNATIONS).map(move |incarnation| (["a", "b", "c"][node], incarnation)))
        .map(|(node, incarnation)| Holder {
            node: node.parse().expect("a valid name"),
            incarnation: format!("{node}-{incarnation}").parse().expect("a valid name"),
            instance: format!("i-0{node}").parse().expect("a valid id"),
            boot: "boot-1".parse().expect("a valid id"),
            launched: "2026-01-31T23:59:59Z".into(),
        })
        .collect()
});

/// The real holder that a member stands for.
#[must_use]
pub fn holder(member: Member) -> &'static Holder {
    &NAMES[usize::from(member.0)]
}

/// The real incarnation that a member stands for.
#[must_use]
pub fn incarnation(member: Member) -> Incarnation {
    holder(member).incarnation.clone()
}

fn nonce(number: u8) -> Nonce {
    format!("n{number}").parse().expect("a valid nonce")
}

fn member_of(incarnation: &Incarnation) -> Member {
    let at = NAMES.iter().position(|name| name.incarnation == *incarnation).expect("an incarnation of ours");
    Member(u8::try_from(at).expect("few members"))
}

fn pack_members<'a>(members: impl Iterator<Item = &'a Incarnation>) -> Members {
    members.fold(Members::default(), |set, member| set.with(member_of(member)))
}

fn nominee(member: Member, epoch: Epoch, beat: Beat, proof: bool, lossy: bool, of: Option<Member>) -> Nominee {
    let dead = of.filter(|_| proof).map(|of| holder(of).instance.clone());
    Nominee {
        node: holder(member).node.clone(),
        incarnation: incarnation(member),
        epoch,
        beat,
        rule: if lossy { Rule::R240 } else { Rule::R210 },
        reason: "silent".into(),
        proof: dead.map(|instance| ProofOfDeath { instance, state: DeadState::Terminated }),
        lossy,
    }
}

/// A [`Change`] in a few bits; who wants it and in which epoch comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    Renew,
    Shrink(Member),
    Grow(Member),
    Nominate { proof: bool, lossy: bool },
    Accept,
    Activate,
    HandOver(Member),
    Release,
    Restart { clean: bool },
    Leave,
}

/// The row that `me`, who believes in `epoch`, makes of `row`, by [`Change::on`]; `None`: refused.
#[must_use]
pub fn on(row: Packed, me: Member, epoch: u8, want: Want, mark: u8) -> Option<Packed> {
    type Question = (Packed, Member, u8, Want, u8);
    thread_local!(static SAID: RefCell<Memo<Question, Option<Packed>>> = RefCell::default());
    asked(&SAID, (row, me, epoch, want, mark), || {
        let real = row.unpack();
        change(&real, row, me, epoch, want).on(&real, nonce(mark)).ok().map(|write| Packed::pack(&write.row))
    })
}

fn change(real: &Row, row: Packed, me: Member, epoch: u8, want: Want) -> Change {
    let (me_real, epoch) = (holder(me).clone(), Epoch(epoch.into()));
    let terms = Terms { ttl_ms: TTL, lossy_ok: row.lossy_ok() };
    match want {
        Want::Renew => Change::Renew { me: me_real, epoch },
        Want::Shrink(peer) => Change::Shrink { me: me_real, epoch, peer: incarnation(peer) },
        Want::Grow(peer) => Change::Grow { me: me_real, epoch, peer: incarnation(peer) },
        Want::Nominate { proof, lossy } => {
            Change::Nominate(nominee(me, real.epoch, real.beat, proof, lossy, row.holder()))
        }
        Want::Accept => Change::Accept { me: me_real, terms },
        Want::Activate => Change::Activate { me: me_real, epoch },
        Want::HandOver(to) => Change::HandOver { me: me_real, epoch, to: holder(to).clone(), terms },
        Want::Release => Change::Release { me: me_real, epoch },
        Want::Restart { clean } => {
            Change::Restart { me: me_real, after: if clean { Drain::Clean } else { Drain::Crash }, terms }
        }
        Want::Leave => Change::Leave { me: me_real.incarnation },
    }
}

/// What follows for who wanted this once it is applied, by [`Sequel::of`].
#[must_use]
pub fn sequel(want: Want) -> Sequel {
    thread_local!(static SAID: RefCell<Memo<Want, Sequel>> = RefCell::default());
    asked(&SAID, want, || {
        let row = Packed::held(Member(0), Members(1));
        Sequel::of(&change(&row.unpack(), row, Member(0), 1, want))
    })
}

/// What became of the write of `new`, whose condition did not hold on `found`, by [`Outcome::of_conflict`]: whether it
/// counts as applied.
#[must_use]
pub fn applied_after_conflict(new: Packed, found: Packed, unanswered: bool) -> bool {
    thread_local!(static SAID: RefCell<Memo<(Packed, Packed, bool), bool>> = RefCell::default());
    asked(&SAID, (new, found, unanswered), || {
        let base = Row { rev: Rev(u64::from(new.rev()) - 1), ..new.unpack() };
        let write = Write { expect: Expect::Version(Box::new(base)), row: new.unpack() };
        match Outcome::of_conflict(&write, Some(Box::new(found.unpack())), unanswered) {
            Outcome::Applied(_) => true,
            Outcome::Refused { .. } | Outcome::Superseded { .. } => false,
            other => unreachable!("a conflict is never {other:?}"),
        }
    })
}

/// Whether `row` shows that the write of `new` was applied, also where others have written since, by [`rules::is_in`].
/// `made_on`: epoch and beat of the row that it was made on.
#[must_use]
pub fn is_in(new: Packed, made_on: (u8, u8), row: Packed) -> bool {
    type Question = (Packed, (u8, u8), Packed);
    thread_local!(static SAID: RefCell<Memo<Question, bool>> = RefCell::default());
    asked(&SAID, (new, made_on, row), || {
        let wanted = new.unpack();
        let (rev, epoch, beat) = (Rev(wanted.rev.0 - 1), Epoch(made_on.0.into()), Beat(made_on.1.into()));
        let base = Row { rev, epoch, beat, ..wanted.clone() };
        rules::is_in(&Write { expect: Expect::Version(Box::new(base)), row: wanted }, &row.unpack())
    })
}

/// Whether a standby takes `row` for a hand-over to itself, by [`rules::is_handed_over`]. `past`: the epoch that it knows an
/// earlier process of its own to have held; 0 for none.
#[must_use]
pub fn is_handed_over(row: Packed, me: Member, past: u8) -> bool {
    type Question = (Packed, Member, u8);
    thread_local!(static SAID: RefCell<Memo<Question, bool>> = RefCell::default());
    asked(&SAID, (row, me, past), || {
        let past = (past > 0).then_some(Epoch(past.into()));
        rules::is_handed_over(&row.unpack(), holder(me), past)
    })
}

/// Whether a process of `me` that starts must fear that an earlier one accepts this very row, by [`rules::claim_on`].
#[must_use]
pub fn is_claimed(row: Packed, me: Member) -> bool {
    type Question = (Packed, Member);
    thread_local!(static SAID: RefCell<Memo<Question, bool>> = RefCell::default());
    asked(&SAID, (row, me), || rules::claim_on(&row.unpack(), &holder(me).node).is_some())
}

/// Whether the nominee `me` may accept `row` once all its waits are over, by [`Vigil::may_accept`].
#[must_use]
pub fn may_accept_in_the_end(row: Packed, me: Member, consistent: bool) -> bool {
    thread_local!(static SAID: RefCell<Memo<(Packed, Member, bool), bool>> = RefCell::default());
    asked(&SAID, (row, me, consistent), || {
        let mut vigil = Vigil::started(Moment::default());
        let real = row.unpack();
        vigil.saw(real.epoch, real.beat, Moment::default());
        let late = Moment::default().after(Millis(1_000_000));
        match vigil.may_accept(&real, holder(me), consistent, &policy(), late) {
            Ok(Ground::WaitPassed | Ground::ProofOfDeath | Ground::Released) => true,
            Err(Hindrance::Wait(left)) => unreachable!("{left} of waiting left at the end of time"),
            Err(Hindrance::NotNominated | Hindrance::NotInSync | Hindrance::Inconsistent) => false,
        }
    })
}

/// Who a holder's acknowledgements wait for, kept by the real [`Authority`].
pub mod need {
    use super::{Authority, BTreeSet, Incarnation, Member, Members, Memo, RefCell, asked, incarnation, pack_members};

    fn real(need: Members) -> Authority {
        Authority::of_new_epoch(need.each().map(incarnation).collect::<BTreeSet<Incarnation>>())
    }

    /// After [`Authority::needs`].
    #[must_use]
    pub fn needs(need: Members, member: Member) -> Members {
        thread_local!(static SAID: RefCell<Memo<(Members, Member), Members>> = RefCell::default());
        asked(&SAID, (need, member), || {
            let mut authority = real(need);
            authority.needs(incarnation(member));
            pack_members(authority.need())
        })
    }

    /// After [`Authority::proven`].
    #[must_use]
    pub fn proven(need: Members, members: Members) -> Members {
        thread_local!(static SAID: RefCell<Memo<(Members, Members), Members>> = RefCell::default());
        asked(&SAID, (need, members), || {
            let mut authority = real(need);
            authority.proven(members.each().map(incarnation), false);
            pack_members(authority.need())
        })
    }
}

pub(crate) type Memo<Question, Answer> = HashMap<Question, Answer, BuildHasherDefault<Quick>>;

/// What was answered before, or what `answer` says now.
pub(crate) fn asked<Question: std::hash::Hash + Eq, Answer: Copy>(
    memo: &'static std::thread::LocalKey<RefCell<Memo<Question, Answer>>>,
    question: Question,
    answer: impl FnOnce() -> Answer,
) -> Answer {
    let known = memo.with_borrow(|memo| memo.get(&question).copied());
    known.unwrap_or_else(|| {
        let answer = answer();
        memo.with_borrow_mut(|memo| memo.insert(question, answer));
        answer
    })
}

/// A hasher for keys of a few small numbers, asked millions of times a second.
#[derive(Default)]
#[allow(missing_debug_implementations, reason = "nothing to see")]
pub(crate) struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number.cast_unsigned() as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
