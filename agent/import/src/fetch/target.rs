//! The file that a source is fetched into: with holes where it has zeros, and never larger than it may be.

use std::io::SeekFrom;

use tokio::{
    fs::File,
    io::{AsyncSeekExt as _, AsyncWriteExt as _},
};
use ucloud_types::Quantity;

use crate::error::StoreError;

/// Bytes are written, or left out, in pieces of this size.
const PIECE: usize = 256 << 10;

/// A file in the making.
pub struct Target {
    file: File,
    piece: Vec<u8>,
    size: u64,
    limit: Quantity,
}

/// Why it does not grow.
#[derive(Debug)]
pub enum TargetError {
    /// It would be larger than this.
    TooLarge(Quantity),
    /// It cannot be written.
    Store(StoreError),
}

impl Target {
    /// An empty file of which at most `limit` bytes are to be.
    pub fn new(file: File, limit: Quantity) -> Self {
        Self { file, piece: Vec::with_capacity(PIECE), size: 0, limit }
    }

    /// Adds bytes at the end.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), TargetError> {
        self.size += bytes.len() as u64;
        if self.size > self.limit.bytes() {
            return Err(TargetError::TooLarge(self.limit));
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE {
                self.write_piece().await?;
            }
        }
        Ok(())
    }

    async fn write_piece(&mut self) -> Result<(), TargetError> {
        let length = i64::try_from(self.piece.len()).unwrap_or_default();
        let written = if is_zero(&self.piece) {
            self.file.seek(SeekFrom::Current(length)).await.map(drop)
        } else {
            self.file.write_all(&self.piece).await
        };
        self.piece.clear();
        written.map_err(failed)
    }

    /// Returns when all bytes can be read. They need not outlive the machine: after its end they are fetched again.
    pub async fn finish(mut self) -> Result<(), TargetError> {
        self.write_piece().await?;
        // Waits for the last write, which would else report its failure to nobody.
        self.file.flush().await.map_err(failed)?;
        self.file.set_len(self.size).await.map_err(failed)
    }
}

fn failed(error: std::io::Error) -> TargetError {
    TargetError::Store(StoreError::new("write the source", error))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::*;

    #[tokio::test]
    async fn zeros_are_holes_and_every_byte_is_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("source");
        let mut bytes = vec![0; 3 * PIECE + 1000];
        bytes[PIECE + 7] = 1;
        for chunk in [1000, PIECE, 2 * PIECE + 1, bytes.len()] {
            let mut target = Target::new(File::create(&path).await.unwrap(), Quantity::from_bytes(bytes.len() as u64));
            for bytes in bytes.chunks(chunk) {
                target.write(bytes).await.unwrap();
            }
            target.finish().await.unwrap();
            assert!(fs::read(&path).unwrap() == bytes, "in pieces of {chunk}");
            assert!(fs::metadata(&path).unwrap().blocks() * 512 <= PIECE as u64 + 65536);
        }
    }

    #[tokio::test]
    async fn nothing_is_larger_than_it_may_be() {
        let file = File::from_std(tempfile::tempfile().unwrap());
        let mut target = Target::new(file, Quantity::from_bytes(10));
        target.write(&[0; 10]).await.unwrap();
        assert!(matches!(target.write(&[0]).await, Err(TargetError::TooLarge(_))));
    }
}
