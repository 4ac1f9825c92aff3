//! Both sides in one process, over real TLS on loopback.

use super::frame::{Frame, Hello, Inbound, Message, Outbound, PROTOCOL, Sealed};
use super::pins::Pin;
use super::*;
use crate::identity::{Instance, peer_key, random_hex};
use crate::node::event::{Answer, Ping, Pong};
use crate::state_dir::StateDir;
use crate::state_dir::tests::Scratch;
use lease::ids::{Beat, BootId, Epoch, Incarnation, InstanceId};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt as _;

const SOON: Millis = Millis(5_000);

fn name(node: &str) -> NodeId {
    NodeId::new(node).expect("a name")
}

fn key(node: &str) -> PeerKey {
    let scratch = Scratch::new();
    let state = StateDir::open(scratch.path()).expect("open");
    let instance: Instance = serde_json::from_value(serde_json::json!({
        "instanceId": format!("i-0{node}"), "region": "r", "privateIp": "127.0.0.1", "pendingTime": "2026-01-01T00:00:00Z"
    }))
    .expect("a document");
    peer_key(&name(node), &instance, &state).expect("made")
}

fn holder(node: &str) -> Holder {
    Holder {
        node: name(node),
        incarnation: Incarnation::new(format!("replica-{node}")).expect("a name"),
        instance: InstanceId::new(format!("i-0{node}")).expect("an id"),
        boot: BootId::new("boot").expect("a name"),
        launched: "2026-01-01T00:00:00Z".into(),
    }
}

fn pin(node: &str, fingerprint: &str, address: SocketAddr) -> (NodeId, Pin) {
    let instance = holder(node).instance;
    (name(node), Pin { instance, address, fingerprint: fingerprint.into() })
}

/// One node's end.
struct Side {
    peers: Arc<Peers>,
    events: mpsc::Receiver<Event>,
    looks: mpsc::Receiver<Look>,
    pins: Arc<Pins>,
    address: SocketAddr,
    lineage: watch::Sender<Option<Lineage>>,
}

/// A node of `cluster` that listens, and knows `pins`.
async fn side(node: &str, cluster: &str, key: PeerKey, pins: impl IntoIterator<Item = (NodeId, Pin)>) -> Side {
    crate::tls::install();
    let (events_in, events) = mpsc::channel(64);
    let (look, looks) = mpsc::channel(64);
    let pins = Arc::new(Pins::new(pins.into_iter().collect()));
    let lineage = watch::Sender::new(None);
    let local = Local {
        cluster: ClusterId::new(cluster).expect("a name"),
        me: holder(node),
        key,
        pins: Arc::clone(&pins),
        lineage: lineage.subscribe(),
        events: events_in,
        board: Arc::default(),
        look,
    };
    let others = ["a", "b", "c"].into_iter().filter(|other| *other != node).map(name);
    let peers = Peers::new(local, others);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(Arc::clone(&peers).listen(listener));
    Side { peers, events, looks, pins, address, lineage }
}

impl Side {
    async fn event(&mut self) -> Event {
        tokio::time::timeout(SOON.into(), self.events.recv()).await.expect("in time").expect("an event")
    }
    fn dials(&self, peer: &str) {
        tokio::spawn(Arc::clone(&self.peers).dial(name(peer)));
    }
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..500 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Millis(10).into()).await;
        }
        panic!("{what}: refusals {:?}, links {:?}", self.peers.board().refusals(), self.peers.states());
    }
    async fn refuses(&self, cause: &'static str) {
        self.until(cause, |side| side.peers.board().refusals().contains_key(cause)).await;
    }
    async fn is_linked_to(&self, peer: &str) {
        let up =
            |side: &Self| side.peers.states().iter().any(|state| state.node == peer && state.outgoing_up_ms.is_some());
        self.until("linked", up).await;
    }
}

fn ping(number: u64) -> Ping {
    Ping { number, epoch: Epoch(3), beat: Beat(4), answered: 0 }
}

/// a listens and knows b's key; the raw end has b's key and does as it is told.
async fn raw(a: &Side, key: &PeerKey, a_fingerprint: &str) -> link::Stream {
    let pins = Arc::new(Pins::new([pin("a", a_fingerprint, a.address)].into_iter().collect()));
    let config = tls::client(key, pins, Some(name("a"))).expect("a key");
    let stream = TcpStream::connect(a.address).await.expect("connected");
    TlsConnector::from(config).connect(a.address.ip().into(), stream).await.expect("TLS").into()
}

fn hello(node: &str, cluster: &str) -> Hello {
    Hello {
        v: PROTOCOL,
        cluster: ClusterId::new(cluster).expect("a name"),
        lineage: None,
        me: holder(node),
        nonce: random_hex(16),
    }
}

