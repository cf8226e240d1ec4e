//! What the server answers while its storage is away, full, or loses an answer; and that it goes on afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use ucloud_machinery::storage::{
    Guard, Listing, MemoryStorage, Revision, Storage, StorageError, StoredValue, WatchBatches,
};

use crate::support::{Harness, eventually, failure, raw, request, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

const WELL: u8 = 0;
const AWAY: u8 = 1;
const FULL: u8 = 2;
/// Writes are applied, but their answers are lost.
const MUTE: u8 = 3;

/// Memory that can be ill.
#[derive(Clone)]
struct Patient {
    memory: MemoryStorage,
    illness: Arc<AtomicU8>,
    /// How many requests it refused because it was away.
    refused: Arc<AtomicUsize>,
}

impl Patient {
    fn falls(&self, illness: u8) {
        self.illness.store(illness, Ordering::SeqCst);
    }

    fn read(&self) -> Result<(), StorageError> {
        match self.illness.load(Ordering::SeqCst) {
            AWAY => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                Err(StorageError::Unavailable("connection refused".into()))
            }
            _ => Ok(()),
        }
    }

    fn write(&self) -> Result<(), StorageError> {
        match self.illness.load(Ordering::SeqCst) {
            FULL => Err(StorageError::NoSpace),
            _ => self.read(),
        }
    }

    fn answer(&self, key: &str, result: Result<Revision, StorageError>) -> Result<Revision, StorageError> {
        match self.illness.load(Ordering::SeqCst) {
            MUTE => Err(StorageError::OutcomeUnknown { key: key.to_owned(), source: "timeout".into() }),
            _ => result,
        }
    }
}

