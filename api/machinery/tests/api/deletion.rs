//! What a deletion's options do to the object: the finalizers for the garbage collector, preconditions, collections. The
//! collector itself is a controller.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};

use crate::support::{Harness, failure, raw, request};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn config_maps(harness: &Harness) -> Api<ConfigMap> {
    Api::default_namespaced(harness.client("admin").await)
}

async fn create(api: &Api<ConfigMap>, name: &str, finalizers: &[&str]) -> ConfigMap {
    let object = json!({"metadata": {"name": name, "finalizers": finalizers, "labels": {"all": "yes"}}});
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

fn with(policy: PropagationPolicy) -> DeleteParams {
    DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() }
}

/// The finalizers that an object is left with; none if it is gone.
async fn left(api: &Api<ConfigMap>, name: &str) -> Option<Vec<String>> {
    let object = api.get_opt(name).await.unwrap()?;
    assert!(object.metadata.deletion_timestamp.is_some());
    Some(object.finalizers().to_vec())
}

#[tokio::test]
async fn the_policy_becomes_a_finalizer() {
    use PropagationPolicy::{Background, Foreground, Orphan};
    let harness = Harness::start().await;
    let api = config_maps(&harness).await;
    for (index, (present, policy, expected)) in [
        (&[][..], None, None),
        (&[], Some(Background), None),
        (&[], Some(Foreground), Some(&["foregroundDeletion"][..])),
        (&[], Some(Orphan), Some(&["orphan"])),
        // what is asked for comes before what the object has, and that before the default
        (&["orphan"], None, Some(&["orphan"])),
        (&["orphan"], Some(Background), None),
        (&["orphan", "a/b"], Some(Foreground), Some(&["a/b", "foregroundDeletion"])),
        (&["foregroundDeletion"], None, Some(&["foregroundDeletion"])),
        (&["foregroundDeletion", "a/b"], Some(Orphan), Some(&["a/b", "orphan"])),
        (&["foregroundDeletion", "a/b"], Some(Background), Some(&["a/b"])),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("x{index}");
        create(&api, &name, present).await;
        let params = DeleteParams { propagation_policy: policy.clone(), ..DeleteParams::default() };
        api.delete(&name, &params).await.unwrap();
        let expected = expected.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(left(&api, &name).await, expected, "{present:?} {policy:?}");
    }
}

#[tokio::test]
async fn a_second_deletion_may_ask_for_something_else() {
    let harness = Harness::start().await;
    let api = config_maps(&harness).await;
    create(&api, "a", &["a/b"]).await;
    api.delete("a", &with(PropagationPolicy::Foreground)).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(left(&api, "a").await.unwrap(), ["a/b", "foregroundDeletion"]);
    api.delete("a", &with(PropagationPolicy::Orphan)).await.unwrap();
    assert_eq!(left(&api, "a").await.unwrap(), ["a/b", "orphan"]);
    api.delete("a", &with(PropagationPolicy::Background)).await.unwrap();
    assert_eq!(left(&api, "a").await.unwrap(), ["a/b"]);

    create(&api, "b", &[]).await;
    api.delete("b", &with(PropagationPolicy::Foreground)).await.unwrap();
    api.delete("b", &with(PropagationPolicy::Background)).await.unwrap();
    assert_eq!(left(&api, "b").await, None, "nothing holds it any more");
}

