//! The store in etcd against a real one: the conformance suite, and what happens when etcd or the way to it fails.

mod lost_answers;
mod server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use etcd_client::CompactionOptions;
use futures::StreamExt as _;
use nix::sys::signal::Signal;
use tokio::time::{Instant, timeout};

use self::server::TestServer;
use super::{EtcdStorage, i64_revision};
use crate::storage::{
    EtcdConfig, Revision, Storage, StorageError, StorageEvent,
    conformance::{self, Subject, replay},
};

const KEY: &str = "/registry/g/things/n/a";
const PATIENCE: Duration = Duration::from_mins(1);

fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises_of_a_store() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    conformance::run_all(async || {
        let client = client.clone();
        Subject {
            storage: Arc::new(EtcdStorage::connect(server.config("[::1]")).await.unwrap()),
            compact: Box::new(move |revision| {
                let mut client = client.clone();
                Box::pin(async move {
                    let physical = CompactionOptions::new().with_physical();
                    client.compact(i64_revision(revision), Some(physical)).await.unwrap();
                })
            }),
        }
    })
    .await;
}

#[tokio::test]
async fn keys_created_together_share_a_lease() {
    let server = TestServer::start(&[]).await;
    let storage = server.storage().await;
    let create = |name: String| {
        let storage = &storage;
        async move { storage.create(&name, text("1"), Some(Duration::from_hours(1)), &[]).await.unwrap() }
    };
    futures::future::join_all((0..50).map(|n| create(format!("/registry/core/events/n/{n}")))).await;
    let leases = server.client().await.leases().await.unwrap();
    assert_eq!(leases.leases().len(), 1);
}

#[tokio::test]
async fn a_lost_lease_costs_one_attempt() {
    let server = TestServer::start(&[]).await;
    let (storage, mut client) = (server.storage().await, server.client().await);
    let ttl = Some(Duration::from_hours(1));
    storage.create("/registry/core/events/n/a", text("1"), ttl, &[]).await.unwrap();
    let lease = client.leases().await.unwrap().leases()[0].id();
    client.lease_revoke(lease).await.unwrap();
    let lost = storage.create("/registry/core/events/n/b", text("1"), ttl, &[]).await;
    assert!(matches!(lost, Err(StorageError::Unavailable(_))), "{lost:?}");
    storage.create("/registry/core/events/n/b", text("1"), ttl, &[]).await.unwrap();
}

