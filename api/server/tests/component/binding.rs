//! The binding subresource: a VM gets one host, whoever asks and however often.

use futures::future::join_all;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use ucloud_api::subresources::VMBinding;
use ucloud_types::{condition, meta::AGENT_FINALIZER};

use crate::fixtures::{bind, create_host, create_vm, fields, post, refused, start, untyped, vm_spec, vms};

#[tokio::test]
async fn one_of_eight_schedulers_wins() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    for host in 0..8 {
        create_host(&admin, &format!("h{host}")).await;
    }
    for round in 0..5 {
        let name = format!("vm{round}");
        let mut spec = vm_spec();
        spec["memory"] = json!("1024Mi");
        let vm = create_vm(&admin, &name, spec).await;
        let mut schedulers = Vec::new();
        for _ in 0..8 {
            schedulers.push(api.controllers().await.unwrap());
        }
        let hosts: Vec<String> = (0..8).map(|host| format!("h{host}")).collect();
        let requests = schedulers.iter().zip(&hosts).map(|(client, host)| bind(client, &vm, host));
        let results = join_all(requests).await;
        let winners: Vec<usize> =
            results.iter().enumerate().filter(|(_, result)| result.is_ok()).map(|(n, _)| n).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        for result in results.into_iter().filter(Result::is_err) {
            let status = refused(result);
            assert_eq!(status.code, 409);
            assert!(status.message.contains("is bound to host"), "{}", status.message);
        }
        let bound = vms(&admin).get(&name).await.unwrap();
        let status = bound.status.unwrap();
        let binding = status.binding.unwrap();
        assert_eq!((binding.host, binding.epoch), (hosts[winners[0]].clone(), 1));
        assert!(condition::is_true(&status.conditions, condition::SCHEDULED));
        assert_eq!(bound.metadata.finalizers, Some(vec![AGENT_FINALIZER.to_owned()]));
        assert_eq!(bound.metadata.generation, Some(1), "a binding is no change of the spec");
    }
}

#[tokio::test]
async fn a_binding_is_for_the_vm_that_was_seen() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create_host(&admin, "h1").await;
    let seen = create_vm(&admin, "web", vm_spec()).await;
    vms(&admin).delete("web", &DeleteParams::default()).await.unwrap();
    create_vm(&admin, "web", vm_spec()).await;
    let status = refused(bind(&admin, &seen, "h1").await);
    assert_eq!(status.code, 409);
    assert!(status.message.contains("UID in precondition"), "{}", status.message);

    let seen = vms(&admin).get("web").await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"cpus": 64}}));
    vms(&admin).patch("web", &PatchParams::default(), &patch).await.unwrap();
    let mut binding = VMBinding::next(&seen, "h1");
    binding.metadata.resource_version = seen.metadata.resource_version;
    let status = refused(post(&admin, "web", "binding", &serde_json::to_value(&binding).unwrap()).await);
    assert_eq!(status.code, 409, "it was decided on one CPU");
    binding.metadata.resource_version = None;
    post(&admin, "web", "binding", &serde_json::to_value(&binding).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_binding_that_makes_no_sense_is_refused() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create_host(&admin, "h1").await;
    let vm = create_vm(&admin, "web", vm_spec()).await;
    let status = refused(bind(&admin, &vm, "nowhere").await);
    assert_eq!((status.code, fields(&status)), (422, vec!["host"]));
    let good = serde_json::to_value(VMBinding::next(&vm, "h1")).unwrap();
    for (pointer, value) in [
        ("/kind", json!("Binding")),
        ("/metadata/name", json!("other")),
        ("/epoch", json!("1")),
        ("/host", json!(null)),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        assert_eq!(refused(post(&admin, "web", "binding", &bad).await).code, 400, "{pointer}");
    }
    let mut early = good.clone();
    early["epoch"] = json!(2);
    assert_eq!(refused(post(&admin, "web", "binding", &early).await).code, 409);
    assert_eq!(refused(post(&admin, "absent", "binding", &good).await).code, 400, "the names differ");
    let mut absent = good;
    absent["metadata"]["name"] = json!("absent");
    assert_eq!(refused(post(&admin, "absent", "binding", &absent).await).code, 404);
}

#[tokio::test]
async fn a_bound_vm_goes_when_its_agent_lets_it_go() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create_host(&admin, "h1").await;
    let vm = create_vm(&admin, "web", vm_spec()).await;
    bind(&admin, &vm, "h1").await.unwrap();
    vms(&admin).delete("web", &DeleteParams::default()).await.unwrap();
    let leaving = vms(&admin).get("web").await.unwrap();
    assert!(leaving.metadata.deletion_timestamp.is_some());
    let agent = api.agent("h1").await.unwrap();
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    vms(&agent).patch("web", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(vms(&admin).get_opt("web").await.unwrap(), None);
}

#[tokio::test]
async fn a_binding_outlives_every_write_of_the_status() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create_host(&admin, "h1").await;
    let mut spec = vm_spec();
    spec["runStrategy"] = json!("Manual");
    let vm = create_vm(&admin, "web", spec).await;
    bind(&admin, &vm, "h1").await.unwrap();
    post(&admin, "web", "start", &json!(null)).await.unwrap();
    let bound = vms(&admin).get("web").await.unwrap().status.unwrap();
    let all = untyped(&admin, "VM", "vms");
    let params = PatchParams::default();
    for operations in [
        json!([{"op": "replace", "path": "/status", "value": null}]),
        json!([{"op": "remove", "path": "/status"}]),
        json!([{"op": "replace", "path": "/status", "value": {"binding": {"host": "h2", "epoch": 9}}}]),
    ] {
        let patch = async |subresource: &str| {
            let path = format!("/apis/ucloud.ungleich.ch/v1alpha1/namespaces/default/vms/web{subresource}");
            let request = http::Request::patch(path).header("content-type", "application/json-patch+json");
            admin
                .request::<serde_json::Value>(request.body(operations.to_string().into_bytes()).unwrap())
                .await
                .unwrap()
        };
        patch("").await;
        assert_eq!(vms(&admin).get("web").await.unwrap().status.as_ref(), Some(&bound), "{operations}");
        patch("/status").await;
        let mut whole = all.get("web").await.unwrap();
        whole.data["status"] = json!(null);
        all.replace("web", &PostParams::default(), &whole).await.unwrap();
        let whole = all.get("web").await.unwrap();
        all.replace_status("web", &PostParams::default(), &whole).await.unwrap();
        let kept = vms(&admin).get("web").await.unwrap().status.unwrap();
        assert_eq!((&kept.binding, &kept.power_request), (&bound.binding, &bound.power_request), "{operations}");
        // the rest of the status, for the next round
        let rest = Patch::Merge(json!({"status": bound}));
        all.patch_status("web", &params, &rest).await.unwrap();
    }
}
