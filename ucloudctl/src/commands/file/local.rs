//! A file of this machine, with its checksum.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256 as Hasher};
use ucloud_types::image::Sha256;

const BUFFER: usize = 1 << 20;

/// A file that is sent.
pub struct Local {
    file: File,
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
        Ok(Self { file, size: metadata.len() })
    }

    /// The checksum of all of it. `read` is told how many bytes of it are read.
    pub fn sha256(&mut self, read: impl FnMut(u64)) -> anyhow::Result<Sha256> {
        let mut hasher = Hasher::new();
        hash(&mut self.file, &mut hasher, read).context("cannot read the file")?;
        Ok(checksum(hasher))
    }

    /// So many bytes of it, or those that are left.
    pub fn piece(&mut self, offset: u64, most: usize) -> anyhow::Result<Vec<u8>> {
        let left = self.size.saturating_sub(offset);
        let mut piece = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(most)];
        let read = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_exact(&mut piece));
        read.context("cannot read the file, or it became shorter")?;
        Ok(piece)
    }
}

/// Feeds all of a file to the hasher.
pub fn hash(file: &mut File, hasher: &mut Hasher, mut read: impl FnMut(u64)) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    file.seek(SeekFrom::Start(0))?;
    let mut total = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..count]);
        total += count as u64;
        read(total);
    }
}

/// What the hasher has come to.
pub fn checksum(hasher: Hasher) -> Sha256 {
    Sha256::from(<[u8; 32]>::from(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_in_pieces_and_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "abcde").unwrap();
        let mut local = Local::open(&path).unwrap();
        let sum = "sha256:36bbe50ed96841d10443bcb670d6554f0a34b761be67ec9c4a8ad2c0c44ca42c";
        assert_eq!(local.sha256(|_| {}).unwrap().to_string(), sum);
        assert_eq!(local.piece(0, 2).unwrap(), b"ab");
        assert_eq!(local.piece(3, 9).unwrap(), b"de");
        assert_eq!(local.piece(5, 9).unwrap(), b"");
        std::fs::write(&path, "").unwrap();
        assert!(local.piece(0, 2).is_err(), "it became shorter");
        assert!(Local::open(&path).is_err() && Local::open(folder.path()).is_err());
    }
}
