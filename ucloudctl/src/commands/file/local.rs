//! A file of this machine, with its checksum, and the pieces in which it is sent.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context as Task, Poll, ready},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest as _, Sha256 as Hasher};
use tokio::sync::{mpsc, oneshot, watch};
use ucloud_types::image::Sha256;

/// So much is read at once: what is summed and sent next is in the processor's cache still.
const BUFFER: usize = 256 << 10;
/// Buffers that were read and wait to be sent.
const AHEAD: usize = 4;

/// A file that is sent.
pub struct Local {
    file: Arc<File>,
    summed: Arc<Mutex<Summed>>,
    /// How many bytes it has.
    pub size: u64,
}

impl Local {
    /// Opens the file.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        Self::of(File::open(path).with_context(|| format!("cannot open {shown}"))?, path)
    }

    /// The file that was opened at `path`.
    pub fn of(file: File, path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let metadata = file.metadata().with_context(|| format!("cannot look at {shown}"))?;
        ensure!(metadata.is_file(), "{shown} is no regular file; name one");
        ensure!(metadata.len() > 0, "{shown} is empty; there is nothing to upload");
        Ok(Self { file: Arc::new(file), summed: Arc::default(), size: metadata.len() })
    }

    /// How many bytes have to be read to know the checksum of the first ones.
    pub fn unsummed(&self, to: u64) -> u64 {
        to.saturating_sub(lock(&self.summed).to)
    }

    /// The checksum of its first `to` bytes, or of more if more have been summed. What has been sent is not read again.
    /// `progress` is told how many bytes are summed.
    pub fn sum(&self, to: u64, progress: impl FnMut(u64)) -> anyhow::Result<Sha256> {
        let mut summed = lock(&self.summed);
        summed.reach(&self.file, to.min(self.size), progress)?;
        Ok(checksum(summed.hasher.clone()))
    }

    /// Its first bytes: so many, or all of them where there are fewer.
    pub fn head(&self, most: usize) -> anyhow::Result<Vec<u8>> {
        Ok(read(&self.file, 0, length(self.size, most))?)
    }

    /// So many bytes of it, or those that are left. They are read while they are sent, and summed if those before are.
    pub fn piece(&self, offset: u64, most: u64) -> (Piece, Sending) {
        let (sender, buffers) = mpsc::channel(AHEAD);
        let (failed, failure) = oneshot::channel();
        let (sent, taken) = watch::channel(offset);
        let left = self.size.saturating_sub(offset).min(most);
        let (file, summed) = (Arc::clone(&self.file), Arc::clone(&self.summed));
        tokio::task::spawn_blocking(move || {
            if let Err(error) = feed(&file, &summed, offset..offset + left, &sender) {
                let broken = io::Error::from(error.kind());
                // Whoever does not wait for it any more needs no reason either
                let _ = failed.send(error);
                let _ = sender.blocking_send(Err(broken));
            }
        });
        (Piece { left, buffers, sent }, Sending { taken, failure })
    }
}

/// Reads a part of a file, and sums it, as long as somebody takes it.
fn feed(
    file: &File,
    summed: &Mutex<Summed>,
    part: Range<u64>,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut at = part.start;
    while at < part.end {
        let buffer = Bytes::from(read(file, at, length(part.end - at, BUFFER))?);
        // It is summed while it is sent
        if sender.blocking_send(Ok(buffer.clone())).is_err() {
            return Ok(());
        }
        lock(summed).add(at, &buffer);
        at += buffer.len() as u64;
    }
    Ok(())
}

/// The checksum of the first bytes of a file, of more and more.
#[derive(Default)]
struct Summed {
    hasher: Hasher,
    to: u64,
}

impl Summed {
    /// Adds the bytes that begin at `at`, as far as they are the next ones.
    fn add(&mut self, at: u64, bytes: &[u8]) {
        let known = self.to.checked_sub(at).and_then(|known| usize::try_from(known).ok());
        if let Some(new) = known.and_then(|known| bytes.get(known..)) {
            self.hasher.update(new);
            self.to += new.len() as u64;
        }
    }

