//! Contents and images of a pool.
//!
//! A content holds what was imported from one source; its name has the source's checksum, and it is there, whole, once
//! it has the snapshot [`PUBLISHED`]. An Image is a clone of that snapshot with the Image's UID in its name, to which
//! nothing is ever written: it costs a header, and Ceph itself thereby counts who needs a content. A clone is whole once
//! it bears the [`MARK`]. A disk is a clone of what its Image is a clone of: of a content, or of a File (see `file`).
//!
//! A disk that is kept as an Image becomes a content too; see `snapshot`. So there are chains of disks and contents, of which
//! each is a clone of the next.
//!
//! Whoever writes a content has it open until its Image is made, and so has a watcher at it: what has none and is not
//! whole was left over, and is removed by whoever comes next.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek64},
};
use ucloud_agent_import::StoreError;
use ucloud_types::image::Sha256;

use crate::{
    cluster::IoCtx,
    error::{CephError, RbdError},
    image::{Access, Image, Pending, Trashed, present},
    names, snapshot,
};

/// The snapshot of a content that is whole.
pub const PUBLISHED: &str = "ucloud";
/// The metadata of a clone that is whole: the checksum of the content that it was made of.
pub const MARK: &str = "ucloud.content";
/// The mark of an image that is whole and was empty in the beginning.
const EMPTY: &str = "empty";
/// How much is written at once: half an object of the default size, as qemu-img does. (Of more an OSD takes more time for
/// the memory than it saves by the fewer messages.)
pub const CHUNK: usize = 2 << 20;
/// So many are on their way at once, 16 MiB.
const PENDING: usize = 8;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A clone that is whole.
pub struct Clone {
    /// The checksum of the content that it was made of.
    pub content: Sha256,
    /// What it is a clone of; none if somebody has made it independent of that.
    pub parent: Option<String>,
    /// Its size.
    pub size: u64,
}

/// The clone with this name, if it is there, whole.
pub fn find_clone(pool: &IoCtx, name: &str) -> Result<Option<Clone>, CephError> {
    let Some(image) = present(pool.open(name, Access::Read))? else { return Ok(None) };
    let Some(content) = image.metadata(MARK)?.and_then(|mark| Sha256::try_from(mark).ok()) else { return Ok(None) };
    Ok(Some(Clone { content, parent: image.parent()?, size: image.size()? }))
}

/// Whether a disk is there, whole: a clone, or one that was empty in the beginning.
pub fn is_whole(pool: &IoCtx, name: &str) -> Result<bool, CephError> {
    Ok(open_whole(pool, name)?.is_some())
}

/// Opens an image or a disk for reading, if it is there, whole.
pub fn open_whole<'a>(pool: &'a IoCtx, name: &str) -> Result<Option<Image<'a>>, CephError> {
    let Some(image) = present(pool.open(name, Access::Read))? else { return Ok(None) };
    Ok(image.metadata(MARK)?.map(|_| image))
}

/// The size of a disk that is there, whole.
pub fn whole_size(pool: &IoCtx, name: &str) -> Result<Option<u64>, CephError> {
    open_whole(pool, name)?.map(|image| image.size()).transpose()
}

