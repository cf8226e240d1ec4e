//! A file that comes in parts: `NAME.part`, which gets its name when it is whole.
//!
//! What is zeros is not written, so that a disk takes no more room here than it takes where it comes from.
//!
//! A file goes on where its part ends, and its checksum tells in the end whether that was right. A disk has none. Beside its part is
//! a note (`NAME.part.json`) that says whose bytes these are, and how many of them are on the disk of this machine for certain: it is
//! written after they are. Of what comes to a sudden end no byte counts that might not be there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256 as Hasher};

/// So many bytes are read at once.
const BUFFER: usize = 1 << 20;
/// What is not written if it is zeros, and begins at a multiple of this.
const BLOCK: usize = 4096;
/// After so many bytes they are written out and noted.
const NOTED: u64 = 64 << 20;

/// A file that is not whole yet.
pub struct Part {
    file: File,
    path: PathBuf,
    size: u64,
    /// So many bytes are there.
    at: u64,
    note: Option<Note>,
}

/// What is there of a disk.
struct Note {
    path: PathBuf,
    says: Says,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Says {
    /// What tells the bytes from others.
    tag: String,
    /// How many of them are on the disk of this machine.
    kept: u64,
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Feeds all of a file to the hasher.
fn hash(mut file: &File, hasher: &mut Hasher) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    file.seek(SeekFrom::Start(0))?;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..count]);
    }
}

fn open(path: &Path) -> anyhow::Result<(File, u64)> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    let length = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?.len();
    Ok((file, length))
}

