//! The bytes of Files: [`Uploads`] implements [`FileStore`].
//!
//! A File that is not complete is a file to which bytes are added at the end and nowhere else, so that its length says
//! all there is to know. Whoever adds some has it locked. When the last byte has come it is renamed, and its new name
//! holds its checksum.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use async_trait::async_trait;
use bytes::Bytes;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::{sync::mpsc, task::spawn_blocking};
use ucloud_agent_core::{
    FileStore, HostError,
    block_store::{Pool, PoolBackend, pieces},
    file_store::{AppendError, FileRequest, Stored},
};
use ucloud_agent_import::{
    StoreError,
    error::doing,
    hashed::{Hashed, Hashers},
    names,
};
use ucloud_types::Quantity;

use crate::{store::Store, with_store};

const BUFFER: usize = 1 << 20;
/// Whenever so much has been written, the disk is told to begin with it: little is left to wait for at the end.
const WRITE_BEHIND: u64 = 16 << 20;
/// A File is read by the agent alone.
const MODE: u32 = 0o600;

/// The Files of this host.
#[derive(Default)]
pub struct Uploads {
    hashers: Hashers,
}

#[async_trait]
impl FileStore for Uploads {
    async fn files(&self, pool: &Pool) -> Result<BTreeMap<String, Stored>, HostError> {
        // it is not made to be looked at, and a pool that is no directory has none of these
        match &pool.backend {
            PoolBackend::Directory { path } if path.exists() => {
                with_store(pool, &format!("list the files in pool {}", pool.name), Store::files).await
            }
            _ => Ok(BTreeMap::new()),
        }
    }

    async fn stored(&self, file: &FileRequest) -> Result<Stored, HostError> {
        names::check_uid(&file.uid)?;
        let uid = file.uid.clone();
        with_store(&file.pool, &file.act("look up"), move |store| store.file(&uid)).await
    }

    async fn append(
        &self,
        file: &FileRequest,
        offset: u64,
        bytes: mpsc::Receiver<Bytes>,
    ) -> Result<Stored, AppendError> {
        names::check_uid(&file.uid)?;
        let act = file.act("keep");
        let store = with_store(&file.pool, &act, |store| Ok(store.clone())).await?;
        let (file, hashers) = (file.clone(), self.hashers.clone());
        let appended = spawn_blocking(move || append(&store, &hashers, &file, offset, bytes)).await;
        let appended =
            appended.map_err(|error| StoreError::new("write a file", io::Error::other(error)).reported(&act))?;
        appended.map_err(|refused| match refused {
            Refused::Append(error) => error,
            Refused::Store(error) => AppendError::Host(error.reported(&act)),
        })
    }

    async fn open(&self, file: &FileRequest) -> Result<Option<File>, HostError> {
        names::check_uid(&file.uid)?;
        let (act, uid) = (file.act("read"), file.uid.clone());
        let opened = with_store(&file.pool, &act, move |store| match store.file(&uid)? {
            Stored::Complete(sha256) => doing("open a file", File::open(store.complete(&uid, &sha256))).map(Some),
            Stored::Partial(_) => Ok(None),
        });
        opened.await?.ok_or_else(|| file.incomplete()).map(Some)
    }

    async fn read(&self, file: &FileRequest, range: Range<u64>, into: mpsc::Sender<Bytes>) -> Result<(), HostError> {
        let act = file.act("read");
        let Some(opened) = self.open(file).await? else { return Ok(()) };
        let read = spawn_blocking(move || read(&opened, range, &into)).await;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        doing("read a file", read).map_err(|error| error.reported(&act))
    }

    async fn size(&self, pool: &Pool, uid: &str) -> Result<Option<Quantity>, HostError> {
        names::check_uid(uid)?;
        let (act, uid) = (format!("measure file {uid} in pool {}", pool.name), uid.to_owned());
        let size = with_store(pool, &act, move |store| store.file_size(&uid)).await?;
        Ok(size.map(Quantity::from_bytes))
    }

    async fn remove(&self, pool: &Pool, uid: &str) -> Result<(), HostError> {
        names::check_uid(uid)?;
        self.hashers.forget(uid);
        let (act, uid) = (format!("remove file {uid} from pool {}", pool.name), uid.to_owned());
        with_store(pool, &act, move |store| store.remove_file(&uid)).await
    }
}

