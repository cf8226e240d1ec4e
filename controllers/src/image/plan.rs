//! What an image's status is to say, from what hosts report. Pure.
//!
//! One host, the importer, fetches the image first. What it reports decides what the image is: its checksum is pinned, and
//! every other copy must have it. Until then the importer is replaced if it goes; after that it does not matter any more.

use std::{hash::Hasher as _, sync::Arc};

use fnv::FnvHasher;
use kube::ResourceExt as _;
use ucloud_types::{
    File, Host, Image, ImageStatus, Snapshot,
    condition::{Finding, READY, TAKEN, TERMINATING, Verdict, get, is_true},
    host::HostImage,
    image::ImagePhase,
};

use super::usage::Holder;
use crate::runtime::{
    is_deleting,
    report::{find, status_of},
    uid_of,
};

/// What of a host an image can depend on: whether it can import, and what it has.
pub fn aspect(host: &Host) -> (bool, Vec<String>, Vec<HostImage>) {
    let status = host.status.clone().unwrap_or_default();
    let pools = status.pools.iter().filter(|pool| pool.error.is_none()).map(|pool| pool.name.clone()).collect();
    (can_import_at_all(host), pools, status.images)
}

/// What of a File an image can depend on: whether it is complete, what it says, and where it is.
pub fn file_aspect(file: &File) -> (bool, Option<String>, Option<String>) {
    let status = file.status.clone().unwrap_or_default();
    let said = get(&status.conditions, READY).map(|ready| ready.message.clone());
    (is_complete(file), said, status.host)
}

/// What of a Snapshot its images can depend on: whether it was taken, and which host takes it.
pub fn snapshot_aspect(snapshot: &Snapshot) -> (bool, Option<String>) {
    let status = snapshot.status.clone().unwrap_or_default();
    (is_true(&status.conditions, TAKEN), status.host)
}

fn is_complete(file: &File) -> bool {
    file.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY)) && !is_deleting(file)
}

fn can_import_at_all(host: &Host) -> bool {
    host.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY)) && !is_deleting(host)
}

fn can_import(host: &Host, pool: &str) -> bool {
    let pools = host.status.iter().flat_map(|status| &status.pools);
    can_import_at_all(host) && pools.into_iter().any(|p| p.name == pool && p.error.is_none())
}

/// The host that imports the image first: the one it has, while that can; else the one that has the bytes of its File; else
/// any, so that images spread.
fn importer<'a>(image: &Image, hosts: &'a [Arc<Host>], file: Option<&File>) -> Option<&'a Arc<Host>> {
    let pool = image.spec.effective_pool();
    let present = image.status.as_ref().and_then(|status| status.importer.as_deref());
    let rank = |host: &&Arc<Host>| {
        let mut hasher = FnvHasher::default();
        hasher.write(uid_of(image).as_bytes());
        hasher.write(host.name_any().as_bytes());
        let name = host.name_any();
        let keeper = file.and_then(|file| file.status.as_ref()).and_then(|status| status.host.as_deref());
        (Some(name.as_str()) == present, Some(name.as_str()) == keeper, hasher.finish())
    };
    hosts.iter().filter(|host| can_import(host, pool)).max_by_key(rank)
}

/// The status of an image that is to be there. `pool_exists`: whether its StoragePool does. `file`: what it is made of, if
/// that is a File that exists.
pub fn plan(image: &Image, pool_exists: bool, hosts: &[Arc<Host>], file: Option<&File>) -> ImageStatus {
    let mut status = status_of(image);
    status.observed_generation = image.metadata.generation;
    if status.sha256.is_some() {
        return imported(image, status);
    }
    let pool = image.spec.effective_pool();
    if !pool_exists {
        let message =
            format!("StoragePool {pool} does not exist: create it, or make the image again with another pool");
        return pending(image, status, "PoolNotFound", message);
    }
    if let Some(upload) = &image.spec.source.upload {
        let name = &upload.file;
        let Some(file) = file else {
            let message = format!("File {name} does not exist: `ucloudctl file upload {name} PATH` makes it");
            return pending(image, status, "FileNotFound", message);
        };
        if !is_complete(file) {
            let said = file_aspect(file).1.unwrap_or_else(|| "nothing of it has come yet".to_owned());
            return pending(image, status, "FileIncomplete", format!("File {name}: {said}"));
        }
    }
    let Some(host) = importer(image, hosts, file) else {
        status.importer = None;
        let message = format!("no host that is Ready has pool {pool}: see the StoragePool and the Hosts");
        return pending(image, status, "NoHost", message);
    };
    let name = host.name_any();
    status.importer = Some(name.clone());
    let images = host.status.iter().flat_map(|status| &status.images);
    match images.into_iter().find(|entry| entry.uid == uid_of(image)) {
        Some(entry) => take_over(image, status, &name, entry),
        None => pending(image, status, "Importing", format!("host {name} is about to import it")),
    }
}

