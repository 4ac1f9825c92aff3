//! Both engines, on a real file, by `O_DIRECT` where the file system of the temporary folder has it.

use super::disk::{OpenError, Options};
use super::{Backing, Engine, StartError};
use crate::buffer::Pool;
use crate::request::{Answer, Device, Done, Mailbox, Refusal, Reply, Request, Volume as _};
use bytes::Bytes;
use proptest::prelude::*;
use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

const SIZE: u64 = 1 << 20;
const ENGINES: [Engine; 2] = [Engine::Uring, Engine::Threads];

/// A file that is gone after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(size: u64) -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("leasehold-volume-{}-{number}", std::process::id()));
        File::create(&path).unwrap().set_len(size).unwrap();
        Scratch(path)
    }

    fn options(&self) -> Options {
        Options { path: self.0.clone(), read_only: false, buffered: false }
    }

    fn open(&self, engine: Engine) -> Backing {
        Backing::open(&self.options(), Some(engine), Pool::default()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Answers by tag, and the test that awaits one.
type Arrived = (Vec<(u64, Answer)>, Option<Waker>);

#[derive(Default)]
struct Answers(Mutex<Arrived>);

impl Mailbox for Answers {
    fn deliver(&self, tag: u64, answer: Answer) {
        let mut inner = self.0.lock().unwrap();
        inner.0.push((tag, answer));
        if let Some(waker) = inner.1.take() {
            waker.wake();
        }
    }
}

struct Client {
    device: Box<dyn Device>,
    answers: Arc<Answers>,
    next: Cell<u64>,
}

impl Client {
    fn new(backing: &Backing) -> Client {
        use crate::request::Volume as _;
        Client { device: backing.lane().unwrap(), answers: Arc::default(), next: Cell::new(0) }
    }

    fn submit(&self, request: Request) -> u64 {
        let tag = self.next.replace(self.next.get() + 1);
        self.device.submit(request, Done::new(Arc::clone(&self.answers) as Arc<dyn Mailbox>, tag));
        tag
    }

    async fn answer(&self, tag: u64) -> Answer {
        self.device.kick();
        std::future::poll_fn(|cx| {
            let mut inner = self.answers.0.lock().unwrap();
            match inner.0.iter().position(|(found, _)| *found == tag) {
                Some(place) => Poll::Ready(inner.0.swap_remove(place).1),
                None => {
                    inner.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    async fn ask(&self, request: Request) -> Answer {
        let tag = self.submit(request);
        self.answer(tag).await
    }

    async fn read(&self, at: u64, len: u32) -> Bytes {
        match self.ask(Request::Read { at, len }).await.unwrap() {
            Reply::Data(data) => data,
            other => panic!("{other:?}"),
        }
    }

    async fn write(&self, at: u64, data: &[u8]) {
        let data = Bytes::copy_from_slice(data);
        assert_eq!(self.ask(Request::Write { at, data, fua: false }).await, Ok(Reply::Done));
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn with_each_engine(test: impl AsyncFn(&Scratch, &Client)) {
    for engine in ENGINES {
        let scratch = Scratch::new(SIZE);
        let backing = scratch.open(engine);
        assert_eq!(backing.engine(), engine);
        run(async { test(&scratch, &Client::new(&backing)).await });
    }
}

#[test]
fn what_is_written_is_read_and_is_in_the_file() {
    with_each_engine(async |scratch, client| {
        for (at, len) in [(0, 4096), (4096, 65_536), (1, 1), (511, 2), (4095, 4098), (SIZE - 1, 1), (SIZE - 5000, 5000)]
        {
            let data: Vec<u8> = (0..len).map(|i| u8::try_from((i * 7 + at) % 251).unwrap()).collect();
            client.write(at, &data).await;
            assert_eq!(client.read(at, u32::try_from(len).unwrap()).await, data);
            assert_eq!(client.ask(Request::Flush).await, Ok(Reply::Done));
            let mut on_disk = vec![0; data.len()];
            File::open(&scratch.0).unwrap().read_exact_at(&mut on_disk, at).unwrap();
            assert_eq!(on_disk, data, "at {at}");
        }
        let fua = Request::Write { at: 8192, data: Bytes::from(vec![9; 4096]), fua: true };
        assert_eq!(client.ask(fua).await, Ok(Reply::Done));
        assert_eq!(client.read(8192, 4096).await, vec![9; 4096]);
    });
}

#[test]
fn nothing_happens_beyond_the_end() {
    with_each_engine(async |scratch, client| {
        for (at, len) in [(SIZE, 1u32), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 4095, 4096)] {
            let data = Bytes::from(vec![1; len as usize]);
            assert_eq!(client.ask(Request::Write { at, data, fua: false }).await, Err(Refusal::NoSpace));
            assert_eq!(client.ask(Request::Read { at, len }).await, Err(Refusal::Invalid));
            assert_eq!(client.ask(Request::Trim { at, len, fua: false }).await, Err(Refusal::NoSpace));
            assert_eq!(client.ask(Request::Status { at, len, one: false }).await, Err(Refusal::Invalid));
        }
        assert_eq!(std::fs::metadata(&scratch.0).unwrap().len(), SIZE);
        assert_eq!(client.ask(Request::Read { at: SIZE, len: 0 }).await, Ok(Reply::Data(Bytes::new())));
        assert_eq!(client.ask(Request::Write { at: SIZE, data: Bytes::new(), fua: true }).await, Ok(Reply::Done));
    });
}

#[test]
fn zeroes_and_holes() {
    with_each_engine(async |_, client| {
        client.write(0, &vec![7; 1 << 20]).await;
        let zeroes = |at, len, may_unmap, fast_only| Request::WriteZeroes { at, len, fua: true, may_unmap, fast_only };
        // Amid blocks at both ends, within one block, and whole blocks; with and without holes.
        for (at, len, may_unmap) in
            [(100, 20_000, true), (40_000, 30, true), (65_536, 65_536, true), (200_000, 9000, false)]
        {
            assert_eq!(client.ask(zeroes(at, len, may_unmap, false)).await, Ok(Reply::Done));
            let around = client.read(at - 10, len + 20).await;
            assert!(around[..10].iter().chain(&around[10 + len as usize..]).all(|byte| *byte == 7), "at {at}");
            assert!(around[10..10 + len as usize].iter().all(|byte| *byte == 0), "at {at}");
        }
        // A fast request does it at once or changes nothing.
        let before = client.read(300_000, 5000).await;
        match client.ask(zeroes(300_001, 30, true, true)).await {
            Err(Refusal::NotSupported) => assert_eq!(client.read(300_000, 5000).await, before),
            other => panic!("a part of a block takes a write: {other:?}"),
        }
        let Ok(Reply::Extents(extents)) = client.ask(Request::Status { at: 65_000, len: 70_000, one: false }).await
        else {
            panic!("no status")
        };
        assert_eq!(extents.iter().map(|extent| extent.len).sum::<u32>(), 70_000);
        let mut at = 65_000;
        for extent in &extents {
            if extent.zero {
                assert!(client.read(at, extent.len).await.iter().all(|byte| *byte == 0));
            }
            at += u64::from(extent.len);
        }
        assert!(extents.iter().any(|extent| extent.hole && extent.zero), "{extents:?}");
        assert!(extents.iter().any(|extent| !extent.hole && !extent.zero), "{extents:?}");
        let one = client.ask(Request::Status { at: 65_000, len: 70_000, one: true }).await;
        assert_eq!(one, Ok(Reply::Extents(extents[..1].to_vec())));
        // Trim leaves what it does not wholly cover.
        assert_eq!(client.ask(Request::Trim { at: 500_001, len: 20_000, fua: true }).await, Ok(Reply::Done));
        assert_eq!(client.read(500_000, 1).await, [7][..]);
        assert_eq!(client.read(520_001, 1).await, [7][..]);
        assert_eq!(client.ask(Request::Trim { at: 1, len: 1, fua: false }).await, Ok(Reply::Done));
        assert_eq!(client.ask(Request::Cache { at: 0, len: 4096 }).await, Ok(Reply::Done));
    });
}

/// Two clients write into different bytes of the same blocks at the same time: nobody's bytes are undone.
#[test]
fn parts_of_a_block_survive_each_other() {
    for engine in ENGINES {
        let scratch = Scratch::new(SIZE);
        let backing = scratch.open(engine);
        let threads: Vec<_> = (0..4u8)
            .map(|part| {
                let backing = backing.clone();
                std::thread::spawn(move || {
                    run(async {
                        let client = Client::new(&backing);
                        for round in 0..40u8 {
                            let mut tags = Vec::new();
                            for block in 0..8u64 {
                                let at = block * 512 + u64::from(part) * 128;
                                let data = Bytes::from(vec![round ^ part; 128]);
                                tags.push(client.submit(Request::Write { at, data, fua: false }));
                            }
                            for tag in tags {
                                assert_eq!(client.answer(tag).await, Ok(Reply::Done));
                            }
                            for block in 0..8u64 {
                                let read = client.read(block * 512 + u64::from(part) * 128, 128).await;
                                assert_eq!(read, vec![round ^ part; 128], "block {block}, part {part}, round {round}");
                            }
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn many_at_once_and_a_flush_among_them() {
    with_each_engine(async |_, client| {
        // More than a ring takes at a time.
        let tags: Vec<_> = (0..3000u64)
            .map(|i| {
                let data = Bytes::from(vec![u8::try_from(i % 251).unwrap(); 512]);
                client.submit(Request::Write { at: i % 2048 * 512, data, fua: i % 500 == 0 })
            })
            .collect();
        let flush = client.submit(Request::Flush);
        assert_eq!(client.answer(flush).await, Ok(Reply::Done));
        for tag in tags {
            assert_eq!(client.answer(tag).await, Ok(Reply::Done));
        }
    });
}

/// The kernel writes into a buffer until it says that it does not, whoever is still interested.
#[test]
fn a_lane_that_goes_takes_its_requests_with_it() {
    for engine in ENGINES {
        let scratch = Scratch::new(SIZE);
        let backing = scratch.open(engine);
        let answers = Arc::<Answers>::default();
        run(async {
            let client = Client { device: backing.lane().unwrap(), answers: Arc::clone(&answers), next: Cell::new(0) };
            for i in 0..64 {
                client.submit(Request::Read { at: i * 4096, len: 4096 });
            }
            client.device.kick();
        });
        drop(backing);
        assert_eq!(answers.0.lock().unwrap().0.len(), 64, "each is answered, as served or as failed");
    }
}

#[test]
fn a_file_is_served_once() {
    let scratch = Scratch::new(SIZE);
    let first = scratch.open(Engine::Threads);
    let again = Backing::open(&scratch.options(), None, Pool::default());
    assert!(matches!(again, Err(StartError::Open(OpenError::Locked { .. }))));
    let reading = Backing::open(&Options { read_only: true, ..scratch.options() }, None, Pool::default());
    assert!(matches!(reading, Err(StartError::Open(OpenError::Locked { .. }))));
    drop(first);
    let reading = || Backing::open(&Options { read_only: true, ..scratch.options() }, None, Pool::default()).unwrap();
    let (one, _two) = (reading(), reading());
    run(async {
        let client = Client::new(&one);
        for request in [
            Request::Write { at: 0, data: Bytes::from_static(b"x"), fua: false },
            Request::Trim { at: 0, len: 512, fua: false },
            Request::WriteZeroes { at: 0, len: 512, fua: false, may_unmap: true, fast_only: false },
        ] {
            assert_eq!(client.ask(request).await, Err(Refusal::NotPermitted));
        }
        assert_eq!(client.ask(Request::Flush).await, Ok(Reply::Done));
    });
}

#[test]
fn what_cannot_be_served_says_what_to_do() {
    let message = |size: u64| {
        let scratch = Scratch::new(size);
        Backing::open(&scratch.options(), None, Pool::default()).unwrap_err().to_string()
    };
    assert!(message(0).contains("truncate --size"), "{}", message(0));
    assert!(message(4097).contains("no multiple of its block"), "{}", message(4097));
    let folder = Options { path: std::env::temp_dir(), read_only: true, buffered: false };
    let refused = Backing::open(&folder, None, Pool::default()).unwrap_err();
    assert!(matches!(refused, StartError::Open(OpenError::Kind { .. })), "{refused}");
    let absent = Options { path: PathBuf::from("/nowhere/at/all"), read_only: false, buffered: false };
    let refused = Backing::open(&absent, None, Pool::default()).unwrap_err();
    assert!(matches!(refused, StartError::Open(OpenError::Open { .. })), "{refused}");
}

/// A file that shrinks under the server: an error, not zeroes.
#[test]
fn an_end_before_the_end_is_an_error() {
    with_each_engine(async |scratch, client| {
        File::options().write(true).open(&scratch.0).unwrap().set_len(4096).unwrap();
        assert_eq!(client.ask(Request::Read { at: 8192, len: 4096 }).await, Err(Refusal::Io));
        assert_eq!(client.ask(Request::Read { at: 0, len: 8192 }).await, Err(Refusal::Io));
        assert_eq!(client.read(0, 4096).await, vec![0; 4096]);
    });
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Zero(u64, u32, bool),
    Read(u64, u32),
    Flush,
}

fn some_step() -> impl Strategy<Value = Step> {
    let at = || 0u64..60_000;
    prop_oneof![
        (at(), prop::collection::vec(any::<u8>(), 1..5000)).prop_map(|(at, data)| Step::Write(at, data)),
        (0u64..14, 1usize..3, any::<u8>())
            .prop_map(|(block, blocks, byte)| Step::Write(block * 4096, vec![byte; blocks * 4096])),
        (at(), 1u32..5000, any::<bool>()).prop_map(|(at, len, may_unmap)| Step::Zero(at, len, may_unmap)),
        (at(), 1u32..5000).prop_map(|(at, len)| Step::Read(at, len)),
        Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against a plain vector, one request after the other.
    #[test]
    fn it_behaves_as_memory(steps in prop::collection::vec(some_step(), 1..40)) {
        with_each_engine(async |_, client| {
            let mut model = vec![0u8; 65_536];
            for step in &steps {
                match step {
                    Step::Write(at, data) => {
                        client.write(*at, data).await;
                        let at = usize::try_from(*at).unwrap();
                        model[at..at + data.len()].copy_from_slice(data);
                    }
                    Step::Zero(at, len, may_unmap) => {
                        let request = Request::WriteZeroes { at: *at, len: *len, fua: false, may_unmap: *may_unmap, fast_only: false };
                        assert_eq!(client.ask(request).await, Ok(Reply::Done));
                        let at = usize::try_from(*at).unwrap();
                        model[at..at + *len as usize].fill(0);
                    }
                    Step::Read(at, len) => {
                        let read = client.read(*at, *len).await;
                        let at = usize::try_from(*at).unwrap();
                        assert_eq!(read, model[at..at + *len as usize], "at {at}");
                    }
                    Step::Flush => assert_eq!(client.ask(Request::Flush).await, Ok(Reply::Done)),
                }
            }
            assert_eq!(client.read(0, 65_536).await, model);
        });
    }
}
