//! Disks: clones of contents.

use ucloud_agent_core::{
    block_store::{Disk, DiskRequest, RbdPool},
    hypervisor::DiskSource,
};
use ucloud_agent_import::Importer;
use ucloud_types::{Quantity, image::Sha256};

use crate::{
    cluster::IoCtx,
    content::{self, Clone},
    error::RbdError,
    image::Access,
    names,
};

/// Makes a disk, unless it is there already, and grows it to its size.
pub fn ensure_disk(
    pool: &IoCtx,
    settings: &RbdPool,
    request: &DiskRequest,
    importer: &Importer,
) -> Result<Disk, RbdError> {
    let name = names::disk(&request.id);
    let image = content::find_clone(pool, &names::image(&request.image_uid))?;
    let size = match content::find_clone(pool, &name)? {
        // It is kept although its image may have been removed since.
        Some(disk) => adopt(pool, &name, &disk, image.map(|image| image.content).as_ref(), request, importer)?,
        None => create(pool, &name, &image.ok_or(RbdError::NoImage)?, request, importer)?,
    };
    let RbdPool { pool, user, conf } = settings.clone();
    Ok(Disk { source: DiskSource::Rbd { pool, image: name, user, conf }, size: Quantity::from_bytes(size) })
}

fn adopt(
    pool: &IoCtx,
    name: &str,
    disk: &Clone,
    image: Option<&Sha256>,
    request: &DiskRequest,
    importer: &Importer,
) -> Result<u64, RbdError> {
    if image.is_some_and(|image| *image != disk.content) {
        return Err(RbdError::OtherImage);
    }
    let wanted = request.size.map_or(Ok(0), |size| importer.whole_sectors(size.bytes()))?;
    if wanted > disk.size {
        if !pool.open(name, Access::Read)?.watchers()?.is_empty() {
            return Err(RbdError::InUse);
        }
        pool.open(name, Access::Write)?.resize(wanted)?;
    }
    Ok(wanted.max(disk.size))
}

fn create(
    pool: &IoCtx,
    name: &str,
    image: &Clone,
    request: &DiskRequest,
    importer: &Importer,
) -> Result<u64, RbdError> {
    let size = importer.whole_sectors(request.size.map_or(image.size, Quantity::bytes))?;
    if size < image.size {
        let (size, image) = (Quantity::from_bytes(size), Quantity::from_bytes(image.size));
        return Err(RbdError::TooSmall { size, image });
    }
    let grow = |disk: &crate::image::Image<'_>| if size > image.size { disk.resize(size) } else { Ok(()) };
    Ok(content::make_clone(pool, &image.content, name, grow)?.size)
}
