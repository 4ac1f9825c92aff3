//! One connection in transmission: one task that reads requests, hands them to the device, and writes the replies in the
//! order in which they come. Nothing is locked while a socket is waited for, and one system call sends many replies.
//!
//! ```text
//!   socket ──▶ input ──▶ decoder ──▶ (room?) ──▶ device
//!      ▲                                           │ any thread
//!      └───────────── output ◀──── inbox ◀─────────┘
//! ```

use super::budget::{Budget, Reserved};
use super::gate::{Closed, Pass};
use super::transmission::{Asked, BadMagic, Decoder, Encoded, Event, REQUEST_BYTES, Terms};
use crate::buffer::{Buffer, Pool};
use crate::request::{Answer, Device, Done, Mailbox, Refusal, Request};
use slab::Slab;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Requests of one connection that are outstanding, or answered and not yet sent. The kernel's client has 128 per socket.
pub const REQUESTS_MAX: usize = 256;
/// Read from a socket at once: sixteen writes of 4 KiB, or hundreds of reads.
pub const INPUT_BYTES: usize = 64 << 10;
/// The rest of a payload that is read straight to where it belongs. A shorter one is cheaper to copy than to read by a system call that
/// brings nothing else.
const STRAIGHT_MIN_BYTES: usize = 16 << 10;
/// Replies sent by one system call: a head and a body each.
const SLICES_MAX: usize = 128;
/// How long a client is told that the server shuts down; and how long it may then take for the replies that are left.
const FAREWELL: Duration = Duration::from_secs(2);

