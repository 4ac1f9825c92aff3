//! Each rule on its own, and the cases between them.

use super::*;
use crate::cloud::fake::{LAUNCHED_S, config, hearing, heartbeat, holder, node, row};
use lease::heartbeat::ResourceHealth;
use lease::record::{DeadState, Pause};

pub(super) fn seen(hint: Hint) -> Observation {
    Observation {
        hint,
        config: config(&["a", "b"]),
        row: Some(row("a", &["a", "b"])),
        heartbeats: Some(BTreeMap::from([sighting("a"), sighting("b")])),
        instances: None,
        instance_looks: 0,
        row_moves: None,
        gave_up_on: BTreeSet::new(),
        marks: Marks {
            intent: Nonce::new("intent-1").expect("a name"),
            lineage: Lineage::new("lineage-1").expect("a name"),
        },
    }
}

pub(super) fn sighting(name: &str) -> (NodeId, Sighting) {
    (node(name), Sighting { seq: 10, heartbeat: heartbeat(name), advanced: None })
}

fn suspected(by: &str, hears: bool) -> Hint {
    Hint::Suspected { node: node(by), epoch: Epoch(7), beat: Beat(100), silent_ms: Millis(1_833), hears }
}

fn three(hint: Hint) -> Observation {
    Observation {
        config: config(&["a", "b", "c"]),
        row: Some(row("a", &["a", "b", "c"])),
        heartbeats: Some(BTreeMap::from([sighting("a"), sighting("b"), sighting("c")])),
        ..seen(hint)
    }
}

fn beat<'a>(seen: &'a mut Observation, name: &str) -> &'a mut Sighting {
    seen.heartbeats.as_mut().expect("heartbeats").get_mut(&node(name)).expect("a heartbeat")
}

fn the_row(seen: &mut Observation) -> &mut Row {
    seen.row.as_mut().expect("a row")
}

fn describe(seen: &mut Observation, name: &str, state: &str, launched: i64) {
    let described = Described { state: state.into(), launched: Some(launched) };
    seen.instances.get_or_insert_default().insert(holder(name).instance, described);
    seen.instance_looks += 1;
}

fn nominated(decision: &Decision) -> &Nominee {
    match &decision.action {
        Action::Nominate(nominee) => nominee,
        other => panic!("expected a nomination, found {other:?}: {}", decision.reason),
    }
}

fn looks(decision: &Decision) -> &[Missing] {
    match &decision.action {
        Action::LookAgain(missing) => missing,
        other => panic!("expected another look, found {other:?}: {}", decision.reason),
    }
}

fn blocked(decision: &Decision) -> &str {
    match &decision.action {
        Action::Block { what_to_do } => what_to_do,
        other => panic!("expected a block, found {other:?}: {}", decision.reason),
    }
}

fn is_nothing(decision: &Decision, rule: Rule) {
    assert_eq!((decision.rule, &decision.action), (rule, &Action::Nothing), "{}", decision.reason);
}

mod r050_first_start {
    use super::*;

    fn first(hint: Hint) -> Observation {
        Observation { row: None, ..seen(hint) }
    }

    #[test]
    fn the_first_node_that_joins_is_made_the_holder() {
        let mut seen = first(Hint::Joined { node: node("a") });
        seen.heartbeats.as_mut().expect("some").remove(&node("b"));
        let Decision { rule: Rule::R050, action: Action::Found(founding), .. } = decide(&seen) else {
            panic!("no founding")
        };
        assert_eq!(
            (founding.nominee.node, founding.nominee.epoch, founding.nominee.lossy),
            (node("a"), Epoch(0), false)
        );
        assert_eq!(founding.terms.ttl_ms, Millis(3_000));
    }

    #[test]
    fn one_of_lower_priority_waits_to_see_whether_the_first_is_alive() {
        let mut seen = first(Hint::Joined { node: node("b") });
        let decision = decide(&seen);
        assert!(matches!(looks(&decision), [Missing::Movement { nodes, .. }] if nodes.contains(&node("a"))));
        beat(&mut seen, "a").advanced = Some(false);
        assert!(matches!(decide(&seen).action, Action::Found(founding) if founding.nominee.node == node("b")));
        beat(&mut seen, "a").advanced = Some(true);
        assert!(matches!(decide(&seen).action, Action::Found(founding) if founding.nominee.node == node("a")));
    }

