//! Guests are guarded before they start, and as long as they run.

use serde_json::json;
use ucloud_agent_core::firewall::Guard;
use ucloud_agent_sim::{Effect, Fault, Method, When};
use ucloud_types::{SecurityGroup, vm::VMPhase};

use crate::world::{World, eventually, phase_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_does_not_start_unguarded() {
    let world = World::start().await;
    let host = world.host("h1");
    host.inject(Fault {
        method: Method::Enforce,
        when: When::Always,
        effect: Effect::Refuse { reason: "FirewallFailed", terminal: false },
    });
    let _agent = world.agent(&host).await;
    world.bound_vm("web", &host, json!({})).await;
    let vm = world.wait_reason("web", "FirewallFailed").await;
    assert_ne!(phase_of(&vm), Some(VMPhase::Running));
    assert_eq!(host.calls(Method::Start), 0);
    host.heal();
    world.wait_running("web").await;
    let rules = host.rules();
    assert!(matches!(rules.ports[0].guard, Guard::Addresses { .. }), "{rules:?}");
    assert_eq!(host.violations(), [""; 0]);

    // what somebody takes away is put back, and goes with the VM
    host.flush_rules();
    eventually("the rules are back", || host.rules() == rules).await;
    world.delete("web").await;
    eventually("no port is left", || host.rules().ports.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn security_groups_are_waited_for_and_followed() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let networks = json!([{"name": "eth0", "network": "lan", "securityGroups": ["web"]}]);
    world.bound_vm("web", &host, json!({"networks": networks})).await;
    world.wait_reason("web", "SecurityGroupNotFound").await;
    let groups = world.namespaced::<SecurityGroup>();
    world.make::<SecurityGroup>(&groups, "web", json!({"ingress": [{"protocol": "ICMPv6"}]})).await;
    world.wait_running("web").await;
    let ingress = || host.rules().ports[0].groups.as_ref().map(|rules| rules.ingress.len());
    assert_eq!(ingress(), Some(1));
    let wider = json!({"spec": {"ingress": [{"protocol": "ICMPv6"}, {"protocol": "TCP", "ports": [{"port": 22}]}]}});
    let patch = kube::api::Patch::Merge(wider);
    groups.patch("web", &kube::api::PatchParams::default(), &patch).await.unwrap();
    eventually("the new rule is in force", || ingress() == Some(2)).await;
}