    /// Adds all bytes up to `to`.
    fn reach(&mut self, file: &File, to: u64, mut progress: impl FnMut(u64)) -> io::Result<()> {
        while self.to < to {
            let buffer = read(file, self.to, length(to - self.to, BUFFER))?;
            self.add(self.to, &buffer);
            progress(self.to);
        }
        Ok(())
    }
}

fn lock(summed: &Mutex<Summed>) -> MutexGuard<'_, Summed> {
    summed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn length(left: u64, most: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(most)
}

fn read(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let read = file.read_exact_at(&mut buffer, at);
    read.map_err(|error| io::Error::new(error.kind(), format!("cannot read the file, or it became shorter: {error}")))?;
    Ok(buffer)
}

/// A part of a file, as the body of a request.
pub struct Piece {
    left: u64,
    buffers: mpsc::Receiver<io::Result<Bytes>>,
    sent: watch::Sender<u64>,
}

/// What is known of a piece while it is sent.
pub struct Sending {
    /// How much of the file was taken to be sent, from its beginning on.
    pub taken: watch::Receiver<u64>,
    failure: oneshot::Receiver<io::Error>,
}

impl Sending {
    /// Why the file cannot be read any more, if that is so.
    pub fn failure(&mut self) -> Option<io::Error> {
        self.failure.try_recv().ok()
    }
}

impl Body for Piece {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let buffer = ready!(self.buffers.poll_recv(task));
        if let Some(Ok(buffer)) = &buffer {
            let length = buffer.len() as u64;
            self.left -= length;
            self.sent.send_modify(|sent| *sent += length);
        }
        Poll::Ready(buffer.map(|buffer| buffer.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What the hasher has come to.
pub fn checksum(hasher: Hasher) -> Sha256 {
    Sha256::from(<[u8; 32]>::from(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn taken(piece: Piece) -> Option<Vec<u8>> {
        Some(piece.collect().await.ok()?.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn a_file_is_read_in_pieces_and_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "abcde").unwrap();
        let local = Local::open(&path).unwrap();
        let sum = "sha256:36bbe50ed96841d10443bcb670d6554f0a34b761be67ec9c4a8ad2c0c44ca42c";
        assert_eq!((local.head(2).unwrap(), local.head(9).unwrap()), (b"ab".to_vec(), b"abcde".to_vec()));
        for (offset, most, bytes) in [(0, 2, "ab"), (3, 9, "de"), (1, 3, "bcd"), (0, 4, "abcd"), (5, 9, "")] {
            let (piece, mut sending) = local.piece(offset, most);
            assert_eq!(piece.size_hint().exact(), Some(bytes.len() as u64));
            assert_eq!(taken(piece).await.as_deref(), Some(bytes.as_bytes()));
            assert_eq!(*sending.taken.borrow(), offset + bytes.len() as u64);
            assert!(sending.failure().is_none());
        }
        // Whatever was sent of it, once, twice or not at all
        assert_eq!(local.unsummed(5), 1);
        assert_eq!(local.sum(5, |_| {}).unwrap().to_string(), sum);
        // And what another process has sent before
        let local = Local::open(&path).unwrap();
        local.sum(3, |_| {}).unwrap();
        assert_eq!(taken(local.piece(3, 9).0).await.as_deref(), Some(&b"de"[..]));
        assert_eq!((local.unsummed(5), local.sum(5, |_| {}).unwrap().to_string()), (0, sum.to_owned()));
        std::fs::write(&path, "").unwrap();
        assert!(local.head(2).is_err());
        let (piece, mut sending) = local.piece(0, 2);
        assert_eq!(taken(piece).await, None);
        let why = sending.failure().unwrap().to_string();
        assert!(why.contains("became shorter"), "{why}");
        assert!(Local::open(&path).is_err() && Local::open(folder.path()).is_err());
    }
}
