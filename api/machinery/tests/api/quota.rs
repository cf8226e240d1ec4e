//! Quotas, on create, update and delete: exact, also when many write at once. What a controller calculates is written by hand
//! here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Harness, Widget, failure, widget};

fn quotas(client: &Client) -> Api<ResourceQuota> {
    Api::default_namespaced(client.clone())
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

/// A quota of which nothing is used.
async fn limit(client: &Client, name: &str, hard: Value) {
    let quota = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"hard": hard}})).unwrap();
    let created = quotas(client).create(&PostParams::default(), &quota).await.unwrap();
    assert_eq!(created.status.unwrap().used, None);
    let none: BTreeMap<&str, &str> = hard.as_object().unwrap().keys().map(|name| (name.as_str(), "0")).collect();
    let status = Patch::Merge(json!({"status": {"hard": hard, "used": none}}));
    quotas(client).patch_status(name, &PatchParams::default(), &status).await.unwrap();
}

async fn used(client: &Client, name: &str, resource: &str) -> String {
    let quota = quotas(client).get(name).await.unwrap();
    quota.status.unwrap().used.unwrap()[resource].0.clone()
}

#[tokio::test]
async fn what_is_used_follows_every_write() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let (maps, widgets): (Api<ConfigMap>, Api<Widget>) =
        (Api::default_namespaced(client.clone()), Api::default_namespaced(client.clone()));
    limit(&client, "q", json!({"configmaps": 2, "count/widgets.test.example.com": "1"})).await;
    for name in ["a", "b"] {
        maps.create(&PostParams::default(), &config_map(name)).await.unwrap();
    }
    assert_eq!(used(&client, "q", "configmaps").await, "2");
    let refused = failure(maps.create(&PostParams::default(), &config_map("c")).await);
    assert_eq!((refused.code, refused.reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        refused.message,
        r#"configmaps "c" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2"#
    );
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    assert_eq!(failure(maps.create(&dry, &config_map("c")).await).code, 403);
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(used(&client, "q", "configmaps").await, "1");
    maps.create(&dry, &config_map("c")).await.unwrap();
    assert_eq!(used(&client, "q", "configmaps").await, "1", "a dry run takes nothing");
    maps.create(&PostParams::default(), &config_map("c")).await.unwrap();

    let mut held = widget("w", "red");
    held.metadata.finalizers = Some(vec!["a/b".to_owned()]);
    widgets.create(&PostParams::default(), &held).await.unwrap();
    assert_eq!(failure(widgets.create(&PostParams::default(), &widget("x", "red")).await).code, 403);
    widgets.delete("w", &DeleteParams::default()).await.unwrap();
    assert_eq!(used(&client, "q", "count/widgets.test.example.com").await, "1", "it is still there");
    let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    widgets.patch("w", &PatchParams::default(), &released).await.unwrap();
    assert_eq!(used(&client, "q", "count/widgets.test.example.com").await, "0");
    maps.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    assert_eq!(used(&client, "q", "configmaps").await, "0");
}

#[tokio::test]
async fn an_object_that_grows_must_fit_and_one_that_shrinks_gives_back() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let widgets: Api<Widget> = Api::default_namespaced(client.clone());
    limit(&client, "q", json!({"requests.cpu": "5"})).await;
    let mut sized = widget("a", "red");
    sized.spec.count = Some(3);
    widgets.create(&PostParams::default(), &sized).await.unwrap();
    assert_eq!(used(&client, "q", "requests.cpu").await, "3");
    let resize = async |count: i32| {
        widgets.patch("a", &PatchParams::default(), &Patch::Merge(json!({"spec": {"count": count}}))).await
    };
    resize(5).await.unwrap();
    let refused = failure(resize(6).await);
    assert!(
        refused
            .message
            .ends_with("exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=5, limited: requests.cpu=5"),
        "{}",
        refused.message
    );
    resize(2).await.unwrap();
    assert_eq!(used(&client, "q", "requests.cpu").await, "2");
    let unspecified = failure(widgets.create(&PostParams::default(), &widget("b", "red")).await);
    assert!(unspecified.message.contains("failed quota: q: must specify spec.count"), "{}", unspecified.message);
    widgets
        .patch("a", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}})))
        .await
        .unwrap();
    assert_eq!(used(&client, "q", "requests.cpu").await, "2");
}

