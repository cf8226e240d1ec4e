//! What is to be kept of a File, and what is reported of it.

use ucloud_types::{
    File, FileStatus, Quantity, StoragePool,
    condition::{Finding, READY, Verdict, get},
    image::Sha256,
};

use crate::{
    file_store::{FileRequest, Stored},
    image::pool,
    reason,
    vm::Blocker,
};

/// A smaller progress, as a part of the whole, is no news while bytes come.
const STEP: u64 = 20;

/// What the host is to keep of `file`; an error if its pool is missing. None for a File that did not come from an API
/// server.
pub fn wanted(file: &File, pools: &[&StoragePool]) -> Result<Option<FileRequest>, Blocker> {
    let name = file.spec.effective_pool();
    let Some(pool) = pools.iter().find(|pool| pool.metadata.name.as_deref() == Some(name)).and_then(|p| pool(p)) else {
        return Err(Blocker::new(
            reason::STORAGE_POOL_NOT_FOUND,
            format!("the file is to be kept in StoragePool {name}, which does not exist: create it"),
        ));
    };
    let metadata = &file.metadata;
    let (Some(uid), Some(namespace), Some(name)) = (&metadata.uid, &metadata.namespace, &metadata.name) else {
        return Ok(None);
    };
    Ok(Some(FileRequest {
        uid: uid.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        pool,
        size: file.spec.size.bytes(),
        sha256: file.spec.sha256.clone(),
    }))
}

/// What is to be reported of a File.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many bytes are there.
    pub received: Quantity,
    /// The checksum of all of them.
    pub sha256: Option<Sha256>,
    /// The condition Ready.
    pub ready: Finding,
}

/// What to report of what there is. `coming`: whether bytes come at this moment. None: what was reported last is good
/// enough.
pub fn report(file: &File, stored: &Stored, coming: bool) -> Option<Report> {
    let default = FileStatus::default();
    let last = file.status.as_ref().unwrap_or(&default);
    match stored {
        Stored::Complete(sha256) => Some(Report {
            received: file.spec.size,
            sha256: Some(sha256.clone()),
            ready: Finding::new(READY, Verdict::True, reason::COMPLETE, "all its bytes are there"),
        }),
        // why they were thrown away stands until others come
        Stored::Partial(0) if is_mismatch(last) => None,
        Stored::Partial(size) => {
            let told = last.received.map(Quantity::bytes);
            let small = told.is_some_and(|told| told <= *size && *size - told < file.spec.size.bytes() / STEP);
            if coming && small && told.is_some_and(|told| told > 0) {
                return None;
            }
            let name = file.metadata.name.as_deref().unwrap_or_default();
            let lacks = if *size < file.spec.size.bytes() {
                "not all its bytes are there"
            } else {
                "all its bytes are there, and were not compared with those that were sent"
            };
            let message = format!("{lacks}: `ucloudctl file upload {name} PATH` goes on");
            Some(Report {
                received: Quantity::from_bytes(*size),
                sha256: None,
                ready: Finding::new(READY, Verdict::False, reason::RECEIVING, message),
            })
        }
    }
}

/// What to report when all bytes came and were the wrong ones.
pub fn mismatch(message: String) -> Report {
    Report {
        received: Quantity::default(),
        sha256: None,
        ready: Finding::new(READY, Verdict::False, reason::CHECKSUM_MISMATCH, message),
    }
}

/// What to report when the host could keep no more than the first `received` bytes.
pub fn failure(received: u64, reason: &'static str, message: String) -> Report {
    let ready = Finding::new(READY, Verdict::False, reason, message);
    Report { received: Quantity::from_bytes(received), sha256: None, ready }
}

fn is_mismatch(status: &FileStatus) -> bool {
    get(&status.conditions, READY).is_some_and(|ready| ready.reason == reason::CHECKSUM_MISMATCH)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn file(status: &Value) -> File {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "File",
            "metadata": {"name": "iso", "namespace": "default", "uid": "file-uid"},
            "spec": {"size": "1000"}, "status": status,
        }))
        .unwrap()
    }

    fn told(received: u64, reason: &str) -> Value {
        json!({"received": received, "conditions": [{"type": "Ready", "status": "False", "reason": reason,
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
    }

    fn reported(status: &Value, stored: &Stored, coming: bool) -> Option<(u64, &'static str)> {
        report(&file(status), stored, coming).map(|report| (report.received.bytes(), report.ready.reason))
    }

    #[test]
    fn progress_is_told_in_steps_while_bytes_come_and_exactly_afterwards() {
        let before = told(100, "Receiving");
        assert_eq!(reported(&json!({}), &Stored::Partial(0), false), Some((0, "Receiving")));
        assert_eq!(reported(&told(0, "Receiving"), &Stored::Partial(1), true), Some((1, "Receiving")), "it begins");
        assert_eq!(reported(&before, &Stored::Partial(149), true), None);
        assert_eq!(reported(&before, &Stored::Partial(150), true), Some((150, "Receiving")));
        assert_eq!(reported(&before, &Stored::Partial(149), false), Some((149, "Receiving")));
        assert_eq!(reported(&before, &Stored::Partial(50), true), Some((50, "Receiving")), "never more than is there");
        let done = Stored::Complete(Sha256::from([1; 32]));
        assert_eq!(reported(&before, &done, false), Some((1000, "Complete")));
    }

    #[test]
    fn a_mismatch_stands_until_other_bytes_come() {
        let before = told(0, "ChecksumMismatch");
        assert_eq!(reported(&before, &Stored::Partial(0), false), None);
        assert_eq!(reported(&before, &Stored::Partial(1), true), Some((1, "Receiving")));
    }

    #[test]
    fn a_missing_pool_is_named() {
        let blocker = wanted(&file(&json!({})), &[]).unwrap_err();
        assert_eq!(blocker.reason, reason::STORAGE_POOL_NOT_FOUND);
    }
}