    #[test]
    fn nobody_is_founded_on_an_old_heartbeat_or_from_another_instance() {
        let mut seen = first(Hint::Look);
        beat(&mut seen, "a").advanced = Some(false);
        beat(&mut seen, "b").heartbeat.instance = "i-0zebra".parse().expect("an id");
        let decision = decide(&seen);
        is_nothing(&decision, Rule::R050);
        assert!(decision.notes[0].contains("i-0zebra"), "{:?}", decision.notes);
    }

    #[test]
    fn an_operator_cannot_switch_over_what_never_ran() {
        blocked(&decide(&first(Hint::Switchover { to: None, reason: String::new() })));
    }
}

mod r100_r110_r120_leave_alone {
    use super::*;

    #[test]
    fn a_paused_cluster_is_left_alone_whatever_the_hint() {
        for hint in [
            suspected("b", false),
            Hint::InstanceState { instance: holder("a").instance, state: "stopped".into() },
            Hint::Look,
        ] {
            let mut seen = seen(hint);
            the_row(&mut seen).paused = Some(Pause { reason: "kernel upgrade".into() });
            describe(&mut seen, "a", "terminated", LAUNCHED_S);
            let decision = decide(&seen);
            is_nothing(&decision, Rule::R100);
            assert!(decision.reason.contains("kernel upgrade"));
        }
    }

    #[test]
    fn a_row_that_moved_past_the_hint_makes_it_stale_without_another_read() {
        for (epoch, beat) in [(7, 99), (6, 500)] {
            let hint = Hint::Suspected {
                node: node("b"),
                epoch: Epoch(epoch),
                beat: Beat(beat),
                silent_ms: Millis(1),
                hears: false,
            };
            let seen = Observation { heartbeats: None, ..seen(hint) };
            is_nothing(&decide(&seen), Rule::R110);
        }
        let hint = Hint::Relief { node: node("a"), epoch: Epoch(6), reason: "shutdown".into() };
        is_nothing(&decide(&Observation { heartbeats: None, ..seen(hint) }), Rule::R110);
    }

    #[test]
    fn hints_that_are_not_about_the_holder_ask_for_nothing() {
        for hint in [
            Hint::Look,
            Hint::Joined { node: node("b") },
            Hint::InstanceState { instance: holder("b").instance, state: "stopped".into() },
            Hint::Interruption { instance: holder("b").instance, action: "stop".into() },
            Hint::Relief { node: node("b"), epoch: Epoch(7), reason: String::new() },
            Hint::Released { node: node("a"), epoch: Epoch(7), reason: String::new() },
        ] {
            is_nothing(&decide(&seen(hint)), Rule::R120);
        }
    }
}

mod r200_proof_of_death {
    use super::*;

    fn gone() -> Observation {
        seen(Hint::InstanceState { instance: holder("a").instance, state: "stopped".into() })
    }

    #[test]
    fn the_event_alone_is_no_proof() {
        assert_eq!(looks(&decide(&gone())), [Missing::Instances { after: Millis::ZERO }]);
        let both = decide(&Observation { heartbeats: None, ..gone() });
        assert_eq!(looks(&both).len(), 2);
    }

    #[test]
    fn stopped_counts_for_the_launch_that_the_row_names() {
        let mut seen = gone();
        describe(&mut seen, "a", "stopped", LAUNCHED_S);
        let decision = decide(&seen);
        let nominee = nominated(&decision);
        assert_eq!((decision.rule, &nominee.node, nominee.lossy), (Rule::R200, &node("b"), false));
        assert_eq!(nominee.proof.as_ref().map(|proof| proof.state), Some(DeadState::Stopped));
        assert_eq!((nominee.epoch, nominee.beat), (Epoch(7), Beat(100)));
    }

