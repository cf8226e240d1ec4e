//! What a host is to do about a snapshot.

use std::sync::Arc;

use ucloud_types::{
    Image, Snapshot, StoragePool,
    condition::{self, TAKEN, TAKING, is_true},
};

use crate::{
    block_store::{DiskId, SnapshotRequest},
    hypervisor::{Domain, DomainDisk, DomainState},
    image,
};

/// What a host is to do about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Nothing, or nothing yet.
    None,
    /// To take it.
    Take(Order),
    /// To remove what may have been left half done, and say so.
    GiveUp(Order),
}

/// What a snapshot is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The UID of the VM or Volume.
    pub source_uid: String,
    /// The disks, at least one.
    pub disks: Vec<OrderedDisk>,
}

/// A disk to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedDisk {
    /// Its name in the VM.
    pub name: String,
    /// What the block store is to keep.
    pub request: SnapshotRequest,
}

/// What the host with this name is to do. `images` and `pools` are all that there are.
pub fn task(snapshot: &Snapshot, host: &str, images: &[Arc<Image>], pools: &[Arc<StoragePool>]) -> Task {
    let Some(status) = snapshot.status.as_ref().filter(|status| status.host.as_deref() == Some(host)) else {
        return Task::None;
    };
    let Some(order) = order(snapshot, images, pools) else { return Task::None };
    let taken = condition::get(&status.conditions, TAKEN);
    let begun = taken.is_some_and(|taken| taken.status != "True" && taken.reason == TAKING);
    match snapshot.metadata.deletion_timestamp {
        Some(_) if begun => Task::GiveUp(order),
        None if !is_true(&status.conditions, TAKEN) => Task::Take(order),
        _ => Task::None,
    }
}

/// What it is made of. None while one of its images or pools is not known.
fn order(snapshot: &Snapshot, images: &[Arc<Image>], pools: &[Arc<StoragePool>]) -> Option<Order> {
    let (metadata, status) = (&snapshot.metadata, snapshot.status.as_ref()?);
    let source_uid = status.source_uid.clone()?;
    let owned = |image: &&Arc<Image>| {
        image.metadata.namespace == metadata.namespace
            && image.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == metadata.uid.as_ref())
    };
    let disk = |disk: &ucloud_types::snapshot::SnapshotDisk| {
        let pool = pools.iter().find(|pool| pool.metadata.name.as_ref() == Some(&disk.pool))?;
        let image = images.iter().filter(owned).find(|image| image.metadata.name.as_ref() == Some(&disk.image))?;
        let id = match &disk.volume_uid {
            Some(uid) => DiskId::of_volume(uid),
            None => DiskId { owner_uid: source_uid.clone(), name: disk.name.clone() },
        };
        let request = SnapshotRequest { pool: image::pool(pool)?, disk: id, image_uid: image.metadata.uid.clone()? };
        Some(OrderedDisk { name: disk.name.clone(), request })
    };
    let disks: Vec<_> = status.disks.iter().map(disk).collect::<Option<_>>()?;
    (!disks.is_empty()).then_some(Order { source_uid, disks })
}

/// How the disks of an order are to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method<'a> {
    /// The domain that has some of them open, by its UID.
    pub domain: Option<&'a str>,
    /// Those that it has open, each with its name there.
    pub open: Vec<(&'a str, &'a SnapshotRequest)>,
    /// Those that nobody has open.
    pub idle: Vec<&'a SnapshotRequest>,
}

