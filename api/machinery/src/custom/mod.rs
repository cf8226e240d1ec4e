//! Kinds at run time: every server follows the CustomResourceDefinitions through its own cache and serves what they define.
//!
//! One task looks at all definitions whenever one of them has changed, decides (`names`, `versions`), lets the cache
//! hold the kinds and serves them, and says so in the definitions' status (`status`). Kinds that go are emptied by
//! `cleanup`. Servers agree without talking to each other: what they decide depends on the definitions alone, and what
//! they write is what any of them would write.

mod cleanup;
mod names;
mod scale;
mod status;
#[cfg(test)]
mod tests;
mod versions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames,
};
use serde_json::Value;
use tokio::task::{AbortHandle, JoinSet};

use self::names::Verdict;
use self::versions::CustomKind;
use crate::as_server::AsServer;
use crate::cache::{Object, WatchEnd};
use crate::meta;
use crate::registry::{
    DEFINITIONS, DEFINITIONS_GROUP, Edit, Part, Resource, decode_cached, kind_configs, storage_prefix,
};
use crate::rest::Api;
use crate::status::{ApiError, Reason};
use crate::storage::{Revision, StorageError};

pub(crate) use status::set_condition;

/// Holds a definition until the last object of its kind is gone.
pub(crate) const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A definition as it is stored.
#[derive(Debug)]
struct Crd {
    object: Value,
    typed: CustomResourceDefinition,
}

impl Crd {
    fn read(object: &Object) -> Result<Self, ApiError> {
        let object = decode_cached(object)?;
        let typed = serde_json::from_value(object.clone()).map_err(ApiError::internal)?;
        Ok(Self { object, typed })
    }

    fn name(&self) -> &str {
        meta::text(&self.object, "name")
    }

    fn uid(&self) -> &str {
        meta::text(&self.object, "uid")
    }

    fn created(&self) -> &str {
        meta::text(&self.object, "creationTimestamp")
    }

    fn prefix(&self) -> String {
        cleanup::prefix(self)
    }
}

/// A definition's kind as it is served.
struct Held {
    /// What it was built from.
    uid: String,
    spec: Value,
    names: CustomResourceDefinitionNames,
    kind: CustomKind,
}

impl Held {
    fn is_built_from(&self, crd: &Crd, names: &CustomResourceDefinitionNames) -> bool {
        self.uid == crd.uid() && self.names == *names && Some(&self.spec) == crd.object.get("spec")
    }
}

