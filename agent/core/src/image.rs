//! Which images a host keeps: those of its VMs' disks, and those that it imports first for all hosts.

use std::{collections::BTreeSet, path::PathBuf};

use ucloud_types::{Image, StoragePool, VM};

use crate::{
    block_store::{ImageRequest, Pool, PoolBackend, StoredImage},
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

/// A pool as the host needs to know it. None for a StoragePool that did not come from an API server.
pub fn pool(pool: &StoragePool) -> Option<Pool> {
    Some(Pool {
        name: pool.metadata.name.clone()?,
        backend: PoolBackend::Directory { path: PathBuf::from(&pool.spec.directory.path) },
    })
}

/// The VMs, as `namespace/name`, whose disks are or will be clones of this image.
pub fn users<'a>(image: &Image, vms: impl IntoIterator<Item = &'a VM>) -> Vec<String> {
    let (Some(namespace), Some(name)) = (image.metadata.namespace.as_deref(), image.metadata.name.as_deref()) else {
        return Vec::new();
    };
    let users: BTreeSet<_> = vms
        .into_iter()
        .filter_map(|vm| {
            let vm_namespace = vm.metadata.namespace.as_deref()?;
            let uses = vm.spec.disks.iter().any(|disk| disk.image.resolve(vm_namespace) == (namespace, name));
            uses.then(|| format!("{vm_namespace}/{}", vm.metadata.name.as_deref().unwrap_or_default()))
        })
        .collect();
    users.into_iter().collect()
}

/// What this host should import of `image`, if anything: None if it has no use for it, or must wait until the
/// image's checksum is known; an error if the pool is missing.
///
/// The first copy decides what the image is. Until its checksum is known, no other host may fetch one of its own,
/// which could differ.
pub fn wanted(
    image: &Image,
    pools: &[&StoragePool],
    used_here: bool,
    host: &str,
) -> Result<Option<ImageRequest>, Blocker> {
    let status = image.status.as_ref();
    let pinned = status.and_then(|status| status.sha256.as_ref()).or(image.spec.checksum.as_ref());
    let importer = status.and_then(|status| status.importer.as_deref()) == Some(host);
    let wanted = importer || (used_here && pinned.is_some());
    if !wanted || image.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let name = image.spec.effective_pool();
    let Some(pool) = pools.iter().find(|pool| pool.metadata.name.as_deref() == Some(name)).and_then(|p| pool(p)) else {
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
        checksum: pinned.cloned(),
    }))
}

/// Whether the host's copy of the image with this UID may go: nobody wants it here any more.
///
/// `images` and `vms` must be complete. An empty list proves nothing by itself: an Image goes through its deletion
/// while a host keeps a copy, so that the last one is seen to be deleted.
pub fn removable<'a>(uid: &str, images: &[&Image], vms: impl IntoIterator<Item = &'a VM>) -> bool {
    match images.iter().find(|image| image.metadata.uid.as_deref() == Some(uid)) {
        Some(image) => image.metadata.deletion_timestamp.is_some() && users(image, vms).is_empty(),
        None => !images.is_empty(),
    }
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
    fn a_missing_pool_is_named() {
        let image = image(&serde_json::json!({"importer": "host-1"}));
        assert_eq!(wanted(&image, &[], false, "host-1").unwrap_err().reason, reason::STORAGE_POOL_NOT_FOUND);
    }

    #[test]
    fn a_copy_goes_when_its_image_does_and_no_vm_uses_it() {
        let live = image(&serde_json::json!({}));
        let dying = deleted(live.clone());
        let (user, other) = (user("images/alpine"), user("alpine"));
        assert!(!removable("image-uid", &[&live], []));
        assert!(removable("image-uid", &[&dying], [&other]), "an image of that name in another namespace");
        assert!(!removable("image-uid", &[&dying], [&user]));
        assert_eq!(users(&dying, [&user, &other]), ["default/web"]);
        assert!(removable("unknown-uid", &[&live], [&user]));
        assert!(!removable("image-uid", &[], []), "an empty list proves nothing");
    }
}