/// How to take them, as the host's domains are.
pub fn method<'a>(order: &'a Order, domains: &'a [Domain]) -> Method<'a> {
    let up = domains.iter().filter(|domain| !matches!(domain.state, DomainState::Off(_)));
    let opens = |domain: &'a Domain, disk: &OrderedDisk| -> Option<&'a str> {
        let id = &disk.request.disk;
        let is_it = |there: &&DomainDisk| match &there.volume {
            Some(uid) => DiskId::of_volume(uid) == *id,
            None => domain.spec.uid == id.owner_uid && there.name == id.name,
        };
        domain.spec.disks.iter().find(is_it).map(|there| there.name.as_str())
    };
    let user = up.clone().find(|domain| order.disks.iter().any(|disk| opens(domain, disk).is_some()));
    let mut method = Method { domain: user.map(|domain| domain.spec.uid.as_str()), open: Vec::new(), idle: Vec::new() };
    for disk in &order.disks {
        match user.and_then(|domain| opens(domain, disk)) {
            Some(name) => method.open.push((name, &disk.request)),
            None => method.idle.push(&disk.request),
        }
    }
    method
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hypervisor::{DiskSource, DomainSpec, StopReason};

    fn snapshot(conditions: &serde_json::Value) -> Snapshot {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Snapshot",
            "metadata": {"name": "kept", "namespace": "default", "uid": "snapshot-uid"},
            "spec": {"vm": "web"},
            "status": {"host": "h1", "sourceUid": "vm-uid", "conditions": conditions, "disks": [
                {"name": "root", "pool": "default", "size": "1Gi", "image": "kept-root"},
                {"name": "data", "volumeUid": "volume-uid", "pool": "default", "size": "1Gi", "image": "kept-data"},
            ]},
        }))
        .unwrap()
    }

    fn image(name: &str, owner: &str) -> Arc<Image> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image",
                "metadata": {"name": name, "namespace": "default", "uid": format!("uid-of-{name}"), "ownerReferences": [
                    {"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Snapshot", "name": "kept", "uid": owner}]},
                "spec": {"source": {"snapshot": {"name": "kept", "disk": "root"}}, "format": "raw"},
            }))
            .unwrap(),
        )
    }

    fn pool() -> Arc<StoragePool> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "StoragePool",
                "metadata": {"name": "default"}, "spec": {"directory": {"path": "/pool"}},
            }))
            .unwrap(),
        )
    }

    fn taken(status: &str, reason: &str) -> serde_json::Value {
        json!([{"type": "Taken", "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    fn of(snapshot: &Snapshot) -> Task {
        let images = [image("kept-root", "snapshot-uid"), image("kept-data", "snapshot-uid")];
        task(snapshot, "h1", &images, &[pool()])
    }

    #[test]
    fn its_host_takes_it_once() {
        let Task::Take(order) = of(&snapshot(&json!([]))) else { panic!("it is to be taken") };
        let disks: Vec<_> = order.disks.iter().map(|disk| (&disk.request.disk, &*disk.request.image_uid)).collect();
        let root = DiskId { owner_uid: "vm-uid".into(), name: "root".into() };
        assert_eq!(disks, [(&root, "uid-of-kept-root"), (&DiskId::of_volume("volume-uid"), "uid-of-kept-data")]);
        assert!(matches!(of(&snapshot(&taken("False", "Taking"))), Task::Take(_)), "after the agent's death");
        assert_eq!(of(&snapshot(&taken("True", "Taken"))), Task::None);
        let images = [image("kept-root", "snapshot-uid"), image("kept-data", "another-uid")];
        let new = snapshot(&json!([]));
        assert_eq!(task(&new, "h1", &images, &[pool()]), Task::None, "an image of an earlier snapshot of that name");
        assert_eq!(task(&new, "h1", &images[..1], &[pool()]), Task::None);
        assert_eq!(task(&new, "h2", &images, &[pool()]), Task::None);
    }

    #[test]
    fn what_was_begun_is_given_up_when_it_is_deleted() {
        for (conditions, begun) in [
            (json!([]), false),
            (taken("False", "Taking"), true),
            (taken("False", "NoSpace"), false),
            (taken("True", "Taken"), false),
        ] {
            let mut leaving = snapshot(&conditions);
            leaving.metadata.deletion_timestamp = Some(condition::Time(jiff::Timestamp::UNIX_EPOCH));
            assert_eq!(matches!(of(&leaving), Task::GiveUp(_)), begun, "{conditions}");
        }
    }

    #[test]
    fn what_a_domain_has_open_is_told_from_what_nobody_has() {
        let Task::Take(order) = of(&snapshot(&json!([]))) else { panic!("it is to be taken") };
        let disk = |name: &str, volume: Option<&str>| DomainDisk {
            name: name.into(),
            volume: volume.map(str::to_owned),
            limits: None,
            source: DiskSource::Overlay { path: "/pool/disk".into(), backing: None },
        };
        let domain = |uid: &str, state, disks| Domain {
            spec: DomainSpec {
                uid: uid.into(),
                namespace: "default".into(),
                name: "web".into(),
                epoch: 1,
                power_request: 0,
                cpus: 1,
                memory: "1Gi".parse().unwrap(),
                disks,
                interfaces: Vec::new(),
                standstill: false,
            },
            state,
        };
        let both = vec![disk("root", None), disk("files", Some("volume-uid"))];
        let running = [
            domain("other", DomainState::Running, vec![disk("root", None)]),
            domain("vm-uid", DomainState::Running, both.clone()),
        ];
        let found = method(&order, &running);
        assert_eq!(found.domain, Some("vm-uid"));
        assert_eq!(found.open.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["root", "files"]);
        let off = [domain("vm-uid", DomainState::Off(StopReason::Shutdown), both)];
        let found = method(&order, &off);
        assert_eq!((found.domain, found.open.len(), found.idle.len()), (None, 0, 2));
        let one = [domain("vm-uid", DomainState::Running, vec![disk("root", None)])];
        let found = method(&order, &one);
        assert_eq!((found.open.len(), found.idle.len()), (1, 1), "a volume that was just attached is in no domain yet");
    }
}