/// What the other side says before it closes.
async fn told(stream: &mut link::Stream) -> (String, String) {
    loop {
        match tokio::time::timeout(SOON.into(), frame::read(stream)).await.expect("in time") {
            Ok(_) => {}
            Err(LinkError::Refused(Refusal::ByPeer { cause, message })) => return (cause, message),
            Err(error) => panic!("closed without a word: {error}"),
        }
    }
}
use super::refusal::Refusal;

/// Sets up a, and a raw connection with b's key that has exchanged hellos. Returns a's nonce too.
async fn greeted() -> (Side, link::Stream, String) {
    let (key_a, key_b) = (key("a"), key("b"));
    let fingerprint_a = key_a.fingerprint.clone();
    let a = side("a", "web", key_a, [pin("b", &key_b.fingerprint, "127.0.0.1:1".parse().expect("an address"))]).await;
    let mut stream = raw(&a, &key_b, &fingerprint_a).await;
    frame::write(&mut stream, &Frame::Hello(hello("b", "web"))).await.expect("sent");
    let Ok(Frame::Hello(theirs)) = frame::read(&mut stream).await else { panic!("no hello") };
    (a, stream, theirs.nonce)
}

#[tokio::test]
async fn questions_and_answers_go_both_ways() {
    let (key_a, key_b) = (key("a"), key("b"));
    let (print_a, print_b) = (key_a.fingerprint.clone(), key_b.fingerprint.clone());
    let mut a = side("a", "web", key_a, []).await;
    let mut b = side("b", "web", key_b, [pin("a", &print_a, a.address)]).await;
    // a learns of b as it would from a heartbeat, while it already dials.
    a.dials("b");
    b.dials("a");
    a.until("a waits for a heartbeat", |a| a.peers.states()[0].problem.is_some()).await;
    let heartbeat = heartbeat("b", &print_b, b.address);
    assert_eq!(a.pins.learn(&heartbeat, &holder("b").instance), Ok(true));
    a.is_linked_to("b").await;
    b.is_linked_to("a").await;

    a.peers.ping(&name("b"), ping(7));
    assert_eq!(b.event().await, Event::Pinged { from: holder("a"), ping: ping(7) });
    let pong = Pong { number: 7, answer: Answer::Fenced { epoch: Epoch(4) } };
    b.peers.pong(&name("a"), pong.clone());
    assert_eq!(a.event().await, Event::Ponged { from: holder("b"), pong });
    b.peers.nudge(&name("a"));
    assert_eq!(a.event().await, Event::Nudged { from: name("b") });
    let states = a.peers.states();
    assert_eq!(states[0].incarnation, Some(holder("b").incarnation));
    assert!(states[0].incoming_up_ms.is_some());
}

fn heartbeat(node: &str, fingerprint: &str, address: SocketAddr) -> lease::heartbeat::Heartbeat {
    let me = holder(node);
    lease::heartbeat::Heartbeat {
        cluster: ClusterId::new("web").expect("a name"),
        node: me.node,
        instance: me.instance,
        boot: me.boot,
        launched: me.launched,
        incarnation: me.incarnation,
        version: "0".into(),
        peer_address: address.to_string(),
        fingerprint: fingerprint.into(),
        role: "standby".into(),
        epoch: Epoch(0),
        beat: Beat(0),
        hears: BTreeMap::new(),
        resources: Vec::new(),
        replica: lease::heartbeat::Replica { consistent: true, asynchronous: false, lag_ms: None },
    }
}

#[tokio::test]
async fn an_unpinned_key_is_refused_on_both_sides_until_it_is_pinned() {
    let (key_a, key_b) = (key("a"), key("b"));
    let (print_a, print_b) = (key_a.fingerprint.clone(), key_b.fingerprint.clone());
    let mut a = side("a", "web", key_a, []).await;
    let b = side("b", "web", key_b, [pin("a", &print_a, a.address)]).await;
    b.dials("a");
    a.refuses("unpinned_key").await;
    b.refuses("by_peer").await;
    assert_eq!(a.looks.recv().await, Some(Look::UnknownKey));
    let problem = b.peers.states()[0].problem.clone().expect("told");
    assert!(problem.contains("does not know this node's key"), "{problem}");
    // The heartbeat shows the key: the very next try succeeds.
    a.pins.learn(&heartbeat("b", &print_b, b.address), &holder("b").instance).expect("believed");
    b.is_linked_to("a").await;
}

#[tokio::test]
async fn a_key_pinned_to_another_node_does_not_speak_for_this_one() {
    let (key_a, key_b) = (key("a"), key("b"));
    let print_a = key_a.fingerprint.clone();
    // a believes that the key is c's.
    let nowhere = "127.0.0.1:1".parse().expect("an address");
    let a = side("a", "web", key_a, [pin("c", &key_b.fingerprint, nowhere)]).await;
    let b = side("b", "web", key_b, [pin("a", &print_a, a.address)]).await;
    b.dials("a");
    a.refuses("key_of_another").await;
    b.refuses("by_peer").await;
}

