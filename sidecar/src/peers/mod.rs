//! The peer link: how members ask each other for promises.
//!
//! Each node dials each peer. The connection that a node dials carries its questions (pings, nudges) and their answers;
//! the connection that the peer dials carries the peer's. So neither direction can be up by half unnoticed.

mod allowance;
pub mod board;
pub mod frame;
mod link;
pub mod pins;
pub mod refusal;
pub mod tls;

use crate::clock;
use crate::identity::PeerKey;
use crate::mailbox::Mailbox;
use crate::node::event::{Event, Ping, Pong};
pub use allowance::Allowance;
use board::{Board, PeerState, Way};
use frame::{LinkError, Message};
use lease::ids::{ClusterId, Lineage, NodeId};
use lease::record::Holder;
use lease::time::Millis;
use pins::Pins;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Messages that may wait for one connection. Two seconds of pings; older ones are worth nothing.
const WAITING_MAX: usize = 8;
/// Handshakes under way at once. More than all members need; strangers get no further.
const HANDSHAKES_MAX: usize = 16;
/// Dialling again waits this long at first, twice as long each time, up to the second.
const AGAIN_FIRST: Millis = Millis(100);
const AGAIN_LAST: Millis = Millis(1_000);
/// A connection that stood this long starts the waits anew.
const STOOD: Millis = Millis(2_000);

/// A wish to look at a peer's heartbeat item again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// This peer cannot be reached where it is thought to be.
    Unreachable(NodeId),
    /// Some key was not known. It may be any member's new one.
    UnknownKey,
}

/// What every connection needs to know of this side.
#[derive(Debug)]
pub struct Local {
    pub cluster: ClusterId,
    pub me: Holder,
    pub key: PeerKey,
    pub pins: Arc<Pins>,
    pub lineage: watch::Receiver<Option<Lineage>>,
    pub events: mpsc::Sender<Event>,
    pub board: Arc<Board>,
    pub look: mpsc::Sender<Look>,
}

impl Local {
    fn ended(&self, error: &LinkError, place: &str) {
        if let LinkError::Refused(refusal) = error {
            self.board.refused(refusal, place);
            if refusal.asks_for_pins() {
                let _ = self.look.try_send(Look::UnknownKey);
            }
        }
    }
}

/// The connection that a peer has dialled, if any.
#[derive(Debug)]
struct Incoming {
    number: u64,
    mailbox: Arc<Mailbox<Message>>,
    /// Ends it, when a newer one takes its place.
    replaced: Arc<Notify>,
}

/// All peers. Sending never waits.
#[derive(Debug)]
pub struct Peers {
    local: Arc<Local>,
    outgoing: BTreeMap<NodeId, Arc<Mailbox<Message>>>,
    incoming: Mutex<BTreeMap<NodeId, Incoming>>,
    accepted: AtomicU64,
}

impl Peers {
    #[must_use]
    pub fn new(local: Local, peers: impl IntoIterator<Item = NodeId>) -> Arc<Self> {
        let outgoing = peers.into_iter().map(|peer| (peer, Arc::new(Mailbox::new(WAITING_MAX)))).collect();
        let (incoming, accepted) = (Mutex::new(BTreeMap::new()), AtomicU64::new(0));
        Arc::new(Self { local: Arc::new(local), outgoing, incoming, accepted })
    }

    pub fn ping(&self, to: &NodeId, ping: Ping) {
        self.ask(to, Message::Ping(ping));
    }

    pub fn nudge(&self, to: &NodeId) {
        self.ask(to, Message::Nudge);
    }

    fn ask(&self, to: &NodeId, message: Message) {
        if let Some(mailbox) = self.outgoing.get(to) {
            mailbox.put(message);
        }
    }

    pub fn pong(&self, to: &NodeId, pong: Pong) {
        if let Some(incoming) = self.incoming.lock().expect("no thread panics while it holds this").get(to) {
            incoming.mailbox.put(Message::Pong(pong));
        }
    }

    /// Every peer's connections, for status and metrics.
    pub fn states(&self) -> Vec<PeerState> {
        let state = |node: &NodeId| {
            let pin = self.local.pins.of(node);
            PeerState {
                address: pin.as_ref().map(|pin| pin.address.to_string()),
                fingerprint: pin.map(|pin| pin.fingerprint),
                ..self.local.board.state(node)
            }
        };
        self.outgoing.keys().map(state).collect()
    }

