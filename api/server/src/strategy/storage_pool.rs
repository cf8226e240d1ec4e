//! StoragePool: a directory of its own that never changes.

use std::path::Path;

use serde_json::Value;
use ucloud_machinery::{
    meta,
    status::{FieldError, FieldPath},
    strategy::{Context, Lister, Strategy},
};
use ucloud_types::{GROUP, StoragePool};

use super::{check_immutable, status_errors, typed};
use crate::protection;

const PATH: &str = "spec.directory.path";

/// The rules of StoragePools.
pub struct StoragePoolStrategy;

impl Strategy for StoragePoolStrategy {
    fn validate_create(&self, ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        match typed::<StoragePool>(object) {
            Ok(pool) => validate(ctx.name, &pool.spec.directory.path, &directories(ctx.lister)),
            Err(error) => vec![error],
        }
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<StoragePool>(new), typed::<StoragePool>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = Vec::new();
                let (old, new) = (&old.spec.directory.path, &new.spec.directory.path);
                check_immutable(PATH, old, new, "make a second pool instead", &mut errors);
                errors
            }
            (Err(error), _) | (_, Err(error)) => vec![error],
        }
    }

    fn validate_delete(&self, ctx: &Context<'_>, _: &Value) -> Result<(), String> {
        protection::check_storage_pool(ctx.name, ctx.lister)
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<StoragePool>(new)
    }
}

/// Every pool's directory, by the pool's name.
fn directories(lister: &dyn Lister) -> Vec<(String, String)> {
    let pools = lister.list(GROUP, "storagepools", None);
    let named = pools.iter().filter_map(|pool| {
        Some((meta::text(pool, "name").to_owned(), typed::<StoragePool>(pool).ok()?.spec.directory.path))
    });
    named.collect()
}

fn validate(name: &str, path: &str, pools: &[(String, String)]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let invalid = |rule: &str| FieldError::invalid(FieldPath::new(PATH), path, rule);
    let plain = path.starts_with('/') && path[1..].split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !plain {
        errors.push(invalid("must be an absolute path without empty parts, . and .."));
    }
    // in a directory of two pools, each would take the other's disks for orphans
    let nested = |other: &str| Path::new(path).starts_with(other) || Path::new(other).starts_with(path);
    for (other, directory) in pools.iter().filter(|(other, directory)| other != name && nested(directory)) {
        errors.push(invalid(&format!("overlaps with {directory} of StoragePool {other:?}")));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_plain_and_its_pools_alone() {
        let pools = [("a".to_owned(), "/srv/a".to_owned())];
        for good in ["/srv/b", "/srv/ab", "/var/lib/ucloud/pools/default"] {
            assert_eq!(validate("b", good, &pools), [], "{good}");
        }
        assert_eq!(validate("a", "/srv/a", &pools), []);
        for bad in ["/srv/a", "/srv/a/b", "/srv", "/", "srv/b", "/srv/../etc", "/srv/./b", "/srv//b", "/srv/b/"] {
            assert_ne!(validate("b", bad, &pools), [], "{bad}");
        }
    }
}