#[tokio::test]
async fn who_is_dialled_must_have_its_own_key() {
    let (key_a, key_b, key_c) = (key("a"), key("b"), key("c"));
    let print_b = key_b.fingerprint.clone();
    let print_c = key_c.fingerprint.clone();
    let b = side("b", "web", key_b, [pin("a", &key_a.fingerprint, "127.0.0.1:1".parse().expect("an address"))]).await;
    // a believes that c listens where b does.
    let a = side("a", "web", key_a, [pin("b", &print_b, b.address), pin("c", &print_c, b.address)]).await;
    a.dials("c");
    a.refuses("key_of_another").await;
}

#[tokio::test]
async fn another_cluster_is_refused_with_both_names() {
    let (key_a, key_b) = (key("a"), key("b"));
    let (print_a, print_b) = (key_a.fingerprint.clone(), key_b.fingerprint.clone());
    let a = side("a", "web", key_a, [pin("b", &print_b, "127.0.0.1:1".parse().expect("an address"))]).await;
    let mut stream = raw(&a, &key_b, &print_a).await;
    frame::write(&mut stream, &Frame::Hello(hello("b", "db"))).await.expect("sent");
    let (cause, message) = told(&mut stream).await;
    assert_eq!(cause, "another_cluster");
    assert!(message.contains("cluster web") && message.contains("db"), "{message}");
    a.refuses("another_cluster").await;
}

#[tokio::test]
async fn a_cluster_that_was_made_anew_is_another_one() {
    let (key_a, key_b) = (key("a"), key("b"));
    let (print_a, print_b) = (key_a.fingerprint.clone(), key_b.fingerprint.clone());
    let a = side("a", "web", key_a, [pin("b", &print_b, "127.0.0.1:1".parse().expect("an address"))]).await;
    a.lineage.send_replace(Some(Lineage::new("first").expect("a name")));
    let mut stream = raw(&a, &key_b, &print_a).await;
    let other = Hello { lineage: Some(Lineage::new("second").expect("a name")), ..hello("b", "web") };
    frame::write(&mut stream, &Frame::Hello(other)).await.expect("sent");
    assert_eq!(told(&mut stream).await.0, "another_lineage");
}

#[tokio::test]
async fn an_older_and_a_newer_protocol_are_refused_each_with_its_error() {
    for (version, expected) in [(PROTOCOL - 1, "older_protocol"), (PROTOCOL + 1, "newer_protocol")] {
        let (key_a, key_b) = (key("a"), key("b"));
        let (print_a, print_b) = (key_a.fingerprint.clone(), key_b.fingerprint.clone());
        let a = side("a", "web", key_a, [pin("b", &print_b, "127.0.0.1:1".parse().expect("an address"))]).await;
        let mut stream = raw(&a, &key_b, &print_a).await;
        frame::write(&mut stream, &Frame::Hello(Hello { v: version, ..hello("b", "web") })).await.expect("sent");
        let (cause, message) = told(&mut stream).await;
        assert_eq!(cause, expected);
        assert!(message.contains("update leasehold"), "{message}");
        a.refuses(expected).await;
    }
}

#[tokio::test]
async fn a_replayed_frame_is_refused_and_the_first_one_counted_once() {
    let (mut a, mut stream, nonce) = greeted().await;
    let frame = Outbound::new(nonce).seal(Message::Ping(ping(1)));
    frame::write(&mut stream, &frame).await.expect("sent");
    frame::write(&mut stream, &frame).await.expect("sent");
    let (cause, message) = told(&mut stream).await;
    assert_eq!((cause.as_str(), message.as_str()), ("replayed", "sequence 1 after 1: replayed or reordered"));
    assert_eq!(a.event().await, Event::Pinged { from: holder("b"), ping: ping(1) });
    assert_eq!(a.event().await, Event::LinkLost { node: name("b") });
    a.refuses("replayed").await;
}

#[tokio::test]
async fn a_frame_of_another_connection_is_refused() {
    let (_a, mut stream, _) = greeted().await;
    let sealed = Sealed { session: "recorded elsewhere".into(), sequence: 1, message: Message::Nudge };
    frame::write(&mut stream, &Frame::Sealed(sealed)).await.expect("sent");
    assert_eq!(told(&mut stream).await.0, "another_session");
}