/// Makes a clone of `parent`, a content with this checksum. `finish` is done to it before it is whole. What was left half made
/// under its name is removed first; what is whole is left alone.
pub fn make_clone(
    pool: &IoCtx,
    (parent, content): (&str, &Sha256),
    name: &str,
    finish: impl Fn(&Image<'_>) -> Result<(), CephError>,
) -> Result<Clone, RbdError> {
    if let Some(clone) = find_clone(pool, name)? {
        return Ok(clone);
    }
    let missing = |error: CephError| if error.errno == Errno::ENOENT { RbdError::NoImage } else { error.into() };
    anew(pool, name, || pool.clone_image(parent, PUBLISHED, name).map_err(missing))?;
    let image = pool.open(name, Access::Write)?;
    finish(&image)?;
    image.set_metadata(MARK, &content.to_string())?;
    drop(image);
    // Somebody who took it for left over may have removed it between two of these steps.
    find_clone(pool, name)?.ok_or(RbdError::NoImage)
}

/// Makes an image of `size` bytes that holds nothing, unless it is there, whole, already; tells the size that it has.
pub fn make_empty(pool: &IoCtx, name: &str, size: u64) -> Result<u64, RbdError> {
    if let Some(image) = present(pool.open(name, Access::Read))?
        && image.metadata(MARK)?.as_deref() == Some(EMPTY)
    {
        return Ok(image.size()?);
    }
    anew(pool, name, || Ok(pool.create(name, size)?))?;
    pool.open(name, Access::Write)?.set_metadata(MARK, EMPTY)?;
    Ok(size)
}

/// Makes an image. What was left half made under its name is removed first; what is whole is another one, and stays.
fn anew(pool: &IoCtx, name: &str, make: impl Fn() -> Result<(), RbdError>) -> Result<(), RbdError> {
    match make() {
        Err(error) if error.errno() == Some(Errno::EEXIST) => {
            if is_whole(pool, name)? {
                return Err(RbdError::OtherImage);
            }
            tracing::info!(image = name, pool = pool.name(), "removing what was left half made");
            remove(pool, name)?;
            make()
        }
        made => made,
    }
}

/// Removes an image of any kind, whole or not. One that is gone is no error.
pub fn remove(pool: &IoCtx, name: &str) -> Result<(), RbdError> {
    match pool.remove(name) {
        Err(error) if error.errno == Errno::ENOENT => Ok(()),
        Err(error) if error.errno == Errno::EBUSY => Err(RbdError::InUse),
        result => Ok(result?),
    }
}

/// Makes a content of `size` bytes, unless it is there already: `fill` gives it its bytes. As long as what is returned is open,
/// nobody removes it.
pub fn ensure_content<'a>(
    pool: &'a IoCtx,
    sha256: &Sha256,
    size: u64,
    fill: impl FnOnce(&Image<'_>) -> Result<(), RbdError>,
) -> Result<Image<'a>, RbdError> {
    let name = names::content(sha256);
    match pool.create(&name, size) {
        Err(error) if error.errno == Errno::EEXIST => {
            if let Some(image) = adopt(pool, sha256)? {
                return Ok(image);
            }
            pool.create(&name, size)?;
        }
        made => made?,
    }
    let image = pool.open(&name, Access::Write)?;
    fill(&image)?;
    image.snapshot(PUBLISHED)?;
    Ok(image)
}

/// Writes a raw disk to an image that is empty. `percent` is told how far it is, and its error breaks it off.
pub fn fill(image: &Image<'_>, raw: File, percent: impl FnMut(u8) -> Result<(), RbdError>) -> Result<(), RbdError> {
    copy(raw, &mut Writer::new(image, 0), percent)
}

/// Writes to an image where it holds zeros so far, in [chunks](CHUNK), so that each is written once if what comes is in order.
pub struct Writer<'a> {
    image: &'a Image<'a>,
    /// Where the bytes belong that were not written yet.
    at: u64,
    chunk: Vec<u8>,
    pending: VecDeque<Pending<'a>>,
}

impl<'a> Writer<'a> {
    /// One that begins at this place.
    pub fn new(image: &'a Image<'a>, at: u64) -> Self {
        Self { image, at, chunk: Vec::with_capacity(CHUNK), pending: VecDeque::with_capacity(PENDING + 1) }
    }

    /// Where the next bytes belong.
    pub fn end(&self) -> u64 {
        self.at + self.chunk.len() as u64
    }

    /// Takes the next bytes.
    pub fn add(&mut self, mut bytes: &[u8]) -> Result<(), CephError> {
        while !bytes.is_empty() {
            // Up to the ends of chunks, and so of objects
            let room = usize::try_from(CHUNK as u64 - self.end() % CHUNK as u64).unwrap_or(CHUNK);
            let (next, behind) = bytes.split_at(bytes.len().min(room));
            bytes = behind;
            self.chunk.extend_from_slice(next);
            if next.len() == room {
                self.put()?;
            }
        }
        Ok(())
    }

