//! Images of other formats than raw: qemu-img reads them in its sandbox, and writes the disk that is in them to a socket, from whose
//! other end it goes to the pool as it comes. What is read may be a File in a pool, and comes through a socket too.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{runtime::Handle, sync::oneshot};
use ucloud_agent_import::{
    StoreError,
    nbd::{self, ServeError},
    qemu_img::Socket,
};

use crate::{cluster::IoCtx, content::Writer, error::RbdError, file, image::Image};

const BLOCK: u64 = 4096;

/// A File that is read.
struct Source<'a> {
    image: Image<'a>,
    size: u64,
}

impl nbd::Disk for Source<'_> {
    type Error = RbdError;
    const WRITTEN: bool = false;

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), RbdError> {
        if self.image.read(offset, into)? < into.len() {
            return Err(RbdError::NoDisk);
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), RbdError> {
        unreachable!("it is read")
    }
}

/// The image that is written.
struct Target<'a, C> {
    writer: Writer<'a>,
    size: u64,
    data: u64,
    moved: Arc<AtomicU64>,
    check: C,
}

impl<C: FnMut(u64) -> Result<(), RbdError>> nbd::Disk for Target<'_, C> {
    type Error = RbdError;
    const WRITTEN: bool = true;

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), RbdError> {
        unreachable!("it is written")
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), RbdError> {
        // Of less than this no pool keeps anything by itself
        self.data += (bytes.len() as u64).next_multiple_of(BLOCK);
        (self.check)(self.data)?;
        self.writer.seek(offset)?;
        self.writer.add(bytes)?;
        self.moved.store(self.data, Ordering::Relaxed);
        Ok(())
    }
}

/// Lets whoever is at the other end read a File that is complete, which nobody removes while it is read. Blocks until that end is
/// closed, and tells then by `sound` that all that was read was the File's.
pub fn serve_file(
    pool: &IoCtx,
    name: &str,
    connection: &UnixStream,
    sound: oneshot::Sender<()>,
) -> Result<(), RbdError> {
    let image = file::hold(pool, name)?.ok_or(RbdError::NoDisk)?;
    let mut source = Source { size: image.size()?, image };
    nbd::serve(connection, &mut source).map_err(failed)?;
    // Whoever takes this host for dead may have removed it all the same, and then zeros were read
    file::checksum(&source.image)?.ok_or(RbdError::NoDisk)?;
    // Not everybody wants to know
    let _ = sound.send(());
    Ok(())
}

/// There is no socket for qemu-img.
pub fn no_socket(error: io::Error) -> StoreError {
    StoreError::new("make a socket for qemu-img", error)
}

fn failed(error: ServeError<RbdError>) -> RbdError {
    match error {
        ServeError::Disk(error) => error,
        ServeError::Connection(error) => StoreError::new("speak with qemu-img", error).into(),
    }
}

/// Writes what `convert` makes of a source to an image of `size` bytes, which holds nothing but zeros. `check` is told how many bytes
/// have come, and its error breaks it off. Blocks, and is to be called where tokio's runtime is at hand.
pub fn fill<C: Future<Output = Result<(), RbdError>> + Send + 'static>(
    image: &Image<'_>,
    size: u64,
    check: impl FnMut(u64) -> Result<(), RbdError>,
    convert: impl FnOnce(Socket) -> C,
) -> Result<(), RbdError> {
    let (ours, theirs) = UnixStream::pair().map_err(no_socket)?;
    let moved = Arc::<AtomicU64>::default();
    let mut target = Target { writer: Writer::new(image, 0), size, data: 0, moved: Arc::clone(&moved), check };
    let runtime = Handle::current();
    let converting = runtime.spawn(convert(Socket { connection: theirs.into(), moved }));
    let served = nbd::serve(&ours, &mut target);
    if served.is_err() {
        // Nobody takes what it makes any more
        converting.abort();
    }
    let converted = runtime.block_on(converting);
    served.map_err(failed)?;
    converted.map_err(|error| StoreError::new("convert a source", io::Error::other(error)))??;
    Ok(target.writer.settle()?)
}
