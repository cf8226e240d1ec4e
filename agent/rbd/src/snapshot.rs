//! Keeping a disk as an Image: its snapshot is cloned to a content of its own, and from there on it is an Image like others.
//!
//! ```text
//!   record --> snapshot of the disk --> content, its clone --> the snapshot's name goes --> content whole --> Image --> no record
//! ```
//! librbd asks whoever writes to the disk to write out what it has and to wait, so that this works while a VM runs on it. A
//! snapshot whose name was taken stays as long as it has a clone, and is removed by Ceph with the last one.
//!
//! The record is an image without bytes that names the disk. Whoever keeps a disk has it open, and so has a watcher at it: one
//! without a watcher was left over, and whoever comes next takes it away, and with it the snapshot of the disk that it speaks
//! of. What else is left has no watchers either, and is no whole content and no whole Image: see `content`.

use ucloud_agent_core::block_store::DiskId;
use ucloud_agent_import::names::snapshot_content;

use crate::{
    cluster::IoCtx,
    content::{self, Clone, MARK, PUBLISHED},
    error::RbdError,
    image::{Access, present},
    names,
};

/// The metadata of a record: the disk's name in the pool.
const DISK: &str = "ucloud.disk";

/// Keeps what a disk holds now as the Image with this UID, unless that is there already.
pub fn keep(pool: &IoCtx, disk: &DiskId, image_uid: &str) -> Result<Clone, RbdError> {
    let (record, image) = (names::snapshot(image_uid), names::image(image_uid));
    if let Some(clone) = content::find_clone(pool, &image)? {
        clear(pool, &record)?;
        return Ok(clone);
    }
    let disk = names::disk(disk);
    if !content::is_whole(pool, &disk)? {
        return Err(RbdError::NoDisk);
    }
    if !clear(pool, &record)? {
        return Err(RbdError::SnapshotElsewhere);
    }
    pool.create(&record, 0)?;
    let open = pool.open(&record, Access::Write)?;
    open.set_metadata(DISK, &disk)?;
    let clone = take(pool, &disk, &record, image_uid)?;
    drop(open);
    content::remove(pool, &record)?;
    Ok(clone)
}

/// What an earlier attempt has made is of an earlier moment, and is made anew.
fn take(pool: &IoCtx, disk: &str, snapshot: &str, image_uid: &str) -> Result<Clone, RbdError> {
    let (sha256, image) = (snapshot_content(image_uid), names::image(image_uid));
    let name = names::content(&sha256);
    content::remove(pool, &image)?;
    if let Some(content) = present(pool.open(&name, Access::Read))?
        && content.clones()? > 0
    {
        // There was such an Image once, and disks are clones of it
        return content::make_clone(pool, (&name, &sha256), &image, |_| Ok(()));
    }
    content::discard(pool, &name)?;
    pool.open(disk, Access::Write)?.snapshot(snapshot)?;
    pool.clone_image(disk, snapshot, &name)?;
    // Open until the Image is made, so that nobody takes it for left over.
    let content = pool.open(&name, Access::Write)?;
    content::remove_snapshot(&pool.open(disk, Access::Write)?, snapshot)?;
    // A clone has the metadata of what it is a clone of: the Image would bear the disk's mark, and look whole too early.
    content.remove_metadata(MARK)?;
    content.snapshot(PUBLISHED)?;
    content::make_clone(pool, (&name, &sha256), &image, |_| Ok(()))
}

/// Takes away what interrupted attempts have left of records and snapshots.
pub fn sweep(pool: &IoCtx) -> Result<(), RbdError> {
    for record in pool.images()?.iter().filter(|name| names::is_snapshot(name)) {
        clear(pool, record)?;
    }
    Ok(())
}

/// Takes a record away, and the snapshot that it speaks of. False: somebody is at work, and nothing was touched.
fn clear(pool: &IoCtx, record: &str) -> Result<bool, RbdError> {
    if let Some(open) = present(pool.open(record, Access::Read))? {
        if !open.watchers()?.is_empty() {
            return Ok(false);
        }
        let disk = open.metadata(DISK)?.filter(|disk| names::parse_disk(disk).is_some());
        drop(open);
        tracing::info!(image = record, pool = pool.name(), "removing what an interrupted snapshot has left");
        // The snapshots of a disk that was removed meanwhile are removed with it
        if let Some(disk) = disk
            && let Some(disk) = present(pool.open(&disk, Access::Read))?
            && disk.has_snapshot(record)?
        {
            content::remove_snapshot(&pool.open(disk.name(), Access::Write)?, record)?;
        }
    }
    match content::remove(pool, record) {
        Err(RbdError::InUse) => Ok(false),
        removed => removed.map(|()| true),
    }
}
