//! The server in front of a volume that answers when the test says so.

use super::{Config, serve};
use crate::buffer::Pool;
use crate::nbd::connection::Farewell;
use crate::nbd::listen::{Listener, Place};
use crate::nbd::spec::{self, command, option};
use crate::request::{Device, Done, Geometry, Refusal, Reply, Request, Volume};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// Keeps what it is asked, until the test answers.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<(Request, Done)>>>);

impl Volume for Held {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: 1 << 20, block_bytes: 1, read_only: false }
    }

    fn lane(&self) -> std::io::Result<Box<dyn Device>> {
        Ok(Box::new(self.clone()))
    }
}

impl Device for Held {
    fn submit(&self, request: Request, done: Done) {
        self.0.lock().unwrap().push((request, done));
    }
}

impl Held {
    fn asked(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn take(&self, place: usize) -> (Request, Done) {
        self.0.lock().unwrap().remove(place)
    }

    async fn until_asked(&self, count: usize) {
        for _ in 0..2000 {
            if self.asked() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} requests came, not {count}", self.asked());
    }
}

struct Client(UnixStream);

impl Client {
    async fn new(path: &PathBuf) -> Client {
        let mut stream = UnixStream::connect(path).await.unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).await.unwrap();
        let name = [&spec::OPTION_MAGIC.to_be_bytes()[..], &option::EXPORT_NAME.to_be_bytes(), &[0; 4]].concat();
        stream.write_all(&[&3u32.to_be_bytes()[..], &name].concat()).await.unwrap();
        let mut told = [0; 10];
        stream.read_exact(&mut told).await.unwrap();
        Client(stream)
    }

    async fn send(&mut self, kind: u16, cookie: u64, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        let head =
            [&spec::REQUEST_MAGIC.to_be_bytes()[..], &[0, 0], &kind.to_be_bytes(), &cookie.to_be_bytes(), &[0; 8]];
        self.0.write_all(&[&head.concat()[..], &len.to_be_bytes(), data].concat()).await.unwrap();
    }

    /// (cookie, error)
    async fn reply(&mut self) -> (u64, u32) {
        let mut bytes = [0; 16];
        self.0.read_exact(&mut bytes).await.unwrap();
        (u64::from_be_bytes(*bytes.last_chunk().unwrap()), u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]))
    }
}

/// A server on a socket of its own; ends it when the test has ended. What the test leaves in the set goes on meanwhile.
fn with_server(name: &str, test: impl AsyncFnOnce(Held, PathBuf, &mut JoinSet<()>)) {
    let path = std::env::temp_dir().join(format!("leasehold-volume-{}-{name}.sock", std::process::id()));
    let volume = Held::default();
    let config = Config {
        name: String::new(),
        description: String::new(),
        tls: None,
        pool: Pool::default(),
        threads: 2,
        connections_max: 8,
        memory_bytes: 0,
        farewell: Farewell::HangUp,
        patience: Duration::from_secs(60),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = Listener::bind(&Place::Unix(path.clone())).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = serve(config, Arc::new(volume.clone()), vec![listener], async {
            let _ = stopped.await;
        });
        let mut tasks = JoinSet::new();
        let testing = async {
            test(volume.clone(), path.clone(), &mut tasks).await;
            // What the test left is answered, as failed, so that the server can end.
            volume.0.lock().unwrap().clear();
            drop(stop);
        };
        let (served, ()) = tokio::join!(serving, testing);
        served.unwrap();
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    });
}

#[test]
fn answers_go_out_in_the_order_in_which_they_come() {
    with_server("order", async |volume, path, _| {
        let mut client = Client::new(&path).await;
        for cookie in 1..=3 {
            client.send(command::FLUSH, cookie, b"").await;
        }
        volume.until_asked(3).await;
        volume.take(2).1.answer(Ok(Reply::Done));
        assert_eq!(client.reply().await, (3, 0));
        volume.take(0).1.answer(Err(Refusal::NoSpace));
        assert_eq!(client.reply().await, (1, 28));
        drop(volume.take(0));
        assert_eq!(client.reply().await, (2, 5), "forgotten by whoever serves: an error, not silence");
    });
}

/// A client that lost its connection sends again on a new one what was not answered. The old write may still be on its way
/// to the disk: were the new connection served at once, something newer could be overwritten by it.
#[test]
fn a_new_connection_waits_for_what_a_dead_one_left() {
    with_server("abandoned", async |volume, path, _| {
        let mut old = Client::new(&path).await;
        old.send(command::WRITE, 1, b"old").await;
        volume.until_asked(1).await;
        drop(old);
        // The server has seen it go; connecting and greeting is done without a delay.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut new = Client::new(&path).await;
        new.send(command::FLUSH, 2, b"").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(volume.asked(), 1, "nothing new while the old write is outstanding");
        volume.take(0).1.answer(Ok(Reply::Done));
        volume.until_asked(1).await;
        volume.take(0).1.answer(Ok(Reply::Done));
        assert_eq!(new.reply().await, (2, 0));
    });
}

#[test]
fn a_server_that_stops_waits_for_what_is_outstanding() {
    with_server("stop", async |volume, path, tasks| {
        let mut client = Client::new(&path).await;
        client.send(command::FLUSH, 1, b"").await;
        volume.until_asked(1).await;
        let (_, done) = volume.take(0);
        tasks.spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            done.answer(Ok(Reply::Done));
            assert_eq!(client.reply().await, (1, 0));
        });
    });
}
