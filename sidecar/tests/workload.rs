//! The workload with real processes in a real cgroup. Needs root and a cgroup v2 hierarchy.

mod stage;

use lease::ids::Epoch;
use lease::time::Millis;
use sidecar::address;
use sidecar::clock;
use sidecar::identity::random_hex;
use sidecar::node::event::Event;
use sidecar::resources::cgroup::{Cgroup, beside_this_process};
use sidecar::resources::{Order, Resource};
use stage::{WithCommands as _, resource, stage};
use std::os::fd::AsRawFd as _;

#[tokio::test]
async fn a_daemon_that_it_leaves_behind_ends_by_its_stop_command() {
    let mut stage = stage(|at| {
        // Twice forked, in a session of its own: nothing but the cgroup knows it.
        let start = format!("setsid sh -c 'echo $$ > {at}/pid; exec sleep 1000' & sleep 0.2");
        vec![resource("daemon", &start).stop(&format!("touch {at}/stopped; kill $(cat {at}/pid)"))]
    });
    stage.up().await;
    assert_eq!(stage.state(), "running");
    assert!(stage.group.populated().expect("read"));
    stage.order(Order::Stop).await;
    assert_eq!(stage.event().await, Event::WorkloadDown);
    assert!(!stage.group.populated().expect("read"));
    assert!(stage.scratch.join("stopped").exists());
    assert_eq!(stage.state(), "stopped");
}

#[tokio::test]
async fn what_ignores_every_signal_is_killed_at_its_limit() {
    let mut stage = stage(|_| {
        vec![resource("deaf", "sh -c 'trap \"\" TERM INT HUP; while :; do sleep 1; done' & sleep 0.1").stop("true")]
    });
    stage.up().await;
    let began = clock::now();
    stage.order(Order::Stop).await;
    assert_eq!(stage.event().await, Event::WorkloadDown);
    let took = clock::now().longest_since(began);
    assert!((Millis(1_000)..Millis(2_000)).contains(&took), "its limit is 1000 ms, it took {took}");
}

#[tokio::test]
async fn a_kill_waits_for_no_stop_command() {
    let mut stage = stage(|_| {
        vec![Resource { stop_limit: Millis(60_000), ..resource("slow", "sleep 1000 & true").stop("sleep 100") }]
    });
    stage.up().await;
    stage.order(Order::Stop).await;
    tokio::time::sleep(Millis(200).into()).await;
    let began = clock::now();
    stage.order(Order::Kill).await;
    assert_eq!(stage.event().await, Event::WorkloadDown);
    assert!(clock::now().longest_since(began) < Millis(500));
}

#[tokio::test]
async fn resources_start_in_order_and_stop_in_the_opposite_one() {
    let mut stage = stage(|at| {
        ["one", "two", "three"]
            .map(|name| {
                resource(name, &format!("echo start $LEASEHOLD_RESOURCE >> {at}/log"))
                    .stop(&format!("echo stop $LEASEHOLD_RESOURCE >> {at}/log"))
            })
            .to_vec()
    });
    stage.up().await;
    stage.order(Order::Stop).await;
    assert_eq!(stage.event().await, Event::WorkloadDown);
    assert_eq!(stage.file("log"), "start one\nstart two\nstart three\nstop three\nstop two\nstop one\n");
}

#[tokio::test]
async fn a_start_that_fails_tells_what_it_said_and_nothing_after_it_starts() {
    let mut stage =
        stage(|at| vec![resource("bad", "echo no config; exit 3"), resource("next", &format!("touch {at}/next"))]);
    stage.start().await;
    let Event::ResourceFailed { epoch, resource, reason } = stage.event().await else { panic!("it failed") };
    assert_eq!((epoch, resource.as_str()), (Epoch(7), "bad"));
    assert!(reason.contains("exit code 3; it said: no config"), "{reason}");
    assert_eq!(stage.state(), "failed");
    assert!(!stage.scratch.join("next").exists());
}

#[tokio::test]
async fn a_start_that_hangs_fails_at_its_limit() {
    let mut stage = stage(|_| vec![Resource { start_limit: Millis(300), ..resource("hangs", "sleep 1000") }]);
    let began = clock::now();
    stage.start().await;
    let Event::ResourceFailed { reason, .. } = stage.event().await else { panic!("it failed") };
    assert!(reason.contains("not done within 300 ms"), "{reason}");
    assert!(clock::now().longest_since(began) < Millis(1_500));
    stage.order(Order::Stop).await;
    assert_eq!(stage.event().await, Event::WorkloadDown);
}

#[tokio::test]
async fn checks_that_fail_in_a_row_fail_the_resource_once() {
    let mut stage = stage(|at| {
        let check = format!("echo x >> {at}/checks; test ! -e {at}/broken");
        vec![resource("checked", "sleep 1000 & true").check(&check)]
    });
    stage.up().await;
    tokio::time::sleep(Millis(500).into()).await;
    assert!(stage.events.try_recv().is_err(), "all is well so far");
    std::fs::write(stage.scratch.join("broken"), "").expect("broken");
    let Event::ResourceFailed { resource, reason, .. } = stage.event().await else { panic!("it failed") };
    assert_eq!(resource, "checked");
    assert!(reason.starts_with("2 checks in a row failed"), "{reason}");
    tokio::time::sleep(Millis(400).into()).await;
    assert!(stage.events.try_recv().is_err(), "once is enough");
    stage.order(Order::Stop).await;
    assert_eq!(stage.event().await, Event::WorkloadDown);
    let checks = stage.file("checks").len();
    tokio::time::sleep(Millis(400).into()).await;
    assert_eq!(stage.file("checks").len(), checks, "no check after the stop");
}

