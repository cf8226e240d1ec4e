//! A simulated host, in memory, with injectable faults
