//! Start, stop and restart as a user asks for them.

use kube::Client;
use serde_json::{Value, json};
use ucloud_types::vm::{PowerAction, RunStrategy};

use crate::fixtures::{create_vm, post, refused, start, vm_spec, vms};

async fn ask(client: &Client, vm: &str, verb: &str) -> (Option<RunStrategy>, Option<(u64, PowerAction)>) {
    let answer = post(client, vm, verb, &Value::Null).await.unwrap();
    assert_eq!(answer["kind"], "VM", "the answer is the VM");
    let vm = vms(client).get(vm).await.unwrap();
    let request = vm.status.unwrap().power_request;
    (vm.spec.run_strategy, request.map(|request| (request.id, request.action)))
}

#[tokio::test]
async fn a_vm_is_stopped_and_started_by_its_spec() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create_vm(&admin, "web", vm_spec()).await;
    assert_eq!(ask(&admin, "web", "stop").await, (Some(RunStrategy::Halted), None));
    assert_eq!(ask(&admin, "web", "stop").await, (Some(RunStrategy::Halted), None));
    let status = refused(post(&admin, "web", "restart", &Value::Null).await);
    assert_eq!(status.code, 409);
    assert!(status.message.contains("start it instead"), "{}", status.message);
    assert_eq!(ask(&admin, "web", "start").await, (Some(RunStrategy::Always), None));
    assert_eq!(ask(&admin, "web", "restart").await, (Some(RunStrategy::Always), Some((1, PowerAction::Restart))));
    let vm = vms(&admin).get("web").await.unwrap();
    assert_eq!(vm.metadata.generation, Some(3), "stop and start changed the spec, the others did not");
}

#[tokio::test]
async fn a_vm_run_by_hand_gets_requests() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let mut spec = vm_spec();
    spec["runStrategy"] = json!("Manual");
    create_vm(&admin, "web", spec).await;
    let manual = Some(RunStrategy::Manual);
    assert_eq!(ask(&admin, "web", "start").await, (manual, Some((1, PowerAction::Start))));
    assert_eq!(ask(&admin, "web", "stop").await, (manual, Some((2, PowerAction::Stop))));
    assert_eq!(ask(&admin, "web", "stop").await, (manual, Some((3, PowerAction::Stop))));
    assert_eq!(refused(post(&admin, "absent", "start", &Value::Null).await).code, 404);
    assert_eq!(refused(post(&admin, "web", "explode", &Value::Null).await).code, 404);
}
