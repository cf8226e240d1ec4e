//! StoragePool: a place of its own that never changes.

use std::path::Path;

use serde_json::Value;
use ucloud_machinery::{
    meta,
    status::{FieldError, FieldPath},
    strategy::{Context, Strategy},
};
use ucloud_types::{GROUP, StoragePool, StoragePoolSpec, storage_pool::RbdPool};

use super::{check_immutable, status_errors, typed};
use crate::protection;

const PATH: &str = "spec.directory.path";
const RBD: &str = "spec.rbd";
const ADVICE: &str = "make a second pool instead";

/// The rules of StoragePools.
pub struct StoragePoolStrategy;

impl Strategy for StoragePoolStrategy {
    fn validate_create(&self, ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        match typed::<StoragePool>(object) {
            Ok(pool) => validate(&pool.spec, &others(ctx)),
            Err(error) => vec![error],
        }
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<StoragePool>(new), typed::<StoragePool>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = Vec::new();
                let path = |pool: &StoragePool| pool.spec.directory.as_ref().map(|directory| directory.path.clone());
                check_immutable(PATH, &path(&old), &path(&new), ADVICE, &mut errors);
                let rbd = |pool: &StoragePool| pool.spec.rbd.as_ref().map(effective);
                check_immutable(RBD, &rbd(&old), &rbd(&new), ADVICE, &mut errors);
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

/// With what is left out written out.
fn effective(pool: &RbdPool) -> RbdPool {
    RbdPool {
        pool: pool.pool.clone(),
        user: Some(pool.effective_user().to_owned()),
        conf: Some(pool.effective_conf().to_owned()),
    }
}

/// Every other pool, by name.
fn others(ctx: &Context<'_>) -> Vec<(String, StoragePoolSpec)> {
    let pools = ctx.lister.list(GROUP, "storagepools", None);
    let named = pools
        .iter()
        .filter_map(|pool| Some((meta::text(pool, "name").to_owned(), typed::<StoragePool>(pool).ok()?.spec)));
    named.filter(|(name, _)| name != ctx.name).collect()
}

fn validate(spec: &StoragePoolSpec, others: &[(String, StoragePoolSpec)]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // where two pools have one place, each would take the other's disks for orphans
    if let Some(directory) = &spec.directory {
        let path = directory.path.as_str();
        let mut invalid = |rule: &str| errors.push(FieldError::invalid(FieldPath::new(PATH), path, rule));
        let plain = path.starts_with('/') && path[1..].split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !plain {
            invalid("must be an absolute path without empty parts, . and ..");
        }
        for (other, spec) in others {
            if let Some(taken) = spec.directory.as_ref().map(|directory| directory.path.as_str())
                && (Path::new(path).starts_with(taken) || Path::new(taken).starts_with(path))
            {
                invalid(&format!("overlaps with {taken} of StoragePool {other:?}"));
            }
        }
    }
    if let Some(rbd) = &spec.rbd {
        for (other, spec) in others {
            // one cluster may have several users, but a pool of it is one place
            if let Some(taken) = &spec.rbd
                && (taken.pool.as_str(), taken.effective_conf()) == (rbd.pool.as_str(), rbd.effective_conf())
            {
                let rule = format!("is the pool of StoragePool {other:?} already");
                errors.push(FieldError::invalid(FieldPath::new("spec.rbd.pool"), rbd.pool.as_str(), &rule));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(spec: &Value) -> StoragePoolSpec {
        serde_json::from_value(spec.clone()).unwrap()
    }

    #[test]
    fn a_directory_is_plain_and_its_pools_alone() {
        let directory = |path: &str| spec(&json!({"directory": {"path": path}}));
        let others =
            [("a".to_owned(), directory("/srv/a")), ("ceph".to_owned(), spec(&json!({"rbd": {"pool": "vms"}})))];
        for good in ["/srv/b", "/srv/ab", "/var/lib/ucloud/pools/default"] {
            assert_eq!(validate(&directory(good), &others), [], "{good}");
        }
        for bad in ["/srv/a", "/srv/a/b", "/srv", "/", "srv/b", "/srv/../etc", "/srv/./b", "/srv//b", "/srv/b/"] {
            assert_ne!(validate(&directory(bad), &others), [], "{bad}");
        }
    }

    #[test]
    fn a_pool_of_ceph_has_one_storage_pool() {
        let others = [("a".to_owned(), spec(&json!({"rbd": {"pool": "vms"}})))];
        for good in [json!({"pool": "fast"}), json!({"pool": "vms", "conf": "/etc/ceph/second.conf"})] {
            assert_eq!(validate(&spec(&json!({"rbd": good})), &others), [], "{good}");
        }
        for bad in [json!({"pool": "vms", "user": "other"}), json!({"pool": "vms", "conf": "/etc/ceph/ceph.conf"})] {
            let errors = validate(&spec(&json!({"rbd": bad})), &others);
            assert!(errors[0].body().contains("is the pool of StoragePool \"a\" already"), "{errors:?}");
        }
    }
}
