//! Each rule on its own, and the cases between them.

use super::*;
use crate::cloud::fake::{LAUNCHED_S, config, hearing, heartbeat, holder, node, row};
use lease::heartbeat::ResourceHealth;
use lease::record::{DeadState, Pause};

mod operator;
mod others;

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

pub(super) fn three(hint: Hint) -> Observation {
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
            Hint::Maintenance { instance: holder("b").instance, what: "A_RETIREMENT".into(), starts: None },
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

    /// Else a holder that came back under a new name, for its disk was lost, could never be proven dead, and nobody could
    /// force a failover: each stop would be of a later launch than the row's.
    #[test]
    fn stopped_of_a_later_launch_is_proof_and_running_is_not() {
        let mut seen = gone();
        describe(&mut seen, "a", "stopped", LAUNCHED_S + 60);
        assert_eq!(nominated(&decide(&seen)).proof.as_ref().map(|proof| proof.state), Some(DeadState::Stopped));
        describe(&mut seen, "a", "running", LAUNCHED_S + 60);
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
    fn one_that_does_not_hear_is_nominated_whatever_a_third_hears() {
        for third in [None, Some(false), Some(true)] {
            let mut seen = three(suspected("b", false));
            let c = beat(&mut seen, "c");
            c.heartbeat.hears.insert(node("a"), hearing(true));
            c.advanced = third;
            let decision = decide(&seen);
            assert_eq!((decision.rule, &nominated(&decision).node), (Rule::R210, &node("b")), "{third:?}");
        }
    }

    #[test]
    fn who_hears_looks_whether_somebody_alive_does_not() {
        let mut seen = three(suspected("c", true));
        let both = BTreeSet::from([node("b")]);
        assert!(matches!(looks(&decide(&seen)), [Missing::Movement { nodes, .. }] if *nodes == both));
        beat(&mut seen, "b").advanced = Some(true);
        assert_eq!(nominated(&decide(&seen)).node, node("b"));
        // What hears it after all, is dead, or was nominated in vain, leaves it to the others' word.
        beat(&mut seen, "b").heartbeat.hears.insert(node("a"), hearing(true));
        is_nothing(&decide(&seen), Rule::R220);
        beat(&mut seen, "b").heartbeat.hears.clear();
        beat(&mut seen, "b").advanced = Some(false);
        is_nothing(&decide(&seen), Rule::R220);
        beat(&mut seen, "b").advanced = Some(true);
        seen.gave_up_on.insert(node("b"));
        is_nothing(&decide(&seen), Rule::R220);
        // Nor is the third's word waited for before the nomination's time is over.
        seen.gave_up_on.clear();
        the_row(&mut seen).nominee = Some(nominated(&decide(&seen)).clone());
        is_nothing(&decide(&seen), Rule::R120);
    }

    #[test]
    fn with_nobody_proven_alive_all_are_looked_at_at_once() {
        let mut seen = three(Hint::StoodStill { epoch: Epoch(7), beat: Beat(100) });
        beat(&mut seen, "c").heartbeat.hears.insert(node("a"), hearing(true));
        let all = BTreeSet::from([node("b"), node("c")]);
        assert!(matches!(looks(&decide(&seen)), [Missing::Movement { nodes, .. }] if *nodes == all));
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
