//! What of an Image or a Volume may be downloaded from a host, and what tells its bytes from others.
//!
//! An Image never changes. A Volume changes while a VM has it, and how often VMs have had it is counted
//! (`status.attachments`): whoever finds it free, and finds it free with the same count afterwards, has read one state of it.

use ucloud_types::{Image, Volume};

use crate::{
    block_store::{DiskId, Readable},
    reason,
    vm::Blocker,
};

/// Bytes that may be downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// It is another one whenever the bytes may be others.
    pub tag: String,
    /// The name of the StoragePool that has them.
    pub pool: String,
    /// Where they are in it.
    pub what: Readable,
}

/// Those of an Image, or why they are not to be had.
pub fn of_image(image: &Image) -> Result<Export, Blocker> {
    if image.metadata.deletion_timestamp.is_some() {
        return Err(Blocker::new(reason::DELETING, "the image is being deleted"));
    }
    let uid = image.metadata.uid.clone().unwrap_or_default();
    Ok(Export { tag: uid.clone(), pool: image.spec.effective_pool().to_owned(), what: Readable::Image(uid) })
}

/// Those of a Volume, or why they are not to be had from this host.
pub fn of_volume(volume: &Volume, host: &str) -> Result<Export, Blocker> {
    let (name, status) =
        (volume.metadata.name.as_deref().unwrap_or_default(), volume.status.clone().unwrap_or_default());
    if volume.metadata.deletion_timestamp.is_some() {
        return Err(Blocker::new(reason::DELETING, "the volume is being deleted"));
    }
    if let Some(attachment) = status.attachment {
        let vm = attachment.vm;
        let message = format!(
            "VM {vm} has the volume and may write to it: take a snapshot (ucloudctl snapshot volume/{name} SNAPSHOT) and \
             download its image, or detach the volume first"
        );
        return Err(Blocker::new(reason::VOLUME_IN_USE, message));
    }
    if status.size.is_none() {
        let message = "the volume holds nothing yet: it is made when the first VM has it";
        return Err(Blocker::new(reason::VOLUME_NOT_READY, message));
    }
    if status.host.as_deref() != Some(host) {
        let other = status.host.unwrap_or_default();
        return Err(Blocker::new(reason::VOLUME_ELSEWHERE, format!("the bytes of the volume are on host {other} now")));
    }
    let uid = volume.metadata.uid.as_deref().unwrap_or_default();
    Ok(Export {
        tag: format!("{uid}.{}", status.attachments),
        pool: volume.spec.effective_pool().to_owned(),
        what: Readable::Disk(DiskId::of_volume(uid)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(status: &Value) -> Volume {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume",
            "metadata": {"name": "data", "namespace": "default", "uid": "u"}, "spec": {"size": "1Gi"}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_volume_has_another_tag_whenever_a_vm_has_had_it() {
        let free = |attachments: u64| volume(&json!({"host": "h1", "size": "1Gi", "attachments": attachments}));
        let export = of_volume(&free(1), "h1").unwrap();
        assert_eq!((export.pool.as_str(), &export.what), ("default", &Readable::Disk(DiskId::of_volume("u"))));
        assert_eq!(of_volume(&free(1), "h1").unwrap(), export);
        assert_ne!(of_volume(&free(2), "h1").unwrap().tag, export.tag);
    }

    #[test]
    fn a_volume_that_is_not_to_be_had_says_why_and_what_to_do() {
        let attachment = json!({"vm": "web", "vmUid": "w", "host": "h1", "epoch": 1});
        for (status, reason, said) in [
            (json!({"host": "h1", "size": "1Gi", "attachment": attachment}), "VolumeInUse", "VM web has the volume"),
            (json!({"host": "h1", "size": "1Gi", "attachment": attachment}), "VolumeInUse", "snapshot volume/data"),
            (json!({}), "VolumeNotReady", "when the first VM has it"),
            (json!({"host": "h2", "size": "1Gi"}), "VolumeElsewhere", "host h2"),
        ] {
            let blocker = of_volume(&volume(&status), "h1").unwrap_err();
            assert_eq!(blocker.reason, reason);
            assert!(blocker.message.contains(said), "{}", blocker.message);
        }
        let mut leaving = volume(&json!({"host": "h1", "size": "1Gi"}));
        leaving.metadata.deletion_timestamp = Some(ucloud_types::condition::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(of_volume(&leaving, "h1").unwrap_err().reason, reason::DELETING);
    }
}
