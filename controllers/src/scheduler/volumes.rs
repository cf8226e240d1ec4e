//! Where Volumes, and images of snapshots, are, as far as that decides where VMs can go.
//!
//! A volume that was made in a pool that hosts do not share is on one host, and so are the VMs that have it. One that was not
//! made yet goes where its first VM goes, unless it is to be made of an image of a snapshot: in such a pool that is on one host,
//! too. All other images a host fetches itself.

use std::collections::{HashMap, HashSet};

use kube::ResourceExt as _;
use ucloud_types::{Image, StoragePool, Volume};

use super::claim::{Claim, Missing, WhyMissing};
use crate::runtime::{Change, is_deleting};

/// What decides of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    pool: String,
    host: Option<String>,
    /// What it is to be made of, by namespace and name.
    image: Option<(String, String)>,
    /// Whether that is the image of a snapshot, which may be yet to be taken.
    of_snapshot: bool,
    /// Whether it has yet to be made of an Orphan.
    unadopted: bool,
    deleting: bool,
}

/// All volumes, and the pools that all hosts see.
#[derive(Debug, Default)]
pub struct Volumes {
    /// By namespace and name.
    places: HashMap<(String, String), Place>,
    /// The pool and the host of images of snapshots, by namespace and name.
    images: HashMap<(String, String), (String, String)>,
    shared: HashSet<String>,
}

impl Volumes {
    /// Takes in a change of a volume. Tells its namespace and name if that matters to VMs.
    pub fn changed(&mut self, change: &Change<Volume>) -> Option<(String, String)> {
        let volume = change.object()?;
        let key = (volume.namespace().unwrap_or_default(), volume.name_any());
        let place = change.new.as_deref().map(|volume| Place {
            pool: volume.spec.effective_pool().to_owned(),
            host: volume.status.as_ref().and_then(|status| status.host.clone()),
            image: volume.image().map(|image| {
                let (namespace, name) = image.resolve(&key.0);
                (namespace.to_owned(), name.to_owned())
            }),
            of_snapshot: volume.spec.source.as_ref().is_some_and(|source| source.image.is_none()),
            unadopted: is_unadopted(volume),
            deleting: is_deleting(volume),
        });
        let before = match place.clone() {
            Some(place) => self.places.insert(key.clone(), place),
            None => self.places.remove(&key),
        };
        (before != place).then_some(key)
    }

    /// Takes in a change of an image. Tells its namespace and name if that matters to VMs.
    pub fn image_changed(&mut self, change: &Change<Image>) -> Option<(String, String)> {
        let image = change.object()?;
        let key = (image.namespace().unwrap_or_default(), image.name_any());
        let place =
            change.new.as_deref().filter(|image| image.spec.source.snapshot.is_some()).and_then(|image| {
                Some((image.spec.effective_pool().to_owned(), image.status.as_ref()?.importer.clone()?))
            });
        let before = match place.clone() {
            Some(place) => self.images.insert(key.clone(), place),
            None => self.images.remove(&key),
        };
        (before != place).then_some(key)
    }

    /// The host that alone has this image.
    fn host_of_image(&self, image: &(String, String)) -> Option<&String> {
        self.images.get(image).filter(|(pool, _)| !self.shared.contains(pool)).map(|(_, host)| host)
    }

    /// Takes in a change of a pool, and tells whether that matters to VMs. A pool that is not there is taken for one that hosts
    /// do not share.
    pub fn pool_changed(&mut self, change: &Change<StoragePool>) -> bool {
        let Some(name) = change.object().map(|pool| pool.name_any()) else { return false };
        match &change.new {
            Some(pool) if pool.spec.is_shared() => self.shared.insert(name),
            _ => self.shared.remove(&name),
        }
    }

    /// Adds to the claim what its volumes and images ask of a host.
    pub fn resolve(&self, claim: &mut Claim) {
        for (volume, disk) in &claim.volumes {
            let place = self.places.get(&(claim.namespace.clone(), volume.clone()));
            let missing = |why| Missing { disk: disk.clone(), volume: volume.clone(), why };
            let Some(place) = place.filter(|place| !place.deleting) else {
                let why = if place.is_some() { WhyMissing::Deleting } else { WhyMissing::Absent };
                claim.missing.get_or_insert(missing(why));
                continue;
            };
            if place.unadopted {
                claim.missing.get_or_insert(missing(WhyMissing::NotAdopted));
                continue;
            }
            claim.pools.insert(place.pool.clone());
            let own = place.host.as_ref().filter(|_| !self.shared.contains(&place.pool));
            let source = place.image.as_ref().filter(|_| place.host.is_none());
            if place.of_snapshot && source.is_some_and(|image| !self.images.contains_key(image)) {
                claim.missing.get_or_insert(missing(WhyMissing::SourceNotTaken));
            }
            if let Some(host) = own.or_else(|| source.and_then(|image| self.host_of_image(image))) {
                claim.pins.insert(format!("Volume {volume}"), host.clone());
            }
        }
        for image in &claim.images {
            if let Some(host) = self.host_of_image(image) {
                claim.pins.insert(format!("Image {}", image.1), host.clone());
            }
        }
    }
}