/// The status of an image of a snapshot: its host has it, and nobody may use it before all of the snapshot was taken.
pub fn of_snapshot(image: &Image, snapshot: Option<&Snapshot>, hosts: &[Arc<Host>]) -> ImageStatus {
    let mut status = status_of(image);
    status.observed_generation = image.metadata.generation;
    if status.sha256.is_some() {
        return imported(image, status);
    }
    let is_its = |snapshot: &&Snapshot| image.owner_references().iter().any(|owner| owner.uid == uid_of(*snapshot));
    let Some(snapshot) = snapshot.filter(is_its) else {
        let message = "the Snapshot that it is of is gone: delete the image".to_owned();
        return pending(image, status, "SnapshotNotFound", message);
    };
    let (taken, host) = snapshot_aspect(snapshot);
    status.importer.clone_from(&host);
    let Some(host) = host.filter(|_| taken) else {
        let message = format!("Snapshot {} was not taken yet", snapshot.name_any());
        return pending(image, status, "SnapshotNotTaken", message);
    };
    let reported = hosts.iter().find(|known| known.name_any() == host).and_then(|host| host.status.as_ref());
    match reported.and_then(|status| status.images.iter().find(|entry| entry.uid == uid_of(image))) {
        Some(entry) if entry.phase == ImagePhase::Ready => take_over(image, status, &host, entry),
        _ => pending(image, status, "Importing", format!("host {host} is about to report it")),
    }
}

/// What the importer reports becomes the image's status.
fn take_over(image: &Image, mut status: ImageStatus, host: &str, entry: &HostImage) -> ImageStatus {
    match (entry.phase, &entry.sha256) {
        (ImagePhase::Failed, _) => {
            let reason = entry.reason.as_deref().unwrap_or_default();
            let message = entry.message.as_deref().unwrap_or("the host does not say why");
            failed(image, status, reason, format!("host {host} cannot import it: {message}"))
        }
        // the host checks it as well; but what a host says is not taken on trust
        (ImagePhase::Ready, Some(found)) if image.spec.checksum.as_ref().is_some_and(|wanted| wanted != found) => {
            let message = format!("host {host} found {found}, which is not spec.checksum: correct one or the other");
            failed(image, status, "ChecksumMismatch", message)
        }
        (ImagePhase::Ready, Some(found)) => {
            status.sha256 = Some(found.clone());
            status.virtual_size = entry.virtual_size;
            imported(image, status)
        }
        _ => {
            status.phase = Some(ImagePhase::Importing);
            status.progress = entry.percent.map(|percent| format!("{}%", percent.min(100)));
            let message = format!("host {host} is importing it");
            find(image, &mut status, &Finding::new(READY, Verdict::False, "Importing", message));
            status
        }
    }
}

fn imported(image: &Image, mut status: ImageStatus) -> ImageStatus {
    status.phase = Some(ImagePhase::Ready);
    status.progress = Some("100%".to_owned());
    find(image, &mut status, &Finding::new(READY, Verdict::True, "Imported", "VMs can be made from it"));
    status
}

fn pending(image: &Image, mut status: ImageStatus, reason: &'static str, message: String) -> ImageStatus {
    status.phase = Some(ImagePhase::Pending);
    status.progress = None;
    find(image, &mut status, &Finding::new(READY, Verdict::False, reason, message));
    status
}

fn failed(image: &Image, mut status: ImageStatus, reason: &str, message: String) -> ImageStatus {
    status.phase = Some(ImagePhase::Failed);
    status.progress = None;
    find(image, &mut status, &Finding::new(READY, Verdict::False, "ImportFailed", message));
    let is_word = reason.starts_with(|c: char| c.is_ascii_uppercase())
        && reason.len() <= 64
        && reason.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_word && let Some(ready) = status.conditions.iter_mut().find(|condition| condition.type_ == READY) {
        reason.clone_into(&mut ready.reason);
    }
    status
}