    #[test]
    fn stopped_of_an_earlier_launch_is_a_stale_description() {
        let mut seen = gone();
        describe(&mut seen, "a", "stopped", LAUNCHED_S - 60);
        assert_eq!(looks(&decide(&seen)), [Missing::Instances { after: Millis(400) }]);
        seen.instance_looks = 100;
        is_nothing(&decide(&seen), Rule::R120);
    }

    #[test]
    fn stopped_of_a_later_launch_says_nothing_either_and_will_not() {
        let mut seen = gone();
        describe(&mut seen, "a", "stopped", LAUNCHED_S + 60);
        is_nothing(&decide(&seen), Rule::R120);
    }

    #[test]
    fn a_row_without_a_readable_launch_time_takes_no_stopped_as_proof() {
        let mut seen = gone();
        the_row(&mut seen).holder.as_mut().expect("held").launched = "yesterday".into();
        describe(&mut seen, "a", "stopped", LAUNCHED_S);
        is_nothing(&decide(&seen), Rule::R120);
    }

    #[test]
    fn terminated_is_for_ever() {
        let mut seen = gone();
        describe(&mut seen, "a", "terminated", LAUNCHED_S - 60);
        assert_eq!(nominated(&decide(&seen)).proof.as_ref().map(|proof| proof.state), Some(DeadState::Terminated));
    }

    #[test]
    fn a_description_that_lags_behind_the_event_is_asked_for_again() {
        let mut seen = gone();
        describe(&mut seen, "a", "running", LAUNCHED_S);
        assert_eq!(looks(&decide(&seen)), [Missing::Instances { after: Millis(400) }]);
    }

    #[test]
    fn a_nomination_without_proof_gets_it_and_one_with_proof_stands() {
        let mut seen = gone();
        describe(&mut seen, "a", "stopped", LAUNCHED_S);
        let with_proof = nominated(&decide(&seen)).clone();
        the_row(&mut seen).nominee = Some(Nominee { proof: None, rule: Rule::R210, ..with_proof.clone() });
        assert_eq!(nominated(&decide(&seen)), &with_proof);
        the_row(&mut seen).nominee = Some(with_proof);
        is_nothing(&decide(&seen), Rule::R120);
    }

    #[test]
    fn a_standby_whose_instance_is_down_is_passed_over() {
        let mut seen = three(Hint::InstanceState { instance: holder("a").instance, state: "stopped".into() });
        describe(&mut seen, "a", "stopped", LAUNCHED_S);
        describe(&mut seen, "b", "stopped", LAUNCHED_S);
        assert_eq!(nominated(&decide(&seen)).node, node("c"));
    }

    #[test]
    fn nobody_in_sync_is_blocked_also_with_proof() {
        let mut seen = gone();
        describe(&mut seen, "a", "terminated", LAUNCHED_S);
        the_row(&mut seen).in_sync = row("a", &["a"]).in_sync;
        let decision = decide(&seen);
        assert_eq!(decision.rule, Rule::R230);
        assert!(blocked(&decision).contains("accept_data_loss"));
    }
}

mod r210_r220_suspected {
    use super::*;

    #[test]
    fn a_standby_in_sync_that_neither_sees_nor_hears_is_nominated_at_once() {
        let decision = decide(&seen(suspected("b", false)));
        let nominee = nominated(&decision);
        assert_eq!(
            (decision.rule, &nominee.node, nominee.proof.is_none(), nominee.lossy),
            (Rule::R210, &node("b"), true, false)
        );
    }

    #[test]
    fn one_that_still_hears_the_holder_is_not() {
        is_nothing(&decide(&seen(suspected("b", true))), Rule::R220);
    }

    #[test]
    fn a_third_that_says_it_hears_counts_only_if_it_is_alive() {
        let mut seen = three(suspected("b", false));
        beat(&mut seen, "c").heartbeat.hears.insert(node("a"), hearing(true));
        let decision = decide(&seen);
        assert!(matches!(looks(&decision), [Missing::Movement { nodes, .. }] if *nodes == BTreeSet::from([node("c")])));
        // A dead standby's last word must not block.
        beat(&mut seen, "c").advanced = Some(false);
        assert_eq!(nominated(&decide(&seen)).node, node("b"));
        beat(&mut seen, "c").advanced = Some(true);
        is_nothing(&decide(&seen), Rule::R220);
    }