impl Part {
    /// That of the file that is to be at `target`, as it was left. What is there is hashed.
    pub fn of_file(target: &Path, size: u64, hasher: &mut Hasher) -> anyhow::Result<Self> {
        let path = beside(target, ".part");
        let (file, at) = open(&path)?;
        hash(&file, hasher).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { file, path, size, at, note: None })
    }

    /// That of the disk that is to be at `target`, as it was left; empty if these are other bytes.
    pub fn of_disk(target: &Path, size: u64, tag: &str) -> anyhow::Result<Self> {
        let (path, note) = (beside(target, ".part"), beside(target, ".part.json"));
        let (file, length) = open(&path)?;
        let said = fs::read(&note).ok().and_then(|said| serde_json::from_slice::<Says>(&said).ok());
        let same = said.filter(|said| said.tag == tag && said.kept <= length.min(size));
        let says = same.unwrap_or_else(|| Says { tag: tag.to_owned(), kept: 0 });
        let (at, failed) = (says.kept, format!("cannot write {}", path.display()));
        let note = Note { path: note, says };
        // It must not speak of bytes that are about to be thrown away
        note.write().with_context(|| failed.clone())?;
        file.set_len(at).context(failed)?;
        Ok(Self { file, path, size, at, note: Some(note) })
    }

    /// How many bytes are there.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Notes what is there, once it is on the disk.
    fn keep(&mut self) -> io::Result<()> {
        let Some(note) = &mut self.note else { return Ok(()) };
        if self.file.metadata()?.len() < self.at {
            self.file.set_len(self.at)?;
        }
        self.file.sync_data()?;
        note.says.kept = self.at;
        note.write()
    }

    /// It is whole, and gets its name.
    pub fn finish(mut self, target: &Path) -> anyhow::Result<()> {
        let shown = self.path.display().to_string();
        let written = self.file.set_len(self.size).and_then(|()| self.file.sync_all());
        written.with_context(|| format!("cannot write {shown}"))?;
        let named = fs::rename(&self.path, target);
        named.with_context(|| format!("cannot rename {shown} to {}", target.display()))?;
        self.forget()
    }

    /// It is not what it should be.
    pub fn discard(mut self) -> anyhow::Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))?;
        self.forget()
    }

    fn forget(&mut self) -> anyhow::Result<()> {
        let Some(Note { path, .. }) = self.note.take() else { return Ok(()) };
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

impl Note {
    fn write(&self) -> io::Result<()> {
        let new = beside(&self.path, ".new");
        fs::write(&new, serde_json::to_vec(&self.says)?)?;
        fs::rename(new, &self.path)
    }
}

impl Write for Part {
    /// Takes as many bytes as are zeros, or are not, block by block.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let to_block = BLOCK - usize::try_from(self.at % BLOCK as u64).unwrap_or_default();
        let mut run = to_block.min(bytes.len());
        let empty = is_zero(&bytes[..run]);
        while run < bytes.len() {
            let end = (run + BLOCK).min(bytes.len());
            if is_zero(&bytes[run..end]) != empty {
                break;
            }
            run = end;
        }
        if !empty {
            self.file.write_all_at(&bytes[..run], self.at)?;
        }
        self.at += run as u64;
        let noted = self.note.as_ref().map(|note| note.says.kept);
        if noted.is_some_and(|kept| self.at - kept >= NOTED) {
            self.keep()?;
        }
        Ok(run)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Where it cannot be noted, less counts the next time
        let _ = self.keep();
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    bytes == &ZEROS[..bytes.len()]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const SIZE: u64 = 1 << 20;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.raw");
        (folder, target)
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_disk_is_as_it_came_and_its_zeros_take_no_room() {
        let (folder, target) = folder();
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        bytes[..5].copy_from_slice(b"begin");
        bytes[700_001..700_004].copy_from_slice(b"mid");
        let mut part = Part::of_disk(&target, SIZE, "u").unwrap();
        for piece in bytes.chunks(10_007) {
            part.write_all(piece).unwrap();
        }
        part.finish(&target).unwrap();
        assert!(fs::read(&target).unwrap() == bytes);
        let room = target.metadata().unwrap().blocks() * 512;
        assert!(room <= SIZE / 8, "{room}");
        assert_eq!(names(&folder), ["disk.raw"]);
    }

    #[test]
    fn a_disk_goes_on_where_it_was_noted() {
        let (folder, target) = folder();
        let mut part = Part::of_disk(&target, SIZE, "u").unwrap();
        part.write_all(&[1; 5000]).unwrap();
        // a hole at the end counts as well
        part.write_all(&[0; 9000]).unwrap();
        drop(part);
        assert_eq!(names(&folder), ["disk.raw.part", "disk.raw.part.json"]);
        // what came after the last note may be anything
        let path = beside(&target, ".part");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"what a power cut has left").unwrap();
        let part = Part::of_disk(&target, SIZE, "u").unwrap();
        assert_eq!((part.at(), path.metadata().unwrap().len()), (14_000, 14_000));
        drop(part);

        // Of other bytes, or without a note that tells, nothing counts
        assert_eq!(Part::of_disk(&target, SIZE, "v").unwrap().at(), 0);
        let with = |note: &str, length: u64| {
            fs::write(beside(&target, ".part.json"), note).unwrap();
            File::create(&path).unwrap().set_len(length).unwrap();
            Part::of_disk(&target, SIZE, "u").unwrap().at()
        };
        assert_eq!(with(r#"{"tag": "u", "kept": 7}"#, 8), 7);
        for (note, length) in
            [(r#"{"tag": "u", "kept": 7}"#, 6), ("", 8), (r#"{"tag": "u", "kept": 2097152}"#, 4 << 20)]
        {
            assert_eq!(with(note, length), 0, "{note}");
        }
        Part::of_disk(&target, SIZE, "u").unwrap().discard().unwrap();
        assert_eq!(names(&folder), [""; 0]);
    }

    #[test]
    fn a_file_goes_on_where_its_part_ends() {
        let (folder, target) = folder();
        fs::write(beside(&target, ".part"), "abc").unwrap();
        let mut hasher = Hasher::default();
        let mut part = Part::of_file(&target, 6, &mut hasher).unwrap();
        assert_eq!(part.at(), 3);
        part.write_all(b"de\0").unwrap();
        part.finish(&target).unwrap();
        assert_eq!((fs::read(&target).unwrap(), names(&folder)), (b"abcde\0".to_vec(), vec!["disk.raw".to_owned()]));
    }
}
