//! Which images a host keeps: those of its VMs' disks, and those that it imports first for all hosts.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use ucloud_types::{Image, StoragePool, VM, Volume, condition};

use crate::{
    block_store::{ImageRequest, Pool, PoolBackend, RbdPool, StoredImage},
    reason,
    vm::Blocker,
};

/// The host's copy of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalImage {
    /// It has none.
    Absent,
    /// It is being imported.
    Importing {
        /// How far the import is, from 0 to 100.
        percent: u8,
    },
    /// It is complete.
    Ready(StoredImage),
    /// It could not be imported.
    Failed {
        /// A word for programs.
        reason: &'static str,
        /// What failed, and what to do.
        message: String,
    },
}

/// A pool as the host needs to know it. None for a StoragePool that did not come from an API server, or that is of a kind
/// which this agent does not know.
pub fn pool(pool: &StoragePool) -> Option<Pool> {
    let backend = match (&pool.spec.directory, &pool.spec.rbd) {
        (Some(directory), _) => PoolBackend::Directory { path: PathBuf::from(&directory.path) },
        (None, Some(rbd)) => PoolBackend::Rbd(RbdPool {
            pool: rbd.pool.clone(),
            user: rbd.effective_user().to_owned(),
            conf: PathBuf::from(rbd.effective_conf()),
        }),
        (None, None) => return None,
    };
    Some(Pool { name: pool.metadata.name.clone()?, backend })
}

/// The VMs, as `namespace/name`, whose disks are or will be clones of this image, or are about to be restored from it. Of `volumes`, which are all, those count
/// that have yet to be made.
pub fn users<'a>(image: &Image, vms: impl IntoIterator<Item = &'a VM>, volumes: &[Arc<Volume>]) -> Vec<String> {
    let (Some(namespace), Some(name)) = (image.metadata.namespace.as_deref(), image.metadata.name.as_deref()) else {
        return Vec::new();
    };
    let users: BTreeSet<_> = vms
        .into_iter()
        .filter_map(|vm| {
            let vm_namespace = vm.metadata.namespace.as_deref()?;
            let restores = image.metadata.uid.as_deref().is_some_and(|uid| vm.awaits_image(uid));
            let uses = restores
                || vm.spec.disks.iter().any(|disk| {
                    disk.is_clone_of(vm_namespace, (namespace, name))
                        || disk.volume.as_ref().is_some_and(|wanted| {
                            volumes.iter().any(|volume| {
                                (volume.metadata.namespace.as_deref(), &volume.metadata.name)
                                    == (Some(vm_namespace), &Some(wanted.clone()))
                                    && volume.status.as_ref().is_none_or(|status| status.size.is_none())
                                    && volume.image().is_some_and(|i| i.resolve(vm_namespace) == (namespace, name))
                            })
                        })
                });
            uses.then(|| format!("{vm_namespace}/{}", vm.metadata.name.as_deref().unwrap_or_default()))
        })
        .collect();
    users.into_iter().collect()
}

/// What this host should import of `image`, if anything: None if it has no use for it, or must wait until the
/// image's checksum is known; an error if the pool is missing.
///
/// The first copy decides what the image is. Until its checksum is known, no other host may fetch one of its own,
/// which could differ. In a pool that all hosts share there is one copy, and the others wait until it is complete.
pub fn wanted(
    image: &Image,
    pools: &[&StoragePool],
    used_here: bool,
    host: &str,
) -> Result<Option<ImageRequest>, Blocker> {
    let name = image.spec.effective_pool();
    let found = pools.iter().find(|pool| pool.metadata.name.as_deref() == Some(name));
    let status = image.status.as_ref();
    let known = status.and_then(|status| status.sha256.as_ref());
    let pinned = known.or(image.spec.checksum.as_ref());
    let importer = status.and_then(|status| status.importer.as_deref()) == Some(host);
    let shared = found.is_some_and(|pool| pool.spec.is_shared());
    if image.spec.source.snapshot.is_some() && !(shared && known.is_some()) {
        // Whoever takes the snapshot has it, and nobody else can come to have it
        return match status.and_then(|status| status.importer.as_deref()).filter(|_| used_here && !importer) {
            Some(elsewhere) if !shared => Err(Blocker::new(
                reason::IMAGE_NOT_READY,
                format!("an image of a snapshot in StoragePool {name} is on host {elsewhere} alone"),
            )),
            _ => Ok(None),
        };
    }
    let may_follow = if shared { known.is_some() } else { pinned.is_some() };
    let wanted = importer || (used_here && may_follow);
    if !wanted || image.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let Some(pool) = found.and_then(|found| pool(found)) else {
        return Err(Blocker::new(
            reason::STORAGE_POOL_NOT_FOUND,
            format!("the image is to be kept in StoragePool {name}, which does not exist: create it"),
        ));
    };
    let metadata = &image.metadata;
    let (Some(uid), Some(namespace), Some(name)) = (&metadata.uid, &metadata.namespace, &metadata.name) else {
        return Ok(None);
    };
    Ok(Some(ImageRequest {
        uid: uid.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        pool,
        source: image.spec.source.clone(),
        format: image.spec.format,
        compression: image.spec.compression,
        checksum: pinned.cloned(),
    }))
}

