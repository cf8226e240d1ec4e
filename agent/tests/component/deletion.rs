//! Deletion at any time, and what comes back under the same name.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use ucloud_agent_sim::{Effect, Fault, Method, When};
use ucloud_types::{Host, Image, Network, condition, vm::VMPhase};

use crate::world::{World, effect, eventually, uid};

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_starting() {
    let world = World::start().await;
    let host = world.host("h1");
    host.inject(Fault { method: Method::Start, when: When::Nth(1), effect: Effect::Hang });
    let _agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    eventually("the start", || host.calls(Method::Start) == 1).await;
    world.delete("web").await;
    world.wait_gone(&vm).await;
    assert_eq!(host.contents()[..2], [0, 0]);
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_anything_was_made() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({"networks": [{"name": "eth0", "network": "none"}]})).await;
    world.wait_reason("web", "NetworkNotFound").await;
    world.delete("web").await;
    world.wait_gone(&vm).await;
    assert_eq!(effect(&host, "make disk"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_it_up_is_told() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    let broken = Effect::Refuse { reason: "PoolUnavailable", terminal: false };
    host.inject(Fault { method: Method::RemoveDisk, when: When::Always, effect: broken });
    world.delete("web").await;
    let held = world
        .wait_vm("web", "the cause", |vm| {
            let conditions = vm.status.as_ref().map(|status| &status.conditions);
            conditions
                .and_then(|all| condition::get(all, condition::TERMINATING))
                .is_some_and(|c| c.reason == "PoolUnavailable" && c.message.contains("disk root in pool default"))
        })
        .await;
    assert_eq!(held.status.unwrap().phase, Some(VMPhase::Terminating));
    host.heal();
    world.wait_gone(&vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_of_the_same_name_keeps_its_disk() {
    let world = World::start().await;
    let host = world.host("h1");
    let agent = world.agent(&host).await;
    let first = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    // While the agent is away, somebody takes the finalizer by force, and a VM of the same name comes
    agent.kill().await;
    world.delete("web").await;
    let force = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    world.vms().patch("web", &PatchParams::default(), &force).await.unwrap();
    world.wait_gone(&first).await;
    let second = world.bound_vm("web", &host, json!({})).await;
    let _agent = world.agent(&host).await;
    world.wait_running("web").await;
    assert_ne!(uid(&first), uid(&second));
    assert_eq!(effect(&host, "remove disk"), 0);
    // What belongs to nobody is shown, and left alone
    let host_object = world
        .wait_for::<Host>(&world.cluster(), "h1", "the orphans", |host| {
            host.status.as_ref().is_some_and(|status| status.orphans.len() == 2)
        })
        .await;
    let orphans = host_object.status.unwrap().orphans;
    assert!(orphans.iter().all(|orphan| orphan.uid == uid(&first)), "{orphans:?}");
    assert!(host.domain_of(&uid(&first)).is_some());
    // The successor's end is its own
    world.delete("web").await;
    world.wait_gone(&second).await;
    assert!(host.domain_of(&uid(&first)).is_some() && host.domain_of(&uid(&second)).is_none());
    assert_eq!(host.contents()[1], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_and_made_again_at_once() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let mut last = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    for _ in 0..3 {
        world.delete("web").await;
        world.wait_gone(&last).await;
        last = world.bound_vm("web", &host, json!({})).await;
    }
    world.wait_running("web").await;
    let only = host.domain_of(&uid(&last)).unwrap();
    assert_eq!((only.spec.uid, host.contents()[0], host.contents()[1]), (uid(&last), 1, 1));
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_and_images_go_after_their_last_user() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    let (networks, images) = (world.namespaced::<Network>(), world.namespaced::<Image>());
    let (network, image) = (networks.get("lan").await.unwrap(), images.get("alpine").await.unwrap());
    networks.delete("lan", &DeleteParams::default()).await.unwrap();
    images.delete("alpine", &DeleteParams::default()).await.unwrap();
    world
        .wait_for::<Host>(&world.cluster(), "h1", "why the image stays", |host| {
            let images = host.status.iter().flat_map(|status| &status.images);
            images.into_iter().any(|i| i.message.as_deref().is_some_and(|m| m.contains("default/web")))
        })
        .await;
    assert_eq!(host.contents(), [1, 1, 1, 1], "they are in use");
    world.delete("web").await;
    world.wait_gone(&vm).await;
    world.wait_deleted(&networks, &network).await;
    world.wait_deleted(&images, &image).await;
    assert_eq!(host.contents(), [0, 0, 0, 0]);
}