#[tokio::test]
async fn the_old_form_and_bad_options() {
    let harness = Harness::start().await;
    let api = config_maps(&harness).await;
    let client = harness.client("admin").await;
    for (name, orphan, finalizers) in [("a", true, Some(vec!["orphan".to_owned()])), ("b", false, None)] {
        create(&api, name, &[]).await;
        let body = json!({"orphanDependents": orphan}).to_string();
        let (code, ..) =
            raw(&client, request("DELETE", &format!("{CONFIG_MAPS}/{name}"), "application/json", &body)).await;
        assert_eq!(code, 200);
        assert_eq!(left(&api, name).await, finalizers);
    }
    create(&api, "c", &[]).await;
    for (body, query, code, says) in [
        (json!({"orphanDependents": true, "propagationPolicy": "Orphan"}), "", 422, "cannot be both set"),
        (json!({"propagationPolicy": "Sideways"}), "", 422, "supported values"),
        (json!({}), "?propagationPolicy=Sideways", 422, "supported values"),
        (json!({}), "?orphanDependents=maybe", 400, "must be true or false"),
        (json!({"orphanDependents": "yes"}), "", 400, "must be true or false"),
        (json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true}), "", 400, "not supported by this server"),
        (json!({}), "?ignoreStoreReadErrorWithClusterBreakingPotential=true", 400, "not supported by this server"),
        (json!({"preconditions": {"uid": "other"}}), "", 409, "the UID in the precondition"),
    ] {
        let path = format!("{CONFIG_MAPS}/c{query}");
        let (given, _, answer) = raw(&client, request("DELETE", &path, "application/json", &body.to_string())).await;
        assert_eq!(given, code, "{body} {query}: {answer}");
        assert!(answer.contains(says) || code == 409, "{body} {query}: {answer}");
    }
    assert!(api.get_opt("c").await.unwrap().is_some_and(|object| object.metadata.deletion_timestamp.is_none()));
    let query = format!("{CONFIG_MAPS}/c?propagationPolicy=Foreground&gracePeriodSeconds=0");
    assert_eq!(raw(&client, request("DELETE", &query, "application/json", "")).await.0, 200);
    assert_eq!(left(&api, "c").await.unwrap(), ["foregroundDeletion"]);
}

#[tokio::test]
async fn only_the_object_that_is_meant_goes() {
    let harness = Harness::start().await;
    let api = config_maps(&harness).await;
    let first = create(&api, "a", &[]).await;
    let labelled = Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}}));
    let second = api.patch("a", &PatchParams::default(), &labelled).await.unwrap();
    let when = |uid: Option<String>, resource_version: Option<String>| DeleteParams {
        preconditions: Some(Preconditions { uid, resource_version }),
        ..DeleteParams::default()
    };
    let late = failure(api.delete("a", &when(first.uid(), first.resource_version())).await);
    assert_eq!((late.code, late.reason.as_str()), (409, "Conflict"));
    assert_eq!(failure(api.delete("a", &when(Some("other".to_owned()), None)).await).code, 409);
    api.delete("a", &when(second.uid(), second.resource_version())).await.unwrap();
    assert_eq!(api.get_opt("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_collection_goes_by_the_same_rules() {
    let harness = Harness::start().await;
    let api = config_maps(&harness).await;
    for name in ["a", "b", "held"] {
        create(&api, name, if name == "held" { &["a/b"] } else { &[] }).await;
    }
    let dry = DeleteParams { dry_run: true, ..with(PropagationPolicy::Foreground) };
    api.delete_collection(&dry, &ListParams::default()).await.unwrap();
    assert!(
        api.list(&ListParams::default()).await.unwrap().iter().all(|map| map.finalizers() != ["foregroundDeletion"])
    );
    api.delete_collection(&with(PropagationPolicy::Orphan), &ListParams::default().labels("all=yes")).await.unwrap();
    assert_eq!(left(&api, "a").await.unwrap(), ["orphan"]);
    assert_eq!(left(&api, "held").await.unwrap(), ["a/b", "orphan"]);
    api.delete_collection(&with(PropagationPolicy::Background), &ListParams::default()).await.unwrap();
    assert_eq!((left(&api, "a").await, left(&api, "b").await), (None, None));
    assert_eq!(left(&api, "held").await.unwrap(), ["a/b"]);
}

#[tokio::test]
async fn finalizers_of_the_collector_exclude_each_other() {
    let harness = Harness::start().await;
    let api = config_maps(&harness).await;
    let both: Value = json!({"metadata": {"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}});
    let refused = failure(api.create(&PostParams::default(), &serde_json::from_value(both).unwrap()).await);
    assert_eq!(refused.code, 422);
    assert!(refused.message.contains("cannot be both set"), "{}", refused.message);
}
