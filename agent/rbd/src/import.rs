//! Importing an image: from a file that is fetched to this host, or from a File that is in a pool already.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
};

use tempfile::NamedTempFile;
use tokio::sync::{OwnedMutexGuard, oneshot, watch};
use ucloud_agent_core::{
    HostError,
    block_store::{ImageRequest, StoredImage},
    file_store::FileRequest,
};
use ucloud_agent_import::{
    Ends, ImportError, Importer, Inspected, Kept, Progress, StoreError, act as import_act,
    qemu_img::{self, Target},
};
use ucloud_types::{
    Quantity,
    image::{ImageFormat, Sha256},
};

use crate::{Rbd, content, convert, error::RbdError, file, image::Image, names};

impl Rbd {
    /// Fetches the source of an image.
    async fn fetch(&self, request: &ImageRequest, progress: Progress<'_>) -> Result<(Source, Inspected), ImportError> {
        let fetched = self.scratch("source-")?;
        let file = fetched.reopen().map_err(unmade)?;
        let found = self.importer.fetch(request, file.into(), fetched.path(), progress).await?;
        Ok(match request.format {
            // Whatever it holds, it is never opened as anything but raw.
            ImageFormat::Raw => (Source::Raw(fetched.into_file()), found),
            format => (Source::Packed(Packed::Here(fetched), format), found),
        })
    }

    fn scratch(&self, prefix: &str) -> Result<NamedTempFile, StoreError> {
        tempfile::Builder::new().prefix(prefix).tempfile_in(&self.scratch).map_err(unmade)
    }

