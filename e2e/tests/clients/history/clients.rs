//! The clients, and the record of what they see. Objects are Leases, which no controller touches; whose `holderIdentity`
//! says which write it was.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams},
};
use rand::{Rng as _, rngs::StdRng};
use tokio::time::{sleep, timeout};
use ucloud_e2e::history::{
    Id, Key, Version,
    register::{Action, Answer, Answer::Known, Answer::Unknown, Operation},
    watch::{Change, Event, Seen},
};

/// The objects. Few, so that writers meet.
const KEYS: u64 = 5;
/// Who waits longer for an answer takes it as lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who was refused waits so long before the next request.
const PAUSE: Duration = Duration::from_millis(50);
/// So often each writer and each reader asks at most: what is checked is no load test.
const PACE: Duration = Duration::from_millis(20);
/// Each watch ends after so many seconds, with a bookmark, and is taken up again.
const WATCH_SECONDS: u32 = 3;
/// The object that is written last. No history has it.
const LAST: &str = "last";

/// What was seen, by all together.
pub struct Record {
    began: Instant,
    pub operations: Mutex<BTreeMap<Key, Vec<Operation>>>,
    /// The versions of the writes that were acknowledged with one.
    pub written: Mutex<Vec<(Version, Key)>>,
    /// At which version each write was seen.
    pub versions: Mutex<Vec<(Id, Version)>>,
    pub lists: Mutex<Vec<(Version, BTreeMap<Key, Version>)>>,
    pub acknowledged: AtomicUsize,
    /// Writers and readers stop.
    pub ended: AtomicBool,
    /// Watchers stop when they have come so far; 0 as long as nobody knows.
    pub last: AtomicU64,
    ids: AtomicU64,
}

impl Record {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            operations: Mutex::default(),
            written: Mutex::default(),
            versions: Mutex::default(),
            lists: Mutex::default(),
            acknowledged: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            last: AtomicU64::new(0),
            ids: AtomicU64::new(1),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn note(&self, key: &str, sent: u64, answered: u64, action: Action) {
        let operation = Operation { sent, answered, action };
        self.operations.lock().expect("nobody panicked").entry(key.to_owned()).or_default().push(operation);
    }

    fn note_write(&self, key: &str, id: Id, version: Version) {
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
        self.written.lock().expect("nobody panicked").push((version, key.to_owned()));
        self.note_version(id, version);
    }