    #[must_use]
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.local.board)
    }

    #[must_use]
    pub fn names(&self) -> Vec<NodeId> {
        self.outgoing.keys().cloned().collect()
    }

    /// Keeps a connection to `peer`, for good.
    pub async fn dial(self: Arc<Self>, peer: NodeId) -> std::convert::Infallible {
        let mailbox = Arc::clone(&self.outgoing[&peer]);
        let mut changes = self.local.pins.changes();
        let mut pause = AGAIN_FIRST;
        loop {
            changes.mark_unchanged();
            let began = clock::now();
            let error = match self.local.pins.of(&peer) {
                Some(pin) => self.dial_once(&peer, pin.address, &mailbox).await,
                None => Dialled::Failed("its heartbeat item has not been seen yet".into()),
            };
            let problem = match error {
                Dialled::Ended(problem) => {
                    if clock::now().shortest_since(began) >= STOOD {
                        pause = AGAIN_FIRST;
                    }
                    let _ = self.local.events.send(Event::LinkLost { node: peer.clone() }).await;
                    problem
                }
                Dialled::Failed(problem) => {
                    let _ = self.local.look.try_send(Look::Unreachable(peer.clone()));
                    problem
                }
            };
            self.local.board.down(&peer, Way::Outgoing, problem);
            // A changed pin is news worth trying at once.
            let _ = tokio::time::timeout(jittered(pause).into(), changes.changed()).await;
            pause = Millis(pause.0 * 2).min(AGAIN_LAST);
        }
    }

    async fn dial_once(&self, peer: &NodeId, address: std::net::SocketAddr, mailbox: &Mailbox<Message>) -> Dialled {
        let local = &self.local;
        let place = address.to_string();
        let failed = |error: LinkError| {
            local.ended(&error, &place);
            Dialled::Failed(error.to_string())
        };
        let connected = async {
            let stream = TcpStream::connect(address).await?;
            link::prepare(&stream)?;
            let config = tls::client(&local.key, Arc::clone(&local.pins), Some(peer.clone()))
                .map_err(|error| LinkError::Io(std::io::Error::other(error)))?;
            let stream =
                TlsConnector::from(config).connect(address.ip().into(), stream).await.map_err(link::explain)?;
            Ok(tokio_rustls::TlsStream::from(stream))
        };
        let mut stream = match link::within("connecting", link::HANDSHAKE_LIMIT, connected).await {
            Ok(stream) => stream,
            Err(error) => return failed(error),
        };
        let session = match link::greet(&mut stream, local).await {
            Ok(session) => session,
            Err(error) => return failed(error),
        };
        // What waited for a connection that was down is old.
        mailbox.clear();
        local.board.up(&session.peer, Way::Outgoing);
        let error = link::carry(stream, session, mailbox, Way::Outgoing, local).await;
        local.ended(&error, &place);
        Dialled::Ended(error.to_string())
    }

    /// Takes connections from peers, for good.
    pub async fn listen(self: Arc<Self>, listener: TcpListener) -> std::io::Error {
        let config = match tls::server(&self.local.key, Arc::clone(&self.local.pins)) {
            Ok(config) => config,
            Err(error) => return std::io::Error::other(error),
        };
        let acceptor = TlsAcceptor::from(config);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
                return std::io::Error::other("the handshakes' semaphore is closed");
            };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let (this, acceptor) = (Arc::clone(&self), acceptor.clone());
                    tokio::spawn(async move { this.take(stream, from.ip().to_string(), acceptor, permit).await });
                }
                Err(error) => {
                    // No descriptors left, or a connection that ended before it was taken: neither ends the listener.
                    tracing::warn!(%error, "cannot take a peer's connection");
                    tokio::time::sleep(AGAIN_FIRST.into()).await;
                }
            }
        }
    }

    async fn take(
        &self,
        stream: TcpStream,
        from: String,
        acceptor: TlsAcceptor,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) {
        let local = &self.local;
        let accepted = async {
            link::prepare(&stream)?;
            let stream = acceptor.accept(stream).await.map_err(link::explain)?;
            Ok(tokio_rustls::TlsStream::from(stream))
        };
        let greeted = match link::within("the TLS handshake", link::HANDSHAKE_LIMIT, accepted).await {
            Ok(mut stream) => link::greet(&mut stream, local).await.map(|session| (stream, session)),
            Err(error) => Err(error),
        };
        drop(permit);
        let (stream, session) = match greeted {
            Ok(greeted) => greeted,
            Err(error) => return local.ended(&error, &from),
        };
        let node = session.peer.node.clone();
        let (number, mailbox, replaced) = self.enter(&node);
        local.board.up(&session.peer, Way::Incoming);
        let error = tokio::select! {
            error = link::carry(stream, session, &mailbox, Way::Incoming, local) => error,
            () = replaced.notified() => return,
        };
        local.ended(&error, &from);
        if self.leave(&node, number) {
            local.board.down(&node, Way::Incoming, error.to_string());
            let _ = local.events.send(Event::LinkLost { node }).await;
        }
    }

    /// A new connection of a peer takes the place of the one before: the peer has given that one up.
    fn enter(&self, node: &NodeId) -> (u64, Arc<Mailbox<Message>>, Arc<Notify>) {
        let number = self.accepted.fetch_add(1, Ordering::Relaxed);
        let (mailbox, replaced) = (Arc::new(Mailbox::new(WAITING_MAX)), Arc::new(Notify::new()));
        let entry = Incoming { number, mailbox: Arc::clone(&mailbox), replaced: Arc::clone(&replaced) };
        let before = self.incoming.lock().expect("no thread panics while it holds this").insert(node.clone(), entry);
        if let Some(before) = before {
            before.replaced.notify_one();
        }
        (number, mailbox, replaced)
    }

    /// False: a newer connection has taken the place.
    fn leave(&self, node: &NodeId, number: u64) -> bool {
        let mut incoming = self.incoming.lock().expect("no thread panics while it holds this");
        let mine = incoming.get(node).is_some_and(|entry| entry.number == number);
        if mine {
            incoming.remove(node);
        }
        mine
    }
}

/// How one try to keep a connection went.
enum Dialled {
    /// It never stood.
    Failed(String),
    /// It stood, and ended.
    Ended(String),
}

/// Half of it to all of it, so that nodes which lost each other together do not come back in step.
fn jittered(pause: Millis) -> Millis {
    let mut random = [0; 2];
    // Without random bytes the pause is merely not spread.
    let _ = getrandom::fill(&mut random);
    Millis(pause.0 / 2 + pause.0 * u64::from(u16::from_be_bytes(random)) / (2 * u64::from(u16::MAX)))
}

#[cfg(test)]
mod tests;