#[tokio::test]
async fn nothing_is_admitted_before_it_is_known_what_is_used() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "5"}}});
    quotas(&client).create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    let refused = failure(maps.create(&PostParams::default(), &config_map("a")).await);
    assert_eq!(refused.message, r#"configmaps "a" is forbidden: status unknown for quota: q, resources: configmaps"#);
    let scoped = json!({"metadata": {"name": "s"}, "spec": {"hard": {"pods": "5"}, "scopes": ["BestEffort"]}});
    let refused =
        failure(quotas(&client).create(&PostParams::default(), &serde_json::from_value(scoped).unwrap()).await);
    assert_eq!(refused.code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_thirty_two_writers_exactly_as_many_pass_as_are_allowed() {
    const WRITERS: usize = 32;
    const EACH: usize = 4;
    const ALLOWED: usize = 50;
    // two servers over one store: what one knows the other learns later
    let one = Harness::start().await;
    let two = Harness::start_with(one.storage.clone()).await;
    let clients = [one.client("admin").await, two.client("admin").await];
    limit(&clients[0], "q", json!({"configmaps": ALLOWED.to_string(), "count/configmaps": "1k"})).await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let maps: Api<ConfigMap> = Api::default_namespaced(clients[writer % 2].clone());
        writers.spawn(async move {
            let mut created = 0;
            for number in 0..EACH {
                let name = format!("m{writer}-{number}");
                loop {
                    match maps.create(&PostParams::default(), &config_map(&name)).await {
                        Ok(_) => created += 1,
                        Err(kube::Error::Api(status)) if status.code == 429 => continue,
                        Err(kube::Error::Api(status)) => {
                            assert!(status.message.contains("exceeded quota: q"), "{status:?}");
                        }
                        Err(error) => panic!("{error}"),
                    }
                    break;
                }
            }
            created
        });
    }
    let created: usize = writers.join_all().await.into_iter().sum();
    assert_eq!(created, ALLOWED);
    let maps: Api<ConfigMap> = Api::default_namespaced(clients[1].clone());
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), ALLOWED);
    assert_eq!(used(&clients[1], "q", "configmaps").await, ALLOWED.to_string());

    let mut deleters = JoinSet::new();
    for (index, map) in maps.list(&ListParams::default()).await.unwrap().into_iter().enumerate() {
        let maps: Api<ConfigMap> = Api::default_namespaced(clients[index % 2].clone());
        let name = map.metadata.name.unwrap();
        deleters.spawn(async move {
            while let Err(error) = maps.delete(&name, &DeleteParams::default()).await {
                assert!(matches!(&error, kube::Error::Api(status) if status.code == 429), "{error}");
            }
        });
    }
    deleters.join_all().await;
    assert_eq!(used(&clients[0], "q", "configmaps").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_quotas_than_a_quota_allows() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    limit(&client, "q", json!({"resourcequotas": "4"})).await;
    let mut writers = JoinSet::new();
    for number in 0..12 {
        let api = quotas(&client);
        writers.spawn(async move {
            let quota = json!({"metadata": {"name": format!("q{number}")}, "spec": {"hard": {"pods": "1"}}});
            let quota = serde_json::from_value(quota).unwrap();
            loop {
                match api.create(&PostParams::default(), &quota).await {
                    Err(kube::Error::Api(status)) if status.code == 429 => {}
                    other => return other.is_ok(),
                }
            }
        });
    }
    let created = writers.join_all().await.into_iter().filter(|created| *created).count();
    assert_eq!(created, 3, "and the one that says so");
}

/// A write that has looked at the namespace before there was a quota must not pass it by.
#[tokio::test]
async fn a_quota_that_comes_in_between_counts() {
    use crate::support::Slow;
    let (slow, harness) = Slow::start().await;
    let client = harness.client("admin").await;
    let widgets: Api<Widget> = Api::default_namespaced(client.clone());
    let created = tokio::spawn(async move { widgets.create(&PostParams::default(), &widget("a", "red")).await });
    slow.arrived.acquire().await.unwrap().forget();
    limit(&client, "q", json!({"count/widgets.test.example.com": "0"})).await;
    slow.released.add_permits(2);
    let refused = failure(created.await.unwrap());
    assert!(refused.message.contains("exceeded quota: q"), "{}", refused.message);
}
