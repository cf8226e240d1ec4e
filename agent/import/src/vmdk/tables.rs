//! The tables of a VMDK: a directory of tables, whose entries say where the grains are.

use std::{collections::HashSet, fs::File};

use super::{ENTRIES_PER_TABLE, SECTOR};
use crate::header::{Fields, LookError, Refused, lies_within, read_at};

/// No grain (0), or one of zeros (1), for which nothing is in the file.
const FIRST_GRAIN: u32 = 2;
/// The directory is read in pieces of this size.
const PIECE: usize = 1 << 20;

/// Where the tables are, and what they may point to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Where the directory is.
    pub directory: u64,
    /// How many tables it has.
    pub entries: u64,
    /// How many grains all tables have together.
    pub grains: u64,
    /// How many bytes must be there of a grain: all of it, or the beginning of a compressed one, whose end QEMU finds.
    pub grain_bytes: u64,
    /// The size of the file.
    pub file_size: u64,
}

impl Tables {
    /// Whether all tables and grains lie within the file, and each table is there once: else few bytes could stand for
    /// a disk of any size.
    pub fn check(&self, file: &File) -> Result<(), LookError> {
        let mut known = HashSet::new();
        let mut table_of = 0;
        for start in (0..self.entries * 4).step_by(PIECE) {
            let length = usize::try_from(self.entries * 4 - start).map_or(PIECE, |left| left.min(PIECE));
            let piece = read_at(file, self.directory + start, length)?;
            for sector in Fields(&piece).all_u32() {
                if sector != 0 {
                    if !known.insert(sector) {
                        return Err(Refused::Broken("two entries of its grain directory are the same").into());
                    }
                    self.check_table(file, sector, table_of)?;
                }
                table_of += 1;
            }
        }
        Ok(())
    }

    fn check_table(&self, file: &File, sector: u32, table_of: u64) -> Result<(), LookError> {
        let grains = u64::from(ENTRIES_PER_TABLE).min(self.grains - table_of * u64::from(ENTRIES_PER_TABLE));
        let at = u64::from(sector) * SECTOR;
        if !lies_within(self.file_size, at, grains * 4) {
            return Err(Refused::OutsideOfFile("grain table").into());
        }
        let table = read_at(file, at, usize::try_from(grains).unwrap_or_default() * 4)?;
        let outside = |grain: u32| !lies_within(self.file_size, u64::from(grain) * SECTOR, self.grain_bytes);
        if Fields(&table).all_u32().any(|grain| grain >= FIRST_GRAIN && outside(grain)) {
            return Err(Refused::OutsideOfFile("data").into());
        }
        Ok(())
    }
}
