//! Ports that the kernel closes by itself, between two network namespaces of the test's own. Needs root and nft.

#![allow(clippy::disallowed_methods, reason = "a test of what the kernel does measures it")]

use lease::config::Ports;
use lease::heartbeat::ResourceHealth;
use lease::ids::ClusterId;
use lease::time::Millis;
use nix::sched::{CloneFlags, setns, unshare};
use sidecar::address::Order;
use sidecar::clock;
use sidecar::health;
use sidecar::ports::{Gate, State};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::sync::watch;

const SERVICE: u16 = 5432;
const HEALTH: u16 = 7402;
const HERE: &str = "10.1.0.1";

/// A neighbour on a link: another namespace, alive as long as its process.
struct Outside(Child);

impl Outside {
    fn new() -> Self {
        let neighbour =
            Command::new("unshare").args(["--net", "sleep", "300"]).spawn().expect("util-linux is installed");
        let pid = neighbour.id();
        let own = std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|other| other == own) {
            std::thread::sleep(Duration::from_millis(5));
        }
        run("ip", &["link", "add", "here", "type", "veth", "peer", "name", "there", "netns", &pid.to_string()]);
        run("ip", &["address", "add", "10.1.0.1/24", "dev", "here"]);
        run("ip", &["link", "set", "here", "up"]);
        let inside = |words: &[&str]| run("nsenter", &[&["-t", &pid.to_string(), "-n", "ip"], words].concat());
        inside(&["address", "add", "10.1.0.2/24", "dev", "there"]);
        inside(&["link", "set", "there", "up"]);
        Self(neighbour)
    }

    /// Does this in the neighbour's namespace.
    fn does<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.0.id())).expect("alive");
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root");
            what()
        })
        .join()
        .expect("the neighbour's thread")
    }

    fn connects(&self, port: u16) -> Result<TcpStream, ErrorKind> {
        let address = SocketAddr::new(HERE.parse().expect("an address"), port);
        self.does(move || TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(|error| error.kind()))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("it is installed");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `test` on a thread in a namespace of its own, with a neighbour.
fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce(Outside) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        run("ip", &["link", "set", "lo", "up"]);
        let outside = Outside::new();
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test(outside));
    });
    thread.join().expect("the test's thread");
}

fn cluster() -> ClusterId {
    ClusterId::new("web").expect("a name")
}

async fn closed() -> Gate {
    let ports = Ports { service: BTreeSet::from([SERVICE]), health: Some(HEALTH) };
    Gate::close(&cluster(), ports).await.expect("nft is installed")
}

/// A gate that follows.
struct Following {
    orders: watch::Sender<Order>,
    health: watch::Sender<Vec<ResourceHealth>>,
    state: watch::Receiver<State>,
    task: tokio::task::JoinHandle<()>,
}

fn follow(gate: Gate) -> Following {
    let (orders, followed) = watch::channel(Order::Drop);
    let (health, seen) = watch::channel(Vec::new());
    let (told, state) = watch::channel(State::default());
    Following { orders, health, state, task: tokio::spawn(gate.follow(followed, seen, told)) }
}

fn hold(at_most: u64) -> Order {
    Order::Hold { from: clock::now(), at_most: Millis(at_most) }
}

fn resource(state: &str) -> Vec<ResourceHealth> {
    vec![ResourceHealth { name: "db".into(), state: state.into(), problem: None }]
}