    #[test]
    fn the_suspecting_nodes_hint_is_newer_than_its_heartbeat() {
        let mut seen = seen(suspected("b", false));
        beat(&mut seen, "b").heartbeat.hears.insert(node("a"), hearing(true));
        assert_eq!(nominated(&decide(&seen)).node, node("b"));
    }

    #[test]
    fn a_suspicion_of_one_out_of_sync_leads_to_one_that_is() {
        let mut seen = three(suspected("c", false));
        the_row(&mut seen).in_sync = row("a", &["a", "b"]).in_sync;
        assert!(
            matches!(looks(&decide(&seen)), [Missing::Movement { nodes, .. }] if *nodes == BTreeSet::from([node("b")]))
        );
        beat(&mut seen, "b").advanced = Some(true);
        assert_eq!(nominated(&decide(&seen)).node, node("b"));
        // What one out of sync hears is no reason to leave the others without service.
        let mut seen = three(suspected("b", false));
        the_row(&mut seen).in_sync = row("a", &["a", "b"]).in_sync;
        beat(&mut seen, "c").heartbeat.hears.insert(node("a"), hearing(true));
        assert_eq!(nominated(&decide(&seen)).node, node("b"));
    }

    #[test]
    fn heartbeats_from_another_instance_are_not_believed() {
        let mut seen = seen(suspected("b", false));
        beat(&mut seen, "b").heartbeat.instance = "i-0zebra".parse().expect("an id");
        let decision = decide(&seen);
        assert_eq!(decision.rule, Rule::R230);
        assert!(decision.notes[0].contains("i-0zebra") && decision.notes[0].contains("i-0b"), "{:?}", decision.notes);
    }

    #[test]
    fn a_replica_that_is_no_whole_image_cannot_be_opened() {
        let mut seen = seen(suspected("b", false));
        beat(&mut seen, "b").heartbeat.replica.consistent = false;
        assert_eq!(decide(&seen).rule, Rule::R230);
    }

    #[test]
    fn the_same_nomination_is_not_made_twice() {
        let mut seen = three(suspected("b", false));
        the_row(&mut seen).nominee = Some(nominated(&decide(&seen)).clone());
        is_nothing(&decide(&seen), Rule::R120);
        seen.hint = suspected("c", false);
        is_nothing(&decide(&seen), Rule::R120);
    }

    #[test]
    fn a_nominee_that_does_not_accept_is_replaced() {
        let mut seen = three(suspected("b", false));
        the_row(&mut seen).nominee = Some(nominated(&decide(&seen)).clone());
        // By whoever waited for it,
        seen.gave_up_on.insert(node("b"));
        beat(&mut seen, "c").advanced = Some(true);
        assert_eq!(nominated(&decide(&seen)).node, node("c"));
        // or by the silence that another standby has measured.
        seen.gave_up_on.clear();
        seen.hint = Hint::Suspected {
            node: node("c"),
            epoch: Epoch(7),
            beat: Beat(100),
            silent_ms: Millis(20_000),
            hears: false,
        };
        assert_eq!(nominated(&decide(&seen)).node, node("c"));
    }

    #[test]
    fn with_nobody_else_a_nominee_in_vain_is_told_by_who_waited_for_it() {
        let mut seen = seen(suspected("b", false));
        the_row(&mut seen).nominee = Some(nominated(&decide(&seen)).clone());
        seen.gave_up_on.insert(node("b"));
        let decision = decide(&seen);
        assert_eq!(decision.rule, Rule::R230);
        assert!(decision.reason.contains("in vain: b"), "{}", decision.reason);
    }

