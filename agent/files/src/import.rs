//! Importing an image: fetch, check, inspect, convert, publish. What VMs use was always written by our own
//! qemu-img, and never by whoever made the source.

use std::path::Path;

use tokio::{sync::watch, task::spawn_blocking};
use ucloud_agent_core::block_store::{ImageRequest, StoredImage};
use ucloud_agent_import::{
    ImportError, Progress, finished, qcow2,
    qemu_img::{Source, Target},
};
use ucloud_types::{Quantity, image::ImageFormat};

use crate::{
    Files,
    store::{CONTENT_MODE, Staged, Store, StoreError},
};

impl Files {
    /// Imports an image that is not there yet.
    pub(crate) async fn import(
        &self,
        store: &Store,
        request: &ImageRequest,
        percent: &watch::Sender<u8>,
    ) -> Result<StoredImage, ImportError> {
        let progress = Progress(percent);
        let fetched_file = staged(store, "source").await?;
        let fetched = self.importer.fetch(request, fetched_file.file()?, fetched_file.path(), progress).await?;

        let converted = staged(store, "image").await?;
        let to = Target::File(converted.path(), ImageFormat::Qcow2);
        let report = |part| progress.report_rest(part);
        self.importer.convert(request.format, &fetched, Source::File(fetched_file.path()), to, report).await?;
        drop(fetched_file);

        let lock = self.turns.lock(store).await?;
        let (store, uid, sha256) = (store.clone(), request.uid.clone(), fetched.sha256.clone());
        let publish = spawn_blocking(move || {
            let content = store.content(&sha256);
            // The same bytes convert to the same image: the one that is there already may be in use.
            if !content.exists() {
                converted.publish(&content, CONTENT_MODE, &lock)?;
            }
            store.link(&uid, &sha256, &lock)
        });
        finished("publish an image", publish.await)?;
        progress.report(100);
        Ok(StoredImage { sha256: fetched.sha256, virtual_size: Quantity::from_bytes(fetched.virtual_size) })
    }
}

/// An empty file in the making.
pub async fn staged(store: &Store, what: &'static str) -> Result<Staged, StoreError> {
    let store = store.clone();
    finished("make a file", spawn_blocking(move || Staged::new(&store, what)).await)
}

/// The size of the disk that a content holds.
pub fn virtual_size(content: &Path) -> Result<u64, StoreError> {
    let header = qcow2::read_header(content).map_err(|error| StoreError::new("read an image's header", error))?;
    header.map(|header| header.virtual_size).map_err(|refused| {
        StoreError::new("read an image's header", std::io::Error::new(std::io::ErrorKind::InvalidData, refused))
    })
}
