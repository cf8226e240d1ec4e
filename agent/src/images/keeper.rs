//! Imports what is wanted, and removes what nobody wants any more.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, Id, JoinSet},
    time::Instant,
};
use tracing::{info, warn};
use ucloud_agent_core::{
    HostError,
    block_store::{ImageRequest, Pool, StoredImage},
    image,
    vm::Blocker,
};
use ucloud_types::{Image, StoragePool, VM, Volume};

use crate::{keeper::until, limit::limited, shared::Shared};

use super::copies::{Copy, Failure, Stage};

/// So many images are imported at the same time.
const CONCURRENT: usize = 2;
/// A smaller progress, in per cent, is no news.
const STEP: u8 = 5;

/// Keeps the images as they should be, as long as the agent runs.
pub async fn run(shared: Arc<Shared>) {
    let caches = &shared.caches;
    let mut changes = (caches.images.changes(), caches.vms.changes(), caches.pools.changes(), caches.volumes.changes());
    let mut keeper = Keeper {
        shared: Arc::clone(&shared),
        imports: JoinSet::new(),
        running: HashMap::new(),
        turns: Arc::new(Semaphore::new(CONCURRENT)),
        surveyed: Vec::new(),
    };
    let mut failures = 0;
    loop {
        let retry = match keeper.bring().await {
            Ok(()) => {
                failures = 0;
                keeper.next_retry()
            }
            Err(error) => {
                failures += 1;
                warn!(
                    reason = error.reason,
                    error = &error as &dyn std::error::Error,
                    "the images are not as they should be"
                );
                Some(Instant::now() + shared.config.timing.retry(failures))
            }
        };
        let alive = tokio::select! {
            changed = changes.0.changed() => changed.is_ok(),
            changed = changes.1.changed() => changed.is_ok(),
            changed = changes.2.changed() => changed.is_ok(),
            changed = changes.3.changed() => changed.is_ok(),
            Some(ended) = keeper.imports.join_next_with_id() => {
                match ended {
                    Ok((id, result)) => keeper.ended(id, Some(result)),
                    Err(error) if error.is_cancelled() => keeper.ended(error.id(), None),
                    Err(error) => {
                        let broken = HostError::retryable("InternalError", "the import broke off by a fault of the agent");
                        keeper.ended(error.id(), Some(Err(broken.caused_by(error))));
                    }
                }
                true
            }
            () = until(retry) => true,
        };
        if !alive {
            return;
        }
    }
}

struct Keeper {
    shared: Arc<Shared>,
    imports: JoinSet<Result<StoredImage, HostError>>,
    running: HashMap<Id, (String, AbortHandle)>,
    turns: Arc<Semaphore>,
    /// The pools in which was looked for copies that are there already.
    surveyed: Vec<Pool>,
}

impl Keeper {
    async fn bring(&mut self) -> Result<(), HostError> {
        let images = self.shared.caches.images.all();
        let images: Vec<&Image> = images.iter().map(AsRef::as_ref).collect();
        let vms = self.shared.caches.vms.all();
        let vms: Vec<&VM> = vms.iter().map(AsRef::as_ref).collect();
        let volumes = self.shared.caches.volumes.all();
        let pools = self.shared.caches.pools.all();
        let pools: Vec<&StoragePool> = pools.iter().map(AsRef::as_ref).collect();
        let surveyed = self.survey(&pools).await;

        let wanted: BTreeMap<String, Result<ImageRequest, Blocker>> = images
            .iter()
            .filter_map(|image| {
                let live = vms.iter().copied().filter(|vm| vm.metadata.deletion_timestamp.is_none());
                let used = !image::users(image, live, &volumes).is_empty();
                let wanted = image::wanted(image, &pools, used, &self.shared.config.host).transpose()?;
                Some((image.metadata.uid.clone()?, wanted))
            })
            .collect();
        for (uid, wanted) in &wanted {
            match wanted {
                Ok(request) => self.want(uid, request),
                Err(blocker) => self.block(uid, blocker),
            }
        }
        self.hold(&images, &vms, &volumes);
        let removed = self.remove(&images, &vms, &volumes).await;
        surveyed.and(removed)
    }