    /// `turn` is held until nothing is done any more, though nobody may wait for that.
    pub(crate) async fn import(
        &self,
        request: &ImageRequest,
        percent: &watch::Sender<u8>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<StoredImage, HostError> {
        let progress = Progress(percent);
        let reported = |error: ImportError| error.reported(&import_act(request));
        let fetched = match self.importer.kept(request).await.map_err(reported)? {
            Some(Kept::InPool(file)) if request.format == ImageFormat::Qcow2 => {
                return self.unpack(request, file, percent, turn).await;
            }
            Some(Kept::InPool(file)) if file.pool.backend == request.pool.backend => {
                return self.take_over(request, file, percent, turn).await;
            }
            Some(Kept::Here(file)) => {
                let inspected = self.importer.inspect_here(request, file, progress).await;
                inspected.map(|(file, found)| (Source::Raw(file), found))
            }
            Some(Kept::InPool(_)) | None => self.fetch(request, progress).await,
        };
        let (source, found) = fetched.map_err(reported)?;
        self.keep(request, source, found, percent, turn).await
    }

    /// Makes an image of what is in a source.
    async fn keep(
        &self,
        request: &ImageRequest,
        source: Source,
        found: Inspected,
        percent: &watch::Sender<u8>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<StoredImage, HostError> {
        let content_turn = self.pools.turn(&request.pool, found.sha256.hex()).lock_owned().await;
        let (sha256, size, uid) = (found.sha256.clone(), found.virtual_size, request.uid.clone());
        let (told, importer, inspected) = (percent.clone(), Arc::clone(&self.importer), found.clone());
        self.pools
            .with_pool(&request.pool, &import_act(request), move |pool, _| {
                let _turns = (turn, content_turn);
                // Open until the Image is made, so that nobody takes it for left over.
                let fill = |image: &Image<'_>| source.fill(image, importer, inspected, &told);
                let content = content::ensure_content(pool, &sha256, size, fill)?;
                content::make_clone(pool, (content.name(), &sha256), &names::image(&uid), |_| Ok(())).map(drop)
            })
            .await?;
        Progress(percent).report(100);
        Ok(StoredImage { sha256: found.sha256, virtual_size: Quantity::from_bytes(found.virtual_size) })
    }

    /// What is to be known of a File that is in a pool before it is made an image.
    async fn look(&self, request: &ImageRequest, file: &FileRequest) -> Result<(Sha256, Ends), HostError> {
        let (act, name, size) = (import_act(request), names::file(&file.uid), file.size);
        let looked = self.pools.with_pool(&file.pool, &act, move |pool, _| file::look(pool, &name, size)).await?;
        looked.ok_or_else(|| file.incomplete())
    }

    /// Makes an image of a qcow2 File that is in a pool: it is read where it is.
    async fn unpack(
        &self,
        request: &ImageRequest,
        file: FileRequest,
        percent: &watch::Sender<u8>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<StoredImage, HostError> {
        let (act, format) = (import_act(request), request.format);
        let reported = &|error: ImportError| error.reported(&act);
        let (sha256, ends) = self.look(request, &file).await?;
        let found = self.importer.look_qcow2(request, sha256, &ends).map_err(reported)?;
        let confirm = async |loan: Loan| self.importer.confirm(format, &found, loan.socket).await.map_err(reported);
        self.lend(&file, &act, confirm).await?;
        let check = async |loan: Loan| self.importer.check_tables(format, loan.socket).await.map_err(reported);
        self.lend(&file, &act, check).await?;
        let keep = async |loan| {
            let source = Source::Packed(Packed::InPool(loan), format);
            self.keep(request, source, found.clone(), percent, turn).await
        };
        self.lend(&file, &act, keep).await
    }

    /// Does `work` with a socket by which it can read a File that is complete. While it does, nobody removes that.
    async fn lend<T>(
        &self,
        file: &FileRequest,
        act: &str,
        work: impl AsyncFnOnce(Loan) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| convert::no_socket(error).reported(act))?;
        let (name, (sender, sound)) = (names::file(&file.uid), oneshot::channel());
        let serving =
            self.pools.with_pool(&file.pool, act, move |pool, _| convert::serve_file(pool, &name, &ours, sender));
        let (served, done) = tokio::join!(serving, work(Loan { socket: theirs.into(), sound }));
        // Where it cannot be read, the work fails for that
        served.and(done)
    }

    /// Makes an image of a raw File that is in the same pool, as a clone of it, or of the content that has the same bytes: none of
    /// them is read but the first and the last ones, and none is written.
    async fn take_over(
        &self,
        request: &ImageRequest,
        file: FileRequest,
        percent: &watch::Sender<u8>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<StoredImage, HostError> {
        let act = import_act(request);
        let (sha256, ends) = self.look(request, &file).await?;
        let found = self.importer.inspect_raw(request, sha256, &ends).map_err(|error| error.reported(&act))?;
        let content_turn = self.pools.turn(&request.pool, found.sha256.hex()).lock_owned().await;
        let (sha256, uid, name) = (found.sha256.clone(), request.uid.clone(), names::file(&file.uid));
        self.pools
            .with_pool(&request.pool, &act, move |pool, _| {
                let _turns = (turn, content_turn);
                // Open until the Image is made, so that nobody removes it
                let parent = match content::hold(pool, &sha256)? {
                    Some(content) => content,
                    None => file::publish(pool, &name)?,
                };
                content::make_clone(pool, (parent.name(), &sha256), &names::image(&uid), |_| Ok(())).map(drop)
            })
            .await?;
        percent.send_replace(100);
        Ok(StoredImage { sha256: found.sha256, virtual_size: Quantity::from_bytes(found.virtual_size) })
    }
}

/// The source of an image.
enum Source {
    /// A disk.
    Raw(File),
    /// A file of another format.
    Packed(Packed, ImageFormat),
}

/// Where a file of another format than raw is.
enum Packed {
    /// It was fetched.
    Here(NamedTempFile),
    /// It is a File that is read where it is.
    InPool(Loan),
}

/// A File that is lent to be read.
struct Loan {
    socket: OwnedFd,
    /// Told when it was read, if all that was read was the File's.
    sound: oneshot::Receiver<()>,
}

impl Source {
    /// Writes the disk that is in it to an image that holds nothing yet.
    fn fill(
        self,
        image: &Image<'_>,
        importer: Arc<Importer>,
        found: Inspected,
        told: &watch::Sender<u8>,
    ) -> Result<(), RbdError> {
        let wanted = || if told.is_closed() { Err(RbdError::Abandoned) } else { Ok(()) };
        match self {
            Self::Raw(file) => content::fill(image, file, |part| {
                Progress(told).report_rest(part);
                wanted()
            }),
            Self::Packed(packed, format) => {
                let limit = Arc::clone(&importer);
                let check = |data| {
                    wanted()?;
                    Ok(limit.check_data(data)?)
                };
                let told = told.clone();
                convert::fill(image, found.virtual_size, check, |socket| async move {
                    let report = |part| Progress(&told).report_rest(part);
                    let to = Target::Socket(socket);
                    let convert = async {
                        match packed {
                            Packed::Here(file) => {
                                let from = qemu_img::Source::File(file.path());
                                importer.convert(format, &found, from, to, report).await?;
                            }
                            Packed::InPool(Loan { socket, sound }) => {
                                let from = qemu_img::Source::Socket(socket);
                                importer.convert(format, &found, from, to, report).await?;
                                sound.await.map_err(|_| RbdError::NoDisk)?;
                            }
                        }
                        Ok(())
                    };
                    tokio::select! {
                        converted = convert => converted,
                        () = told.closed() => Err(RbdError::Abandoned),
                    }
                })
            }
        }
    }
}

fn unmade(error: io::Error) -> StoreError {
    StoreError::new("make a file to fetch to", error)
}
