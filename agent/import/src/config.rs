//! What an import is told about the host.

use std::path::PathBuf;

use ucloud_types::Quantity;

use crate::address::IpPrefix;

/// What an [`crate::Importer`] needs to know of the host.
#[derive(Clone, Debug)]
pub struct ImportConfig {
    /// The folder from which images are imported: operators put files into `IMPORT/NAMESPACE/NAME`.
    pub import_dir: PathBuf,
    /// The program qemu-img.
    pub qemu_img: PathBuf,
    /// Addresses from which no image is downloaded, besides those that are never public (loopback, link-local,
    /// private, multicast and so on): the underlay's.
    pub denied: Vec<IpPrefix>,
    /// Addresses from which images are downloaded although they are denied: a mirror in the operator's network.
    pub allowed: Vec<IpPrefix>,
    /// The largest source that is imported, in bytes as they are fetched; also the most that it may unpack to, and the
    /// most data that the disk in it may hold.
    pub max_source: Quantity,
    /// The largest disk, as its guest sees it.
    pub max_disk: Quantity,
}

impl Default for ImportConfig {
    fn default() -> Self {
        Self {
            import_dir: "/var/lib/ucloud/import".into(),
            qemu_img: "/usr/bin/qemu-img".into(),
            denied: Vec::new(),
            allowed: Vec::new(),
            max_source: Quantity::from_bytes(64 << 30),
            max_disk: Quantity::from_bytes(16 << 40),
        }
    }
}