/// Input that was read and not yet used.
#[derive(Debug)]
pub struct Input {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Input {
    fn default() -> Input {
        Input { bytes: vec![0; INPUT_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }
}

impl Input {
    #[must_use]
    pub fn unused(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn used(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Reads once. Ready with 0: the client has closed.
    pub fn poll_fill<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = ready!(poll_read(stream, cx, &mut self.bytes[self.end..]))?;
        self.end += read;
        Poll::Ready(Ok(read))
    }
}

fn poll_read<S: AsyncRead + Unpin>(stream: &mut S, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(into);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// How a connection came to its end.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("the client disconnected")]
    Disconnected,
    #[error("the server shut down")]
    ShutDown,
    #[error("the client is gone")]
    Lost,
    #[error("the client took too long for one request or reply")]
    Stalled,
    #[error(transparent)]
    BadMagic(#[from] BadMagic),
    #[error("{0}")]
    Socket(#[from] io::Error),
}

/// What becomes of clients when the server shuts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Farewell {
    /// New requests are refused as "shutting down", then the connection is closed: for clients that go elsewhere
    Refuse,
    /// Nothing new is read; what is outstanding is answered, then the connection is closed: for a kernel that connects anew
    /// and sends the rest again, as it must see no error
    HangUp,
}

/// Where a connection finds its answers.
#[derive(Default)]
struct Inbox {
    contents: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    answers: Vec<(u64, Answer)>,
    /// Whom to wake; `None` while the connection is awake.
    sleeper: Option<Waker>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox for Inbox {
    fn deliver(&self, tag: u64, answer: Answer) {
        let mut contents = self.lock();
        contents.answers.push((tag, answer));
        let sleeper = contents.sleeper.take();
        drop(contents);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

/// What a request waits with until there is room for it.
#[derive(Debug)]
enum Waiting {
    Ask { asked: Asked, request: Request },
    Payload { len: u32 },
}

/// How it stands with the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// New requests are refused.
    Refusing,
    /// It said goodbye, or we did: nothing more is read.
    Over,
    /// It is gone: nothing is read, and nobody reads the replies.
    Gone,
}

/// A connection in transmission.
pub struct Connection<S> {
    stream: S,
    device: Rc<dyn Device>,
    pool: Pool,
    budget: Budget,
    input: Input,
    decoder: Decoder<Buffer>,
    reading: Reading,
    waiting: Option<Waiting>,
    /// Room for the payload that is being read.
    payload_room: Option<Reserved>,
    inbox: Arc<Inbox>,
    /// Taken from the inbox; kept for its memory.
    answers: Vec<(u64, Answer)>,
    outstanding: Slab<(Asked, Reserved)>,
    output: VecDeque<(Encoded, Reserved)>,
    /// Bytes of the first of `output` that are sent.
    sent: usize,
    /// Requests that came in, and replies that were taken.
    steps: u64,
    /// Replies are held by what lies below, which is TLS.
    is_unflushed: bool,
    /// How long a client may take to send one request, or to take one reply. A client that is idle owes nothing, and may be
    /// silent for ever; one that sends a byte now and then does not hold memory for longer than this.
    patience: Duration,
    /// When the client's time is over, and the steps when it began.
    stall: Option<(Pin<Box<Sleep>>, u64)>,
    /// What ended it, where something did.
    end: Option<End>,
    /// Asked before anything is handed on, where the client has other connections on which it repeats what it sent here.
    pass: Option<Pass>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// `input`: what was read beyond the handshake.
    pub fn new(
        stream: S,
        input: Input,
        terms: Terms,
        device: Rc<dyn Device>,
        pool: Pool,
        budget: Budget,
        patience: Duration,
    ) -> Connection<S> {
        Connection {
            stream,
            device,
            pool,
            budget,
            input,
            decoder: Decoder::new(terms),
            reading: Reading::Open,
            waiting: None,
            payload_room: None,
            inbox: Arc::default(),
            answers: Vec::new(),
            outstanding: Slab::new(),
            output: VecDeque::new(),
            sent: 0,
            steps: 0,
            is_unflushed: false,
            patience,
            stall: None,
            end: None,
            pass: None,
        }
    }

    /// One of several connections of a client that repeats on one what another did not answer.
    #[must_use]
    pub fn gated(mut self, pass: Pass) -> Connection<S> {
        self.pass = Some(pass);
        self
    }

    /// Serves until the client goes or until `shutdown` says how to part from it. When this returns, nothing of the
    /// connection is outstanding; `gone` is called when the client went and left something outstanding.
    pub async fn serve(&mut self, shutdown: impl Future<Output = Farewell>, gone: impl FnOnce()) -> End {
        let farewell = tokio::select! {
            biased;
            () = std::future::poll_fn(|cx| self.poll(cx)) => None,
            farewell = shutdown => Some(farewell),
        };
        if let Some(farewell) = farewell {
            self.end = Some(End::ShutDown);
            if farewell == Farewell::Refuse && self.reading == Reading::Open {
                self.reading = Reading::Refusing;
                tokio::select! {
                    () = std::future::poll_fn(|cx| self.poll(cx)) => {}
                    () = tokio::time::sleep(FAREWELL) => {}
                }
            }
            if self.reading != Reading::Gone {
                self.reading = Reading::Over;
                tokio::select! {
                    () = std::future::poll_fn(|cx| self.poll(cx)) => {}
                    // It does not take its replies.
                    () = tokio::time::sleep(FAREWELL) => self.reading = Reading::Gone,
                }
            }
        }
        if !self.outstanding.is_empty() {
            gone();
            std::future::poll_fn(|cx| self.poll_abandoned(cx)).await;
        }
        self.end.take().unwrap_or(End::Disconnected)
    }

    /// Ready when there is nothing more to do with the client.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_client(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(end)) => {
                self.reading = Reading::Gone;
                self.output.clear();
                self.waiting = None;
                self.end.get_or_insert(end);
                Poll::Ready(())
            }
        }
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.inbox.lock().sleeper = None;
        loop {
            let mut is_moving = self.collect();
            is_moving |= self.send(cx)?;
            is_moving |= self.receive(cx)?;
            if is_moving {
                continue;
            }
            if self.reading == Reading::Over && self.is_idle() {
                return Poll::Ready(Ok(()));
            }
            self.check_stall(cx)?;
            let mut contents = self.inbox.lock();
            if contents.answers.is_empty() {
                contents.sleeper = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }

    /// Ready when the device has let go of everything that a client left behind.
    fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.collect();
            self.output.clear();
            if self.outstanding.is_empty() {
                return Poll::Ready(());
            }
            let mut contents = self.inbox.lock();
            if contents.answers.is_empty() {
                contents.sleeper = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }

    /// Makes replies of answers.
    fn collect(&mut self) -> bool {
        std::mem::swap(&mut self.inbox.lock().answers, &mut self.answers);
        let is_any = !self.answers.is_empty();
        for (tag, answer) in self.answers.drain(..) {
            let key = usize::try_from(tag).expect("a key of `outstanding`");
            let (asked, room) = self.outstanding.remove(key);
            self.output.push_back((Encoded::reply(asked, answer), room));
        }
        is_any
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut is_moving = false;
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            let mut skip = self.sent;
            for (reply, _) in self.output.iter().take(SLICES_MAX / 2) {
                for part in [reply.head(), &reply.body] {
                    let part = &part[skip.min(part.len())..];
                    skip = if part.is_empty() { skip.saturating_sub(reply.head().len()) } else { 0 };
                    if !part.is_empty() {
                        slices[count] = IoSlice::new(part);
                        count += 1;
                    }
                }
            }
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(End::Lost),
                Poll::Ready(Ok(written)) => {
                    self.sent += written;
                    while let Some((reply, _)) = self.output.front()
                        && self.sent >= reply.len()
                    {
                        self.sent -= reply.len();
                        self.output.pop_front();
                        self.steps += 1;
                    }
                    is_moving = true;
                }
                Poll::Ready(Err(error)) => return Err(lost(error)),
            }
        }
        self.is_unflushed = match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => return Err(lost(error)),
        };
        Ok(is_moving)
    }

    fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && self.output.is_empty() && !self.is_unflushed
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut is_moving = false;
        while matches!(self.reading, Reading::Open | Reading::Refusing) {
            if self.holds_any() {
                if !self.may_hand_on(cx)? {
                    break;
                }
                is_moving |= self.decode(cx)?;
            }
            if self.waiting.is_some() || self.is_full() || self.reading == Reading::Over {
                break;
            }
            let straight = self.decoder.wanted().filter(|wanted| wanted.len() >= STRAIGHT_MIN_BYTES);
            let read = match straight {
                Some(wanted) => {
                    let read = poll_read(&mut self.stream, cx, wanted);
                    if let Poll::Ready(Ok(read)) = read {
                        self.decoder.filled(read);
                    }
                    read
                }
                None => self.input.poll_fill(&mut self.stream, cx),
            };
            match read {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(End::Lost),
                Poll::Ready(Ok(_)) => is_moving = true,
                Poll::Ready(Err(error)) => return Err(lost(error)),
            }
            // What was just read may be a repetition.
            if !self.may_hand_on(cx)? {
                break;
            }
            // Replies first, where there are any: the client may wait for them.
            self.decode(cx)?;
            if !self.inbox.lock().answers.is_empty() {
                break;
            }
        }
        Ok(is_moving)
    }

    /// Something was read and is not handed on: there was no room for it, or the gate was closed. Asking the gate is a system call, and
    /// is done for this, and for what is read; not for nothing.
    fn holds_any(&mut self) -> bool {
        let is_whole = self.decoder.wanted().is_some_and(|wanted| wanted.is_empty());
        is_whole || self.waiting.is_some() || !self.input.unused().is_empty()
    }

    fn may_hand_on(&self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(pass) = &self.pass else { return Ok(true) };
        match pass.poll_open(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(Closed)) => Err(End::Lost),
        }
    }