    #[test]
    fn a_row_that_stood_still_before_our_eyes_needs_a_living_standby() {
        let mut seen = seen(Hint::StoodStill { epoch: Epoch(7), beat: Beat(100) });
        assert!(matches!(looks(&decide(&seen)), [Missing::Movement { .. }]));
        beat(&mut seen, "b").advanced = Some(true);
        assert_eq!((decide(&seen).rule, &nominated(&decide(&seen)).node), (Rule::R210, &node("b")));
        beat(&mut seen, "b").heartbeat.hears.insert(node("a"), hearing(true));
        is_nothing(&decide(&seen), Rule::R220);
        beat(&mut seen, "b").advanced = Some(false);
        assert_eq!(decide(&seen).rule, Rule::R230);
    }
}

mod r230_r240_nobody_in_sync {
    use super::*;

    fn alone() -> Observation {
        let mut seen = seen(suspected("b", false));
        the_row(&mut seen).in_sync = row("a", &["a"]).in_sync;
        seen
    }

    #[test]
    fn blocked_with_the_way_out() {
        let decision = decide(&alone());
        assert_eq!(decision.rule, Rule::R230);
        assert!(blocked(&decision).contains("\"accept_data_loss\":true"));
    }

    fn asynchronous(limit: Option<u64>, lossy_ok: bool, lag: Option<u64>) -> Observation {
        let mut seen = alone();
        seen.config.policy.lossy_lag_limit_ms = limit.map(Millis);
        the_row(&mut seen).lossy_ok = lossy_ok;
        beat(&mut seen, "b").heartbeat.replica.lag_ms = lag.map(Millis);
        seen
    }

    #[test]
    fn one_that_lags_little_enough_is_nominated_where_both_sides_allow_it() {
        let decision = decide(&asynchronous(Some(1_000), true, Some(1_000)));
        assert_eq!((decision.rule, nominated(&decision).lossy), (Rule::R240, true));
    }

    #[test]
    fn not_where_the_epoch_or_the_policy_forbids_it_or_the_lag_is_larger_or_unknown() {
        for (limit, lossy_ok, lag) in [
            (Some(1_000), false, Some(1)),
            (None, true, Some(1)),
            (Some(1_000), true, Some(1_001)),
            (Some(1_000), true, None),
        ] {
            assert_eq!(decide(&asynchronous(limit, lossy_ok, lag)).rule, Rule::R230, "{limit:?} {lossy_ok} {lag:?}");
        }
    }

    #[test]
    fn the_least_lagging_goes_first() {
        let mut seen = three(suspected("b", false));
        seen.config.policy.lossy_lag_limit_ms = Some(Millis(5_000));
        let row = the_row(&mut seen);
        row.lossy_ok = true;
        row.in_sync = super::row("a", &["a"]).in_sync;
        beat(&mut seen, "b").heartbeat.replica.lag_ms = Some(Millis(900));
        beat(&mut seen, "c").heartbeat.replica.lag_ms = Some(Millis(30));
        beat(&mut seen, "c").advanced = Some(true);
        assert_eq!(nominated(&decide(&seen)).node, node("c"));
    }
}

mod r250_released {
    use super::*;

    fn released(hint: Hint, in_sync: &[&str]) -> Observation {
        let mut seen = seen(hint);
        let row = the_row(&mut seen);
        (row.holder, row.activated) = (None, false);
        row.in_sync = super::row("a", in_sync).in_sync;
        seen
    }

    fn by_a() -> Hint {
        Hint::Released { node: node("a"), epoch: Epoch(7), reason: "shutdown".into() }
    }

    #[test]
    fn another_than_the_one_that_released_is_preferred() {
        assert_eq!(nominated(&decide(&released(by_a(), &["a", "b"]))).node, node("b"));
    }

    #[test]
    fn the_one_that_released_if_it_alone_is_there() {
        let decision = decide(&released(by_a(), &["a"]));
        assert_eq!((decision.rule, &nominated(&decision).node), (Rule::R250, &node("a")));
    }

