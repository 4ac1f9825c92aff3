//! R230 to R300: nobody in sync, nobody holding, a holder that wants to be relieved.

use super::*;

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

    #[test]
    fn who_follows_asynchronously_is_told_why_it_is_not_in_sync_and_what_stands_in_its_way() {
        let told = |limit: Option<u64>, lossy_ok, lag, change: &dyn Fn(&mut Observation)| {
            let mut seen = asynchronous(limit, lossy_ok, lag);
            beat(&mut seen, "b").heartbeat.replica.asynchronous = true;
            change(&mut seen);
            let decision = decide(&seen);
            assert_eq!(decision.rule, Rule::R230, "{decision:?}");
            assert!(decision.reason.contains("b has [volumes] follow = \"async\" and is never in sync, by design"));
            (decision.reason.clone(), blocked(&decision).to_owned())
        };
        let as_it_is = |_: &mut Observation| ();
        let (why, what) = told(None, false, Some(2_000), &as_it_is);
        assert!(why.contains("2000 ms behind at the most, and without lossy_lag_limit_ms no write is ever given up"));
        assert!(what.starts_with("bring a back, which loses nothing; or, giving up the writes that b lacks, invoke"));
        assert!(what.contains("{\"action\":\"failover\",\"to\":\"b\",\"accept_data_loss\":true}"), "{what}");
        assert!(what.contains("with lossy_lag_limit_ms in the cluster's policy b takes over by itself"), "{what}");
        let (why, what) = told(Some(5_000), true, Some(5_001), &as_it_is);
        assert!(why.contains("it is 5001 ms behind at the most, and lossy_lag_limit_ms allows 5000 ms"), "{why}");
        assert!(!what.contains("lossy_lag_limit_ms"), "{what}");
        let (why, _) = told(Some(5_000), true, None, &as_it_is);
        assert!(why.contains("does not know how far it is behind, and lossy_lag_limit_ms allows 5000 ms"), "{why}");
        let (why, _) = told(Some(1_833), true, Some(1_900), &as_it_is);
        assert!(
            why.contains("policy.lossy_lag_limit_ms = 1833: more than suspect_ms (1833), or it hardly ever acts"),
            "{why}"
        );
        let (why, _) = told(Some(5_000), false, Some(1), &as_it_is);
        assert!(why.contains("lossy_lag_limit_ms was set after epoch 7 had begun"), "{why}");
        let (why, what) =
            told(Some(5_000), true, Some(1), &|seen| beat(seen, "b").heartbeat.replica.consistent = false);
        assert!(why.contains("its data is not a whole image"), "{why}");
        assert!(
            what.starts_with("bring an in-sync node back"),
            "nobody is told to force what cannot be opened: {what}"
        );
        let (why, _) = told(Some(5_000), true, Some(1), &|seen| {
            seen.hint = Hint::StoodStill { epoch: Epoch(7), beat: Beat(100) };
            beat(seen, "b").advanced = Some(false);
        });
        assert!(why.contains("and it is not alive"), "{why}");
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
    fn while_nobody_holds_no_beats_pass_that_could_tell_a_heartbeats_age() {
        // Let go just now, says the event.
        assert_eq!(nominated(&decide(&released(by_a(), &["a", "b"]))).node, node("b"));
        // Let go some time ago, maybe hours.
        let seen = released(Hint::Look, &["a", "b"]);
        assert!(matches!(looks(&decide(&seen)), [Missing::Movement { nodes, .. }] if nodes.len() == 2));
    }

    #[test]
    fn in_epoch_0_a_heartbeat_that_has_seen_nothing_is_not_fresh() {
        let mut seen =
            released(Hint::Released { node: node("a"), epoch: Epoch(0), reason: String::new() }, &["a", "b"]);
        (the_row(&mut seen).epoch, the_row(&mut seen).beat) = (Epoch(0), Beat(0));
        for name in ["a", "b"] {
            let heartbeat = &mut beat(&mut seen, name).heartbeat;
            (heartbeat.epoch, heartbeat.beat) = (Epoch(0), Beat(0));
        }
        assert!(matches!(looks(&decide(&seen)), [Missing::Movement { .. }]));
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
            Hint::Maintenance { instance: holder("a").instance, what: "A_RETIREMENT".into(), starts: None },
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