#[tokio::test]
async fn what_is_too_large_or_no_frame_is_refused() {
    let (_a, mut stream, _) = greeted().await;
    stream.write_all(&u32::MAX.to_be_bytes()).await.expect("sent");
    stream.flush().await.expect("sent");
    assert_eq!(told(&mut stream).await.0, "oversize");

    let (a, mut stream, _) = greeted().await;
    stream.write_all(b"\0\0\0\x04junk").await.expect("sent");
    stream.flush().await.expect("sent");
    assert_eq!(told(&mut stream).await.0, "malformed");
    a.refuses("malformed").await;
}

#[tokio::test]
async fn an_answer_where_questions_belong_is_refused() {
    let (_a, mut stream, nonce) = greeted().await;
    let pong = Pong { number: 1, answer: Answer::NoPromise { epoch: Epoch(1) } };
    frame::write(&mut stream, &Outbound::new(nonce).seal(Message::Pong(pong))).await.expect("sent");
    assert_eq!(told(&mut stream).await.0, "malformed");
}

#[tokio::test]
async fn a_certificate_without_its_key_opens_nothing() {
    #[derive(Debug)]
    struct Thief(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Thief {
        fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let (key_a, key_b, key_thief) = (key("a"), key("b"), key("c"));
    let print_a = key_a.fingerprint.clone();
    let a = side("a", "web", key_a, [pin("b", &key_b.fingerprint, "127.0.0.1:1".parse().expect("an address"))]).await;
    let pins = Arc::new(Pins::new([pin("a", &print_a, a.address)].into_iter().collect()));
    let mut config = (*tls::client(&key_thief, pins, Some(name("a"))).expect("a key")).clone();
    let signing = rustls::crypto::ring::sign::any_supported_type(&key_thief.key).expect("a key");
    // b's certificate, which is public, with a key that is not b's.
    config.client_auth_cert_resolver =
        Arc::new(Thief(Arc::new(rustls::sign::CertifiedKey::new(vec![key_b.certificate.clone()], signing))));
    let stream = TcpStream::connect(a.address).await.expect("connected");
    let connected = TlsConnector::from(Arc::new(config)).connect(a.address.ip().into(), stream).await;
    // TLS 1.3: the client is through before the server has looked.
    if let Ok(stream) = connected {
        let error = frame::read(&mut tokio_rustls::TlsStream::from(stream)).await.expect_err("closed");
        assert!(matches!(error, LinkError::Io(_) | LinkError::Closed), "{error}");
    }
    a.refuses("malformed").await;
    assert!(a.peers.states()[0].incoming_up_ms.is_none());
}

#[tokio::test]
async fn a_changed_pin_ends_the_connection_of_the_old_key() {
    let (a, mut stream, _) = greeted().await;
    a.until("linked", |a| a.peers.states()[0].incoming_up_ms.is_some()).await;
    let elsewhere = "127.0.0.1:2".parse().expect("an address");
    a.pins.learn(&heartbeat("b", "another key", elsewhere), &holder("b").instance).expect("believed");
    assert_eq!(told(&mut stream).await.0, "unpinned_key");
}

#[tokio::test]
async fn strangers_who_speak_no_tls_hold_up_nobody() {
    let (a, _stream, _) = greeted().await;
    for _ in 0..2 * HANDSHAKES_MAX {
        let mut stranger = TcpStream::connect(a.address).await.expect("connected");
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    }
    a.refuses("malformed").await;
    let (key_b, print_a) = (key("b"), "unknown");
    // Still listening: what fails is the key, not the wait.
    let pins = Arc::new(Pins::new([pin("a", print_a, a.address)].into_iter().collect()));
    let stream = TcpStream::connect(a.address).await.expect("connected");
    let config = tls::client(&key_b, pins, Some(name("a"))).expect("a key");
    let error = TlsConnector::from(config).connect(a.address.ip().into(), stream).await.expect_err("unpinned");
    assert!(matches!(tls::refusal_in(&error), Some(Refusal::UnpinnedKey { .. })), "{error}");
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_up_nobody() {
    let (key_a, key_b) = (key("a"), key("b"));
    let (print_a, print_b) = (key_a.fingerprint.clone(), key_b.fingerprint.clone());
    let b = side("b", "web", key_b, [pin("a", &print_a, "127.0.0.1:1".parse().expect("an address"))]).await;
    let a = side("a", "web", key_a, [pin("b", &print_b, b.address)]).await;
    a.dials("b");
    a.is_linked_to("b").await;
    // b's core takes nothing; its queue of 64 fills, and a's core is never made to wait.
    for number in 0..1_000 {
        a.peers.ping(&name("b"), ping(number));
        if number % 8 == 0 {
            tokio::task::yield_now().await;
        }
    }
    a.is_linked_to("b").await;
}

#[test]
fn an_inbound_end_takes_only_its_own_session() {
    let mut inbound = Inbound::new("mine".into());
    assert!(inbound.open(Outbound::new("mine".into()).seal(Message::Nudge)).is_ok());
}
