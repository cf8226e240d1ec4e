//! A step that fails is tried again by its own pauses, whatever wakes the VM meanwhile.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::json;
use ucloud_agent::Timing;
use ucloud_agent_sim::Method;

use crate::world::{World, effect, eventually, timing, uid};

/// No pause ends within a test: what is tried again is tried for another cause.
fn patient() -> Timing {
    Timing { step_retry_first: Duration::from_hours(1), step_retry_most: Duration::from_hours(1), ..timing() }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_from_outside_shortens_a_pause() {
    let world = World::start().await;
    let host = world.host("h1");
    host.break_starts(true);
    let _agent = world.agent_with(&host, patient()).await;
    world.bound_vm("web", &host, json!({})).await;
    world.wait_reason("web", "StartFailed").await;
    for round in 0..6 {
        // That the VM was looked at is told by the hypervisor having been asked for it
        let looks = host.calls(Method::Domain);
        host.silence(round % 2 == 0);
        eventually("a look after news of its domain", || host.calls(Method::Domain) > looks).await;
        let looks = host.calls(Method::Domain);
        let label = Patch::Merge(json!({"metadata": {"labels": {"round": round.to_string()}}}));
        world.vms().patch("web", &PatchParams::default(), &label).await.unwrap();
        eventually("a look after news of its object", || host.calls(Method::Domain) > looks).await;
    }
    // Another VM comes to its first attempt after all of that
    world.bound_vm("other", &host, json!({})).await;
    world.wait_reason("other", "StartFailed").await;
    assert_eq!(host.calls(Method::Start), 2, "one attempt for each of the two");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_something_else_does_not_wait() {
    let world = World::start().await;
    let host = world.host("h1");
    host.break_starts(true);
    let _agent = world.agent_with(&host, patient()).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    eventually("the first attempt", || host.calls(Method::Start) == 1).await;
    world.respecify("web", json!({"cpus": 2})).await;
    eventually("an attempt with the new spec", || host.calls(Method::Start) == 2).await;
    world.order("web", "start").await;
    eventually("an attempt by request", || host.calls(Method::Start) == 3).await;
    host.break_starts(false);
    world.order("web", "restart").await;
    world.wait_running("web").await;
    assert_eq!((host.calls(Method::Start), effect(&host, "start")), (4, 1));

    // A success makes up for the failures: what stops then is started again at once
    host.crash(&uid(&vm));
    eventually("the next start", || effect(&host, "start") == 2).await;
    world.wait_running("web").await;
    world.delete("web").await;
    world.wait_gone(&vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_does_not_wait() {
    let world = World::start().await;
    let host = world.host("h1");
    host.break_starts(true);
    let _agent = world.agent_with(&host, patient()).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_reason("web", "StartFailed").await;
    world.delete("web").await;
    world.wait_gone(&vm).await;
    assert_eq!(host.contents()[..2], [0, 0]);
}
