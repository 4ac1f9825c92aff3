//! What holds of every decision, whatever was seen.

use super::tests::{seen, sighting};
use super::*;
use crate::cloud::fake::{LAUNCHED_S, hearing, holder, node, row};
use lease::accept::Vigil;
use lease::authority::{Authority, Standing};
use lease::change::Change;
use lease::policy::Policy;
use lease::record::Pause;
use lease::time::Moment;
use proptest::prelude::*;

fn any_hint() -> impl Strategy<Value = Hint> {
    let a_node = prop::sample::select(vec!["a", "b", "zebra"]).prop_map(node);
    let place = (6_u64..9, 98_u64..103);
    let target = prop::option::of(a_node.clone());
    prop_oneof![
        (a_node.clone(), place.clone(), 0_u64..20_000, any::<bool>()).prop_map(
            |(node, (epoch, beat), silent, hears)| {
                Hint::Suspected { node, epoch: Epoch(epoch), beat: Beat(beat), silent_ms: Millis(silent), hears }
            }
        ),
        place.prop_map(|(epoch, beat)| Hint::StoodStill { epoch: Epoch(epoch), beat: Beat(beat) }),
        prop::sample::select(vec!["a", "b"])
            .prop_map(|name| Hint::InstanceState { instance: holder(name).instance, state: "stopped".into() }),
        prop::sample::select(vec!["a", "b"])
            .prop_map(|name| Hint::Interruption { instance: holder(name).instance, action: "stop".into() }),
        prop::sample::select(vec!["a", "b"]).prop_map(|name| Hint::Maintenance {
            instance: holder(name).instance,
            what: "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED".into(),
            starts: None
        }),
        (a_node.clone(), 6_u64..9).prop_map(|(node, epoch)| Hint::Relief {
            node,
            epoch: Epoch(epoch),
            reason: "r".into()
        }),
        (a_node.clone(), 6_u64..9).prop_map(|(node, epoch)| Hint::Released {
            node,
            epoch: Epoch(epoch),
            reason: "r".into()
        }),
        a_node.prop_map(|node| Hint::Joined { node }),
        Just(Hint::Look),
        target.clone().prop_map(|to| Hint::Switchover { to, reason: "r".into() }),
        (target, any::<bool>(), any::<bool>()).prop_map(|(to, accept_data_loss, force_stop)| Hint::Force {
            to,
            accept_data_loss,
            force_stop,
            reason: "r".into(),
        }),
    ]
}

