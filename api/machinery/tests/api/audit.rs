//! The audit trail: every write is in it, with the object's name, also when nobody waited for its end.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kube::ResourceExt as _;
use kube::api::PostParams;
use serde_json::Value;
use tokio::sync::Semaphore;
use tracing_subscriber::fmt::MakeWriter;
use ucloud_machinery::storage::{Listing, MemoryStorage, Revision, Storage, StorageError, StoredValue, WatchBatches};

use crate::support::{Harness, Widget, eventually, raw, request, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

/// The log of this test's thread, on which its server runs too.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt().json().with_writer(log.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Verb, name and code of each write of a widget.
    fn writes(&self) -> Vec<(String, String, u64)> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter(|line| line["target"] == "audit" && line["fields"]["resource"] == "widgets")
            .map(|line| {
                let fields = &line["fields"];
                let text = |field: &str| fields[field].as_str().unwrap().to_owned();
                (text("verb"), text("name"), fields["code"].as_u64().unwrap())
            })
            .collect()
    }
}

/// Memory that takes its time to create widgets.
#[derive(Clone)]
struct Slow {
    memory: MemoryStorage,
    /// One for each creation that has come.
    arrived: Arc<Semaphore>,
    /// One for each creation that may go on.
    released: Arc<Semaphore>,
}

#[async_trait]
impl Storage for Slow {
    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision, StorageError> {
        if key.contains("/widgets/") {
            self.arrived.add_permits(1);
            self.released.acquire().await.unwrap().forget();
        }
        self.memory.create(key, value, ttl).await
    }
    async fn update(&self, key: &str, value: Bytes, expected: Revision) -> Result<Revision, StorageError> {
        self.memory.update(key, value, expected).await
    }
    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, StorageError> {
        self.memory.delete(key, expected).await
    }
    async fn get(&self, key: &str) -> Result<Option<StoredValue>, StorageError> {
        self.memory.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StorageError> {
        self.memory.list(prefix).await
    }
    async fn current_revision(&self) -> Result<Revision, StorageError> {
        self.memory.current_revision().await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchBatches, StorageError> {
        self.memory.watch(prefix, after).await
    }
}

#[tokio::test]
async fn every_write_is_told_with_the_name_of_its_object() {
    let (log, _guard) = Log::begin();
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    let mut nameless = widget("", "red");
    nameless.metadata.name = None;
    nameless.metadata.generate_name = Some("web-".to_owned());
    let generated = widgets.create(&PostParams::default(), &nameless).await.unwrap().name_any();
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    raw(&client, request("PATCH", &format!("{PATH}/a"), "application/merge-patch+json", "{")).await;
    raw(&client, request("DELETE", &format!("{PATH}/a"), "application/json", "")).await;
    let expected =
        [("create", generated.as_str(), 201), ("create", "a", 201), ("patch", "a", 400), ("delete", "a", 200)];
    let told = log.writes();
    let told: Vec<_> = told.iter().map(|(verb, name, code)| (verb.as_str(), name.as_str(), *code)).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_write_whose_client_went_away_goes_on_to_its_end() {
    let (log, _guard) = Log::begin();
    let memory = MemoryStorage::new();
    let zero = || Arc::new(Semaphore::new(0));
    let slow = Slow { memory: memory.clone(), arrived: zero(), released: zero() };
    let harness = Harness::start_over(slow.clone(), memory).await;
    let gone = harness.widgets().await;
    let request = tokio::spawn(async move { gone.create(&PostParams::default(), &widget("a", "red")).await });
    slow.arrived.acquire().await.unwrap().forget();
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled(), "the client is gone");
    // another connection is answered: by then the server has seen the end of the first one
    let widgets: kube::Api<Widget> = harness.widgets().await;
    assert!(widgets.get_opt("a").await.unwrap().is_none());
    slow.released.add_permits(1);
    eventually("the object is there", async || widgets.get_opt("a").await.unwrap().is_some()).await;
    eventually("the write is told", async || !log.writes().is_empty()).await;
    assert_eq!(log.writes(), [("create".to_owned(), "a".to_owned(), 201)]);
}