#[tokio::test]
async fn a_check_that_hangs_or_floods_its_output_is_killed_and_costs_nothing() {
    let mut stage = stage(|at| {
        let check = format!("echo $$ >> {at}/pids; exec yes 'a flood of words'");
        vec![resource("floods", "sleep 1000 & true").check(&check)]
    });
    stage.up().await;
    let before = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock");
    let Event::ResourceFailed { reason, .. } = stage.event().await else { panic!("it failed") };
    let after = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock");
    let spent = std::time::Duration::from(after) - std::time::Duration::from(before);
    assert!(reason.contains("not done within 500 ms; it said:") && reason.contains("a flood of words"), "{reason}");
    assert!(reason.len() < 3_000, "bounded: {}", reason.len());
    assert!(spent < std::time::Duration::from_millis(200), "the flood cost {spent:?}");
    stage.order(Order::Stop).await;
    assert_eq!(stage.event().await, Event::WorkloadDown);
    for pid in stage.file("pids").lines() {
        assert!(!std::path::Path::new("/proc").join(pid).join("root").exists(), "{pid} still runs");
    }
}

#[tokio::test]
async fn leftovers_of_an_earlier_daemon_are_killed_before_the_start() {
    let mut stage = stage(|at| vec![resource("fresh", &format!("cat {at}/group/cgroup.procs > {at}/before; true"))]);
    std::os::unix::fs::symlink(stage.group.path(), stage.scratch.join("group")).expect("linked");
    let mut leftover = std::process::Command::new("/bin/sleep").arg("1000").spawn().expect("started");
    std::fs::write(stage.group.path().join("cgroup.procs"), leftover.id().to_string()).expect("moved");
    stage.up().await;
    assert!(!leftover.wait().expect("ended").success(), "killed");
    assert_eq!(stage.file("before"), "");
}

#[tokio::test]
async fn a_command_gets_the_documented_environment_and_no_descriptors() {
    // What must not leak: a descriptor that was left open across exec by whoever started the daemon.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("kept across exec");
    let mut stage = stage(|at| vec![resource("looks", &format!("env | sort > {at}/env; ls /proc/$$/fd > {at}/fds"))]);
    stage.up().await;
    let environment = stage.file("env");
    let names: Vec<&str> = environment.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(
        names.iter().filter(|name| !["PWD", "SHLVL", "_", "OLDPWD"].contains(name)).copied().collect::<Vec<_>>(),
        [
            "LEASEHOLD_CLUSTER",
            "LEASEHOLD_EPOCH",
            "LEASEHOLD_NODE",
            "LEASEHOLD_RESOURCE",
            "LEASEHOLD_VIRTUAL_IPS",
            "PATH"
        ]
    );
    assert!(environment.contains("LEASEHOLD_EPOCH=7\n") && environment.contains("LEASEHOLD_VIRTUAL_IPS=10.99.0.10\n"));
    // 0, 1, 2 and those that dash itself saves (10 and above) while it redirects.
    let leaked = socket.as_raw_fd().to_string();
    let fds = stage.file("fds");
    assert!(fds.lines().all(|fd| fd != leaked && ["0", "1", "2", "10", "11"].contains(&fd)), "{leaked} in:\n{fds}");
}

#[tokio::test]
async fn a_start_waits_for_the_address() {
    let mut stage = stage(|at| vec![resource("binds", &format!("touch {at}/started"))]);
    stage.held.send_replace(address::State::default());
    stage.start().await;
    tokio::time::sleep(Millis(300).into()).await;
    assert!(!stage.scratch.join("started").exists());
    stage.held.send_replace(address::State { held: true, problem: None });
    assert_eq!(stage.event().await, Event::WorkloadUp { epoch: Epoch(7) });
}

#[tokio::test]
async fn what_keeps_writing_to_the_output_of_its_start_lives_on() {
    let mut stage = stage(|at| {
        let chatty =
            format!("sh -c 'while echo word; do echo x >> {at}/alive; sleep 0.05; done; touch {at}/died' & true");
        vec![resource("chatty", &chatty)]
    });
    stage.up().await;
    tokio::time::sleep(Millis(500).into()).await;
    assert!(stage.file("alive").len() > 8);
    assert!(!stage.scratch.join("died").exists(), "its output was closed under it");
}

/// The unit protects the daemon from being killed for want of memory; the workload must not be protected with it. A score is
/// raised here, because not every root may lower one.
#[test]
fn a_command_is_killed_for_want_of_memory_before_the_daemon() {
    let group = Cgroup::ensure(&beside_this_process(&format!("leasehold-test-{}", random_hex(6))).expect("cgroup v2"))
        .expect("these tests need root");
    let script = format!(
        "echo 500 > /proc/self/oom_score_adj && exec {} launch --cgroup {} -- /bin/cat /proc/self/oom_score_adj",
        env!("CARGO_BIN_EXE_leasehold"),
        group.path().display()
    );
    let done = std::process::Command::new("/bin/sh").args(["-c", &script]).output().expect("run");
    let _ = std::fs::remove_dir(group.path());
    assert_eq!(String::from_utf8_lossy(&done.stdout), "501\n", "{done:?}");
}
