//! Finds what belongs to nobody: looks, asks whose it is, and looks again.
//!
//! What belongs to an object that goes is removed before the object. So what is there, then belongs to nobody, and is there still,
//! belongs to nobody: it was not only seen while it went. And an object is there before anything is made for it.

use std::collections::{BTreeMap, BTreeSet};

use tracing::warn;
use ucloud_agent_core::{
    HostError,
    block_store::{DiskId, Pool},
    image,
    orphan::{self, Looked, Place, is_name},
};
use ucloud_types::{
    Quantity,
    orphan::{HostOrphan, OrphanKind},
};

use crate::{limit::limited, shared::Shared};

/// What there is in each place, as if all of it belonged to nobody.
type Found = BTreeMap<Place, Result<Vec<HostOrphan>, HostError>>;

/// Looks at the host, and into the pools that it looks after.
pub async fn look(shared: &Shared) -> Looked {
    let pools = pools(shared);
    let mut first = Found::from([(None, domains(shared).await)]);
    for pool in &pools {
        first.insert(Some(pool.name.clone()), contents(shared, pool).await);
    }
    // What is wanted is read after what is there: what came in between belongs to somebody
    let known = known(shared);
    let strange = |found: &HostOrphan| !known.contains(&found.uid);
    let unexplained: BTreeSet<_> =
        first.values().flatten().flatten().filter(|found| strange(found)).map(|found| found.uid.clone()).collect();
    let missing = if unexplained.is_empty() {
        Ok(Vec::new())
    } else {
        shared.api.missing_owners(&shared.config.host, unexplained.into_iter().collect()).await
    };
    let missing: Option<BTreeSet<String>> = match missing {
        Ok(missing) => Some(missing.into_iter().collect()),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "cannot ask whose things on the host are");
            None
        }
    };
    let mut looked = Looked::new();
    for (place, found) in first {
        let found = match (found, &missing) {
            (Ok(found), _) if !found.iter().any(strange) => Some(Vec::new()),
            (Ok(found), Some(missing)) if !found.iter().any(|found| missing.contains(&found.uid)) => Some(Vec::new()),
            (Ok(_), Some(missing)) => again(shared, &pools, &place, missing).await.ok(),
            (Ok(_), None) | (Err(_), _) => None,
        };
        looked.insert(place, found);
    }
    describe(shared, &pools, &mut looked).await;
    looked
}

/// Those of a place that are there still.
async fn again(
    shared: &Shared,
    pools: &[Pool],
    place: &Place,
    missing: &BTreeSet<String>,
) -> Result<Vec<HostOrphan>, HostError> {
    let pool = pools.iter().find(|pool| place.as_ref() == Some(&pool.name));
    let mut found = match pool {
        Some(pool) => contents(shared, pool).await?,
        None => domains(shared).await?,
    };
    found.retain(|found| missing.contains(&found.uid));
    Ok(found)
}

/// The pools in which this host looks.
fn pools(shared: &Shared) -> Vec<Pool> {
    let all = shared.caches.pools.all();
    let own = all.iter().filter(|pool| orphan::is_surveyor(pool, &shared.config.host));
    own.filter_map(|pool| image::pool(pool)).collect()
}

async fn domains(shared: &Shared) -> Result<Vec<HostOrphan>, HostError> {
    let domains = shared.machine.hypervisor.domains();
    let domains = limited(shared.config.timing.step, "list its domains", domains).await?;
    Ok(domains.iter().filter(|domain| is_name(&domain.spec.uid)).map(orphan::of_domain).collect())
}

async fn contents(shared: &Shared, pool: &Pool) -> Result<Vec<HostOrphan>, HostError> {
    let (limit, machine) = (shared.config.timing.step, &shared.machine);
    let disks = limited(limit, "list its disks", machine.store.disks(pool)).await?;
    let images = limited(limit, "list its images", machine.store.images(pool)).await?;
    let files = limited(limit, "list its files", machine.files.files(pool)).await?;
    let ours = |disk: &&DiskId| is_name(&disk.owner_uid) && is_name(&disk.name);
    let mut all: Vec<_> = disks.iter().filter(ours).map(|disk| orphan::of_disk(&pool.name, disk)).collect();
    let of = |kind| move |uid: &String| orphan::in_pool(kind, &pool.name, uid);
    all.extend(images.iter().filter(|uid| is_name(uid)).map(of(OrphanKind::Image)));
    all.extend(files.keys().filter(|uid| is_name(uid)).map(of(OrphanKind::File)));
    Ok(all)
}

/// The UIDs of the objects that this host knows of.
fn known(shared: &Shared) -> BTreeSet<String> {
    let caches = &shared.caches;
    let vms = caches.vms.all().into_iter().filter_map(|vm| vm.metadata.uid.clone()).collect::<Vec<_>>();
    let volumes = caches.volumes.all().into_iter().filter_map(|volume| volume.metadata.uid.clone()).collect::<Vec<_>>();
    let images = caches.images.all().into_iter().filter_map(|image| image.metadata.uid.clone()).collect::<Vec<_>>();
    let files = caches.files.all().into_iter().filter_map(|file| file.metadata.uid.clone()).collect::<Vec<_>>();
    [vms, volumes, images, files].into_iter().flatten().collect()
}

/// Adds what else can be said: sizes, and where the disks of a domain come from.
async fn describe(shared: &Shared, pools: &[Pool], looked: &mut Looked) {
    let host = shared.caches.host.get(None, &shared.config.host);
    let current = host.and_then(|host| Some(host.status.as_ref()?.orphans.clone())).unwrap_or_default();
    let domains: Vec<_> = looked.get(&None).into_iter().flatten().flatten().cloned().collect();
    // of those alone that are reported
    let reported = orphan::report(&current, looked);
    for found in looked.values_mut().flatten().flatten() {
        let domain = domains.iter().find(|domain| domain.uid == found.uid);
        found.origin = domain.and_then(|domain| domain.origin.clone());
        if found.size.is_none() && reported.iter().any(|reported| reported.is(found)) {
            found.size = match orphan::known_size(&current, found) {
                Some(size) => Some(size),
                None => measure(shared, pools, found).await.unwrap_or_default(),
            };
        }
    }
}

async fn measure(shared: &Shared, pools: &[Pool], found: &HostOrphan) -> Result<Option<Quantity>, HostError> {
    let Some(pool) = pools.iter().find(|pool| Some(&pool.name) == found.pool.as_ref()) else { return Ok(None) };
    let (limit, machine) = (shared.config.timing.step, &shared.machine);
    match (orphan::disk_id(found), found.kind) {
        (Some(disk), _) => limited(limit, "measure a disk", machine.store.disk_size(pool, &disk)).await,
        (None, OrphanKind::Image) => {
            let image = limited(limit, "read an image", machine.store.image(pool, &found.uid)).await?;
            Ok(image.map(|image| image.virtual_size))
        }
        (None, OrphanKind::File) => limited(limit, "measure a file", machine.files.size(pool, &found.uid)).await,
        (None, OrphanKind::Domain | OrphanKind::Disk) => Ok(None),
    }
}
