//! The kernel's own part of the gate, in a network namespace of the test's own. Needs root.

#![allow(clippy::disallowed_methods, reason = "a test of what the kernel does measures it")]

use lease::time::Millis;
use nix::sched::{CloneFlags, unshare};
use sidecar::address::{Addresses, Order, State};
use sidecar::clock;
use std::net::IpAddr;
use std::process::Command;
use tokio::sync::watch;

/// Runs `test` on a thread in a namespace of its own, where loopback is up.
fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        ip(&["link", "set", "lo", "up"]);
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test());
    });
    thread.join().expect("the test's thread");
}

/// `ip` in the calling thread's namespace: children inherit it.
fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn has(address: &str) -> bool {
    ip(&["-o", "addr", "show", "dev", "lo"]).split_whitespace().any(|word| word.split('/').next() == Some(address))
}

fn addresses() -> Vec<IpAddr> {
    vec!["10.99.0.10".parse().expect("an address"), "fd99::10".parse().expect("an address")]
}

/// Polls until the address is there, or not; returns how long that took.
async fn until(address: &str, there: bool) -> Millis {
    let began = clock::now();
    while has(address) != there {
        assert!(clock::now().longest_since(began) < Millis(10_000), "{address} there: {there}");
        tokio::time::sleep(Millis(10).into()).await;
    }
    clock::now().longest_since(began)
}

#[test]
fn the_kernel_takes_the_addresses_away_when_the_daemon_stands_still() {
    in_a_namespace(|| async {
        let addresses = Addresses::open("lo", addresses()).await.expect("netlink");
        let (orders, followed) = watch::channel(Order::Drop);
        let (state, _) = watch::channel(State::default());
        let from = clock::now();
        orders.send_replace(Order::Hold { from, at_most: Millis(3_000) });
        let following = tokio::spawn(addresses.follow(followed, state));
        until("10.99.0.10", true).await;
        until("fd99::10", true).await;
        // Stands still: nothing of the daemon runs any more.
        following.abort();
        until("10.99.0.10", false).await;
        until("fd99::10", false).await;
        let gone = clock::now().longest_since(from);
        assert!((Millis(1_900)..Millis(3_000)).contains(&gone), "gone after {gone}, authority ended at 3000 ms");
    });
}

#[test]
fn an_address_stays_without_a_gap_while_it_is_extended_and_goes_at_once_when_dropped() {
    in_a_namespace(|| async {
        let addresses = Addresses::open("lo", addresses()).await.expect("netlink");
        let (orders, followed) = watch::channel(Order::Drop);
        let (state, mut seen) = watch::channel(State::default());
        tokio::spawn(addresses.follow(followed, state));
        // Every change of addresses in the namespace is on record.
        let mut monitor =
            Command::new("ip").args(["monitor", "address"]).stdout(std::process::Stdio::piped()).spawn().expect("ip");
        tokio::time::sleep(Millis(100).into()).await;
        for _ in 0..16 {
            orders.send_replace(Order::Hold { from: clock::now(), at_most: Millis(3_000) });
            tokio::time::sleep(Millis(250).into()).await;
            assert!(has("10.99.0.10") && has("fd99::10"));
        }
        seen.wait_for(|state| state.held).await.expect("held");
        orders.send_replace(Order::Drop);
        assert!(until("10.99.0.10", false).await < Millis(200));
        assert!(until("fd99::10", false).await < Millis(200));
        assert!(!seen.wait_for(|state| !state.held).await.expect("not held").held);
        monitor.kill().expect("killed");
        let record = monitor.wait_with_output().expect("ended").stdout;
        let record = String::from_utf8_lossy(&record);
        let gone = record.lines().filter(|line| line.starts_with("Deleted") && line.contains("10.99.0.10")).count();
        assert_eq!(gone, 1, "taken away once, at the end:\n{record}");
    });
}

