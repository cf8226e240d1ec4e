//! What is known of the host's copies of images, and what is reported of them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use ucloud_agent_core::{
    block_store::{ImageRequest, Pool, StoredImage},
    image::LocalImage,
    reason,
};
use ucloud_types::{host::HostImage, image::ImagePhase};

/// The host's copies of images, by the Image's UID.
pub struct Images {
    copies: Mutex<BTreeMap<String, Copy>>,
    changed: watch::Sender<u64>,
    /// A copy is complete, or cannot be had, which is worth a report of its own.
    pub awaited: Notify,
}

/// One copy.
pub(super) struct Copy {
    /// Where it is, or is to be. None where its pool is missing.
    pub pool: Option<Pool>,
    /// What was asked for. None for a copy that was found on the host.
    pub request: Option<ImageRequest>,
    /// How far it is.
    pub stage: Stage,
    /// Why the last import failed; forgotten when one gets somewhere.
    pub failure: Option<Failure>,
    /// Why it stays, although its Image is being deleted.
    pub held: Option<String>,
}

/// How far a copy is.
pub(super) enum Stage {
    /// There is none.
    Missing,
    /// It is being imported: so many per cent of it.
    Importing(u8),
    /// It is complete.
    Ready(StoredImage),
}

/// Why an import failed.
#[derive(Clone)]
pub(super) struct Failure {
    pub reason: &'static str,
    pub message: String,
    /// How often in a row.
    pub times: u32,
    /// When it is tried again. None: when something else is asked for.
    pub retry: Option<Instant>,
}

impl Default for Images {
    fn default() -> Self {
        Self { copies: Mutex::default(), changed: watch::channel(0).0, awaited: Notify::new() }
    }
}

impl Images {
    /// Changes whenever there is something new to report.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The host's copy of the image with this UID.
    pub fn local(&self, uid: &str) -> LocalImage {
        self.read(|copies| match copies.get(uid) {
            Some(Copy { stage: Stage::Ready(stored), .. }) => LocalImage::Ready(stored.clone()),
            Some(Copy { failure: Some(failure), .. }) => {
                LocalImage::Failed { reason: failure.reason, message: failure.message.clone() }
            }
            Some(Copy { stage: Stage::Importing(percent), .. }) => LocalImage::Importing { percent: *percent },
            Some(Copy { stage: Stage::Missing, .. }) | None => LocalImage::Absent,
        })
    }

    /// What to report in the Host's status, sorted by UID.
    pub fn report(&self) -> Vec<HostImage> {
        self.read(|copies| copies.iter().map(|(uid, copy)| copy.report(uid)).collect())
    }

    /// Copies that came to be by other means than an import, each with its pool and the Image's UID.
    pub fn add(&self, made: impl IntoIterator<Item = (Pool, (String, StoredImage))>) {
        self.change(|copies| {
            copies.extend(
                made.into_iter().map(|(pool, (uid, stored))| (uid, Copy::new(Some(pool), None, Stage::Ready(stored)))),
            );
        });
        self.awaited.notify_one();
    }

    /// The copy with this UID is not there any more.
    pub fn forget(&self, uid: &str) {
        self.change(|copies| copies.remove(uid));
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&BTreeMap<String, Copy>) -> T) -> T {
        read(&self.copies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is known, and tells of it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Copy>) -> T) -> T {
        let result = change(&mut self.copies.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
        result
    }
}

impl Copy {
    pub(super) fn new(pool: Option<Pool>, request: Option<ImageRequest>, stage: Stage) -> Self {
        Self { pool, request, stage, failure: None, held: None }
    }

    /// Whether to import now what is asked for.
    pub(super) fn is_due(&self, request: &ImageRequest, now: Instant) -> bool {
        match &self.stage {
            Stage::Importing(_) => false,
            Stage::Ready(stored) => request.checksum.as_ref().is_some_and(|pinned| *pinned != stored.sha256),
            Stage::Missing => {
                self.request.as_ref() != Some(request)
                    || self.failure.as_ref().is_none_or(|failure| failure.retry.is_some_and(|retry| retry <= now))
            }
        }
    }

    fn report(&self, uid: &str) -> HostImage {
        let mut report = HostImage {
            uid: uid.to_owned(),
            phase: ImagePhase::Pending,
            percent: None,
            sha256: None,
            virtual_size: None,
            reason: None,
            message: None,
        };
        match (&self.stage, &self.failure) {
            (Stage::Ready(stored), _) => {
                report.phase = ImagePhase::Ready;
                report.sha256 = Some(stored.sha256.clone());
                report.virtual_size = Some(stored.virtual_size);
            }
            // While it is tried again, the last failure is what there is to know
            (_, Some(failure)) => {
                report.phase = ImagePhase::Failed;
                report.reason = Some(failure.reason.to_owned());
                report.message = Some(failure.message.clone());
            }
            (Stage::Importing(percent), None) => {
                report.phase = ImagePhase::Importing;
                report.percent = Some(*percent);
            }
            (Stage::Missing, None) => {}
        }
        if let Some(held) = &self.held {
            report.phase = ImagePhase::Terminating;
            report.reason = Some(reason::IN_USE.to_owned());
            report.message = Some(held.clone());
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ucloud_types::image::{FileSource, ImageFormat, ImageSource, Sha256};

    use ucloud_agent_core::block_store::PoolBackend;

    use super::*;

    fn request(checksum: Option<u8>) -> ImageRequest {
        ImageRequest {
            uid: "image-uid".into(),
            namespace: "default".into(),
            name: "alpine".into(),
            pool: Pool { name: "default".into(), backend: PoolBackend::Directory { path: "/pool".into() } },
            source: ImageSource { file: Some(FileSource { name: "alpine.qcow2".into() }), ..ImageSource::default() },
            format: ImageFormat::Qcow2,
            compression: None,
            checksum: checksum.map(|byte| Sha256::from([byte; 32])),
        }
    }

    fn failed(retry: Option<Instant>) -> Copy {
        let failure = Failure { reason: "NoSpace", message: "full".into(), times: 1, retry };
        Copy { failure: Some(failure), ..Copy::new(None, Some(request(None)), Stage::Missing) }
    }

    #[tokio::test]
    async fn a_failure_is_tried_again_in_time_or_when_something_else_is_asked_for() {
        let now = Instant::now();
        assert!(!failed(None).is_due(&request(None), now), "terminal");
        assert!(failed(None).is_due(&request(Some(1)), now));
        assert!(failed(Some(now)).is_due(&request(None), now));
        assert!(!failed(Some(now + Duration::from_secs(1))).is_due(&request(None), now));
    }

    #[tokio::test]
    async fn a_copy_that_differs_from_all_others_is_imported_anew() {
        let stored = StoredImage { sha256: Sha256::from([1; 32]), virtual_size: "1Gi".parse().unwrap() };
        let copy = Copy::new(None, None, Stage::Ready(stored));
        let now = Instant::now();
        assert!(!copy.is_due(&request(None), now) && !copy.is_due(&request(Some(1)), now));
        assert!(copy.is_due(&request(Some(2)), now));
    }

    #[test]
    fn a_failure_is_reported_until_an_import_gets_somewhere() {
        let mut copy = failed(None);
        copy.stage = Stage::Importing(0);
        assert_eq!(copy.report("u").phase, ImagePhase::Failed);
        copy.failure = None;
        assert_eq!((copy.report("u").phase, copy.report("u").percent), (ImagePhase::Importing, Some(0)));
        copy.held = Some("disks of default/web are clones of it".into());
        assert_eq!(copy.report("u").reason.as_deref(), Some(reason::IN_USE));
    }
}
