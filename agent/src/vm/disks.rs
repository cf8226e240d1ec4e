//! What is known of the disks that a VM wants: what keeps them from being there, and how large they are.

use std::sync::Arc;

use ucloud_agent_core::{
    image::LocalImage,
    vm::{Blocker, Desired, DiskInput, DiskState, Facts, FoundDisk, Memory, WantedDisk, WantedSource, disk_blockers},
};
use ucloud_types::{Image, Quantity, StoragePool, Volume};

use crate::shared::Shared;

struct Known {
    exists: bool,
    volume: Option<Arc<Volume>>,
    pool: Option<Arc<StoragePool>>,
    image: Option<Arc<Image>>,
    local: LocalImage,
    state: DiskState,
}

/// For each wanted disk, in order, why it cannot be there now, and what it is. `found` are the disks and Volumes that are there.
pub fn look(
    shared: &Shared,
    desired: &Desired,
    found: &[FoundDisk],
    memory: &Memory,
    facts: &mut Facts,
) -> (Vec<Option<Blocker>>, Vec<DiskState>) {
    let known: Vec<_> =
        desired.disks.iter().map(|wanted| know(shared, desired, wanted, found, memory, facts)).collect();
    let inputs: Vec<_> = known
        .iter()
        .map(|known| DiskInput {
            exists: known.exists,
            volume: known.volume.as_deref(),
            pool: known.pool.as_deref(),
            image: known.image.as_deref(),
            local: &known.local,
        })
        .collect();
    (disk_blockers(desired, &inputs), known.iter().map(|known| known.state).collect())
}

fn know(
    shared: &Shared,
    desired: &Desired,
    wanted: &WantedDisk,
    found: &[FoundDisk],
    memory: &Memory,
    facts: &mut Facts,
) -> Known {
    let there = |owner: &str, pool: &str, name: Option<&String>| {
        let is_it = |disk: &&FoundDisk| disk.id.owner_uid == owner && name.is_none_or(|name| disk.id.name == *name);
        found.iter().filter(is_it).any(|disk| disk.pool.name == pool)
    };
    let grown = memory.grown.get(&wanted.name).copied();
    let caches = &shared.caches;
    let local = |image: Option<&Arc<Image>>| {
        let uid = image.and_then(|image| image.metadata.uid.clone()).unwrap_or_default();
        shared.images.local(&uid)
    };
    match &wanted.source {
        WantedSource::Clone { namespace, image, pool, size, limits } => {
            let image = caches.images.get(Some(namespace), image);
            let virtual_size = image.as_ref().and_then(|image| image.status.as_ref()?.virtual_size);
            facts.image_sizes.extend(virtual_size.map(|size| (wanted.name.clone(), size)));
            let reported = desired.reported_disks.iter().find(|disk| disk.name == wanted.name && disk.volume.is_none());
            Known {
                exists: there(&desired.uid, pool, Some(&wanted.name)),
                volume: None,
                pool: caches.pools.get(None, pool),
                local: local(image.as_ref()),
                image,
                state: DiskState {
                    size: reported.map(|disk| disk.size).max(grown),
                    wanted_size: size.map(whole_sectors),
                    wanted_limits: Some(*limits),
                },
            }
        }
        WantedSource::Volume(name) => {
            let volume = shared.volumes.get(shared, &desired.namespace, name);
            let pool = volume.as_ref().map(|volume| volume.spec.effective_pool().to_owned());
            facts.volume_pools.extend(pool.iter().map(|pool| (wanted.name.clone(), pool.clone())));
            let image = volume.as_ref().and_then(|volume| {
                let source = volume.image()?;
                let (namespace, name) = source.resolve(&desired.namespace);
                caches.images.get(Some(namespace), name)
            });
            let is = volume.as_ref().and_then(|volume| volume.status.as_ref()?.size);
            let uid = volume.as_ref().and_then(|volume| volume.metadata.uid.clone()).unwrap_or_default();
            Known {
                exists: is.is_some() || pool.as_ref().is_some_and(|pool| there(&uid, pool, None)),
                pool: pool.and_then(|pool| caches.pools.get(None, &pool)),
                local: local(image.as_ref()),
                image,
                state: DiskState {
                    size: is.max(grown),
                    wanted_size: volume.as_ref().map(|volume| whole_sectors(volume.spec.size)),
                    wanted_limits: volume.as_ref().map(|volume| volume.spec.limits),
                },
                volume,
            }
        }
    }
}

/// Disks are made of whole sectors.
fn whole_sectors(size: Quantity) -> Quantity {
    Quantity::from_bytes(size.bytes().next_multiple_of(512))
}