    #[test]
    fn a_node_that_joins_is_nominated_even_where_a_dead_one_was() {
        let mut seen = released(Hint::Joined { node: node("a") }, &["a", "b"]);
        the_row(&mut seen).nominee = Some(Nominee {
            node: node("b"),
            incarnation: holder("b").incarnation,
            epoch: Epoch(7),
            beat: Beat(100),
            rule: Rule::R250,
            reason: String::new(),
            proof: None,
            lossy: false,
        });
        beat(&mut seen, "b").heartbeat.beat = Beat(1);
        assert_eq!(nominated(&decide(&seen)).node, node("a"));
        beat(&mut seen, "b").advanced = Some(true);
        is_nothing(&decide(&seen), Rule::R120);
    }

    #[test]
    fn nobody_there_is_blocked() {
        let mut seen = released(Hint::Look, &["b"]);
        beat(&mut seen, "b").advanced = Some(false);
        assert_eq!(decide(&seen).rule, Rule::R230);
    }

    #[test]
    fn an_old_heartbeat_is_looked_at_twice() {
        let mut seen = released(Hint::Look, &["a", "b"]);
        for name in ["a", "b"] {
            beat(&mut seen, name).heartbeat.beat = Beat(3);
        }
        assert!(matches!(looks(&decide(&seen)), [Missing::Movement { nodes, .. }] if nodes.len() == 2));
    }
}

mod r300_relief {
    use super::*;

    fn relief() -> Observation {
        seen(Hint::ResourceFailed {
            node: node("a"),
            epoch: Epoch(7),
            resource: "nginx".into(),
            reason: "check failed".into(),
        })
    }

    #[test]
    fn the_holder_is_asked_to_hand_over() {
        for hint in [
            relief().hint,
            Hint::Relief { node: node("a"), epoch: Epoch(7), reason: "shutdown".into() },
            Hint::Interruption { instance: holder("a").instance, action: "terminate".into() },
        ] {
            let decision = decide(&seen(hint));
            assert!(
                matches!(&decision.action, Action::Intend(intent) if intent.to == node("b") && intent.rule == Rule::R300)
            );
        }
    }

    #[test]
    fn a_request_under_way_is_left_alone() {
        let mut seen = relief();
        let Action::Intend(intent) = decide(&seen).action else { panic!("no intent") };
        the_row(&mut seen).intent = Some(intent);
        is_nothing(&decide(&seen), Rule::R120);
    }

    #[test]
    fn not_to_a_standby_on_which_a_resource_failed() {
        let mut seen = relief();
        let failed = ResourceHealth { name: "nginx".into(), state: "failed".into(), problem: None };
        beat(&mut seen, "b").heartbeat.resources.push(failed);
        let decision = decide(&seen);
        assert_eq!(decision.rule, Rule::R300);
        blocked(&decision);
    }

    #[test]
    fn not_to_one_out_of_sync() {
        let mut seen = relief();
        the_row(&mut seen).in_sync = row("a", &["a"]).in_sync;
        blocked(&decide(&seen));
    }
}

mod r400_switchover {
    use super::*;

    fn to(name: Option<&str>) -> Observation {
        seen(Hint::Switchover { to: name.map(node), reason: "asked by hand".into() })
    }

    #[test]
    fn to_the_named_or_the_best_standby() {
        for name in [Some("b"), None] {
            let decision = decide(&to(name));
            assert!(
                matches!(&decision.action, Action::Intend(intent) if intent.to == node("b") && intent.rule == Rule::R400)
            );
        }
    }

    #[test]
    fn also_while_paused() {
        let mut seen = to(Some("b"));
        the_row(&mut seen).paused = Some(Pause { reason: "maintenance".into() });
        assert!(matches!(decide(&seen).action, Action::Intend(_)));
    }

