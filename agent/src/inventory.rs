//! What the host has, as its kernel tells.

use std::{fs, io, num::ParseIntError};

use nix::unistd::{SysconfVar, sysconf};
use ucloud_types::{Quantity, host::Resources};

use crate::Inventory;

/// Why it is not known what the host has.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// A file of /proc cannot be read.
    #[error("cannot read {0}")]
    Read(&'static str, #[source] io::Error),
    /// A file of /proc has not the form that it should have.
    #[error("{0} does not tell the memory in kB")]
    Memory(&'static str, #[source] Option<ParseIntError>),
    /// The number of processors is not known.
    #[error("cannot count the processors")]
    Processors(#[source] Option<nix::Error>),
}

const MEMINFO: &str = "/proc/meminfo";

impl Inventory {
    /// Reads it.
    pub fn read() -> Result<Self, InventoryError> {
        let read = |path| fs::read_to_string(path).map_err(|error| InventoryError::Read(path, error));
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).map_err(|error| InventoryError::Processors(Some(error)))?;
        let cpus = online.and_then(|online| u32::try_from(online).ok()).ok_or(InventoryError::Processors(None))?;
        Ok(Self {
            capacity: Resources { cpus, memory: total_memory(&read(MEMINFO)?)? },
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            boot_id: read("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        })
    }
}

/// The line `MemTotal:  16384 kB`, where kB means KiB.
fn total_memory(meminfo: &str) -> Result<Quantity, InventoryError> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")).ok_or(InventoryError::Memory(MEMINFO, None))?;
    let kib: u64 = number.trim().parse().map_err(|error| InventoryError::Memory(MEMINFO, Some(error)))?;
    Ok(Quantity::from_bytes(kib.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_kib() {
        let memory = total_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n").unwrap();
        assert_eq!(memory.to_string(), "16Mi");
        assert!(total_memory("MemFree: 1 kB\n").is_err());
        assert!(total_memory("MemTotal: many kB\n").is_err());
    }

    #[test]
    fn this_machine_has_something() {
        let inventory = Inventory::read().unwrap();
        assert!(inventory.capacity.cpus > 0 && inventory.capacity.memory.bytes() > 0);
        assert_eq!(inventory.boot_id.len(), 36);
    }
}