#[derive(Debug, Clone)]
struct World {
    in_sync: Vec<&'static str>,
    held: bool,
    activated: bool,
    paused: bool,
    lossy_ok: bool,
    lossy_limit: Option<u64>,
    moved: Option<bool>,
    read: bool,
    a: (Option<bool>, &'static str),
    b: (Option<bool>, &'static str, bool, bool, Option<u64>, u64),
    described: Option<(&'static str, i64)>,
    gave_up: bool,
}

fn any_world() -> impl Strategy<Value = World> {
    let advanced = || prop::option::of(any::<bool>());
    let instance = || prop::sample::select(vec!["i-0a", "i-0b", "i-0zebra"]);
    let row = (
        prop::sample::select(vec![vec!["a"], vec!["a", "b"], vec!["b"]]),
        prop::bool::weighted(0.8),
        any::<bool>(),
        prop::bool::weighted(0.2),
        any::<bool>(),
    );
    let b = (advanced(), instance(), any::<bool>(), any::<bool>(), prop::option::of(0_u64..2_000), 0_u64..101);
    let states = prop::sample::select(vec!["running", "stopping", "stopped", "terminated"]);
    let launches = prop::sample::select(vec![LAUNCHED_S - 60, LAUNCHED_S, LAUNCHED_S + 60]);
    (
        row,
        prop::option::of(Just(1_000)),
        advanced(),
        prop::bool::weighted(0.9),
        (advanced(), instance()),
        b,
        prop::option::of((states, launches)),
        any::<bool>(),
    )
        .prop_map(
            |((in_sync, held, activated, paused, lossy_ok), lossy_limit, moved, read, a, b, described, gave_up)| {
                World { in_sync, held, activated, paused, lossy_ok, lossy_limit, moved, read, a, b, described, gave_up }
            },
        )
}

fn observation(hint: Hint, world: &World) -> Observation {
    let mut seen = seen(hint);
    let mut row = row("a", &world.in_sync);
    if !world.held {
        row.holder = None;
    }
    row.activated = world.activated && world.held;
    row.lossy_ok = world.lossy_ok;
    row.paused = world.paused.then(|| Pause { reason: "p".into() });
    seen.row = Some(row);
    seen.config.policy.lossy_lag_limit_ms = world.lossy_limit.map(Millis);
    seen.row_moves = world.moved;
    let (mut a, mut b) = (sighting("a"), sighting("b"));
    a.1.advanced = world.a.0;
    a.1.heartbeat.instance = world.a.1.parse().expect("an id");
    b.1.advanced = world.b.0;
    b.1.heartbeat.instance = world.b.1.parse().expect("an id");
    b.1.heartbeat.hears.insert(node("a"), hearing(world.b.2));
    b.1.heartbeat.replica.consistent = world.b.3;
    b.1.heartbeat.replica.lag_ms = world.b.4.map(Millis);
    b.1.heartbeat.beat = Beat(world.b.5);
    seen.heartbeats = world.read.then(|| BTreeMap::from([a, b]));
    seen.instances = world.described.map(|(state, launched)| {
        BTreeMap::from([(holder("a").instance, Described { state: state.into(), launched: Some(launched) })])
    });
    if world.gave_up {
        seen.gave_up_on.insert(node("b"));
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn nobody_outside_the_in_sync_set_is_nominated_unless_loss_was_accepted(hint in any_hint(), world in any_world()) {
        let seen = observation(hint, &world);
        if let Action::Nominate(nominee) = decide(&seen).action {
            let row = seen.row.as_ref().expect("a row");
            let in_sync = row.in_sync.contains(&nominee.incarnation);
            prop_assert_eq!(nominee.lossy, !in_sync);
            if nominee.lossy {
                match nominee.rule {
                    Rule::R240 => prop_assert!(row.lossy_ok && seen.config.policy.lossy_lag_limit_ms.is_some()),
                    Rule::R410 => {
                        let accepted = matches!(seen.hint, Hint::Force { accept_data_loss: true, .. });
                        prop_assert!(accepted && (row.holder.is_none() || nominee.proof.is_some()));
                    }
                    other => prop_assert!(false, "{other} nominated with loss"),
                }
            }
        }
    }

    #[test]
    fn every_write_is_legal_on_the_row_that_was_decided_on(hint in any_hint(), world in any_world()) {
        let seen = observation(hint, &world);
        let row = seen.row.as_ref().expect("a row");
        let nonce = Nonce::new("n").expect("a name");
        let write = match decide(&seen).action {
            Action::Nominate(nominee) => Change::Nominate(nominee).on(row, nonce),
            Action::Intend(intent) => Change::Intend(intent).on(row, nonce),
            _ => return Ok(()),
        };
        prop_assert!(write.is_ok(), "{write:?}");
    }

    #[test]
    fn a_paused_cluster_is_only_touched_by_hand(hint in any_hint(), world in any_world()) {
        let by_hand = hint.is_by_hand();
        let seen = observation(hint, &World { paused: true, ..world });
        let decision = decide(&seen);
        prop_assert!(by_hand || (decision.rule, &decision.action) == (Rule::R100, &Action::Nothing));
    }

    #[test]
    fn only_believed_whole_replicas_and_never_the_holder_are_nominated(hint in any_hint(), world in any_world()) {
        let seen = observation(hint, &world);
        if let Action::Nominate(nominee) = decide(&seen).action {
            let sighting = &seen.heartbeats.as_ref().expect("read")[&nominee.node];
            let member = seen.config.member(&nominee.node).expect("a member");
            prop_assert_eq!(&sighting.heartbeat.instance, &member.instance);
            prop_assert!(sighting.heartbeat.replica.consistent);
            // Its own word, which woke us, is later than what was read of it.
            let speaks = matches!(&seen.hint, Hint::Suspected { node, .. } | Hint::Joined { node } if *node == nominee.node);
            prop_assert!(sighting.advanced != Some(false) || speaks);
            prop_assert!(!seen.gave_up_on.contains(&nominee.node));
            let row = seen.row.as_ref().expect("a row");
            prop_assert!(row.holder.as_ref().is_none_or(|holder| holder.node != nominee.node));
            prop_assert_eq!((nominee.epoch, nominee.beat), (row.epoch, row.beat));
        }
    }

    #[test]
    fn proof_of_death_is_never_made_up(hint in any_hint(), world in any_world()) {
        let seen = observation(hint, &world);
        if let Action::Nominate(Nominee { proof: Some(proof), .. }) = decide(&seen).action {
            let (state, launched) = world.described.expect("EC2 was asked");
            prop_assert_eq!(proof.instance, holder("a").instance);
            prop_assert!(state == "terminated" || (state == "stopped" && launched >= LAUNCHED_S));
        }
    }

    #[test]
    fn a_living_standby_in_sync_that_hears_the_holder_prevents_an_automatic_nomination(world in any_world()) {
        let world = World { held: true, paused: false, in_sync: vec!["a", "b"], read: true, ..world };
        let mut seen = observation(Hint::StoodStill { epoch: Epoch(7), beat: Beat(100) }, &world);
        let b = seen.heartbeats.as_mut().expect("read").get_mut(&node("b")).expect("b");
        b.advanced = Some(true);
        b.heartbeat.instance = holder("b").instance;
        b.heartbeat.hears.insert(node("a"), hearing(true));
        prop_assert_eq!(decide(&seen).rule, Rule::R220);
    }

    /// Live: with three nodes, a member in sync that lives and does not hear the holder is never left waiting for one that
    /// does; and only the word of all that live is R220.
    #[test]
    fn a_living_member_that_does_not_hear_the_holder_is_nominated_whatever_a_third_hears(
        b in prop::bool::weighted(0.5), c in (prop::option::of(any::<bool>()), any::<bool>()),
        by in prop::sample::select(vec!["b", "c", "watch"])
    ) {
        let mut seen = super::tests::three(match by {
            "watch" => Hint::StoodStill { epoch: Epoch(7), beat: Beat(100) },
            by => Hint::Suspected {
                node: node(by),
                epoch: Epoch(7),
                beat: Beat(100),
                silent_ms: Millis(1_833),
                hears: if by == "b" { b } else { c.1 },
            },
        });
        for (name, advanced, hears) in [("b", Some(true), b), ("c", c.0, c.1)] {
            let sighting = seen.heartbeats.as_mut().expect("read").get_mut(&node(name)).expect("a heartbeat");
            sighting.advanced = advanced;
            sighting.heartbeat.hears.insert(node("a"), hearing(hears));
        }
        let decision = decide(&seen);
        let c_lives = c.0 == Some(true) || by == "c";
        match (b, c.1) {
            (false, _) => prop_assert!(matches!(&decision.action, Action::Nominate(nominee) if nominee.node == node("b"))),
            (true, true) => prop_assert_eq!(decision.rule, Rule::R220),
            (true, false) if c_lives => {
                prop_assert!(matches!(&decision.action, Action::Nominate(nominee) if nominee.node == node("c")));
            }
            (true, false) if c.0 == Some(false) => prop_assert_eq!(decision.rule, Rule::R220),
            (true, false) => prop_assert!(matches!(decision.action, Action::LookAgain(_))),
        }
    }

    /// Safe: whenever such a nominee may accept, the holder has no right to serve, however well the third member hears it
    /// and promises. `a` renewed last at `renewed` and pings `b` at any times with any delays, some answers lost; clocks
    /// run as far apart as allowed.
    #[test]
    fn a_nominee_accepts_only_once_the_holder_may_not_serve_though_a_third_promises(
        renewed in 2_000_u64..6_000, shown_after in 0_u64..4_000,
        pings in prop::collection::vec((0_u64..14_000, 0_u64..3_000, prop::option::of(0_u64..3_000)), 0..6),
        wait in 0_u64..12_000, rate_a in 90_u64..=110, rate_b in 90_u64..=110
    ) {
        let policy = Policy::default();
        let clock = |rate: u64, real: u64| {
            let us = 1_000_000_000 + real * 10 * rate;
            Moment { boottime_us: us, monotonic_raw_us: us }
        };
        let (of_a, of_b) = (|real| clock(rate_a, real), |real| clock(rate_b, real));
        let now = renewed + wait;
        let mut row = row("a", &["a", "b", "c"]);
        row.nominee = Some(Nominee {
            node: node("b"),
            incarnation: holder("b").incarnation,
            epoch: row.epoch,
            beat: row.beat,
            rule: Rule::R210,
            reason: "silent".into(),
            proof: None,
            lossy: false,
        });
        let mut authority = Authority::of_new_epoch([holder("b").incarnation, holder("c").incarnation]);
        authority.renewed(of_a(renewed), row.ttl_ms);
        authority.proven([holder("b").incarnation, holder("c").incarnation], false);
        // The third hears it at every moment.
        authority.promised(&holder("c").incarnation, of_a(now), policy.promise_ms, &policy);
        // What reaches b, in the order in which it does.
        let mut arrivals: Vec<_> = pings
            .into_iter()
            .map(|(sent, there, back)| (sent + there, Some((sent, back))))
            .chain([(renewed + shown_after, None)])
            .filter(|(at, _)| *at <= now)
            .collect();
        arrivals.sort_unstable();
        let mut vigil = Vigil::started(Moment { boottime_us: 0, monotonic_raw_us: 0 });
        for (at, what) in arrivals {
            let Some((sent, back)) = what else {
                vigil.saw(row.epoch, row.beat, of_b(at));
                continue;
            };
            // A ping shows what the holder knows when it sends it.
            let beat = if sent >= renewed { row.beat } else { Beat(row.beat.0 - 1) };
            vigil.saw(row.epoch, beat, of_b(at));
            vigil.promised(of_b(at), policy.promise_ms);
            if back.is_some_and(|back| at + back <= now) {
                authority.promised(&holder("b").incarnation, of_a(sent), policy.promise_ms, &policy);
            }
        }
        if vigil.may_accept(&row, &holder("b"), true, &policy, of_b(now)).is_ok() {
            prop_assert_eq!(authority.standing(of_a(now)), Standing::None);
        }
    }

    #[test]
    fn asking_for_more_ends(hint in any_hint(), world in any_world(), alive in any::<bool>()) {
        let mut seen = observation(hint, &world);
        for _ in 0..40 {
            let Action::LookAgain(missing) = decide(&seen).action else { return Ok(()) };
            for what in missing {
                match what {
                    Missing::Heartbeats => seen.heartbeats = Some(BTreeMap::from([sighting("a"), sighting("b")])),
                    Missing::Movement { nodes, .. } => {
                        for (node, sighting) in seen.heartbeats.as_mut().expect("read before") {
                            if nodes.contains(node) {
                                sighting.advanced = Some(alive);
                            }
                        }
                    }
                    Missing::Instances { .. } => {
                        seen.instances.get_or_insert_default();
                        seen.instance_looks += 1;
                    }
                    Missing::RowMovement { .. } => seen.row_moves = Some(alive),
                }
            }
        }
        prop_assert!(false, "still looking: {:?}", decide(&seen));
    }
}
