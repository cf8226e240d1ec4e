//! What a VM waits for, and that it starts the moment the cause is gone.

use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use ucloud_agent_sim::{Effect, Fault, Method, When};
use ucloud_types::{
    Host, Image, Network, NetworkPool, StoragePool, condition, host::HostRole, image::ImagePhase, vm::VMPhase,
};

use crate::world::{World, effect, phase_of, ready_of, timing};

#[tokio::test(flavor = "multi_thread")]
async fn missing_objects_are_named_and_waited_for() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let spec = json!({
        "disks": [{"name": "root", "image": "debian", "pool": "fast"}],
        "networks": [{"name": "eth0", "network": "dmz"}],
    });
    world.bound_vm("web", &host, spec).await;
    let vm = world.wait_reason("web", "NetworkNotFound").await;
    let message = ready_of(&vm).1;
    assert!(message.contains("default/dmz") && message.contains("StoragePool fast"), "{message}");
    assert_eq!(phase_of(&vm), Some(VMPhase::Provisioning));
    world.make::<Network>(&world.namespaced(), "dmz", json!({})).await;
    world.wait_reason("web", "StoragePoolNotFound").await;
    world.make::<StoragePool>(&world.cluster(), "fast", json!({"directory": {"path": "/fast"}})).await;
    let vm = world.wait_reason("web", "ImageNotFound").await;
    assert!(ready_of(&vm).1.contains("default/debian"), "{:?}", ready_of(&vm));
    assert_eq!(host.contents()[1], 0);
    let source = json!({"source": {"file": {"name": "debian.raw"}}, "format": "raw", "pool": "fast"});
    world.make::<Image>(&world.namespaced(), "debian", source).await;
    world.wait_running("web").await;
}

/// An agent that begins looks for what is on its host while it looks at VMs already, and nobody else tells it of either.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_image_that_is_found_late_is_noticed() {
    let world = World::start().await;
    let host = world.host("h1");
    let agent = world.agent(&host).await;
    world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    agent.kill().await;
    world.bound_vm("next", &host, json!({})).await;
    world.stop_controllers();
    let late = Effect::Delay(Duration::from_secs(1));
    host.inject(Fault { method: Method::Images, when: When::Always, effect: late });
    let _agent = world.agent(&host).await;
    world.wait_reason("next", "ImageNotReady").await;
    world.wait_running("next").await;
    assert_eq!(effect(&host, "import"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_without_a_vni_is_waited_for() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let networks = world.namespaced::<Network>();
    world.make::<Network>(&networks, "odd", json!({"pool": "nowhere"})).await;
    world
        .wait_for::<Network>(&networks, "odd", "that it has no pool", |network| {
            let status = network.status.as_ref();
            status.is_some_and(|status| condition::get(&status.conditions, condition::READY).is_some())
        })
        .await;
    world.bound_vm("web", &host, json!({"networks": [{"name": "eth0", "network": "odd"}]})).await;
    let vm = world.wait_reason("web", "NetworkNotReady").await;
    assert!(ready_of(&vm).1.contains("default/odd"), "{:?}", ready_of(&vm));
    assert!(ready_of(&vm).1.contains("NetworkPool nowhere does not exist"), "{:?}", ready_of(&vm));
    let range = json!({"prefix": "fd00:2::/48", "vniRange": {"first": 2000, "last": 2009}});
    world.make::<NetworkPool>(&world.cluster(), "nowhere", range).await;
    world.wait_running("web").await;
}

/// Layer 2 works without a router, so nothing keeps the VM; that the network is not all that it should be, it says itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_starts_in_a_network_that_nobody_routes() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent_as(&host, &[HostRole::Compute], timing()).await;
    let networks = world.namespaced::<Network>();
    world
        .wait_for::<Network>(&networks, "lan", "that it has no router", |network| {
            let status = network.status.as_ref();
            status.is_some_and(|status| {
                condition::get(&status.conditions, condition::ROUTED).is_some_and(|c| c.reason == "NoRouter")
            })
        })
        .await;
    world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    assert!(host.gateways().is_empty() && host.advertised().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_what_it_should_be_fails_once_and_for_all() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let wrong = format!("sha256:{}", "0".repeat(64));
    let source = json!({"source": {"file": {"name": "debian.raw"}}, "format": "raw", "checksum": wrong});
    let images = world.namespaced::<Image>();
    let image = world.make::<Image>(&images, "debian", source).await;
    world.bound_vm("web", &host, json!({"disks": [{"name": "root", "image": "debian"}]})).await;
    world
        .wait_for::<Image>(&images, "debian", "a failed import", |image| {
            image.status.as_ref().is_some_and(|status| status.phase == Some(ImagePhase::Failed))
        })
        .await;
    let vm = world.wait_vm("web", "the cause", |vm| ready_of(vm).1.contains("instead of")).await;
    assert_eq!(ready_of(&vm).0, "ImageNotReady");
    let tries = host.calls(Method::ImportImage);
    // Another image comes meanwhile, so that the agent looks at all of them again
    let other = json!({"source": {"file": {"name": "other.raw"}}, "format": "raw"});
    world.make::<Image>(&images, "other", other).await;
    world
        .wait_for::<Image>(&images, "other", "the other", |i| i.status.as_ref().is_some_and(|s| s.sha256.is_some()))
        .await;
    assert_eq!(host.calls(Method::ImportImage), tries + 1, "a terminal failure is not tried again");
    // The VM goes on with another image; the bad one goes
    world.respecify("web", json!({"disks": [{"name": "root", "image": "alpine"}]})).await;
    world.wait_running("web").await;
    images.delete("debian", &DeleteParams::default()).await.unwrap();
    world.wait_deleted(&images, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_tried_again() {
    let world = World::start().await;
    let host = world.host("h1");
    let full = Effect::Refuse { reason: "NoSpace", terminal: false };
    host.inject(Fault { method: Method::ImportImage, when: When::Always, effect: full });
    let _agent = world.agent(&host).await;
    world.bound_vm("web", &host, json!({})).await;
    world.wait_vm("web", "the cause", |vm| ready_of(vm).1.contains("fails in ImportImage")).await;
    world
        .wait_for::<Host>(&world.cluster(), "h1", "the report of it", |host| {
            let images = host.status.iter().flat_map(|status| &status.images);
            images.into_iter().any(|image| image.reason.as_deref() == Some("NoSpace"))
        })
        .await;
    host.heal();
    world.wait_running("web").await;
    assert_eq!(effect(&host, "import"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_spec_fails_and_a_good_one_converges() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    world.bound_vm("web", &host, json!({"disks": [{"name": "root", "image": "alpine", "size": "1Mi"}]})).await;
    let vm = world.wait_reason("web", "DiskTooSmall").await;
    assert_eq!(phase_of(&vm), Some(VMPhase::Failed));
    let tries = host.calls(Method::EnsureDisk);
    let note = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    world.vms().patch("web", &PatchParams::default(), &note).await.unwrap();
    // Another VM of this host starts after the change was seen
    world.bound_vm("other", &host, json!({})).await;
    world.wait_running("other").await;
    assert_eq!(host.calls(Method::EnsureDisk), tries + 1, "what was refused is not tried again");
    world.respecify("web", json!({"disks": [{"name": "root", "image": "alpine", "size": "2Gi"}]})).await;
    let vm = world.wait_running("web").await;
    assert_eq!(vm.status.unwrap().disks[0].size, "2Gi".parse().unwrap());
}
