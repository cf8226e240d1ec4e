//! What goes wrong with a pool of Ceph.

use std::io;

use nix::errno::Errno;
use ucloud_agent_core::{HostError, block_store::RbdPool};
use ucloud_agent_import::{ImportError, StoreError, TooLarge, summary::summary};
use ucloud_types::Quantity;

/// A call to Ceph that failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("Ceph cannot {operation} {object}: {} ({errno:?})", errno.desc())]
pub struct CephError {
    /// What was asked for.
    pub operation: &'static str,
    /// Of what: an image in a pool, a pool or a cluster.
    pub object: String,
    /// Ceph's answer.
    pub errno: Errno,
}

/// Why a pool did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RbdError {
    /// Ceph says no, or nothing.
    #[error(transparent)]
    Ceph(#[from] CephError),
    /// The cluster or the pool takes no more data.
    #[error("the pool is full")]
    Full,
    /// An image's content is being written by another host.
    #[error("another host imports the same content now")]
    ImportedElsewhere,
    /// Nobody waits for the image any more.
    #[error("it is not wanted any more")]
    Abandoned,
    /// A keyring cannot be read.
    #[error("the keyring {0} cannot be read")]
    Keyring(String, #[source] io::Error),
    /// What should be a key is none.
    #[error("the key in {0} is not one of Ceph's")]
    Key(String),
    /// There is no key.
    #[error("its key is not in {0}")]
    NoKey(String),
    /// A disk is being kept as the same image by another host.
    #[error("another host makes the same snapshot now")]
    SnapshotElsewhere,
    /// A disk is not there, whole.
    #[error("it is not in the pool")]
    NoDisk,
    /// The image of a disk is not there.
    #[error("its image is not in the pool yet")]
    NoImage,
    /// A disk would not hold its image.
    #[error("its size {size} is less than its image's, {image}; enlarge it")]
    TooSmall {
        /// What was asked for.
        size: Quantity,
        /// The image's.
        image: Quantity,
    },
    /// A disk would be larger than disks may be.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// There is a disk already, of another image.
    #[error("it is there already, and is a clone of another image; delete the VM to be rid of it")]
    OtherImage,
    /// A disk is to be empty, and has no size.
    #[error("it has no size")]
    NoSize,
    /// Somebody has it open.
    #[error("it is in use, by a VM or an import; it is free at the latest half a minute after that has ended")]
    InUse,
    /// The file with the image's bytes fails.
    #[error(transparent)]
    Scratch(#[from] StoreError),
    /// The disk in an image's source cannot be had.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// What Ceph has answered makes no sense to us.
    #[error("Ceph's answer to {0} cannot be read")]
    Answer(&'static str, #[source] serde_json::Error),
}

impl RbdError {
    /// Ceph's answer, where it is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Ceph(error) => Some(error.errno),
            _ => None,
        }
    }

    /// As an answer to a caller; `act` is what could not be done.
    pub fn reported(self, act: &str, pool: &RbdPool) -> HostError {
        if let Self::Import(error) = self {
            return error.reported(act);
        }
        let (reason, advice) = match &self {
            Self::Ceph(error) => advise(error, pool),
            Self::Full => ("StorageFull", Some("remove images or VMs that are not needed, or enlarge it".to_owned())),
            Self::ImportedElsewhere => ("ImportedElsewhere", None),
            Self::Abandoned => ("Interrupted", None),
            Self::Keyring(..) | Self::Key(_) | Self::NoKey(_) => (
                "StorageKey",
                Some(format!(
                    "put it there, readable by ucloud-agent: ceph auth get client.{0} -o /etc/ceph/ceph.client.{0}.keyring",
                    pool.user
                )),
            ),
            Self::SnapshotElsewhere => ("SnapshotElsewhere", None),
            Self::NoDisk => ("DiskMissing", None),
            Self::NoImage => ("ImageMissing", None),
            Self::TooSmall { .. } => ("SizeTooSmall", None),
            Self::TooLarge(_) => ("SizeTooLarge", None),
            Self::OtherImage => ("DiskMismatch", None),
            Self::NoSize => ("SizeMissing", None),
            Self::InUse => ("DiskInUse", None),
            Self::Scratch(_) | Self::Import(_) => ("ImportFailed", None),
            Self::Answer(..) => ("StorageFailed", None),
        };
        let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
        let message = format!("cannot {act}: {}{advice}", summary(&self));
        let terminal = matches!(self, Self::TooSmall { .. } | Self::TooLarge(_) | Self::OtherImage | Self::NoSize);
        let error = if terminal { HostError::terminal(reason, message) } else { HostError::retryable(reason, message) };
        error.caused_by(self)
    }
}

/// The reason that a program is told, and what a person should do.
fn advise(error: &CephError, pool: &RbdPool) -> (&'static str, Option<String>) {
    let RbdPool { pool, user, conf } = pool;
    match error.errno {
        Errno::EPERM | Errno::EACCES => (
            "StoragePermission",
            Some(format!(
                "give client.{user} its rights: ceph auth caps client.{user} mon 'profile rbd' osd 'profile rbd pool={pool}'"
            )),
        ),
        Errno::ETIMEDOUT => {
            ("StorageTimeout", Some(format!("look at the cluster's health: ceph --conf {} -s", conf.display())))
        }
        Errno::ENOSPC | Errno::EDQUOT => {
            ("StorageFull", Some("remove images or VMs that are not needed, or enlarge the pool".to_owned()))
        }
        Errno::ESHUTDOWN => ("StorageFenced", Some("this host is on the cluster's blocklist".to_owned())),
        _ => ("StorageFailed", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_object_the_operation_and_the_next_step() {
        let pool = RbdPool { pool: "vms".into(), user: "ucloud".into(), conf: "/etc/ceph/ceph.conf".into() };
        let failed = |errno| {
            let error = CephError { operation: "create", object: "image a in pool vms".into(), errno };
            RbdError::from(error).reported("make disk root", &pool)
        };
        let refused = failed(Errno::EPERM);
        assert_eq!(refused.reason, "StoragePermission");
        assert_eq!(
            refused.message,
            "cannot make disk root: Ceph cannot create image a in pool vms: Operation not permitted (EPERM); give \
             client.ucloud its rights: ceph auth caps client.ucloud mon 'profile rbd' osd 'profile rbd pool=vms'"
        );
        assert_eq!(failed(Errno::ETIMEDOUT).reason, "StorageTimeout");
        assert_eq!(failed(Errno::ENOSPC).reason, "StorageFull");
        assert_eq!(failed(Errno::ESHUTDOWN).reason, "StorageFenced");
        assert!(!failed(Errno::EIO).terminal);
        assert!(RbdError::OtherImage.reported("make disk root", &pool).terminal);
    }
}