/// The status of an image that is being deleted and that something keeps.
pub fn terminating(image: &Image, holder: &Holder) -> ImageStatus {
    let mut status = status_of(image);
    status.phase = Some(ImagePhase::Terminating);
    status.progress = None;
    let finding = Finding::new(TERMINATING, Verdict::True, holder.reason(), holder.message());
    find(image, &mut status, &finding);
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use ucloud_types::condition::get;

    use super::*;
    use crate::image::testing::{host, image, sum};

    fn hosts(list: &[(&str, Value)]) -> Vec<Arc<Host>> {
        list.iter().map(|(name, images)| Arc::new(host(name, images.clone()))).collect()
    }

    fn reason(status: &ImageStatus) -> &str {
        &get(&status.conditions, READY).unwrap().reason
    }

    fn entry(fields: &Value) -> Value {
        let mut entry = json!({"uid": "uid-debian"});
        entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!([entry])
    }

    #[test]
    fn goes_from_pending_to_ready_by_what_the_importer_reports() {
        let mut image = image("debian", "default");
        let report = |image: &mut Image, entry: Value| {
            image.status = Some(plan(image, true, &hosts(&[("h1", entry)]), None));
            image.status.clone().unwrap()
        };
        let status = report(&mut image, json!([]));
        assert_eq!((status.importer.as_deref(), status.phase), (Some("h1"), Some(ImagePhase::Pending)));

        let status = report(&mut image, entry(&json!({"phase": "Importing", "percent": 42})));
        assert_eq!((status.progress.as_deref(), status.phase), (Some("42%"), Some(ImagePhase::Importing)));
        assert_eq!(reason(&status), "Importing");

        let done = entry(&json!({"phase": "Ready", "sha256": sum('a'), "virtualSize": "2Gi"}));
        let status = report(&mut image, done.clone());
        assert_eq!((status.progress.as_deref(), status.phase), (Some("100%"), Some(ImagePhase::Ready)));
        assert_eq!(status.sha256, Some(sum('a')));
        assert_eq!(status.virtual_size, "2Gi".parse().ok());
        assert!(is_true(&status.conditions, READY));

        assert_eq!(report(&mut image, done), status, "pattern 13: nothing new, nothing to write");
        let other = entry(&json!({"phase": "Ready", "sha256": sum('b')}));
        assert_eq!(report(&mut image, other), status, "once pinned, a checksum stays");
        assert_eq!(plan(&image, true, &[], None), status, "and so does the image when the importer is gone");
    }

    #[test]
    fn failures_carry_the_hosts_reason() {
        let fails = |image: &Image, fields: Value| plan(image, true, &hosts(&[("h1", entry(&fields))]), None);
        let image = image("debian", "default");
        let status =
            fails(&image, json!({"phase": "Failed", "reason": "FormatMismatch", "message": "it is raw, not qcow2"}));
        assert_eq!((reason(&status), status.phase), ("FormatMismatch", Some(ImagePhase::Failed)));
        let message = &get(&status.conditions, READY).unwrap().message;
        assert_eq!(message, "host h1 cannot import it: it is raw, not qcow2");
        for odd in ["", "not a word", "<script>"] {
            let status = fails(&image, json!({"phase": "Failed", "reason": odd}));
            assert_eq!(reason(&status), "ImportFailed");
        }
    }

    #[test]
    fn a_hosts_word_does_not_beat_the_checksum_in_the_spec() {
        let mut image = image("debian", "default");
        image.spec.checksum = Some(sum('a'));
        let status = plan(&image, true, &hosts(&[("h1", entry(&json!({"phase": "Ready", "sha256": sum('b')})))]), None);
        assert_eq!((reason(&status), &status.sha256), ("ChecksumMismatch", &None));
    }

    #[test]
    fn the_importer_stays_while_it_can() {
        let mut image = image("debian", "default");
        let all = hosts(&[("a", json!([])), ("b", json!([])), ("c", json!([]))]);
        for name in ["a", "b", "c"] {
            image.status.get_or_insert_default().importer = Some(name.into());
            assert_eq!(plan(&image, true, &all, None).importer.as_deref(), Some(name));
            let others: Vec<_> = all.iter().filter(|host| host.name_any() != name).cloned().collect();
            assert_ne!(plan(&image, true, &others, None).importer.as_deref(), Some(name));
        }
        let mut silent = all.clone();
        Arc::make_mut(&mut silent[2]).status.as_mut().unwrap().conditions.clear();
        assert_ne!(plan(&image, true, &silent, None).importer.as_deref(), Some("c"), "its host is not Ready");
    }

    #[test]
    fn an_image_of_a_file_waits_for_it_and_is_imported_where_it_is() {
        let mut image = image("debian", "default");
        image.spec.source = serde_json::from_value(json!({"upload": {"file": "iso"}})).unwrap();
        let all = hosts(&[("a", json!([])), ("b", json!([])), ("c", json!([]))]);
        assert_eq!(reason(&plan(&image, true, &all, None)), "FileNotFound");
        let file = |host: &str, ready: &str| -> File {
            serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "File", "metadata": {"name": "iso"},
                "spec": {"size": "1"},
                "status": {"host": host, "conditions": [{"type": "Ready", "status": ready, "reason": "Receiving",
                    "message": "not all bytes are there", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            }))
            .unwrap()
        };
        let waits = plan(&image, true, &all, Some(&file("a", "False")));
        assert_eq!((reason(&waits), waits.importer.as_deref()), ("FileIncomplete", None));
        let said = &get(&waits.conditions, READY).unwrap().message;
        assert_eq!(said, "File iso: not all bytes are there");
        for host in ["a", "b", "c"] {
            let status = plan(&image, true, &all, Some(&file(host, "True")));
            assert_eq!((reason(&status), status.importer.as_deref()), ("Importing", Some(host)));
        }
        assert!(plan(&image, true, &all[..1], Some(&file("c", "True"))).importer.is_some(), "others can fetch it");
    }

    #[test]
    fn says_what_is_missing() {
        let image = image("debian", "default");
        assert_eq!(reason(&plan(&image, false, &hosts(&[("h1", json!([]))]), None)), "PoolNotFound");
        assert_eq!(reason(&plan(&image, true, &[], None)), "NoHost");
        let mut broken = hosts(&[("h1", json!([]))]);
        Arc::make_mut(&mut broken[0]).status.as_mut().unwrap().pools[0].error = Some("read-only".into());
        assert_eq!(reason(&plan(&image, true, &broken, None)), "NoHost");
    }
}