    #[test]
    fn every_refusal_names_its_reason() {
        let refused = |change: &dyn Fn(&mut Observation), part: &str| {
            let mut seen = to(Some("b"));
            change(&mut seen);
            let decision = decide(&seen);
            blocked(&decision);
            assert!(decision.reason.contains(part), "{part} in {}", decision.reason);
        };
        refused(
            &|seen| seen.hint = Hint::Switchover { to: Some(node("a")), reason: String::new() },
            "holds the lease already",
        );
        refused(
            &|seen| seen.hint = Hint::Switchover { to: Some(node("zebra")), reason: String::new() },
            "zebra is not a node",
        );
        refused(&|seen| the_row(seen).in_sync = row("a", &["a"]).in_sync, "not in sync");
        refused(&|seen| the_row(seen).holder = None, "nobody holds");
        refused(&|seen| the_row(seen).activated = false, "not active yet");
        refused(&|seen| beat(seen, "b").advanced = Some(false), "not alive");
        refused(&|seen| drop(seen.heartbeats.as_mut().expect("some").remove(&node("b"))), "no heartbeat");
        refused(
            &|seen| {
                let Action::Intend(intent) = decide(&to(Some("b"))).action else { panic!("no intent") };
                the_row(seen).intent = Some(intent);
            },
            "under way",
        );
    }
}

mod r410_forced {
    use super::*;

    fn force(accept_data_loss: bool, force_stop: bool) -> Observation {
        let mut seen =
            seen(Hint::Force { to: Some(node("b")), accept_data_loss, force_stop, reason: "asked by hand".into() });
        beat(&mut seen, "b").advanced = Some(true);
        seen.row_moves = Some(false);
        describe(&mut seen, "a", "running", LAUNCHED_S);
        seen
    }

    #[test]
    fn with_proof_of_death_the_target_is_nominated() {
        let mut seen = force(false, false);
        describe(&mut seen, "a", "stopped", LAUNCHED_S);
        let decision = decide(&seen);
        let nominee = nominated(&decision);
        assert_eq!((nominee.rule, nominee.lossy, nominee.proof.is_some()), (Rule::R410, false, true));
    }

    #[test]
    fn without_proof_it_is_refused_or_the_holder_is_stopped_first() {
        let decision = decide(&force(false, false));
        assert!(blocked(&decision).contains("force_stop"));
        assert_eq!(decide(&force(false, true)).action, Action::Stop(holder("a").instance));
    }

    #[test]
    fn data_is_lost_only_on_demand() {
        let mut seen = force(false, false);
        describe(&mut seen, "a", "terminated", LAUNCHED_S);
        the_row(&mut seen).in_sync = row("a", &["a"]).in_sync;
        assert!(blocked(&decide(&seen)).contains("accept_data_loss"));
        seen.hint =
            Hint::Force { to: Some(node("b")), accept_data_loss: true, force_stop: false, reason: String::new() };
        assert!(nominated(&decide(&seen)).lossy);
        // A target in sync loses nothing, whatever was accepted.
        the_row(&mut seen).in_sync = row("a", &["a", "b"]).in_sync;
        assert!(!nominated(&decide(&seen)).lossy);
    }

    #[test]
    fn a_holder_that_is_alive_and_well_is_not_overthrown() {
        let mut seen = force(true, true);
        assert!(matches!(
            looks(&decide(&Observation { row_moves: None, ..seen.clone() })),
            [Missing::RowMovement { .. }]
        ));
        seen.row_moves = Some(true);
        assert!(blocked(&decide(&seen)).contains("switchover"));
        // Alive and not well is another matter.
        let failed = ResourceHealth { name: "nginx".into(), state: "failed".into(), problem: None };
        beat(&mut seen, "a").heartbeat.resources.push(failed);
        assert_eq!(decide(&seen).action, Action::Stop(holder("a").instance));
    }

    #[test]
    fn nobody_is_stopped_for_a_target_that_could_not_take_over() {
        let mut seen = force(false, true);
        beat(&mut seen, "b").advanced = Some(false);
        blocked(&decide(&seen));
        beat(&mut seen, "b").advanced = Some(true);
        beat(&mut seen, "b").heartbeat.replica.consistent = false;
        assert!(decide(&seen).reason.contains("whole image"));
    }

    #[test]
    fn a_lease_that_nobody_holds_needs_no_proof() {
        let mut seen = force(false, false);
        the_row(&mut seen).holder = None;
        assert_eq!(nominated(&decide(&seen)).proof, None);
    }
}