#[test]
fn one_order_is_used_up_to_its_last_whole_second() {
    in_a_namespace(|| async {
        let addresses = Addresses::open("lo", vec![addresses()[0]]).await.expect("netlink");
        let (orders, followed) = watch::channel(Order::Drop);
        let (state, _) = watch::channel(State::default());
        tokio::spawn(addresses.follow(followed, state));
        let from = clock::now();
        orders.send_replace(Order::Hold { from, at_most: Millis(5_000) });
        until("10.99.0.10", true).await;
        until("10.99.0.10", false).await;
        let gone = clock::now().longest_since(from);
        assert!((Millis(3_700)..=Millis(5_000)).contains(&gone), "gone after {gone}, authority ended at 5000 ms");
    });
}

#[test]
fn leftovers_are_taken_away_before_anything_else() {
    in_a_namespace(|| async {
        ip(&["addr", "add", "10.99.0.10/32", "dev", "lo"]);
        ip(&["addr", "add", "10.88.0.10/32", "dev", "lo"]);
        let mut addresses = Addresses::open("lo", addresses()).await.expect("netlink");
        addresses.clear().await.expect("cleared");
        assert!(!has("10.99.0.10"));
        assert!(has("10.88.0.10"), "not ours, not touched");
        addresses.clear().await.expect("nothing to clear is well");
    });
}

#[test]
fn an_address_that_fails_is_told_and_tried_again_while_the_other_serves() {
    in_a_namespace(|| async {
        let ipv6 = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";
        std::fs::write(ipv6, "1").expect("a setting of this namespace");
        let addresses = Addresses::open("lo", addresses()).await.expect("netlink");
        let (orders, followed) = watch::channel(Order::Drop);
        let (state, mut seen) = watch::channel(State::default());
        tokio::spawn(addresses.follow(followed, state));
        orders.send_replace(Order::Hold { from: clock::now(), at_most: Millis(9_000) });
        until("10.99.0.10", true).await;
        let told = seen.wait_for(|state| state.problem.is_some()).await.expect("told").clone();
        assert!(!told.held, "not all of them are held");
        assert!(told.problem.is_some_and(|problem| problem.contains("cannot hold fd99::10 on lo")));
        std::fs::write(ipv6, "0").expect("a setting of this namespace");
        until("fd99::10", true).await;
        assert!(seen.wait_for(|state| state.held).await.expect("held").problem.is_none());
        orders.send_replace(Order::Drop);
        until("10.99.0.10", false).await;
        until("fd99::10", false).await;
    });
}

#[test]
fn an_interface_that_is_detached_and_attached_again_gets_its_addresses_back() {
    in_a_namespace(|| async {
        // A dummy device may not exist in this kernel; one end of a pair does.
        let attach = || {
            ip(&["link", "add", "eth7", "type", "veth", "peer", "name", "eth8"]);
            ip(&["link", "set", "eth7", "up"]);
        };
        let there = || ip(&["-o", "addr", "show", "dev", "eth7"]).contains("10.99.0.10/32");
        attach();
        let addresses = Addresses::open("eth7", vec![addresses()[0]]).await.expect("netlink");
        let (orders, followed) = watch::channel(Order::Drop);
        let (state, mut seen) = watch::channel(State::default());
        tokio::spawn(addresses.follow(followed, state));
        let hold = || orders.send_replace(Order::Hold { from: clock::now(), at_most: Millis(3_000) });
        hold();
        seen.wait_for(|state| state.held).await.expect("held");
        assert!(there());
        ip(&["link", "del", "eth7"]);
        for _ in 0..12 {
            hold();
            tokio::time::sleep(Millis(250).into()).await;
        }
        assert!(seen.borrow().problem.is_some(), "{:?}", seen.borrow());
        attach();
        for _ in 0..8 {
            hold();
            tokio::time::sleep(Millis(250).into()).await;
        }
        assert!(there(), "{:?}", seen.borrow());
    });
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    in_a_namespace(|| async {
        let error = Addresses::open("eth7", addresses()).await.expect_err("no eth7").to_string();
        assert!(error.contains("\"eth7\"") && error.contains("[address].interface"), "{error}");
    });
}