    /// Goes on at another place.
    pub fn seek(&mut self, at: u64) -> Result<(), CephError> {
        if at != self.end() {
            self.put()?;
            self.at = at;
        }
        Ok(())
    }

    /// Returns when all that came is kept.
    pub fn settle(&mut self) -> Result<(), CephError> {
        self.put()?;
        while let Some(oldest) = self.pending.pop_front() {
            oldest.finish()?;
        }
        self.image.flush()
    }

    /// Begins to write what came.
    fn put(&mut self) -> Result<(), CephError> {
        let end = self.end();
        if self.chunk.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()]) {
            self.chunk.clear();
        } else {
            // Each buffer is used again
            let next = if self.pending.len() < PENDING { None } else { self.pending.pop_front() };
            let next = next.map_or_else(|| Ok(Vec::with_capacity(CHUNK)), Pending::finish)?;
            let bytes = std::mem::replace(&mut self.chunk, next);
            self.chunk.clear();
            self.pending.push_back(self.image.begin_write(self.at, bytes)?);
        }
        self.at = end;
        Ok(())
    }
}

/// A content that is there already, whole: nobody removes it as long as it is open.
pub fn hold<'a>(pool: &'a IoCtx, sha256: &Sha256) -> Result<Option<Image<'a>>, CephError> {
    let name = names::content(sha256);
    // Opening it for reading shows nobody that we are there, us included.
    match present(pool.open(&name, Access::Read))? {
        Some(image) if image.has_snapshot(PUBLISHED)? => present(pool.open(&name, Access::Write)),
        _ => Ok(None),
    }
}

/// A content that is there already, if it is whole. What was left over of one is removed.
fn adopt<'a>(pool: &'a IoCtx, sha256: &Sha256) -> Result<Option<Image<'a>>, RbdError> {
    if let Some(image) = hold(pool, sha256)? {
        return Ok(Some(image));
    }
    let name = names::content(sha256);
    if let Some(image) = present(pool.open(&name, Access::Read))?
        && !image.watchers()?.is_empty()
    {
        return Err(RbdError::ImportedElsewhere);
    }
    tracing::info!(image = name, pool = pool.name(), "removing what an interrupted import has left");
    remove(pool, &name)?;
    Ok(None)
}

/// Gives an image another name, unless it has it already.
///
/// Ceph does this in three steps: the new name is made to lead to the image, the pool's directory is told in one, and the old name
/// goes. What counts is the directory. A name that leads somewhere and is not in it was left over by one who died in between, and is
/// taken away: by itself, for to remove an image by that name would be to remove this one.
pub fn rename(pool: &IoCtx, from: &str, to: &str) -> Result<(), RbdError> {
    let names = pool.images()?;
    let is_there = |wanted: &str| names.iter().any(|name| name == wanted);
    match (is_there(from), is_there(to)) {
        (false, false) => Err(RbdError::NoDisk),
        (true, true) => Err(RbdError::OtherImage),
        (false, true) => Ok(pool.forget_name(from)?),
        (true, false) => {
            if !pool.open(from, Access::Read)?.watchers()?.is_empty() {
                return Err(RbdError::InUse);
            }
            pool.forget_name(to)?;
            Ok(pool.rename(from, to)?)
        }
    }
}

/// Copies the parts of a file that hold something other than zeros.
fn copy(
    mut file: File,
    writer: &mut Writer<'_>,
    mut percent: impl FnMut(u8) -> Result<(), RbdError>,
) -> Result<(), RbdError> {
    let failed = |error| StoreError::new("read the image to be written to the pool", error);
    let length = file.metadata().map_err(failed)?.len();
    let mut chunk = Vec::with_capacity(CHUNK);
    while let Some(data) = next_data(&file, writer.end()).map_err(failed)? {
        // Whole chunks, so that each is written once.
        writer.seek(data - data % CHUNK as u64)?;
        file.seek(SeekFrom::Start(writer.end())).map_err(failed)?;
        chunk.clear();
        (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).map_err(failed)?;
        writer.add(&chunk)?;
        percent(u8::try_from(writer.end().min(length) * 100 / length.max(1)).unwrap_or(100))?;
    }
    Ok(writer.settle()?)
}