    fn is_full(&self) -> bool {
        self.outstanding.len() + self.output.len() >= REQUESTS_MAX
    }

    /// Hands on what the input holds, as far as there is room. True: something came of it.
    fn decode(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut is_moving = false;
        while !self.is_full() && self.reading != Reading::Over {
            if let Some(waiting) = self.waiting.take() {
                let cost = match &waiting {
                    Waiting::Ask { asked, .. } => asked.data_len,
                    Waiting::Payload { len } => *len,
                };
                let Poll::Ready(room) = self.budget.poll_reserve(cx, cost) else {
                    self.waiting = Some(waiting);
                    break;
                };
                is_moving = true;
                match waiting {
                    Waiting::Ask { asked, request } => self.ask(asked, request, room),
                    Waiting::Payload { len } => {
                        let len = usize::try_from(len).expect("a payload is bounded");
                        self.decoder.provide(self.pool.take(len));
                        self.payload_room = Some(room);
                    }
                }
            }
            let mut unused = self.input.unused();
            let before = unused.len();
            let event = self.decoder.next(&mut unused);
            let used = before - unused.len();
            self.input.used(used);
            let Some(event) = event? else { break };
            self.steps += u64::from(!matches!(event, Event::Payload { .. }));
            match event {
                Event::Disconnect => self.reading = Reading::Over,
                Event::Refuse { asked, refusal } => self.refuse(asked, refusal),
                Event::Ask { asked, .. } | Event::Write { asked, .. } if self.reading == Reading::Refusing => {
                    self.payload_room = None;
                    self.refuse(asked, Refusal::ShuttingDown);
                }
                Event::Ask { asked, request } => self.waiting = Some(Waiting::Ask { asked, request }),
                Event::Payload { len } => self.waiting = Some(Waiting::Payload { len }),
                Event::Write { asked, at, fua, data } => {
                    let room = self.payload_room.take().expect("reserved before the payload was read");
                    self.ask(asked, Request::Write { at, data: data.freeze(), fua }, room);
                }
            }
            is_moving = true;
        }
        self.device.kick();
        Ok(is_moving)
    }