#[async_trait]
impl Storage for Patient {
    async fn create(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        self.write()?;
        self.answer(key, self.memory.create(key, value, ttl, guards).await)
    }
    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        self.write()?;
        self.answer(key, self.memory.update(key, value, expected, ttl, guards).await)
    }
    async fn delete(&self, key: &str, expected: Revision, guards: &[Guard]) -> Result<Revision, StorageError> {
        self.write()?;
        self.answer(key, self.memory.delete(key, expected, guards).await)
    }
    async fn get(&self, key: &str) -> Result<Option<StoredValue>, StorageError> {
        self.read()?;
        self.memory.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StorageError> {
        self.read()?;
        self.memory.list(prefix).await
    }
    async fn current_revision(&self) -> Result<Revision, StorageError> {
        self.read()?;
        self.memory.current_revision().await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchBatches, StorageError> {
        self.read()?;
        self.memory.watch(prefix, after).await
    }
}

fn patient() -> (Patient, MemoryStorage) {
    let memory = MemoryStorage::new();
    let patient = Patient { memory: memory.clone(), illness: Arc::default(), refused: Arc::default() };
    (patient, memory)
}

async fn start() -> (Patient, Harness) {
    let (patient, memory) = patient();
    let harness = Harness::start_over(patient.clone(), memory).await;
    (patient, harness)
}

#[tokio::test]
async fn storage_is_away() {
    let (storage, harness) = start().await;
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    let created = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let cached = format!("{PATH}/a?resourceVersion={}", created.metadata.resource_version.unwrap());
    assert_eq!(raw(&client, request("GET", &cached, "", "")).await.0, 200);

    storage.falls(AWAY);
    assert_eq!(raw(&client, request("GET", &cached, "", "")).await.0, 200, "the cache still answers");
    let (code, headers, body) = raw(&client, request("GET", &format!("{PATH}/a"), "", "")).await;
    assert_eq!(code, 503, "a consistent read cannot be proven: {body}");
    assert_eq!(headers["retry-after"], "1");
    assert!(body.contains("ServiceUnavailable") && body.contains("connection refused"), "{body}");
    let status = failure(widgets.create(&PostParams::default(), &widget("b", "red")).await);
    assert_eq!((status.code, status.reason.as_str()), (503, "ServiceUnavailable"));
    let mut report = String::new();
    eventually("the server is not ready", async || {
        let (code, _, body) = raw(&client, request("GET", "/readyz", "", "")).await;
        report = body;
        code == 503
    })
    .await;
    assert!(report.contains("[-]storage failed") && report.contains("[+]cache ok"), "{report}");
    assert_eq!(raw(&client, request("GET", "/livez", "", "")).await.0, 200);
    let before = storage.refused.load(Ordering::SeqCst);
    for _ in 0..50 {
        raw(&client, request("GET", "/readyz", "", "")).await;
    }
    let asked = storage.refused.load(Ordering::SeqCst) - before;
    assert!(asked < 50, "storage is not asked for each of those who ask the server: {asked}");

    storage.falls(WELL);
    let ready = async || raw(&client, request("GET", "/readyz", "", "")).await.0 == 200;
    eventually("the server is ready again", ready).await;
    widgets.create(&PostParams::default(), &widget("b", "red")).await.unwrap();
}

#[tokio::test]
async fn storage_is_full() {
    let (storage, harness) = start().await;
    let widgets = harness.widgets().await;
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    storage.falls(FULL);
    let patch = Patch::Merge(json!({"spec": {"count": 1}}));
    let status = failure(widgets.patch("a", &PatchParams::default(), &patch).await);
    assert_eq!(status.code, 507);
    assert!(status.message.contains("compact and defragment"), "{}", status.message);
    assert_eq!(widgets.get("a").await.unwrap().spec.count, None);
}

#[tokio::test]
async fn an_answer_is_lost() {
    let (storage, harness) = start().await;
    let widgets = harness.widgets().await;
    storage.falls(MUTE);
    let status = failure(widgets.create(&PostParams::default(), &widget("a", "red")).await);
    assert_eq!((status.code, status.reason.as_str()), (504, "Timeout"));
    assert!(status.message.contains("read the object again before you repeat it"), "{}", status.message);
    storage.falls(WELL);
    assert!(widgets.get_opt("a").await.unwrap().is_some(), "it was written after all");
    widgets.delete("a", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_starts_before_its_storage_becomes_ready() {
    let memory = MemoryStorage::new();
    let patient = Patient { memory: memory.clone(), illness: Arc::new(AtomicU8::new(AWAY)), refused: Arc::default() };
    let recovery = async {
        eventually("storage has been asked in vain", async || patient.refused.load(Ordering::SeqCst) > 1).await;
        patient.falls(WELL);
    };
    let (harness, ()) = tokio::join!(Harness::start_over(patient.clone(), memory), recovery);
    eventually("a write succeeds", async || {
        harness.widgets().await.create(&PostParams::default(), &widget("a", "red")).await.is_ok()
    })
    .await;
}

/// Whoever may do something with an object that is there is not told that they may not by a server that has just started.
#[tokio::test]
async fn nobody_is_judged_by_an_empty_cache() {
    let (storage, memory) = patient();
    let mut first = Harness::start_over(storage.clone(), memory.clone()).await;
    first.widgets().await.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    first.stop().await;

    storage.falls(AWAY);
    let second = Harness::launch(storage.clone(), memory, |builder| builder).await;
    let client = second.client("keeper").await;
    let ask = || raw(&client, request("GET", &format!("{PATH}/a?resourceVersion=0"), "", ""));
    let (code, headers, body) = ask().await;
    assert_eq!((code, &headers["retry-after"]), (503, &"1".parse().unwrap()), "{body}");
    assert!(body.contains("the cache is not filled yet"), "{body}");
    let refused = storage.refused.load(Ordering::SeqCst);
    let heal = async {
        eventually("it is tried again", async || storage.refused.load(Ordering::SeqCst) > refused).await;
        storage.falls(WELL);
    };
    let ((code, _, body), ()) = tokio::join!(ask(), heal);
    assert_eq!(code, 200, "{body}");
    assert_eq!(raw(&client, request("GET", &format!("{PATH}/b"), "", "")).await.0, 403);
}