/// Where the next data of a file begin, at `at` or behind it.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match lseek64(file, at.try_into().map_err(io::Error::other)?, Whence::SeekData) {
        Ok(data) => Ok(Some(u64::try_from(data).map_err(io::Error::other)?)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes a disk. One whose snapshots are contents loses its name, and goes when they have gone.
pub fn remove_disk(pool: &IoCtx, name: &str) -> Result<(), RbdError> {
    let removed = match pool.remove(name) {
        Err(error) if error.errno == Errno::ENOTEMPTY => pool.trash(name),
        removed => removed,
    };
    match removed {
        Err(error) if error.errno == Errno::ENOENT => Ok(()),
        Err(error) if error.errno == Errno::EBUSY => Err(RbdError::InUse),
        result => Ok(result?),
    }
}

/// Removes a snapshot. One that is gone is no error.
pub fn remove_snapshot(image: &Image<'_>, snapshot: &str) -> Result<(), RbdError> {
    match image.remove_snapshot(snapshot) {
        Err(error) if error.errno == Errno::ENOENT => Ok(()),
        removed => Ok(removed?),
    }
}

/// Removes all contents that nobody needs, disks that were removed while snapshots of them were needed, and what interrupted
/// imports, snapshots and removals have left.
pub fn sweep(pool: &IoCtx) -> Result<(), RbdError> {
    snapshot::sweep(pool)?;
    // When a content has gone, so may the disk that it was a snapshot of, and then the content that this was a clone of
    while sweep_once(pool)? {}
    Ok(())
}

/// Tells whether something was removed.
fn sweep_once(pool: &IoCtx) -> Result<bool, RbdError> {
    for name in pool.images()?.iter().filter(|name| names::is_content(name)) {
        let needed = match present(pool.open(name, Access::Read))? {
            Some(image) => image.clones()? > 0 || !image.watchers()?.is_empty(),
            None => false,
        };
        if needed {
            continue;
        }
        tracing::info!(image = name, pool = pool.name(), "removing a content that nobody needs");
        throw_away(pool, name)?;
    }
    let is_ours = |name: &str| names::is_content(name) || names::parse_disk(name).is_some();
    let mut removed = false;
    for trashed in pool.trashed()?.iter().filter(|trashed| is_ours(&trashed.name)) {
        // Another host may be doing the same.
        removed |= present(empty_trash(pool, trashed))? == Some(true);
    }
    Ok(removed)
}

/// Removes a content that was left over.
pub fn discard(pool: &IoCtx, name: &str) -> Result<(), RbdError> {
    throw_away(pool, name)?;
    for trashed in pool.trashed()?.iter().filter(|trashed| trashed.name == name) {
        present(empty_trash(pool, trashed))?;
    }
    Ok(())
}

/// Moves a content to the trash. Without its name nobody begins to use it, and Ceph refuses this while somebody has it open
/// for writing.
fn throw_away(pool: &IoCtx, name: &str) -> Result<(), RbdError> {
    match pool.trash(name) {
        Err(error) if error.errno == Errno::EBUSY => Ok(()),
        // It was made half, and has no header.
        Err(error) if error.errno == Errno::ENOENT => remove(pool, name),
        moved => Ok(moved?),
    }
}

/// Removes a content or a disk for good, and says so; or gives a content its name back if somebody has cloned it at the last
/// moment.
fn empty_trash(pool: &IoCtx, trashed: &Trashed) -> Result<bool, CephError> {
    if let Some(image) = present(pool.open_trashed(trashed))? {
        if image.clones()? > 0 {
            drop(image);
            return match names::is_content(&trashed.name).then(|| pool.restore(trashed)) {
                // The same bytes were imported again under that name; this one goes with its last clone.
                Some(Err(error)) if error.errno != Errno::EEXIST => Err(error),
                _ => Ok(false),
            };
        }
        image.remove_snapshots()?;
    }
    match pool.remove_trashed(trashed) {
        // Another host is at it, or has cloned it meanwhile.
        Err(error) if matches!(error.errno, Errno::EBUSY | Errno::ENOTEMPTY) => Ok(false),
        removed => removed.map(|()| true),
    }
}