/// Whether the host's copy of the image with this UID may go: nobody wants it here any more.
///
/// `images` and `vms` must be complete. An empty list proves nothing by itself: an Image goes through its deletion
/// while a host keeps a copy, so that the last one is seen to be deleted.
///
/// What is in a pool that is `shared` is the other hosts' too, whose VMs this host does not see. It goes when the image
/// controller has found that no VM uses the image.
///
/// A copy of an unknown image that is `whole` is an orphan: it may be the only one, and the list of images wrong.
pub fn removable<'a>(
    uid: &str,
    (shared, whole): (bool, bool),
    images: &[&Image],
    vms: impl IntoIterator<Item = &'a VM>,
    volumes: &[Arc<Volume>],
) -> bool {
    match images.iter().find(|image| image.metadata.uid.as_deref() == Some(uid)) {
        Some(image) => {
            let deleted = image.metadata.deletion_timestamp.is_some();
            deleted && users(image, vms, volumes).is_empty() && (!shared || is_used_by_no_vm(image))
        }
        None => !shared && !whole && !images.is_empty(),
    }
}

fn is_used_by_no_vm(image: &Image) -> bool {
    let conditions = image.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|c| c.type_ == condition::TERMINATING && c.reason == condition::COPIES_REMAIN)
}

#[cfg(test)]
mod tests {
    use ucloud_types::condition::Time;

    use super::*;

    fn image(status: &serde_json::Value) -> Image {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image",
            "metadata": {"name": "alpine", "namespace": "images", "uid": "image-uid"},
            "spec": {"source": {"file": {"name": "alpine.qcow2"}}, "format": "qcow2"},
            "status": status
        }))
        .unwrap()
    }

    fn storage() -> StoragePool {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "StoragePool",
            "metadata": {"name": "default"}, "spec": {"directory": {"path": "/pool"}}
        }))
        .unwrap()
    }

    fn user(image: &str) -> VM {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"cpus": 1, "memory": "1Gi", "disks": [{"name": "root", "image": image}]}
        }))
        .unwrap()
    }

    fn deleted(mut image: Image) -> Image {
        image.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        image
    }

    const SUM: &str = "sha256:0707070707070707070707070707070707070707070707070707070707070707";

    #[test]
    fn the_first_copy_is_the_importers_and_the_others_wait_for_its_checksum() {
        let storage = storage();
        let go = |image: &Image, used, host| wanted(image, &[&storage], used, host).unwrap();
        let first = image(&serde_json::json!({"importer": "host-1"}));
        assert!(go(&first, false, "host-1").is_some());
        assert!(go(&first, true, "host-2").is_none(), "its copy could differ");
        let pinned = image(&serde_json::json!({"importer": "host-1", "sha256": SUM}));
        assert_eq!(go(&pinned, true, "host-2").unwrap().checksum.unwrap().to_string(), SUM);
        assert!(go(&pinned, false, "host-2").is_none(), "no VM needs it");
        assert!(go(&deleted(pinned), true, "host-1").is_none());
    }

    #[test]
    fn in_a_pool_that_all_hosts_share_one_imports() {
        let mut storage = storage();
        storage.spec = serde_json::from_value(serde_json::json!({"rbd": {"pool": "vms"}})).unwrap();
        let mut image = image(&serde_json::json!({"importer": "host-1"}));
        image.spec.checksum = SUM.to_owned().try_into().ok();
        let go = |image: &Image, host| wanted(image, &[&storage], true, host).unwrap();
        assert!(go(&image, "host-1").is_some());
        assert!(go(&image, "host-2").is_none(), "though it could check what it fetches");
        image.status.as_mut().unwrap().sha256 = image.spec.checksum.clone();
        assert!(go(&image, "host-2").is_some(), "it looks into the pool, and finds it");
    }

    #[test]
    fn a_missing_pool_is_named() {
        let image = image(&serde_json::json!({"importer": "host-1"}));
        assert_eq!(wanted(&image, &[], false, "host-1").unwrap_err().reason, reason::STORAGE_POOL_NOT_FOUND);
    }

    #[test]
    fn a_copy_goes_when_its_image_does_and_no_vm_uses_it() {
        let live = image(&serde_json::json!({}));
        let dying = deleted(live.clone());
        let (user, other) = (user("images/alpine"), user("alpine"));
        let own = |uid, images: &[&Image], vms: &[&VM]| removable(uid, (false, true), images, vms.iter().copied(), &[]);
        assert!(!own("image-uid", &[&live], &[]));
        assert!(own("image-uid", &[&dying], &[&other]), "an image of that name in another namespace");
        assert!(!own("image-uid", &[&dying], &[&user]));
        assert_eq!(users(&dying, [&user, &other], &[]), ["default/web"]);
        assert!(!own("unknown-uid", &[&live], &[&user]), "an orphan");
        let begun = |images: &[&Image]| removable("unknown-uid", (false, false), images, [], &[]);
        assert!(begun(&[&live]) && !begun(&[]), "an empty list proves nothing");
    }

    #[test]
    fn what_all_hosts_share_goes_when_the_controller_has_seen_that_no_vm_uses_it() {
        let live = image(&serde_json::json!({}));
        let terminating = |reason: &str| {
            let condition = serde_json::json!({"type": "Terminating", "status": "True", "reason": reason, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"});
            deleted(image(&serde_json::json!({"conditions": [condition]})))
        };
        let shared = |uid, image: &Image| removable(uid, (true, true), &[image], [], &[]);
        assert!(!shared("image-uid", &live) && !shared("image-uid", &deleted(live.clone())));
        assert!(!shared("image-uid", &terminating("InUse")), "a VM of another host uses it");
        assert!(shared("image-uid", &terminating("CopiesRemain")));
        assert!(!shared("unknown-uid", &live), "another host may have made it just now");
    }
}
