//! Writes whose answer is lost: a proxy between store and etcd withholds what passes one way, then cuts the connection,
//! so that the test decides whether the write reached etcd.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use super::{KEY, PATIENCE, server::TestServer, text};
use crate::storage::{EtcdConfig, EtcdStorage, Guard, Revision, Storage, StorageError};

/// What the proxy does with the bytes of one direction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    Hold,
}

/// Both directions, and how often all connections were cut.
#[derive(Clone, Copy)]
struct Mode {
    requests: Pass,
    answers: Pass,
    cuts: u32,
}

struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    /// Bytes of a request that are held.
    held: watch::Sender<usize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = watch::Sender::new(Mode { requests: Pass::Forward, answers: Pass::Forward, cuts: 0 });
        let (modes, held) = (mode.clone(), watch::Sender::new(0));
        let holding = held.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(pump(from_client, to_server, modes.subscribe(), |mode| mode.requests, holding.clone()));
                tokio::spawn(pump(
                    from_server,
                    to_client,
                    modes.subscribe(),
                    |mode| mode.answers,
                    watch::Sender::new(0),
                ));
            }
        });
        Self { port, mode, held, accepting }
    }

    fn hold_requests(&self) {
        self.held.send_replace(0);
        self.mode.send_modify(|mode| mode.requests = Pass::Hold);
    }

    fn hold_answers(&self) {
        self.mode.send_modify(|mode| mode.answers = Pass::Hold);
    }

    /// Ends all connections with what they hold; new ones work.
    fn cut(&self) {
        self.mode
            .send_modify(|mode| *mode = Mode { requests: Pass::Forward, answers: Pass::Forward, cuts: mode.cuts + 1 });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes bytes on, or collects and counts them while they are held.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
    pass: fn(&Mode) -> Pass,
    held: watch::Sender<usize>,
) {
    let cuts = modes.borrow_and_update().cuts;
    let (mut buffer, mut pending) = (vec![0; 64 * 1024], Vec::new());
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(read) => pending.extend_from_slice(&buffer[..read]),
            },
            changed = modes.changed() => if changed.is_err() { return },
        }
        let mode = *modes.borrow_and_update();
        if mode.cuts != cuts {
            return;
        }
        if pass(&mode) == Pass::Hold {
            held.send_replace(pending.len());
            continue;
        }
        if to.write_all(&pending).await.is_err() {
            return;
        }
        pending.clear();
    }
}

/// An etcd, the store under test behind a proxy, and another way to the same keys.
struct Bench {
    // dropped first, so that no write of the test outlives the proxy
    through: Arc<EtcdStorage>,
    direct: EtcdStorage,
    proxy: Proxy,
    _server: TestServer,
}

/// Large enough to be told from what HTTP/2 says by itself.
const LARGE: usize = 32 * 1024;

impl Bench {
    async fn start() -> Self {
        let server = TestServer::start(&[]).await;
        let proxy = Proxy::start(server.port()).await;
        let config = server.config_at(&format!("https://127.0.0.1:{}", proxy.port));
        let direct = EtcdConfig { endpoints: server.config("127.0.0.1").endpoints, ..config.clone() };
        let (through, direct) =
            (EtcdStorage::connect(config).await.unwrap(), EtcdStorage::connect(direct).await.unwrap());
        // so that a connection is there
        through.current_revision().await.unwrap();
        Self { through: Arc::new(through), direct, proxy, _server: server }
    }

    /// Has the write applied, but its answer lost.
    async fn lose_the_answer<F>(&self, write: impl FnOnce(Arc<EtcdStorage>) -> F) -> Result<Revision, StorageError>
    where
        F: Future<Output = Result<Revision, StorageError>> + Send + 'static,
    {
        self.lose_the_answer_and(write, async {}).await
    }

    /// The same, and has something else happen before the store can look again.
    async fn lose_the_answer_and<F>(
        &self,
        write: impl FnOnce(Arc<EtcdStorage>) -> F,
        meanwhile: impl Future<Output = ()>,
    ) -> Result<Revision, StorageError>
    where
        F: Future<Output = Result<Revision, StorageError>> + Send + 'static,
    {
        let before = self.direct.current_revision().await.unwrap();
        self.proxy.hold_answers();
        let write = tokio::spawn(write(self.through.clone()));
        let applied = async { while self.direct.current_revision().await.unwrap() == before {} };
        timeout(PATIENCE, applied).await.unwrap();
        meanwhile.await;
        self.proxy.cut();
        write.await.unwrap()
    }

    /// Has the write (of a [`LARGE`] value) lost on its way, while something else happens.
    async fn lose_the_request_and<F>(
        &self,
        write: impl FnOnce(Arc<EtcdStorage>) -> F,
        meanwhile: impl Future<Output = ()>,
    ) -> Result<Revision, StorageError>
    where
        F: Future<Output = Result<Revision, StorageError>> + Send + 'static,
    {
        let mut held = self.proxy.held.subscribe();
        self.proxy.hold_requests();
        let write = tokio::spawn(write(self.through.clone()));
        timeout(PATIENCE, held.wait_for(|held| *held >= LARGE)).await.unwrap().unwrap();
        meanwhile.await;
        self.proxy.cut();
        write.await.unwrap()
    }
}