fn is_unadopted(volume: &Volume) -> bool {
    volume.spec.orphan().is_some() && volume.status.as_ref().is_none_or(|status| status.size.is_none())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use serde_json::json;

    use super::*;
    use crate::scheduler::testing::{vm_with_volume, volume};

    fn new<K>(object: K) -> Change<K> {
        Change { old: None, new: Some(Arc::new(object)) }
    }

    fn resolved(volumes: &Volumes) -> Claim {
        let mut claim = Claim::of(&vm_with_volume("web", "data"));
        volumes.resolve(&mut claim);
        claim
    }

    #[test]
    fn a_volume_pins_where_hosts_do_not_share_its_pool() {
        let mut volumes = Volumes::default();
        assert_eq!(
            resolved(&volumes).missing,
            Some(Missing { disk: "disk-data".into(), volume: "data".into(), why: WhyMissing::Absent })
        );
        assert!(volumes.changed(&new(volume("data", "fast", None))).is_some());
        let claim = resolved(&volumes);
        assert_eq!((claim.missing.as_ref(), claim.pins.len()), (None, 0), "it is made where the VM goes");
        assert!(claim.pools.contains("fast") && claim.pools.contains("default"), "{:?}", claim.pools);

        let made = volume("data", "fast", Some("h1"));
        assert_eq!(volumes.changed(&new(made.clone())), Some(("default".to_owned(), "data".to_owned())));
        assert_eq!(volumes.changed(&new(made)), None, "the same again is no news");
        assert_eq!(resolved(&volumes).pins, BTreeMap::from([("Volume data".to_owned(), "h1".to_owned())]));

        let pool: StoragePool = serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "StoragePool", "metadata": {"name": "fast"},
            "spec": {"rbd": {"pool": "vms"}},
        }))
        .unwrap();
        assert!(volumes.pool_changed(&new(pool.clone())));
        assert!(resolved(&volumes).pins.is_empty(), "any host sees it");
        assert!(!volumes.pool_changed(&new(pool)));
    }

    #[test]
    fn an_image_of_a_snapshot_pins_where_hosts_do_not_share_its_pool() {
        let image = |source: &serde_json::Value| -> Image {
            serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image",
                "metadata": {"name": "kept-root", "namespace": "default"},
                "spec": {"source": source, "format": "raw", "pool": "fast"}, "status": {"importer": "h1"},
            }))
            .unwrap()
        };
        let mut volumes = Volumes::default();
        let mut claim = Claim::of(&vm_with_volume("web", "data"));
        claim.images.insert(("default".to_owned(), "kept-root".to_owned()));
        assert_eq!(volumes.image_changed(&new(image(&json!({"http": {"url": "http://h/a"}})))), None);
        let key = volumes.image_changed(&new(image(&json!({"snapshot": {"name": "kept", "disk": "root"}}))));
        assert_eq!(key, Some(("default".to_owned(), "kept-root".to_owned())));
        volumes.resolve(&mut claim);
        assert_eq!(claim.pins, BTreeMap::from([("Image kept-root".to_owned(), "h1".to_owned())]));
    }

    #[test]
    fn a_copy_of_a_volume_waits_until_it_is_known_where_that_is() {
        let mut volumes = Volumes::default();
        let mut copy = volume("data", "fast", None);
        copy.spec.source = serde_json::from_value(json!({"volume": "original"})).unwrap();
        volumes.changed(&new(copy));
        assert_eq!(resolved(&volumes).missing.map(|missing| missing.why), Some(WhyMissing::SourceNotTaken));
        let image: Image = serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image",
            "metadata": {"name": "data-source-volume", "namespace": "default"},
            "spec": {"source": {"snapshot": {"name": "data-source", "disk": "volume"}}, "format": "raw", "pool": "fast"},
            "status": {"importer": "h2"},
        }))
        .unwrap();
        volumes.image_changed(&new(image));
        let claim = resolved(&volumes);
        assert_eq!((claim.missing, claim.pins.get("Volume data")), (None, Some(&"h2".to_owned())));
    }

    #[test]
    fn a_volume_that_is_being_deleted_is_nobodys() {
        let mut volumes = Volumes::default();
        let mut leaving = volume("data", "fast", Some("h1"));
        leaving.metadata.deletion_timestamp =
            Some(ucloud_types::condition::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        volumes.changed(&new(leaving));
        assert_eq!(resolved(&volumes).missing.map(|missing| missing.why), Some(WhyMissing::Deleting));
    }

    #[test]
    fn a_volume_that_has_yet_to_be_adopted_is_nowhere() {
        let mut volumes = Volumes::default();
        let mut adopted = volume("data", "fast", None);
        adopted.spec.source = serde_json::from_value(json!({"orphan": "disk-1"})).unwrap();
        volumes.changed(&new(adopted.clone()));
        assert_eq!(resolved(&volumes).missing.map(|missing| missing.why), Some(WhyMissing::NotAdopted));
        adopted.status = serde_json::from_value(json!({"host": "h1", "size": "1Gi"})).unwrap();
        volumes.changed(&new(adopted));
        let claim = resolved(&volumes);
        assert_eq!((claim.missing, claim.pins.len()), (None, 1));
    }
}