    /// Finds the copies that are there already.
    async fn survey(&mut self, pools: &[&StoragePool]) -> Result<(), HostError> {
        let pools: Vec<_> = pools.iter().filter_map(|pool| image::pool(pool)).collect();
        self.surveyed.retain(|pool| pools.contains(pool));
        let mut first = None;
        for pool in pools {
            if self.surveyed.contains(&pool) {
                continue;
            }
            match self.survey_pool(&pool).await {
                Ok(()) => self.surveyed.push(pool),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    async fn survey_pool(&self, pool: &Pool) -> Result<(), HostError> {
        let (limit, store) = (self.shared.config.timing.step, &self.shared.machine.store);
        for uid in limited(limit, "list its images", store.images(pool)).await? {
            if let Some(stored) = limited(limit, "read an image", store.image(pool, &uid)).await? {
                self.shared.images.change(|copies| {
                    let found = || Copy::new(Some(pool.clone()), None, Stage::Ready(stored));
                    copies.entry(uid.clone()).or_insert_with(found);
                });
                // VMs that were looked at before may wait for it
                self.wake_users(&uid);
            }
        }
        Ok(())
    }

    fn want(&mut self, uid: &str, request: &ImageRequest) {
        // Before it was looked for, a copy that is there already would be fetched again
        if !self.surveyed.contains(&request.pool) {
            return;
        }
        let due =
            self.shared.images.read(|copies| copies.get(uid).is_none_or(|copy| copy.is_due(request, Instant::now())));
        if !due || self.running.values().any(|(running, _)| running == uid) {
            return;
        }
        info!(image = request.name, namespace = request.namespace, uid, "importing");
        self.shared.images.change(|copies| {
            let failure =
                copies.remove(uid).filter(|copy| copy.request.as_ref() == Some(request)).and_then(|copy| copy.failure);
            let copy = Copy::new(Some(request.pool.clone()), Some(request.clone()), Stage::Importing(0));
            copies.insert(uid.to_owned(), Copy { failure, ..copy });
        });
        let import = import(Arc::clone(&self.shared), Arc::clone(&self.turns), request.clone());
        let task = self.imports.spawn(import);
        self.running.insert(task.id(), (uid.to_owned(), task));
    }

    fn block(&mut self, uid: &str, blocker: &Blocker) {
        let known = self.shared.images.read(|copies| {
            let failure = copies.get(uid).map(|copy| &copy.failure);
            matches!(failure, Some(Some(failure)) if failure.message == blocker.message)
        });
        if !known {
            let failure = Failure { reason: blocker.reason, message: blocker.message.clone(), times: 0, retry: None };
            let copy = Copy { failure: Some(failure), ..Copy::new(None, None, Stage::Missing) };
            self.shared.images.change(|copies| copies.insert(uid.to_owned(), copy));
        }
    }

    fn ended(&mut self, id: Id, result: Option<Result<StoredImage, HostError>>) {
        let Some((uid, _)) = self.running.remove(&id) else { return };
        let timing = self.shared.config.timing;
        let told = self.shared.images.change(|copies| {
            let copy = copies.get_mut(&uid)?;
            match result {
                Some(Ok(stored)) => {
                    copy.stage = Stage::Ready(stored);
                    copy.failure = None;
                    None
                }
                Some(Err(error)) => {
                    let times = copy.failure.as_ref().map_or(0, |failure| failure.times).saturating_add(1);
                    let retry = (!error.terminal).then(|| Instant::now() + timing.retry(times));
                    let news = copy.failure.as_ref().is_none_or(|failure| failure.message != error.message);
                    copy.stage = Stage::Missing;
                    copy.failure = Some(Failure { reason: error.reason, message: error.message.clone(), times, retry });
                    let request = copy.request.clone()?;
                    Some((request, error, news))
                }
                // It was interrupted, because its Image goes
                None => {
                    copy.stage = Stage::Missing;
                    None
                }
            }
        });
        self.shared.images.awaited.notify_one();
        self.shared.metrics.imported(told.is_none());
        if let Some((request, error, news)) = told {
            let ImageRequest { namespace, name, .. } = &request;
            warn!(
                image = name,
                namespace,
                uid,
                reason = error.reason,
                error = &error as &dyn std::error::Error,
                "cannot import an image"
            );
            if news && let Some(host) = self.shared.caches.host.get(None, &self.shared.config.host) {
                self.shared.events.host_warning(&host, "ImportFailed", format!("Image {namespace}/{name}: {error}"));
            }
        }
        self.wake_users(&uid);
    }

    fn wake_users(&self, uid: &str) {
        let images = self.shared.caches.images.all();
        if let Some(image) = images.iter().find(|image| image.metadata.uid.as_deref() == Some(uid)) {
            let volumes = self.shared.caches.volumes.all();
            self.shared
                .wake
                .users(&self.shared.caches.vms.store(), |vm| !image::users(image, [vm], &volumes).is_empty());
        }
    }

    /// Notes why copies stay whose Images are being deleted.
    fn hold(&self, images: &[&Image], vms: &[&VM], volumes: &[Arc<Volume>]) {
        for image in images {
            let Some(uid) = &image.metadata.uid else { continue };
            let users = match image.metadata.deletion_timestamp {
                Some(_) => image::users(image, vms.iter().copied(), volumes),
                None => Vec::new(),
            };
            let held = (!users.is_empty()).then(|| {
                format!("VMs on host {} use it: {}; delete them first", self.shared.config.host, users.join(", "))
            });
            let news = self.shared.images.read(|copies| copies.get(uid).is_some_and(|copy| copy.held != held));
            if news {
                self.shared.images.change(|copies| copies.get_mut(uid).map(|copy| copy.held = held));
            }
        }
    }

    /// Removes the copies that nobody wants any more.
    async fn remove(&mut self, images: &[&Image], vms: &[&VM], volumes: &[Arc<Volume>]) -> Result<(), HostError> {
        let gone: Vec<_> = self.shared.images.read(|copies| {
            let gone = copies.iter().filter(|(uid, copy)| {
                let shared = copy.pool.as_ref().is_some_and(|pool| pool.backend.is_shared());
                let whole = matches!(copy.stage, Stage::Ready(_));
                image::removable(uid, (shared, whole), images, vms.iter().copied(), volumes)
            });
            gone.map(|(uid, copy)| (uid.clone(), copy.pool.clone())).collect()
        });
        let mut first = None;
        for (uid, pool) in gone {
            if let Some((_, task)) = self.running.values().find(|(running, _)| *running == uid) {
                // Its end brings this round again
                task.abort();
                continue;
            }
            if let Some(pool) = pool {
                info!(uid, "removing an image that nobody wants here");
                let removed = self.shared.machine.store.remove_image(&pool, &uid);
                if let Err(error) = limited(self.shared.config.timing.step, "remove an image", removed).await {
                    first.get_or_insert(error);
                    continue;
                }
            }
            self.shared.images.change(|copies| copies.remove(&uid));
        }
        first.map_or(Ok(()), Err)
    }

    fn next_retry(&self) -> Option<Instant> {
        self.shared.images.read(|copies| {
            let missing = copies.values().filter(|copy| matches!(copy.stage, Stage::Missing));
            missing.filter_map(|copy| copy.failure.as_ref()?.retry).min()
        })
    }
}

/// Imports an image, and tells how far it is.
async fn import(shared: Arc<Shared>, turns: Arc<Semaphore>, request: ImageRequest) -> Result<StoredImage, HostError> {
    let closed = |_| HostError::retryable("Interrupted", "the agent ends");
    let _turn = turns.acquire().await.map_err(closed)?;
    let limit = shared.config.timing.step;
    let store = &shared.machine.store;
    if let Some(stored) = limited(limit, "read an image", store.image(&request.pool, &request.uid)).await? {
        if request.checksum.as_ref().is_none_or(|pinned| *pinned == stored.sha256) {
            return Ok(stored);
        }
        limited(limit, "remove an image", store.remove_image(&request.pool, &request.uid)).await?;
    }
    let (percent, mut progress) = watch::channel(0);
    let follow = async {
        while progress.changed().await.is_ok() {
            let now = *progress.borrow_and_update();
            let news = shared.images.read(|copies| {
                let stage = copies.get(&request.uid).map(|copy| &copy.stage);
                matches!(stage, Some(Stage::Importing(before)) if now >= before.saturating_add(STEP))
            });
            if news {
                shared.images.change(|copies| {
                    if let Some(copy) = copies.get_mut(&request.uid) {
                        copy.stage = Stage::Importing(now);
                        copy.failure = None;
                    }
                });
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = store.import_image(&request, &percent) => result,
        () = follow => Err(HostError::retryable("Interrupted", "the import was interrupted")),
    }
}