#[test]
fn a_port_is_refused_until_it_is_lent_and_the_kernel_refuses_it_again_when_the_daemon_stands_still() {
    in_a_namespace(|outside| async move {
        let service = TcpListener::bind(("0.0.0.0", SERVICE)).expect("free");
        let other = TcpListener::bind(("0.0.0.0", 22)).expect("free");
        assert!(outside.connects(SERVICE).is_ok(), "nothing guards it yet");
        let gate = closed().await;
        assert_eq!(outside.connects(SERVICE).err(), Some(ErrorKind::ConnectionRefused));
        assert!(outside.connects(22).is_ok(), "other ports are nobody's business");
        assert!(TcpStream::connect(("127.0.0.1", SERVICE)).is_ok(), "nor is this machine itself");
        drop(other);

        let mut following = follow(gate);
        let from = clock::now();
        following.orders.send_replace(hold(1_500));
        following.state.wait_for(|state| state.open).await.expect("open");
        let mut client = outside.connects(SERVICE).expect("open");
        let (mut served, _) = service.accept().expect("a client");
        // One of before the gate was there, and that of the machine itself, wait in front of it.
        while served.peer_addr().expect("connected") != client.local_addr().expect("connected") {
            served = service.accept().expect("a client").0;
        }
        client.write_all(b"?").expect("sent");
        served.read_exact(&mut [0]).expect("heard");
        std::thread::spawn(move || while service.accept().is_ok() {});
        // Stands still: nothing of the daemon runs any more.
        following.task.abort();
        let mut last = Millis::ZERO;
        let refused = loop {
            let began = clock::now().longest_since(from);
            if let Err(error) = outside.connects(SERVICE) {
                break (began, error);
            }
            last = clock::now().longest_since(from);
            tokio::time::sleep(Millis(5).into()).await;
        };
        assert!((Millis(1_200)..Millis(1_500)).contains(&last), "open until {last}, authority ended at 1500 ms");
        assert!(refused.0 < Millis(1_700) && refused.1 == ErrorKind::ConnectionRefused, "{refused:?}");
        // What is answered now must not get out, also on a connection that is open still.
        served.write_all(b"!").expect("into the socket");
        client.set_read_timeout(Some(Duration::from_millis(700))).expect("set");
        let heard = client.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(heard, Err(ErrorKind::WouldBlock | ErrorKind::ConnectionReset)), "{heard:?}");
        // And what is asked is refused.
        let _ = client.write_all(b"?");
        client.set_read_timeout(Some(Duration::from_secs(3))).expect("set");
        assert_eq!(client.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_port_stays_open_while_it_is_extended_and_closes_at_once_when_dropped() {
    in_a_namespace(|outside| async move {
        let _service = TcpListener::bind(("0.0.0.0", SERVICE)).expect("free");
        let mut following = follow(closed().await);
        for round in 0..30 {
            following.orders.send_replace(hold(1_000));
            tokio::time::sleep(Millis(100).into()).await;
            assert!(outside.connects(SERVICE).is_ok(), "round {round}");
        }
        following.orders.send_replace(Order::Drop);
        following.state.wait_for(|state| !state.open).await.expect("closed");
        assert_eq!(outside.connects(SERVICE).err(), Some(ErrorKind::ConnectionRefused));
        // Somebody empties the machine's rules: they are made anew where they matter.
        run("nft", &["flush", "ruleset"]);
        following.orders.send_replace(hold(1_000));
        following.state.wait_for(|state| state.open).await.expect("open");
        following.orders.send_replace(Order::Drop);
        following.state.wait_for(|state| !state.open).await.expect("closed");
        assert_eq!(outside.connects(SERVICE).err(), Some(ErrorKind::ConnectionRefused));
        // The daemon ends in order, and the cluster has no ports any more.
        Gate::remove(&cluster()).expect("removed");
        Gate::remove(&cluster()).expect("not there");
        assert!(outside.connects(SERVICE).is_ok());
    });
}

#[test]
fn health_checks_are_answered_while_all_resources_run() {
    in_a_namespace(|outside| async move {
        let mut following = follow(closed().await);
        let listener = health::listen(HEALTH).await.expect("free");
        tokio::spawn(health::answer(listener, following.state.clone()));
        following.health.send_replace(resource("starting"));
        following.orders.send_replace(hold(60_000));
        following.state.wait_for(|state| state.open).await.expect("open");
        assert_eq!(outside.connects(HEALTH).err(), Some(ErrorKind::ConnectionRefused), "not up yet");
        following.health.send_replace(resource("running"));
        following.state.wait_for(|state| state.healthy).await.expect("healthy");
        let client = outside.connects(HEALTH).expect("open");
        let answer = tokio::task::spawn_blocking(move || {
            let mut client = client;
            client.write_all(b"GET /any/path HTTP/1.0\r\n\r\n").expect("sent");
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("answered");
            answer
        });
        let answer = answer.await.expect("answered");
        assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("active\n"), "{answer}");
        following.health.send_replace(resource("failed"));
        following.state.wait_for(|state| !state.healthy).await.expect("not healthy");
        assert!(following.state.borrow().open, "clients are served as long as the node is active");
        assert_eq!(outside.connects(HEALTH).err(), Some(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn datagrams_are_refused_as_well() {
    in_a_namespace(|outside| async move {
        let service = UdpSocket::bind(("0.0.0.0", SERVICE)).expect("free");
        service.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
        let mut following = follow(closed().await);
        let ask = || {
            outside.does(|| {
                let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a port");
                socket.connect((HERE, SERVICE)).expect("set");
                socket.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
                socket.send(b"?").expect("sent");
                socket.recv(&mut [0]).map_err(|error| error.kind())
            })
        };
        assert_eq!(ask(), Err(ErrorKind::ConnectionRefused));
        assert!(service.recv(&mut [0]).is_err(), "nothing came through");
        following.orders.send_replace(hold(60_000));
        following.state.wait_for(|state| state.open).await.expect("open");
        assert_eq!(ask(), Err(ErrorKind::WouldBlock), "nobody answers, and nobody refuses");
        assert!(service.recv(&mut [0]).is_ok(), "it came through");
    });
}