#[tokio::test]
async fn a_full_etcd_refuses_writes_and_serves_reads() {
    let server = TestServer::start(&["--quota-backend-bytes", "4194304"]).await;
    let storage = server.storage().await;
    storage.create(KEY, text("1"), None, &[]).await.unwrap();
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    let mut writes = 0;
    let full = loop {
        writes += 1;
        assert!(writes < 20, "the quota was passed");
        if let Err(error) = storage.create(&format!("/registry/g/things/n/{writes}"), large.clone(), None, &[]).await {
            break error;
        }
    };
    assert!(matches!(full, StorageError::NoSpace), "{full:?}");
    assert_eq!(storage.get(KEY).await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn without_etcd_it_says_so_and_recovers_by_itself() {
    let mut server = TestServer::start(&[]).await;
    let storage = server.storage().await;
    let created = storage.create(KEY, text("1"), None, &[]).await.unwrap();
    server.kill();
    let start = Instant::now();
    for _ in 0..3 {
        assert!(matches!(storage.get(KEY).await, Err(StorageError::Unavailable(_))));
        assert!(matches!(storage.current_revision().await, Err(StorageError::Unavailable(_))));
        // nothing was connected, so the write was certainly not applied
        let refused = storage.update(KEY, text("2"), created, None, &[]).await;
        assert!(matches!(refused, Err(StorageError::Unavailable(_))), "{refused:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "a refused connection is told at once");
    server.start_again().await;
    assert_eq!(storage.get(KEY).await.unwrap().unwrap().value, "1");
    storage.update(KEY, text("2"), created, None, &[]).await.unwrap();
}

#[tokio::test]
async fn a_dead_member_is_passed_over() {
    let server = TestServer::start(&[]).await;
    let mut config = server.config("127.0.0.1");
    // port 1 refuses connections
    config.endpoints.insert(0, "https://127.0.0.1:1".to_owned());
    let storage = EtcdStorage::connect(config).await.unwrap();
    let created = storage.create(KEY, text("1"), None, &[]).await.unwrap();
    for _ in 0..10 {
        assert_eq!(storage.get(KEY).await.unwrap().unwrap().mod_revision, created);
    }
    assert!(storage.watch("/registry/", created).await.is_ok());
}

#[tokio::test]
async fn what_cannot_be_a_member_is_refused() {
    let server = TestServer::start(&[]).await;
    for endpoints in [vec![], vec!["http://127.0.0.1:2379".to_owned()]] {
        let refused = EtcdStorage::connect(EtcdConfig { endpoints, ..server.config("127.0.0.1") }).await.err();
        assert!(matches!(refused, Some(StorageError::Refused(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_replaced_etcd_is_noticed() {
    let mut server = TestServer::start(&[]).await;
    let storage = server.storage().await;
    let revision = storage.create(KEY, text("1"), None, &[]).await.unwrap();
    server.replace().await;
    let watch = storage.watch("/registry/", revision).await.err();
    assert!(matches!(watch, Some(StorageError::FutureRevision { .. })), "{watch:?}");
}

#[tokio::test]
async fn an_unanswered_write_ends_as_unknown() {
    let server = TestServer::start(&[]).await;
    let storage = server.storage().await;
    let created = storage.create(KEY, text("1"), None, &[]).await.unwrap();
    server.signal(Signal::SIGSTOP);
    let unknown = storage.update(KEY, text("2"), created, None, &[]).await;
    server.signal(Signal::SIGCONT);
    assert!(matches!(unknown, Err(StorageError::OutcomeUnknown { .. })), "{unknown:?}");
    // and it is one of the two
    let now = timeout(PATIENCE, storage.get(KEY)).await.unwrap().unwrap().unwrap();
    assert!(now.value == "1" || now.value == "2");
}

/// A watch that goes on where it broke, as the cache's does.
async fn follow(
    storage: Arc<EtcdStorage>,
    after: Revision,
    until: impl Fn(&[StorageEvent]) -> bool,
) -> Vec<StorageEvent> {
    let (mut seen, mut events) = (after, Vec::new());
    while !until(&events) {
        let Ok(mut watch) = storage.watch("/registry/", seen).await else {
            tokio::task::yield_now().await;
            continue;
        };
        while !until(&events) {
            let Some(Ok(batch)) = watch.next().await else { break };
            assert!(batch.revision > seen);
            seen = batch.revision;
            events.extend(batch.events);
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_loses_and_repeats_nothing_while_etcd_stops_and_starts() {
    let mut server = TestServer::start(&[]).await;
    let storage = Arc::new(server.storage().await);
    let start = storage.current_revision().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (storage, stop) = (storage.clone(), stop.clone());
        async move {
            let (mut n, mut written) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                // one that fails may have been written nevertheless: the list at the end tells
                let key = format!("/registry/g/things/n/{n:06}");
                written += u32::from(storage.create(&key, text("1"), None, &[]).await.is_ok());
                tokio::task::yield_now().await;
            }
            storage.create("/registry/last", text("1"), None, &[]).await.unwrap();
            written
        }
    });
    let until_last = |events: &[StorageEvent]| events.last().is_some_and(|event| event.key() == "/registry/last");
    let watcher = tokio::spawn(follow(storage.clone(), start, until_last));
    let grown = |than: Revision| {
        let storage = storage.clone();
        async move {
            let grown = async { while !storage.current_revision().await.is_ok_and(|now| now.0 > than.0 + 50) {} };
            timeout(PATIENCE, grown).await.expect("writes go on");
            storage.current_revision().await.unwrap()
        }
    };

    let now = grown(start).await;
    server.kill();
    server.start_again().await;
    let now = grown(now).await;
    server.signal(Signal::SIGSTOP);
    // an answer may be under way still
    let silent = async { while storage.current_revision().await.is_ok() {} };
    timeout(PATIENCE, silent).await.expect("a stopped etcd answers nothing");
    server.signal(Signal::SIGCONT);
    let now = grown(now).await;
    server.kill();
    server.start_again().await;
    grown(now).await;
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 150);

    let events = timeout(PATIENCE, watcher).await.unwrap().unwrap();
    // replay fails on an event that comes twice
    let seen = replay(&events);
    let listing = storage.list("/registry/").await.unwrap();
    assert_eq!(seen.into_values().collect::<Vec<_>>(), listing.values);
}

#[tokio::test]
async fn a_silent_etcd_ends_the_watch() {
    let server = TestServer::start(&[]).await;
    let storage = server.storage().await;
    let revision = storage.create(KEY, text("1"), None, &[]).await.unwrap();
    let mut watch = storage.watch("/registry/", revision).await.unwrap();
    server.signal(Signal::SIGSTOP);
    let end = timeout(PATIENCE, watch.next()).await.unwrap();
    server.signal(Signal::SIGCONT);
    assert!(matches!(end, Some(Err(StorageError::Unavailable(_)))), "{end:?}");
    assert!(watch.next().await.is_none());
}
