//! The namespace controller: empties a namespace that is being deleted, and lets it go when it is empty.
//!
//! Everything in it is deleted, of every kind that the server serves, Events last. Who holds a finalizer has its time; what
//! is left, and who holds it, stands in the namespace's conditions, as in Kubernetes.
//!
//! An object is deleted by its UID, and only if the namespace is read as being deleted *after* the object was listed: so it
//! was in this namespace, and not in a later one of the same name.

mod content;
mod plan;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{
    Client, Resource as _, ResourceExt as _,
    api::PostParams,
    core::Request,
    discovery::ApiResource,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{Image, Network, VM, Volume};

use crate::runtime::{
    Cache, Change, Controller, Failure, Kind, Limits, Reconciler, Runtime,
    cache::object_ref,
    is_deleting, objects,
    report::{Reports, Share},
    uid_of,
};
use content::{Part, discover};
use plan::Remains;

const NAME: &str = "namespace";
/// What keeps a namespace until it is empty.
const FINALIZER: &str = "kubernetes";
/// How long until a namespace with content is looked at again, if none of the kinds that are watched tells earlier: at
/// first, and at most. A look costs a list of every kind.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// What the controller reads: namespaces, and the kinds whose objects take their time to go.
#[derive(Clone)]
pub struct Caches {
    /// Namespaces.
    pub namespaces: Cache<Namespace>,
    /// VMs.
    pub vms: Cache<VM>,
    /// Networks.
    pub networks: Cache<Network>,
    /// Images.
    pub images: Cache<Image>,
    /// Volumes.
    pub volumes: Cache<Volume>,
}

/// Runs the controller for ever.
pub fn run(runtime: &Runtime, caches: &Caches) -> impl Future<Output = ()> + use<> {
    let controller = Controller::new(NAME, runtime, &caches.namespaces)
        .watch(&caches.vms, emptied(&caches.namespaces))
        .watch(&caches.networks, emptied(&caches.namespaces))
        .watch(&caches.images, emptied(&caches.namespaces))
        .watch(&caches.volumes, emptied(&caches.namespaces));
    let reconciler = Namespaces { client: runtime.client.clone(), reports: Reports::new(runtime, NAME, Share::Whole) };
    controller.run(reconciler, Limits { concurrency: 4, timeout: Duration::from_mins(2) })
}

/// The namespace of an object that has gone, if it is on its way out too.
fn emptied<K: Kind>(
    namespaces: &Cache<Namespace>,
) -> impl Fn(&Change<K>) -> Option<ObjectRef<Namespace>> + Send + Sync + use<K> {
    let namespaces = namespaces.clone();
    move |change| {
        let gone = change.old.as_ref().filter(|_| change.new.is_none())?;
        let name = gone.meta().namespace.as_deref()?;
        namespaces.get(None, name).filter(|namespace| is_deleting(&**namespace)).map(|_| object_ref(None, name))
    }
}

struct Namespaces {
    client: Client,
    reports: Reports,
}

impl Namespaces {
    /// The namespace as it is on the server, if it is still this one and being deleted.
    async fn still(&self, namespace: &Namespace) -> Result<Option<Namespace>, Failure> {
        let live: Option<Namespace> = objects::get(&self.client, None, &namespace.name_any()).await?;
        Ok(live.filter(|live| uid_of(live) == uid_of(namespace) && is_deleting(live)))
    }

    /// Deletes what is in the namespace and tells what is left, and the first failure. None if the namespace is not this one
    /// any more. What fails for one kind keeps none of the others.
    async fn empty(
        &self,
        namespace: &Namespace,
        resources: &[Arc<ApiResource>],
    ) -> Result<Option<(Namespace, Remains, Option<Failure>)>, Failure> {
        let name = namespace.name_any();
        for part in [Part::Objects, Part::Events] {
            let (items, mut failures) = content::list(&self.client, &name, resources, part).await;
            let Some(_) = self.still(namespace).await? else { return Ok(None) };
            failures.extend(content::delete(&self.client, &name, &items).await);
            let mut remains = Remains::default();
            if !items.is_empty() {
                let (left, unlisted) = content::list(&self.client, &name, resources, part).await;
                for item in left {
                    remains
                        .add(&content::name_of(&item.resource), item.object.finalizers.as_deref().unwrap_or_default());
                }
                failures.extend(unlisted);
            }
            for failure in &failures {
                remains.fail(failure.chain());
            }
            let Some(live) = self.still(namespace).await? else { return Ok(None) };
            if !remains.is_empty() || part == Part::Events {
                return Ok(Some((live, remains, failures.into_iter().next())));
            }
        }
        Ok(None)
    }

    /// Takes the finalizer away, by which the namespace goes.
    async fn finalize(&self, mut namespace: Namespace) -> Result<(), Failure> {
        let name = namespace.name_any();
        let doing = || format!("cannot finalize namespace {name}");
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let body = serde_json::to_vec(&namespace).map_err(|e| Failure::api(doing(), kube::Error::SerdeError(e)))?;
        let request = Request::new(Namespace::url_path(&(), None))
            .replace_subresource("finalize", &name, &PostParams::default(), body)
            .map_err(|error| Failure::api(doing(), kube::Error::BuildRequest(error)))?;
        match self.client.request_text(request).await {
            Ok(_) => Ok(()),
            Err(error) if crate::runtime::failure::is_not_found(&error) => Ok(()),
            Err(error) => Err(Failure::api(doing(), error)),
        }
    }
}

/// The pause before the next look. It grows with the time that the namespace has been waiting.
fn again(namespace: &Namespace, now: Timestamp) -> Duration {
    let since = namespace.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    (waited / 4).clamp(AGAIN.0, AGAIN.1)
}

fn is_held(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.iter().filter_map(|spec| spec.finalizers.as_ref()).flatten();
    finalizers.into_iter().any(|finalizer| finalizer == FINALIZER)
}

impl Reconciler for Namespaces {
    type Object = Namespace;

    async fn reconcile(&self, namespace: Arc<Namespace>) -> Result<Action, Failure> {
        if !is_deleting(&*namespace) || !is_held(&namespace) {
            return Ok(Action::await_change());
        }
        let resources = match discover(&self.client).await {
            Ok(resources) => resources,
            Err(failure) => {
                let status = plan::undiscovered(namespace.status.as_ref(), &failure.chain());
                self.reports.write_namespace(&namespace, &status).await?;
                return Err(failure);
            }
        };
        let Some((live, remains, failure)) = self.empty(&namespace, &resources).await? else {
            return Ok(Action::await_change());
        };
        if remains.is_empty() {
            self.finalize(live).await?;
            return Ok(Action::await_change());
        }
        self.reports.write_namespace(&live, &plan::status(live.status.as_ref(), &remains)).await?;
        failure.map_or_else(|| Ok(Action::requeue(again(&live, Timestamp::now()))), Err)
    }

    async fn report_failure(&self, namespace: Arc<Namespace>, _: &'static str, message: String) -> Result<(), Failure> {
        if !is_deleting(&*namespace) || plan::tells_of_failure(namespace.status.as_ref()) {
            return Ok(());
        }
        let status = plan::failed(namespace.status.as_ref(), message);
        self.reports.write_namespace(&namespace, &status).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn who_waits_long_is_asked_less_often() {
        let mut namespace = Namespace::default();
        namespace.metadata.deletion_timestamp = Timestamp::from_second(1000).ok().map(Time);
        let pause = |second| again(&namespace, Timestamp::from_second(second).unwrap()).as_secs();
        assert_eq!([900, 1000, 1008, 1100, 9000].map(pause), [2, 2, 2, 25, 60]);
    }
}
