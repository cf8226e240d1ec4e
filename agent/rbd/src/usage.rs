//! The size of a pool, and whether it takes data at all.

use serde::Deserialize;
use ucloud_agent_core::block_store::PoolUsage;
use ucloud_types::Quantity;

use crate::{cluster::IoCtx, error::RbdError};

/// Of `ceph df --format json`, what is needed.
#[derive(Debug, Deserialize)]
struct Df {
    pools: Vec<DfPool>,
}

#[derive(Debug, Deserialize)]
struct DfPool {
    name: String,
    stats: DfStats,
}

/// In bytes as clients see them: copies are not counted.
#[derive(Debug, Deserialize)]
struct DfStats {
    stored: u64,
    max_avail: u64,
}

/// Of `ceph osd dump --format json`, what is needed.
#[derive(Debug, Deserialize)]
struct OsdDump {
    #[serde(default)]
    flags_set: Vec<String>,
    pools: Vec<DumpPool>,
}

#[derive(Debug, Deserialize)]
struct DumpPool {
    pool_name: String,
    flags_names: String,
    #[serde(default)]
    quota_max_bytes: u64,
}

/// The pool's size and room: what Ceph says that can still be stored, or the pool's quota where that is less.
pub fn usage(pool: &IoCtx) -> Result<PoolUsage, RbdError> {
    let df = pool.cluster().ask("ask for the room of", r#"{"prefix":"df","format":"json"}"#)?;
    read_usage(&df, &dump(pool)?, pool.name())
}

/// Whether the cluster or the pool takes no more data. Ceph lets writes wait then, so that they time out.
pub fn is_full(pool: &IoCtx) -> Result<bool, RbdError> {
    let dump: OsdDump = serde_json::from_slice(&dump(pool)?).map_err(|error| RbdError::Answer("osd dump", error))?;
    let flagged = |flags: &str| flags.split(',').any(|flag| flag == "full" || flag == "full_quota");
    let pool_full = dump.pools.iter().any(|dumped| dumped.pool_name == pool.name() && flagged(&dumped.flags_names));
    Ok(pool_full || dump.flags_set.iter().any(|flag| flag == "full"))
}

fn dump(pool: &IoCtx) -> Result<Vec<u8>, RbdError> {
    Ok(pool.cluster().ask("ask for the pools of", r#"{"prefix":"osd dump","format":"json"}"#)?)
}

fn read_usage(df: &[u8], dump: &[u8], pool: &str) -> Result<PoolUsage, RbdError> {
    let df: Df = serde_json::from_slice(df).map_err(|error| RbdError::Answer("df", error))?;
    let dump: OsdDump = serde_json::from_slice(dump).map_err(|error| RbdError::Answer("osd dump", error))?;
    let (stored, free) = df
        .pools
        .iter()
        .find(|entry| entry.name == pool)
        .map_or((0, 0), |entry| (entry.stats.stored, entry.stats.max_avail));
    let quota = dump.pools.iter().find(|entry| entry.pool_name == pool).map_or(0, |entry| entry.quota_max_bytes);
    let free = if quota == 0 { free } else { free.min(quota.saturating_sub(stored)) };
    Ok(PoolUsage { capacity: Quantity::from_bytes(stored.saturating_add(free)), available: Quantity::from_bytes(free) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_ceph_says_or_the_quota() {
        let df = br#"{"stats":{},"pools":[{"name":"other","id":1,"stats":{"stored":1,"max_avail":2}},
            {"name":"vms","id":2,"stats":{"stored":100,"objects":3,"max_avail":900}}]}"#;
        let dump = |quota: u64| {
            format!(r#"{{"pools":[{{"pool_name":"vms","flags_names":"hashpspool","quota_max_bytes":{quota}}}]}}"#)
        };
        let usage = |quota| {
            let usage = read_usage(df, dump(quota).as_bytes(), "vms").unwrap();
            (usage.capacity.bytes(), usage.available.bytes())
        };
        assert_eq!(usage(0), (1000, 900));
        assert_eq!(usage(300), (300, 200));
        assert_eq!(usage(50), (100, 0));
        assert!(read_usage(b"[", dump(0).as_bytes(), "vms").is_err());
    }
}
