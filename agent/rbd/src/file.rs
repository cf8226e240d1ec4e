//! Files: what somebody uploads, as images to which bytes are added in order.
//!
//! ```text
//!   bytes --> flushed --> so many received --> ... --> all of them: complete, with this checksum
//! ```
//! What is written behind the bytes that are said to have been received counts for nothing, and is cut off before others are
//! written. Whoever adds some has the image open, and so has a watcher at it.
//!
//! An Image of a raw File is a clone of the File's snapshot. So the bytes are there once, and a File that goes is a content from then
//! on, and stays as long as there are clones of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;
use tokio::sync::mpsc;
use ucloud_agent_core::file_store::{AppendError, FileRequest, Stored};
use ucloud_agent_import::{
    Ends,
    hashed::{Hashed, Hashers},
};
use ucloud_types::{Quantity, image::Sha256};

use crate::{
    cluster::IoCtx,
    content::{self, CHUNK, PUBLISHED, Writer},
    error::{CephError, RbdError},
    image::{Access, Image, present},
    names,
};

/// The metadata of a File that is not complete: how many of its first bytes are kept.
const RECEIVED: &str = "ucloud.received";
/// The metadata of a File that is complete: the checksum of all of it. A clone has the metadata of what it is a clone of, and is not
/// whole for that.
const COMPLETE: &str = "ucloud.complete";
/// So often it is made sure that what has come is kept. Writing waits for that, so that it is not done whenever so much has come: to
/// the fast it would cost more, and to the slow it would give less.
const COMMIT: Duration = Duration::from_secs(10);

/// What there is of the File with this name; none if there is nothing.
pub fn stored(pool: &IoCtx, name: &str) -> Result<Option<Stored>, CephError> {
    present(pool.open(name, Access::Read))?.map(|image| of(&image)).transpose()
}

fn of(image: &Image<'_>) -> Result<Stored, CephError> {
    match checksum(image)? {
        Some(sha256) => Ok(Stored::Complete(sha256)),
        None => received(image).map(Stored::Partial),
    }
}

/// The checksum of a File that is complete.
pub fn checksum(image: &Image<'_>) -> Result<Option<Sha256>, CephError> {
    Ok(image.metadata(COMPLETE)?.and_then(|sum| Sha256::try_from(sum).ok()))
}

/// Opens the File with this name for reading, if it is complete.
pub fn open_complete<'a>(pool: &'a IoCtx, name: &str) -> Result<Option<(Image<'a>, Sha256)>, CephError> {
    let Some(image) = present(pool.open(name, Access::Read))? else { return Ok(None) };
    Ok(checksum(&image)?.map(|sha256| (image, sha256)))
}

/// Opens the File with this name, if it is complete. As long as it is open, nobody removes it.
pub fn hold<'a>(pool: &'a IoCtx, name: &str) -> Result<Option<Image<'a>>, CephError> {
    match open_complete(pool, name)? {
        // Opening it for reading shows nobody that we are there
        Some(_) => present(pool.open(name, Access::Write)),
        None => Ok(None),
    }
}

/// How many bytes there are of the File with this name, of a complete one up to the end of the last sector; none if there is
/// nothing.
pub fn size(pool: &IoCtx, name: &str) -> Result<Option<u64>, CephError> {
    let Some(image) = present(pool.open(name, Access::Read))? else { return Ok(None) };
    match of(&image)? {
        Stored::Partial(size) => Ok(Some(size)),
        Stored::Complete(_) => image.size().map(Some),
    }
}

fn received(image: &Image<'_>) -> Result<u64, CephError> {
    Ok(image.metadata(RECEIVED)?.and_then(|size| size.parse().ok()).unwrap_or_default())
}

/// Takes bytes, until the last one has come.
pub fn append(
    pool: &IoCtx,
    hashers: &Hashers,
    file: &FileRequest,
    offset: u64,
    bytes: mpsc::Receiver<Bytes>,
) -> Result<Result<Stored, AppendError>, RbdError> {
    let name = names::file(&file.uid);
    match present(pool.open(&name, Access::Read))? {
        // Disks are made of sectors, and this is to be one
        None => begin(pool, &name, file.size.next_multiple_of(512))?,
        Some(image) => {
            if let Some(sha256) = checksum(&image)? {
                return Ok(file.sent_again(sha256, offset, bytes));
            }
            if !image.watchers()?.is_empty() {
                return Ok(Err(AppendError::Busy));
            }
        }
    }
    let image = pool.open(&name, Access::Write)?;
    let next = received(&image)?;
    if offset != next {
        return Ok(Err(AppendError::WrongOffset { next }));
    }
    let mut hashed = match hashers.take(&file.uid, next) {
        Some(hashed) => hashed,
        None => resume(&image, file, next)?,
    };
    let too_many = take(&image, &mut hashed, file.size, bytes)?;
    let size = hashed.size();
    if too_many || size < file.size {
        hashers.keep(&file.uid, hashed);
        return Ok(if too_many {
            Err(AppendError::TooMany(Quantity::from_bytes(file.size)))
        } else {
            Ok(Stored::Partial(size))
        });
    }
    let found = hashed.finish();
    if let Err(error) = file.check(&found) {
        // Before some of them are gone: whoever ends in the middle of it must not leave what looks like all bytes
        image.set_metadata(RECEIVED, "0")?;
        drop(image);
        content::remove(pool, &name)?;
        return Ok(Err(error));
    }
    image.set_metadata(COMPLETE, &found.to_string())?;
    Ok(Ok(Stored::Complete(found)))
}

