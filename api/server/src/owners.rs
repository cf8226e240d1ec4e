//! Whom things belong to: what is made on hosts is named after the UID of an object, and is an orphan when there is no object with
//! this UID.

use std::collections::BTreeSet;

use serde_json::Value;
use ucloud_machinery::{meta, strategy::Lister};
use ucloud_types::GROUP;

/// The kinds after whose UIDs things on hosts are named.
const OWNERS: [(&str, &str); 4] = [("VM", "vms"), ("Volume", "volumes"), ("Image", "images"), ("File", "files")];

/// Those of the UIDs that no object has, not even one that is being deleted.
pub fn missing(uids: Vec<String>, lister: &dyn Lister) -> Vec<String> {
    let mut missing: BTreeSet<String> = uids.into_iter().collect();
    for (_, plural) in OWNERS {
        if missing.is_empty() {
            break;
        }
        for object in lister.list(GROUP, plural, None) {
            missing.remove(meta::text(&object, "uid"));
        }
    }
    missing.into_iter().collect()
}

/// The object with this UID, for people.
pub fn find(uid: &str, lister: &dyn Lister) -> Option<String> {
    let is_it = |object: &Value| meta::text(object, "uid") == uid;
    OWNERS.into_iter().find_map(|(kind, plural)| {
        let object = lister.list(GROUP, plural, None).into_iter().find(is_it)?;
        Some(format!("{kind} {}/{}", meta::text(&object, "namespace"), meta::text(&object, "name")))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authorization::test_support::Objects;

    #[test]
    fn objects_of_all_four_kinds_own_things_also_while_they_go() {
        let object = |uid: &str| {
            let deleted = "2026-01-01T00:00:00Z";
            json!({"metadata": {"name": "a", "namespace": "p", "uid": uid, "deletionTimestamp": deleted}})
        };
        let objects = Objects::default()
            .with("vms", object("vm"))
            .with("volumes", object("volume"))
            .with("images", object("image"))
            .with("files", object("file"))
            .with("networks", object("network"));
        let uids = ["network", "vm", "gone", "volume", "image", "file", "gone"].map(str::to_owned).into();
        assert_eq!(missing(uids, &objects), ["gone", "network"]);
        assert_eq!(find("volume", &objects).as_deref(), Some("Volume p/a"));
        assert_eq!(find("gone", &objects), None);
    }
}