/// Serves what the definitions define until the cache is shut down.
pub(crate) async fn run(api: Arc<Api>) {
    let Some(definitions) = api.store.cache.kind(&storage_prefix(DEFINITIONS_GROUP, DEFINITIONS)) else { return };
    while api.store.cache.wait_for(Revision(1)).await.is_err() {}
    let backoff = || ExponentialBuilder::default().with_max_delay(PAUSE_MAX).with_jitter().without_max_times().build();
    let (mut manager, mut pauses) = (Manager::new(api.clone()), backoff());
    loop {
        let (revision, objects) = definitions.list(None);
        let Ok(mut changes) = definitions.watch(None, revision) else { continue };
        let done = manager.follow(&objects, revision).await;
        let pause = match done {
            Ok(()) => {
                pauses = backoff();
                None
            }
            Err(error) => {
                let pause = pauses.next().unwrap_or(PAUSE_MAX);
                tracing::warn!(%error, "cannot serve or report all defined kinds, trying again in {pause:?}");
                Some(pause)
            }
        };
        tokio::select! {
            changed = changes.next() => if matches!(changed, Err(WatchEnd::Closed)) { return },
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

struct Manager {
    api: Arc<Api>,
    /// By the prefix of its objects.
    held: BTreeMap<String, Held>,
    /// By the UID of the definition.
    cleanups: BTreeMap<String, AbortHandle>,
    tasks: JoinSet<()>,
}

impl Manager {
    fn new(api: Arc<Api>) -> Self {
        Self { api, held: BTreeMap::new(), cleanups: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Brings what is served in line with all definitions, as of `revision`, and reports. The error is the last one of
    /// several; what can be done is done.
    async fn follow(&mut self, objects: &[Arc<Object>], revision: Revision) -> Result<(), ApiError> {
        // the objects of a kind that is gone went before it: whoever watches them hears of that first
        let come_so_far = self.api.store.cache.wait_for(revision).await;
        come_so_far.map_err(|stale| ApiError::unavailable(stale.to_string()))?;
        let mut crds = Vec::new();
        for object in objects {
            match Crd::read(object) {
                Ok(crd) => crds.push(crd),
                Err(error) => tracing::error!(definition = object.name(), %error, "a definition cannot be read"),
            }
        }
        let verdicts = names::judge(&crds, self.api.kinds.built_in());
        self.serve(&crds, &verdicts).await.map_err(|error| ApiError::unavailable(error.to_string()))?;
        self.api.kinds.loaded_to(revision);

        let mut outcome = Ok(());
        while self.tasks.try_join_next().is_some() {}
        self.cleanups.retain(|_, task| !task.is_finished());
        for (crd, verdict) in crds.into_iter().zip(verdicts) {
            let held = self.held.get(&crd.prefix()).filter(|held| held.uid == crd.uid());
            if let Err(error) = report(&self.api, &crd, &verdict, held.is_some()).await {
                outcome = Err(error);
            }
            let resource = held.and_then(|held| held.kind.resources.first()).cloned();
            self.clean_up(crd, resource);
        }
        outcome
    }

    /// Lets the cache hold, and the server serve, what is accepted; and nothing else.
    async fn serve(&mut self, crds: &[Crd], verdicts: &[Verdict]) -> Result<(), StorageError> {
        let mut wanted = BTreeMap::new();
        for (crd, verdict) in crds.iter().zip(verdicts) {
            let established = status::holds(&crd.object, "Established");
            if (verdict.conflict.is_none() || established) && !self.is_built_in(crd) {
                wanted.insert(crd.prefix(), (crd, verdict));
            }
        }
        let gone: Vec<String> = self
            .held
            .iter()
            .filter(|(prefix, held)| wanted.get(*prefix).is_none_or(|(crd, _)| crd.uid() != held.uid))
            .map(|(prefix, _)| prefix.clone())
            .collect();
        if !gone.is_empty() {
            for prefix in &gone {
                self.held.remove(prefix);
            }
            self.publish();
            for prefix in &gone {
                self.api.store.cache.remove(prefix);
            }
        }
        let (mut outcome, mut any_is_new) = (Ok(()), false);
        for (prefix, (crd, verdict)) in wanted {
            match self.hold(prefix, crd, &verdict.accepted).await {
                Ok(is_new) => any_is_new |= is_new,
                Err(error) => outcome = Err(error),
            }
        }
        // what is derived from the set lives as long as the set
        if any_is_new {
            self.publish();
        }
        outcome
    }

    /// Answers whether the kind, or its form, is new.
    async fn hold(
        &mut self,
        prefix: String,
        crd: &Crd,
        names: &CustomResourceDefinitionNames,
    ) -> Result<bool, StorageError> {
        let held = self.held.get(&prefix);
        if held.is_some_and(|held| held.is_built_from(crd, names)) {
            return Ok(false);
        }
        let kind = match versions::build(crd, names) {
            Ok(kind) => kind,
            Err(error) => {
                // it was validated when it was written, by this server's rules or by those of another version of it
                let error = &error as &dyn std::error::Error;
                tracing::error!(definition = crd.name(), error, "a kind cannot be served as it is defined");
                return Ok(false);
            }
        };
        if held.is_none_or(|held| held.kind.shape != kind.shape) {
            for config in kind_configs(kind.resources.iter().map(|resource| &**resource)) {
                self.api.store.cache.add(config).await?;
            }
        }
        let spec = crd.object.get("spec").cloned().unwrap_or_default();
        self.held.insert(prefix, Held { uid: crd.uid().to_owned(), spec, names: names.clone(), kind });
        Ok(true)
    }

    fn publish(&self) {
        self.api.kinds.replace(self.held.values().flat_map(|held| &held.kind.resources).cloned());
    }

    fn is_built_in(&self, crd: &Crd) -> bool {
        let prefix = crd.prefix();
        self.api.kinds.built_in().iter().any(|resource| resource.prefix() == prefix)
    }

    /// Begins to delete the objects of a definition that goes.
    fn clean_up(&mut self, crd: Crd, resource: Option<Arc<Resource>>) {
        let going = meta::is_terminating(&crd.object) && meta::finalizers(&crd.object).contains(&CLEANUP_FINALIZER);
        if !going || self.cleanups.contains_key(crd.uid()) || self.is_built_in(&crd) {
            return;
        }
        let uid = crd.uid().to_owned();
        let task = self.tasks.spawn(cleanup::run(self.api.clone(), Arc::new(crd), resource));
        self.cleanups.insert(uid, task);
    }
}

/// Writes what is decided into a definition's status, if it is news.
async fn report(api: &Api, crd: &Crd, verdict: &Verdict, is_served: bool) -> Result<(), ApiError> {
    let now = Timestamp::now();
    let mut told = crd.object.clone();
    status::tell(&mut told, verdict, is_served, now);
    if told == crd.object {
        return Ok(());
    }
    match change_definition(api, crd, &mut |object| status::tell(object, verdict, is_served, now)).await {
        Err(error) if error.reason() == Reason::NotFound => Ok(()),
        other => other,
    }
}

/// Changes a definition, if it still is the same one.
async fn change_definition(api: &Api, crd: &Crd, change: &mut (dyn FnMut(&mut Value) + Send)) -> Result<(), ApiError> {
    let Some(resource) = api.kinds.built_in().get(DEFINITIONS_GROUP, "v1", DEFINITIONS) else {
        return Err(ApiError::internal("definitions are not served"));
    };
    let server = AsServer::default();
    let write = server.write(&api.store, resource, "update", "status", "");
    let mut derive = |old: &Value| {
        if meta::text(old, "uid") != crd.uid() {
            return Err(ApiError::not_found(DEFINITIONS_GROUP, DEFINITIONS, crd.name()));
        }
        let mut object = old.clone();
        change(&mut object);
        Ok(object)
    };
    write.update(crd.name(), Part::Whole, Edit::Derive(&mut derive)).await?;
    Ok(())
}