/// Makes an image that cannot be opened by its name. What was left half made under it is removed.
fn begin(pool: &IoCtx, name: &str, size: u64) -> Result<(), RbdError> {
    match pool.create(name, size) {
        Err(error) if error.errno == Errno::EEXIST => {
            content::remove(pool, name)?;
            Ok(pool.create(name, size)?)
        }
        made => Ok(made?),
    }
}

/// The checksum of the first `size` bytes, which are kept. What somebody who broke off has written behind them is cut off.
fn resume(image: &Image<'_>, file: &FileRequest, size: u64) -> Result<Hashed, RbdError> {
    image.resize(size)?;
    image.resize(file.size.next_multiple_of(512))?;
    let mut hashed = Hashed::default();
    let mut chunk = vec![0; CHUNK];
    while hashed.size() < size {
        let most = usize::try_from(size - hashed.size()).unwrap_or(CHUNK).min(CHUNK);
        let read = image.read(hashed.size(), &mut chunk[..most])?;
        if read == 0 {
            return Err(RbdError::NoDisk);
        }
        hashed.update(&chunk[..read]);
    }
    Ok(hashed)
}

/// Writes what comes, and returns when it is kept. Tells whether more came than is wanted: of that, nothing is kept.
fn take(
    image: &Image<'_>,
    hashed: &mut Hashed,
    most: u64,
    mut bytes: mpsc::Receiver<Bytes>,
) -> Result<bool, CephError> {
    let mut writer = Writer::new(image, hashed.size());
    let (mut kept, mut last) = (hashed.size(), Instant::now());
    let mut too_many = false;
    while let Some(bytes) = bytes.blocking_recv() {
        if hashed.size() + bytes.len() as u64 > most {
            too_many = true;
            break;
        }
        hashed.update(&bytes);
        writer.add(&bytes)?;
        if last.elapsed() >= COMMIT {
            kept = keep(image, &mut writer)?;
            last = Instant::now();
        }
    }
    if writer.end() > kept {
        keep(image, &mut writer)?;
    }
    Ok(too_many)
}

/// Makes sure that all that came is kept, and says how much that is.
fn keep(image: &Image<'_>, writer: &mut Writer<'_>) -> Result<u64, CephError> {
    writer.settle()?;
    image.set_metadata(RECEIVED, &writer.end().to_string())?;
    Ok(writer.end())
}

/// The checksum and the ends of the File with this name, which has `size` bytes; none if it is not complete.
pub fn look(pool: &IoCtx, name: &str, size: u64) -> Result<Option<(Sha256, Ends)>, RbdError> {
    let Some((image, sha256)) = open_complete(pool, name)? else { return Ok(None) };
    let part = |from: u64, to: u64| -> Result<Vec<u8>, CephError> {
        let mut bytes = vec![0; usize::try_from(to - from).unwrap_or_default()];
        let read = image.read(from, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    };
    let ends = Ends { size, head: part(0, size.min(Ends::HEAD))?, tail: part(size.saturating_sub(Ends::TAIL), size)? };
    Ok(Some((sha256, ends)))
}

/// Makes it possible to clone a File that is complete. As long as what is returned is open, nobody removes it.
pub fn publish<'a>(pool: &'a IoCtx, name: &str) -> Result<Image<'a>, CephError> {
    let image = pool.open(name, Access::Write)?;
    if !image.has_snapshot(PUBLISHED)? {
        match image.snapshot(PUBLISHED) {
            // Another image is made of it at the same time
            Err(error) if error.errno == Errno::EEXIST => {}
            made => made?,
        }
    }
    Ok(image)
}

/// Removes whatever there is of the File with this UID. One that has been published is a content from now on: without clones, the
/// next sweep removes it. It does not bear its checksum's name, which others may be about to make.
pub fn remove(pool: &IoCtx, uid: &str) -> Result<(), RbdError> {
    let name = names::file(uid);
    let Some(image) = present(pool.open(&name, Access::Read))? else {
        // It may be made half
        return content::remove(pool, &name);
    };
    let published = image.has_snapshot(PUBLISHED)?;
    drop(image);
    if !published {
        return content::remove(pool, &name);
    }
    if !pool.images()?.contains(&name) {
        // Whoever did this before died when all but the old name had been changed
        return Ok(pool.forget_name(&name)?);
    }
    content::rename(pool, &name, &names::former_file(uid))
}
