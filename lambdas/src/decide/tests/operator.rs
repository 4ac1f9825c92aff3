//! R400 and R410.

use super::*;

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

    /// Held by b since a moment ago; a, which held before, has said `at` in its heartbeat.
    fn back_to_a(beats: u64, at: (u64, u64)) -> Decision {
        let mut seen = to(Some("a"));
        *the_row(&mut seen) = Row { epoch: Epoch(8), beat: Beat(beats), ..row("b", &["a", "b"]) };
        let a = beat(&mut seen, "a");
        (a.heartbeat.epoch, a.heartbeat.beat) = (Epoch(at.0), Beat(at.1));
        decide(&seen)
    }

    #[test]
    fn right_after_a_failover_a_heartbeat_of_the_new_epoch_is_enough() {
        for (beats, at) in [(0, (8, 0)), (1, (8, 0)), (5, (8, 3)), (12, (8, 0)), (500, (8, 488))] {
            assert!(matches!(back_to_a(beats, at).action, Action::Intend(_)), "{beats} {at:?}");
        }
        for (beats, at) in [(1, (7, 500)), (0, (0, 0)), (13, (8, 0)), (500, (8, 487)), (500, (7, 499))] {
            assert!(matches!(looks(&back_to_a(beats, at)), [Missing::Movement { .. }]), "{beats} {at:?}");
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

#[test]
fn a_request_that_its_target_has_taken_up_stands_in_nobodys_way() {
    let mut seen = seen(Hint::Relief { node: node("b"), epoch: Epoch(8), reason: "shutdown".into() });
    let done = lease::record::Intent {
        id: Nonce::new("done").expect("a name"),
        to: node("b"),
        rule: Rule::R400,
        reason: "asked by hand".into(),
    };
    *the_row(&mut seen) = Row { epoch: Epoch(8), activated: false, intent: Some(done), ..row("b", &["a", "b"]) };
    let a = beat(&mut seen, "a");
    (a.heartbeat.epoch, a.advanced) = (Epoch(8), Some(true));
    let Action::Intend(intent) = decide(&seen).action else { panic!("{:?}", decide(&seen)) };
    assert_eq!(intent.to, node("a"));
    let nonce = Nonce::new("n").expect("a name");
    lease::change::Change::Intend(intent).on(seen.row.as_ref().expect("a row"), nonce).expect("legal");
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
    fn without_a_name_a_target_that_could_not_be_opened_is_passed_over() {
        let mut seen =
            three(Hint::Force { to: None, accept_data_loss: true, force_stop: false, reason: "asked by hand".into() });
        seen.row_moves = Some(false);
        describe(&mut seen, "a", "stopped", LAUNCHED_S);
        the_row(&mut seen).in_sync = row("a", &["a"]).in_sync;
        for name in ["b", "c"] {
            beat(&mut seen, name).advanced = Some(true);
        }
        assert_eq!(nominated(&decide(&seen)).node, node("b"), "by its priority");
        beat(&mut seen, "b").heartbeat.replica.consistent = false;
        assert_eq!(nominated(&decide(&seen)).node, node("c"));
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
