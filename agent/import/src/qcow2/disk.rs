//! The disk in a qcow2 file of our own, read by ourselves: no process that could be left behind, no memory but the reader's
//! buffer, and nothing that a guest's QEMU may have written into the tables leads out of the file.
//!
//! Understood is what qemu-img makes of what we ask it for, and what QEMU writes into that: plain clusters, clusters that are
//! zeros, and clusters that are not there (format: docs/interop/qcow2.txt in QEMU's sources).

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::{Header, Refused, parse_header};

/// Of an entry of a table, the place in the file that it names.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZEROS: u64 = 1;
const ENTRY: u64 = 8;

/// An open disk.
#[derive(Debug)]
pub struct Disk {
    file: File,
    file_size: u64,
    header: Header,
    backing: Option<Box<Disk>>,
}

/// Why a disk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be read.
    #[error("its file cannot be read")]
    Io(#[from] io::Error),
    /// It is no disk of ours.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Where the bytes of a cluster are.
enum Cluster {
    /// At this place in the file.
    Here(u64),
    /// In what the disk is a clone of.
    Behind,
    /// Nowhere: they are zeros.
    Zeros,
}

impl Disk {
    /// Opens the disk in the file at `path`; `backing` opens what that is a clone of, if of anything, by what its header says.
    pub fn open(
        path: &Path,
        backing: impl FnOnce(&Header) -> Result<Option<Self>, DiskError>,
    ) -> Result<Self, DiskError> {
        let file = File::open(path)?;
        let header = parse_header(&file)??;
        header.check_sound()?;
        if header.extended_l2 {
            return Err(Refused::NotOurs("extended L2 entries").into());
        }
        let backing = backing(&header)?.map(Box::new);
        Ok(Self { file_size: file.metadata()?.len(), file, header, backing })
    }

    /// Its size in bytes, as a guest sees it.
    pub fn size(&self) -> u64 {
        self.header.virtual_size
    }

    /// Reads from `offset` on what a guest would. `buffer` is filled with zeros already; what lies behind the end of the
    /// disk stays so.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() && at < self.size() {
            let within = at % self.header.cluster_size;
            let most = (self.header.cluster_size - within).min(self.size() - at);
            let (part, behind) = rest.split_at_mut(usize::try_from(most).unwrap_or(usize::MAX).min(rest.len()));
            match self.cluster(at)? {
                Cluster::Here(place) => self.read_file(place + within, part)?,
                Cluster::Behind => {
                    if let Some(backing) = &self.backing {
                        backing.read(at, part)?;
                    }
                }
                Cluster::Zeros => {}
            }
            at += part.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// Where the cluster is that has this byte of the disk.
    fn cluster(&self, at: u64) -> Result<Cluster, DiskError> {
        let cluster_size = self.header.cluster_size;
        let (cluster, entries) = (at / cluster_size, cluster_size / ENTRY);
        let l1 = cluster / entries * ENTRY;
        if l1 >= self.header.l1_bytes {
            return Err(Refused::OutsideOfFile("L1 table").into());
        }
        let l2 = self.entry(self.header.l1_offset.saturating_add(l1), "L1 table")? & PLACE;
        if l2 == 0 {
            return Ok(Cluster::Behind);
        }
        let entry = self.entry(l2 + cluster % entries * ENTRY, "L2 table")?;
        match entry & PLACE {
            _ if entry & COMPRESSED != 0 => Err(Refused::NotOurs("compressed clusters").into()),
            _ if entry & ZEROS != 0 => Ok(Cluster::Zeros),
            0 => Ok(Cluster::Behind),
            place if place.is_multiple_of(cluster_size) => Ok(Cluster::Here(place)),
            _ => Err(Refused::Broken("the place of a cluster").into()),
        }
    }

    fn entry(&self, place: u64, table: &'static str) -> Result<u64, DiskError> {
        if place.saturating_add(ENTRY) > self.file_size {
            return Err(Refused::OutsideOfFile(table).into());
        }
        let mut entry = [0; 8];
        self.file.read_exact_at(&mut entry, place)?;
        Ok(u64::from_be_bytes(entry))
    }

    /// Behind the end of the file are zeros: the last cluster may not have been written to its end.
    fn read_file(&self, mut place: u64, mut part: &mut [u8]) -> io::Result<()> {
        while !part.is_empty() {
            let read = match self.file.read_at(part, place) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                break;
            }
            place += read as u64;
            part = &mut part[read..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: usize = 512;

    /// A disk of eight clusters, in a file of clusters of 512 bytes: header, L1, L2 and data.
    fn file(entries: &[u64]) -> Vec<u8> {
        let mut file = vec![0; 3 * CLUSTER];
        file[..4].copy_from_slice(&super::super::MAGIC);
        put(&mut file, 4, &3_u32.to_be_bytes());
        put(&mut file, 20, &9_u32.to_be_bytes());
        put(&mut file, 24, &(8 * CLUSTER as u64).to_be_bytes());
        put(&mut file, 36, &1_u32.to_be_bytes());
        put(&mut file, 40, &(CLUSTER as u64).to_be_bytes());
        put(&mut file, 100, &104_u32.to_be_bytes());
        put(&mut file, CLUSTER, &((2 * CLUSTER as u64) | (1 << 63)).to_be_bytes());
        for (number, entry) in entries.iter().enumerate() {
            put(&mut file, 2 * CLUSTER + number * 8, &entry.to_be_bytes());
        }
        file
    }

    fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn open(bytes: &[u8], backing: Option<Disk>) -> Result<Disk, DiskError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Disk::open(file.path(), |_| Ok(backing))
    }

    fn read(disk: &Disk, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let mut buffer = vec![0; length];
        disk.read(offset, &mut buffer).map(|()| buffer)
    }

    #[test]
    fn clusters_are_here_or_behind_or_zeros() {
        let mut base = file(&[3 * 512, 3 * 512, 3 * 512]);
        base.extend([7; CLUSTER]);
        let mut overlay = file(&[0, 3 * 512, (3 * 512) | ZEROS, 1]);
        // the last cluster is not written to its end
        overlay.extend([9; 100]);
        let disk = open(&overlay, Some(open(&base, None).unwrap())).unwrap();
        let all = read(&disk, 0, 9 * CLUSTER).unwrap();
        let expected = [vec![7; CLUSTER], vec![9; 100], vec![0; 9 * CLUSTER - CLUSTER - 100]].concat();
        assert_eq!(all, expected);
        assert_eq!(read(&disk, 500, 20).unwrap(), expected[500..520]);
    }

    #[test]
    fn nothing_in_the_tables_leads_out_of_the_file_or_is_guessed() {
        for entry in [COMPRESSED | (3 * 512), !ZEROS] {
            let disk = open(&file(&[entry]), None).unwrap();
            assert!(matches!(read(&disk, 0, 1), Err(DiskError::Refused(Refused::NotOurs(_)))), "{entry:x}");
        }
        let disk = open(&file(&[PLACE & !512 & !ZEROS]), None).unwrap();
        assert_eq!(read(&disk, 0, 4).unwrap(), [0; 4], "behind the end of the file are zeros");
        let mut away = file(&[]);
        put(&mut away, CLUSTER, &(1_u64 << 40).to_be_bytes());
        assert!(matches!(read(&open(&away, None).unwrap(), 0, 1), Err(DiskError::Refused(Refused::OutsideOfFile(_)))));
        let mut large = file(&[]);
        put(&mut large, 24, &(1_u64 << 40).to_be_bytes());
        let large = open(&large, None).unwrap();
        assert!(matches!(read(&large, 1 << 39, 1), Err(DiskError::Refused(Refused::OutsideOfFile(_)))));
        let mut extended = file(&[]);
        put(&mut extended, 72, &super::super::EXTENDED_L2.to_be_bytes());
        assert!(matches!(open(&extended, None), Err(DiskError::Refused(Refused::NotOurs(_)))));
        let mut corrupt = file(&[]);
        put(&mut corrupt, 72, &super::super::CORRUPT.to_be_bytes());
        assert!(matches!(open(&corrupt, None), Err(DiskError::Refused(Refused::Corrupt))));
    }
}