    fn ask(&mut self, asked: Asked, request: Request, room: Reserved) {
        let tag = u64::try_from(self.outstanding.insert((asked, room))).expect("a usize fits a u64");
        self.device.submit(request, Done::new(Arc::clone(&self.inbox) as Arc<dyn Mailbox>, tag));
    }

    fn refuse(&mut self, asked: Asked, refusal: Refusal) {
        self.output.push_back((Encoded::reply(asked, Err(refusal)), Reserved::default()));
    }

    /// The client may not owe the same thing, the rest of a request or to take a reply, for too long.
    fn check_stall(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let unused = self.input.unused().len();
        let is_owing = self.decoder.is_amid()
            || !self.output.is_empty()
            || self.is_unflushed
            || (1..REQUEST_BYTES).contains(&unused);
        loop {
            let Some((sleep, steps)) = &mut self.stall else {
                if !is_owing {
                    return Ok(());
                }
                self.stall = Some((Box::pin(tokio::time::sleep(self.patience)), self.steps));
                continue;
            };
            if sleep.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            if is_owing && *steps == self.steps {
                return Err(End::Stalled);
            }
            self.stall = None;
        }
    }

    pub fn into_stream(self) -> S {
        self.stream
    }
}

impl<S> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("reading", &self.reading)
            .field("outstanding", &self.outstanding.len())
            .field("output", &self.output.len())
            .finish_non_exhaustive()
    }
}

fn lost(error: io::Error) -> End {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => End::Lost,
        _ => End::Socket(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{Connection, Input};
    use crate::buffer::Pool;
    use crate::nbd::budget::{Budget, MEMORY_MAX_BYTES, Memory};
    use crate::nbd::gate::Gate;
    use crate::nbd::handshake::Agreed;
    use crate::nbd::transmission::Terms;
    use crate::request::{Device, Done, Geometry, Reply, Request};
    use std::cell::Cell;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    #[derive(Default)]
    struct Counting(Cell<usize>);

    impl Device for Counting {
        fn submit(&self, _: Request, done: Done) {
            self.0.set(self.0.get() + 1);
            done.answer(Ok(Reply::Done));
        }
    }

    fn write_request(len: u32) -> Vec<u8> {
        let fields = [&0x2560_9513_u32.to_be_bytes()[..], &[0, 0, 0, 1], &7_u64.to_be_bytes(), &0_u64.to_be_bytes()];
        [&fields.concat()[..], &len.to_be_bytes(), &vec![7; len as usize]].concat()
    }

    /// Its last byte was read while the gate was closed, straight to where it belongs: nothing more of it comes, and it is handed on
    /// once the gate is open.
    #[tokio::test]
    async fn a_request_that_was_whole_behind_the_gate_is_handed_on_when_it_opens() {
        let pair = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            (ours, theirs)
        };
        let (gate, device) = (Rc::new(Gate::default()), Rc::new(Counting::default()));
        let ((old, their_old), (new, mut their_new)) = (pair(), pair());
        let (old, pass) = (gate.enter(old.into()), gate.enter(new.try_clone().unwrap().into()));
        let geometry = Geometry { size_bytes: 1 << 20, block_bytes: 1, read_only: false };
        let terms = Terms { geometry, agreed: Agreed::default() };
        let stream = tokio::net::UnixStream::from_std(new).unwrap();
        let budget = Budget::new(Memory::new(MEMORY_MAX_BYTES));
        let lane = Rc::clone(&device) as Rc<dyn Device>;
        let patience = Duration::from_secs(60);
        let mut connection =
            Connection::new(stream, Input::default(), terms, lane, Pool::default(), budget, patience).gated(pass);
        let request = write_request(64 << 10);
        let mut cx = Context::from_waker(Waker::noop());
        let mut turn = async |bytes: &[u8]| {
            their_new.write_all(bytes).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(connection.poll(&mut cx), Poll::Pending);
        };
        turn(&request[..1000]).await;
        their_old.shutdown(std::net::Shutdown::Both).unwrap();
        turn(&request[1000..]).await;
        assert_eq!(device.0.get(), 0, "it may be a repetition of what the old connection still has under way");
        drop(old);
        turn(&[]).await;
        assert_eq!(device.0.get(), 1);
    }
}