    fn note_version(&self, id: Id, version: Version) {
        self.versions.lock().expect("nobody panicked").push((id, version));
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

fn leases(client: Client) -> Api<Lease> {
    Api::namespaced(client, "default")
}

fn lease(key: &str, id: Id, version: Option<String>) -> Lease {
    let metadata = ObjectMeta { name: Some(key.to_owned()), resource_version: version, ..ObjectMeta::default() };
    Lease { metadata, spec: Some(LeaseSpec { holder_identity: Some(id.to_string()), ..LeaseSpec::default() }) }
}

fn id(lease: &Lease) -> anyhow::Result<Id> {
    let holder =
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).context("a Lease without an id")?;
    Ok(holder.parse()?)
}

fn version(text: Option<String>) -> anyhow::Result<Version> {
    Ok(text.context("no resourceVersion")?.parse()?)
}

/// The answer of a request, if one came that says what happened; `Err` holds the code of a refusal.
async fn ask<T>(request: impl Future<Output = kube::Result<T>>) -> Option<Result<T, u16>> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Some(Ok(answer)),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Some(Err(status.code)),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// What a writer knows of an object: the write that it saw, and its version.
type Last = Option<(Id, String)>;

/// Creates, updates and deletes until the end, at times by what it knew long ago.
pub async fn write(client: Client, record: Arc<Record>, mut rng: StdRng, number: u64) -> anyhow::Result<()> {
    let api = leases(client);
    let mut remembered: BTreeMap<Key, Last> = BTreeMap::new();
    while !record.has_ended() {
        sleep(PACE).await;
        let key = format!("key-{}", rng.random_range(0..KEYS));
        let known = match remembered.get(&key) {
            Some(known) if rng.random_bool(0.3) => known.clone(),
            _ => match get(&api, &record, &key).await? {
                Some(known) => known,
                None => continue,
            },
        };
        let id = record.ids.fetch_add(1, Ordering::SeqCst) * 100 + number;
        let answered = match &known {
            None => create(&api, &record, &key, id).await?,
            Some(_) if rng.random_bool(0.15) => delete(&api, &record, &key).await,
            Some((expected, version)) => update(&api, &record, &key, *expected, id, version).await?,
        };
        match answered {
            Some(now) => drop(remembered.insert(key, now)),
            None => sleep(PAUSE).await,
        }
    }
    Ok(())
}

async fn create(api: &Api<Lease>, record: &Record, key: &str, id: Id) -> anyhow::Result<Option<Last>> {
    let sent = record.now();
    let answer = ask(api.create(&PostParams::default(), &lease(key, id, None))).await;
    let known = answer.as_ref().map_or(Unknown, |answer| Known(answer.is_ok()));
    record.note(key, sent, record.now(), Action::Create(id, known));
    acknowledged(record, key, id, answer)
}

async fn update(
    api: &Api<Lease>,
    record: &Record,
    key: &str,
    expected: Id,
    id: Id,
    version: &str,
) -> anyhow::Result<Option<Last>> {
    let sent = record.now();
    let answer = ask(api.replace(key, &PostParams::default(), &lease(key, id, Some(version.to_owned())))).await;
    let known = answer.as_ref().map_or(Unknown, |answer| Known(answer.is_ok()));
    record.note(key, sent, record.now(), Action::Update { expected, id, answer: known });
    acknowledged(record, key, id, answer)
}

fn acknowledged(
    record: &Record,
    key: &str,
    id: Id,
    answer: Option<Result<Lease, u16>>,
) -> anyhow::Result<Option<Last>> {
    match answer {
        Some(Ok(lease)) => {
            let text = lease.resource_version().context("a write without a version")?;
            record.note_write(key, id, text.parse()?);
            Ok(Some(Some((id, text))))
        }
        Some(Err(_)) | None => Ok(None),
    }
}

async fn delete(api: &Api<Lease>, record: &Record, key: &str) -> Option<Last> {
    let sent = record.now();
    let answer: Answer<bool> = match ask(api.delete(key, &DeleteParams::default())).await {
        Some(Ok(_)) => Known(true),
        Some(Err(404)) => Known(false),
        Some(Err(_)) | None => Unknown,
    };
    record.note(key, sent, record.now(), Action::Delete(answer));
    (answer != Unknown).then_some(None)
}

/// A consistent read; `None` if it was not answered.
async fn get(api: &Api<Lease>, record: &Record, key: &str) -> anyhow::Result<Option<Last>> {
    let sent = record.now();
    let found = match ask(api.get(key)).await {
        Some(Ok(lease)) => Some(lease),
        Some(Err(404)) => None,
        Some(Err(_)) | None => return Ok(None),
    };
    let answered = record.now();
    let Some(lease) = found else {
        record.note(key, sent, answered, Action::Read(None));
        return Ok(Some(None));
    };
    let (id, text) = (id(&lease)?, lease.resource_version().context("no version")?);
    record.note(key, sent, answered, Action::Read(Some(id)));
    record.note_version(id, text.parse()?);
    Ok(Some(Some((id, text))))
}

/// Reads one object or all, until the end.
pub async fn read(client: Client, record: Arc<Record>, mut rng: StdRng) -> anyhow::Result<()> {
    let api = leases(client);
    while !record.has_ended() {
        sleep(PACE).await;
        if rng.random_bool(0.5) {
            let key = format!("key-{}", rng.random_range(0..KEYS));
            get(&api, &record, &key).await?;
        } else if list(&api, &record).await?.is_none() {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// A consistent list: a read of each key at one version.
async fn list(api: &Api<Lease>, record: &Record) -> anyhow::Result<Option<(Version, BTreeMap<Key, Version>)>> {
    let sent = record.now();
    let Some(Ok(list)) = ask(api.list(&ListParams::default())).await else {
        return Ok(None);
    };
    let answered = record.now();
    let listed = version(list.metadata.resource_version)?;
    let mut reads: BTreeMap<Key, Option<Id>> = (0..KEYS).map(|number| (format!("key-{number}"), None)).collect();
    let mut objects = BTreeMap::new();
    for lease in list.items {
        let key = lease.name_any();
        let (id, version) = (id(&lease)?, version(lease.resource_version())?);
        record.note_version(id, version);
        objects.insert(key.clone(), version);
        reads.insert(key, Some(id));
    }
    reads.retain(|key, _| key != LAST);
    for (key, found) in reads {
        record.note(&key, sent, answered, Action::Read(found));
    }
    record.lists.lock().expect("nobody panicked").push((listed, objects.clone()));
    Ok(Some((listed, objects)))
}

/// Lists and watches until the last write is seen. Takes up its watch where it ended; lists again where it is told to.
pub async fn watch(client: Client, record: Arc<Record>) -> Vec<Seen> {
    let api = leases(client);
    let mut seen = Vec::new();
    let mut reached: Option<Version> = None;
    loop {
        let last = record.last.load(Ordering::SeqCst);
        if last > 0 && reached.is_some_and(|reached| reached >= last) {
            return seen;
        }
        let after = if let Some(after) = reached {
            after
        } else {
            let Ok(Some((version, objects))) = list(&api, &record).await else {
                sleep(PAUSE).await;
                continue;
            };
            seen.push(Seen::List(version, objects));
            version
        };
        reached = follow(&api, &record, after, &mut seen).await;
    }
}

/// One watch. Answers how far it has come; `None`: it must list again.
async fn follow(api: &Api<Lease>, record: &Record, after: Version, seen: &mut Vec<Seen>) -> Option<Version> {
    let params = WatchParams { timeout: Some(WATCH_SECONDS), bookmarks: true, ..WatchParams::default() };
    let mut events = match timeout(PATIENCE, api.watch(&params, &after.to_string())).await {
        Ok(Ok(events)) => events.boxed(),
        // as client libraries do: 410 Gone means to list again, anything else to try again
        Ok(Err(kube::Error::Api(status))) if status.code == 410 => return None,
        Ok(Err(_)) | Err(_) => {
            sleep(PAUSE).await;
            return Some(after);
        }
    };
    seen.push(Seen::Watch(after));
    let mut reached = after;
    while let Some(event) = events.next().await {
        let (change, lease) = match event {
            Ok(WatchEvent::Added(lease)) => (Change::Added, lease),
            Ok(WatchEvent::Modified(lease)) => (Change::Modified, lease),
            Ok(WatchEvent::Deleted(lease)) => (Change::Deleted, lease),
            Ok(WatchEvent::Bookmark(bookmark)) => {
                reached = bookmark.metadata.resource_version.parse().ok()?;
                seen.push(Seen::Bookmark(reached));
                continue;
            }
            Ok(WatchEvent::Error(status)) if status.code == 410 => return None,
            Ok(WatchEvent::Error(_)) | Err(_) => break,
        };
        reached = version(lease.resource_version()).ok()?;
        if change != Change::Deleted
            && let Ok(id) = id(&lease)
        {
            record.note_version(id, reached);
        }
        seen.push(Seen::Event(Event { version: reached, key: lease.name_any(), change }));
    }
    Some(reached)
}

/// A write after all others; answers its version.
pub async fn last_write(client: &Client) -> anyhow::Result<Version> {
    let written = leases(client.clone()).create(&PostParams::default(), &lease(LAST, 0, None)).await?;
    version(written.resource_version())
}