/// Why bytes were not taken.
enum Refused {
    Append(AppendError),
    Store(StoreError),
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Takes bytes. Blocks until the last one has come.
fn append(
    store: &Store,
    hashers: &Hashers,
    file: &FileRequest,
    offset: u64,
    bytes: mpsc::Receiver<Bytes>,
) -> Result<Stored, Refused> {
    let Some(mut part) = open_part(store, &file.uid)? else {
        return match store.file(&file.uid)? {
            Stored::Complete(sha256) => Ok(file.sent_again(sha256, offset, bytes)?),
            // it was removed at this moment
            Stored::Partial(next) => Err(AppendError::WrongOffset { next }.into()),
        };
    };
    let size = doing("look at a file", part.metadata())?.len();
    if offset != size {
        return Err(AppendError::WrongOffset { next: size }.into());
    }
    let mut hashed = match hashers.take(&file.uid, size) {
        Some(hashed) => hashed,
        None => hash(&mut part, size)?,
    };
    doing("write a file", part.seek(SeekFrom::Start(size)))?;
    let too_many = take(&part, &mut hashed, file.size, bytes)?;
    if too_many || hashed.size() < file.size {
        let size = hashed.size();
        hashers.keep(&file.uid, hashed);
        return if too_many {
            Err(AppendError::TooMany(Quantity::from_bytes(file.size)).into())
        } else {
            Ok(Stored::Partial(size))
        };
    }
    let found = hashed.finish();
    if let Err(error) = file.check(&found) {
        store.remove_file(&file.uid)?;
        return Err(error.into());
    }
    store.complete_file(&file.uid, &found)?;
    Ok(Stored::Complete(found))
}

/// Writes what comes, and returns when it is on the disk. Tells whether more came than is wanted: of that, nothing is kept.
fn take(part: &File, hashed: &mut Hashed, most: u64, bytes: mpsc::Receiver<Bytes>) -> Result<bool, StoreError> {
    thread::scope(|scope| {
        let (due, dues) = sync_channel(1);
        let behind = scope.spawn(move || dues.into_iter().try_for_each(|()| part.sync_data()));
        let too_many = write(part, hashed, most, bytes, &due);
        drop(due);
        let synced = behind.join().unwrap_or_else(|_| Err(io::Error::other("a thread broke off")));
        let too_many = doing("write a file", too_many)?;
        doing("write out a file", synced.and_then(|()| part.sync_data()))?;
        Ok(too_many)
    })
}

/// Writes what comes, and says in between that the disk is due.
fn write(
    mut part: &File,
    hashed: &mut Hashed,
    most: u64,
    mut bytes: mpsc::Receiver<Bytes>,
    due: &SyncSender<()>,
) -> io::Result<bool> {
    let mut behind = 0;
    while let Some(bytes) = bytes.blocking_recv() {
        let length = bytes.len() as u64;
        if hashed.size() + length > most {
            return Ok(true);
        }
        part.write_all(&bytes)?;
        hashed.update(&bytes);
        behind += length;
        // A disk that is not done with what came before is told the next time
        if behind >= WRITE_BEHIND && due.try_send(()).is_ok() {
            behind = 0;
        }
    }
    Ok(false)
}

/// The file of what is not complete, made if it is missing and locked; none if the File is complete.
fn open_part(store: &Store, uid: &str) -> Result<Option<Flock<File>>, Refused> {
    let path = store.part(uid);
    loop {
        if matches!(store.file(uid)?, Stored::Complete(_)) {
            return Ok(None);
        }
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(&path);
        match Flock::lock(doing("open a file", opened)?, FlockArg::LockExclusiveNonblock) {
            // between the calls it may have become complete, and then this is another one in its place
            Ok(file) if is_at(&file, &path)? => {
                if matches!(store.file(uid)?, Stored::Complete(_)) {
                    doing("remove a file", fs::remove_file(&path))?;
                    return Ok(None);
                }
                return Ok(Some(file));
            }
            Ok(_) => {}
            Err((_, Errno::EWOULDBLOCK)) => return Err(AppendError::Busy.into()),
            Err((_, errno)) => return Err(StoreError::new("lock a file", errno.into()).into()),
        }
    }
}

fn is_at(file: &File, path: &Path) -> Result<bool, StoreError> {
    let own = doing("look at a file", file.metadata())?.ino();
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.ino() == own),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::new("look at a file", error)),
    }
}

/// Reads until all is read, or nobody takes it any more.
fn read(file: &File, range: Range<u64>, into: &mpsc::Sender<Bytes>) -> io::Result<()> {
    for (at, length) in pieces(range) {
        let mut piece = vec![0; length];
        file.read_exact_at(&mut piece, at)?;
        if into.blocking_send(piece.into()).is_err() {
            break;
        }
    }
    Ok(())
}

/// The checksum of the first `size` bytes, which are there.
fn hash(file: &mut File, size: u64) -> Result<Hashed, StoreError> {
    let mut hashed = Hashed::default();
    doing("read a file", file.seek(SeekFrom::Start(0)))?;
    let mut rest = file.take(size);
    let mut buffer = vec![0; BUFFER];
    while hashed.size() < size {
        match rest.read(&mut buffer) {
            Ok(0) => return Err(StoreError::new("read a file", io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => hashed.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::new("read a file", error)),
        }
    }
    Ok(hashed)
}
