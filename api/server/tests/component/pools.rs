//! Pools: no two share anything, and none goes while something is in it.

use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::fixtures::{create, create_vm, fields, refused, start, untyped, vm_spec};

#[tokio::test]
async fn network_pools_do_not_overlap() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let pool =
        |prefix: &str, first: u32, last: u32| json!({"prefix": prefix, "vniRange": {"first": first, "last": last}});
    create(&admin, "NetworkPool", "networkpools", "a", pool("fd00:a::/48", 100, 199)).await.unwrap();
    create(&admin, "NetworkPool", "networkpools", "b", pool("fd00:b::/48", 200, 299)).await.unwrap();
    let status = refused(create(&admin, "NetworkPool", "networkpools", "c", pool("fd00:a::/40", 199, 300)).await);
    assert_eq!(status.code, 422);
    for field in ["spec.prefix", "spec.vniRange"] {
        assert!(fields(&status).contains(&field), "{status:?}");
    }
    assert!(status.message.contains("overlaps with fd00:a::/48 of NetworkPool \"a\""), "{}", status.message);
    let status = refused(create(&admin, "NetworkPool", "networkpools", "d", pool("fd00:d::/80", 9, 8)).await);
    assert_eq!(fields(&status), ["spec.prefix", "spec.vniRange.last"]);
}

#[tokio::test]
async fn a_storage_pool_stays_while_something_is_in_it() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    for (name, path) in [("default", "/srv/default"), ("fast", "/srv/fast")] {
        create(&admin, "StoragePool", "storagepools", name, json!({"directory": {"path": path}})).await.unwrap();
    }
    let status = refused(
        create(&admin, "StoragePool", "storagepools", "in", json!({"directory": {"path": "/srv/fast/in"}})).await,
    );
    assert_eq!(fields(&status), ["spec.directory.path"]);

    let mut spec = vm_spec();
    spec["disks"][0]["pool"] = json!("fast");
    create_vm(&admin, "web", spec).await;
    let pools = untyped(&admin, "StoragePool", "storagepools");
    let status = refused(pools.delete("fast", &DeleteParams::default()).await);
    assert_eq!(status.code, 409);
    let everything = pools.delete_collection(&DeleteParams::default(), &ListParams::default()).await.map(|_| ());
    assert_eq!(refused(everything).code, 409, "none is passed over in silence");
    assert!(status.message.contains("in use by VM default/web; delete them first"), "{}", status.message);
    untyped(&admin, "VM", "vms").delete("web", &DeleteParams::default()).await.unwrap();
    pools.delete("fast", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn an_allocation_is_named_after_its_vni() {
    let api = start().await;
    let controllers = api.controllers().await.unwrap();
    let spec = json!({"pool": "default", "vni": 100, "prefix": "fd00::/64", "namespace": "default", "network": "n",
        "networkUid": "u"});
    let status = refused(create(&controllers, "NetworkAllocation", "networkallocations", "n", spec.clone()).await);
    assert_eq!(fields(&status), ["metadata.name"]);
    create(&controllers, "NetworkAllocation", "networkallocations", "vni-100", spec.clone()).await.unwrap();
    let status = refused(create(&controllers, "NetworkAllocation", "networkallocations", "vni-100", spec).await);
    assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists"));
}
