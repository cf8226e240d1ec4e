//! The certificates of an installation: two authorities and everything that they sign.
//!
//! The main authority signs the API server's certificate and those of its clients; a client's common name is its user
//! and its organisation is its group. etcd has an authority of its own, so that no certificate that the main one
//! ever signs (an agent's, say) opens etcd.
//!
//! [`authority`] signs, [`inspect`] decides whether what exists is still good, [`directory`] keeps the files and makes
//! only what is missing or about to expire, [`kubeconfig`] wraps a client certificate for clients, [`names`] parses
//! what may stand in a certificate or a path.

pub mod authority;
pub mod directory;
mod files;
pub mod inspect;
pub mod kubeconfig;
pub mod names;

use std::path::PathBuf;

pub use authority::{Authority, Identity, Subject};
pub use directory::{Directory, Made};
pub use names::{AltName, HostName, ServerUrl};

/// Why certificates cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file or its folder cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// There is no authority to sign with.
    #[error("there is no authority in {folder}; `ucloud-api pki init` makes one")]
    NoAuthority {
        /// The folder.
        folder: PathBuf,
    },
    /// An authority has a certificate but no key: everything it signed is still trusted, but it can sign no more.
    #[error(
        "{certificate} is there but its key {key} is not; restore the key, or remove the folder to begin with a new \
         authority (every certificate it signed then stops working)"
    )]
    KeyMissing {
        /// The authority's certificate.
        certificate: PathBuf,
        /// Where its key belongs.
        key: PathBuf,
    },
    /// An authority's certificate or key is not what it should be.
    #[error("{certificate} and {key} are not an authority's certificate and its key ({reason}); restore them")]
    AuthorityUnusable {
        /// The authority's certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make the certificate of {subject}")]
    Sign {
        /// Whose certificate.
        subject: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// A kubeconfig cannot be put into words.
    #[error("cannot write the kubeconfig of {user}: {reason}")]
    Kubeconfig {
        /// Whose kubeconfig.
        user: String,
        /// Why not.
        reason: String,
    },
}
