//! Disks: clones of what their Images are clones of, and empty ones.

use ucloud_agent_core::{
    block_store::{Content, Disk, DiskRequest, RbdPool},
    hypervisor::DiskSource,
};
use ucloud_agent_import::Importer;
use ucloud_types::Quantity;

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
    let size = match &request.content {
        Content::Empty => ensure_empty(pool, &name, request, importer)?,
        Content::Image(uid) => ensure_clone(pool, &name, uid, request, importer)?,
        Content::Kept => {
            let is = content::whole_size(pool, &name)?.ok_or(RbdError::NoDisk)?;
            grow(pool, &name, is, request, importer)?
        }
    };
    let RbdPool { pool, user, conf } = settings.clone();
    Ok(Disk { source: DiskSource::Rbd { pool, image: name, user, conf }, size: Quantity::from_bytes(size) })
}

/// Gives a disk another name, unless it has it already, and tells its size.
pub fn rename(pool: &IoCtx, from: &str, to: &str) -> Result<u64, RbdError> {
    content::rename(pool, from, to)?;
    content::whole_size(pool, to)?.ok_or(RbdError::NoDisk)
}

fn ensure_empty(pool: &IoCtx, name: &str, request: &DiskRequest, importer: &Importer) -> Result<u64, RbdError> {
    let size = request.size.ok_or(RbdError::NoSize)?;
    let is = content::make_empty(pool, name, importer.whole_sectors(size.bytes())?)?;
    grow(pool, name, is, request, importer)
}

fn ensure_clone(
    pool: &IoCtx,
    name: &str,
    image_uid: &str,
    request: &DiskRequest,
    importer: &Importer,
) -> Result<u64, RbdError> {
    let Some(image) = content::find_clone(pool, &names::image(image_uid))? else {
        // The disk is kept although its image may have been removed since.
        let is = content::whole_size(pool, name)?.ok_or(RbdError::NoImage)?;
        return grow(pool, name, is, request, importer);
    };
    match content::find_clone(pool, name)? {
        None => create(pool, name, &image, request, importer),
        Some(disk) if disk.content != image.content => Err(RbdError::OtherImage),
        Some(disk) => grow(pool, name, disk.size, request, importer),
    }
}

/// Grows a disk that has `is` bytes to what is asked for, unless it has that already.
fn grow(pool: &IoCtx, name: &str, is: u64, request: &DiskRequest, importer: &Importer) -> Result<u64, RbdError> {
    let wanted = request.size.map_or(Ok(0), |size| importer.whole_sectors(size.bytes()))?;
    if wanted > is {
        if !pool.open(name, Access::Read)?.watchers()?.is_empty() {
            return Err(RbdError::InUse);
        }
        pool.open(name, Access::Write)?.resize(wanted)?;
    }
    Ok(wanted.max(is))
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
    // An image that somebody has flattened is one of a content all the same, if that is still there
    let parent = image.parent.clone().unwrap_or_else(|| names::content(&image.content));
    Ok(content::make_clone(pool, (&parent, &image.content), name, grow)?.size)
}