fn large() -> Bytes {
    Bytes::from(vec![b'x'; LARGE])
}

#[tokio::test]
async fn a_create_that_was_applied_is_recognized() {
    let bench = Bench::start().await;
    let created = bench.lose_the_answer(async |store| store.create(KEY, text("mine"), None, &[]).await).await.unwrap();
    assert_eq!(bench.direct.get(KEY).await.unwrap().unwrap().mod_revision, created);
}

#[tokio::test]
async fn an_update_that_was_applied_is_recognized_even_if_it_is_history() {
    let bench = Bench::start().await;
    let first = bench.direct.create(KEY, text("0"), None, &[]).await.unwrap();
    let second =
        bench.lose_the_answer(async move |store| store.update(KEY, text("1"), first, None, &[]).await).await.unwrap();
    assert_eq!(bench.direct.get(KEY).await.unwrap().unwrap().mod_revision, second);

    let meanwhile = async {
        let mine = bench.direct.get(KEY).await.unwrap().unwrap();
        assert_eq!(mine.value, "2");
        bench.direct.update(KEY, text("theirs"), mine.mod_revision, None, &[]).await.unwrap();
    };
    let write = async move |store: Arc<EtcdStorage>| store.update(KEY, text("2"), second, None, &[]).await;
    let third = bench.lose_the_answer_and(write, meanwhile).await.unwrap();
    assert_eq!(third.0, second.0 + 1);
}

#[tokio::test]
async fn what_is_written_with_it_is_known_by_the_key() {
    let bench = Bench::start().await;
    let count = "/registry/g/counts/n/a";
    let start = bench.direct.create(count, text("0"), None, &[]).await.unwrap();
    let create = async move |store: Arc<EtcdStorage>| {
        store.create(KEY, text("mine"), None, &[Guard::becomes(count, start, text("1"))]).await
    };
    let meanwhile = async {
        let mine = bench.direct.get(count).await.unwrap().unwrap();
        bench.direct.update(count, text("theirs"), mine.mod_revision, None, &[]).await.unwrap();
    };
    let created = bench.lose_the_answer_and(create, meanwhile).await.unwrap();
    assert_eq!(bench.direct.get(KEY).await.unwrap().unwrap().mod_revision, created);

    let at = bench.direct.get(count).await.unwrap().unwrap().mod_revision;
    let meanwhile = async {
        bench.direct.update(count, text("more"), at, None, &[]).await.unwrap();
    };
    let update = async move |store: Arc<EtcdStorage>| {
        store.update(KEY, large(), created, None, &[Guard::becomes(count, at, text("2"))]).await
    };
    let unknown = bench.lose_the_request_and(update, meanwhile).await;
    assert!(matches!(unknown, Err(StorageError::OutcomeUnknown { .. })), "{unknown:?}");
    assert_eq!(bench.direct.get(count).await.unwrap().unwrap().value, "more", "not applied by halves");
}

#[tokio::test]
async fn a_delete_that_was_applied_is_recognized_even_if_the_name_is_taken_anew() {
    let bench = Bench::start().await;
    let created = bench.direct.create(KEY, text("1"), None, &[]).await.unwrap();
    let meanwhile = async {
        bench.direct.create(KEY, text("theirs"), None, &[]).await.unwrap();
    };
    let write = async move |store: Arc<EtcdStorage>| store.delete(KEY, created, &[]).await;
    let deleted = bench.lose_the_answer_and(write, meanwhile).await.unwrap();
    assert_eq!(deleted.0, created.0 + 1);
}

#[tokio::test]
async fn an_update_that_lost_to_another_is_a_conflict() {
    let bench = Bench::start().await;
    let first = bench.direct.create(KEY, text("0"), None, &[]).await.unwrap();
    let meanwhile = async {
        bench.direct.update(KEY, text("theirs"), first, None, &[]).await.unwrap();
    };
    let write = async move |store: Arc<EtcdStorage>| store.update(KEY, large(), first, None, &[]).await;
    let lost = bench.lose_the_request_and(write, meanwhile).await;
    let Err(StorageError::Conflict { current, .. }) = lost else { panic!("{lost:?}") };
    assert_eq!(current.value, "theirs");
}

#[tokio::test]
async fn a_write_that_may_still_arrive_is_unknown() {
    let bench = Bench::start().await;
    let first = bench.direct.create(KEY, text("0"), None, &[]).await.unwrap();
    let update = async move |store: Arc<EtcdStorage>| store.update(KEY, large(), first, None, &[]).await;
    let unknown = bench.lose_the_request_and(update, async {}).await;
    assert!(matches!(unknown, Err(StorageError::OutcomeUnknown { ref key, .. }) if key == KEY), "{unknown:?}");
    let create = async |store: Arc<EtcdStorage>| store.create("/registry/g/things/n/b", large(), None, &[]).await;
    let unknown = bench.lose_the_request_and(create, async {}).await;
    assert!(matches!(unknown, Err(StorageError::OutcomeUnknown { .. })), "{unknown:?}");
}
