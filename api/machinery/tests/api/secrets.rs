//! Secrets and ConfigMaps, and that what is secret is shown to nobody by chance.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::log::Log;
use crate::support::{Harness, failure, raw, request};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
/// What must be seen nowhere: the password, and the same in base64.
const PASSWORD: [&str; 2] = ["hunter2-hunter2", "aHVudGVyMi1odW50ZXIy"];

fn secret(value: Value) -> Secret {
    serde_json::from_value(value).unwrap()
}

#[tokio::test]
async fn text_is_stored_as_data() {
    let harness = Harness::start().await;
    let api: Api<Secret> = Api::default_namespaced(harness.client("admin").await);
    let given = json!({"metadata": {"name": "a"}, "data": {"old": "eA=="}, "stringData": {"password": PASSWORD[0]}});
    let created = api.create(&PostParams::default(), &secret(given)).await.unwrap();
    assert_eq!(created.string_data, None, "it is for writing alone");
    assert_eq!(created.type_.as_deref(), Some("Opaque"));
    assert_eq!(created.data.unwrap()["password"].0, PASSWORD[0].as_bytes());

    let more = Patch::Merge(json!({"stringData": {"password": "new"}}));
    let patched = api.patch("a", &PatchParams::default(), &more).await.unwrap();
    let data = patched.data.unwrap();
    assert_eq!((data["password"].0.as_slice(), data["old"].0.as_slice()), (&b"new"[..], &b"x"[..]));
    let typed = Patch::Merge(json!({"type": "example.com/other"}));
    let refused = failure(api.patch("a", &PatchParams::default(), &typed).await);
    assert!(refused.message.contains("type: Invalid value"), "{}", refused.message);

    let tls =
        json!({"metadata": {"name": "tls"}, "type": "kubernetes.io/tls", "stringData": {"tls.crt": "", "tls.key": ""}});
    api.create(&PostParams::default(), &secret(tls)).await.unwrap();
    let found = api.list(&ListParams::default().fields("type=kubernetes.io/tls")).await.unwrap();
    assert_eq!(found.items.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>(), ["tls"]);

    let client = harness.client("admin").await;
    let mut table = request("GET", SECRETS, "", "");
    table.headers_mut().insert("accept", "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap());
    let table: Value = serde_json::from_str(&raw(&client, table).await.2).unwrap();
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Name", "Type", "Data", "Age"]);
    let cells = &table["rows"][0]["cells"];
    assert_eq!((&cells[1], &cells[2]), (&json!("Opaque"), &json!(2)));
}

#[tokio::test]
async fn what_is_closed_stays_as_it_is() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let body = json!({"metadata": {"name": "a"}, "data": {"a": "eA=="}, "immutable": true});
    secrets.create(&PostParams::default(), &secret(body.clone())).await.unwrap();
    maps.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
    for change in [json!({"data": {"a": "eQ=="}}), json!({"immutable": false}), json!({"immutable": null})] {
        let patch = Patch::Merge(change);
        for refused in [
            failure(secrets.patch("a", &PatchParams::default(), &patch).await),
            failure(maps.patch("a", &PatchParams::default(), &patch).await),
        ] {
            assert_eq!(refused.code, 422);
            assert!(refused.message.contains("field is immutable when `immutable` is set"), "{}", refused.message);
        }
    }
    let labels = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    secrets.patch("a", &PatchParams::default(), &labels).await.unwrap();
    maps.patch("a", &PatchParams::default(), &labels).await.unwrap();
}

#[tokio::test]
async fn config_maps_hold_text_and_bytes() {
    let harness = Harness::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(harness.client("admin").await);
    let body = json!({"metadata": {"name": "a"}, "data": {"text": "ä"}, "binaryData": {"bytes": "/wA="}});
    let created = maps.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
    assert_eq!(created.binary_data.unwrap()["bytes"].0, [255, 0]);
    for (body, field) in [
        (json!({"metadata": {"name": "b"}, "data": {"a/b": "x"}}), "data[a/b]"),
        (json!({"metadata": {"name": "b"}, "data": {"a": "x".repeat((1 << 20) + 1)}}), "Too long"),
    ] {
        let refused = failure(maps.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await);
        assert_eq!(refused.code, 422);
        assert!(refused.message.contains(field), "{}", refused.message);
    }
}

#[tokio::test]
async fn no_secret_is_in_a_log_or_an_error() {
    let log = Log::begin();
    let harness = Harness::start().await;
    let (admin, client) = (harness.client("admin").await, harness.client("viewer").await);
    let [text, base64] = PASSWORD;
    let metadata = json!({"name": "a"});
    let mut answers = Vec::new();
    for (client, body) in [
        (&admin, json!({"metadata": metadata, "data": {"a": text}})),
        (&admin, json!({"metadata": metadata, "data": {"a": {"nested": base64}}})),
        (&admin, json!({"metadata": metadata, "data": [base64]})),
        (&admin, json!({"metadata": metadata, "data": base64})),
        (&admin, json!({"metadata": metadata, "stringData": {"a": [text]}})),
        (
            &admin,
            json!({"metadata": metadata, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": base64}}),
        ),
        (&client, json!({"metadata": metadata, "data": {"a": base64}})),
    ] {
        let (code, _, answer) = raw(client, request("POST", SECRETS, "application/json", &body.to_string())).await;
        assert!((400..500).contains(&code), "{code} {answer}");
        answers.push(answer);
    }
    let good = json!({"metadata": metadata, "data": {"a": base64}}).to_string();
    let (code, ..) = raw(&admin, request("POST", SECRETS, "application/json", &good)).await;
    assert_eq!(code, 201);
    let (code, _, answer) = raw(&admin, request("POST", SECRETS, "application/json", &good)).await;
    assert_eq!(code, 409);
    answers.push(answer);
    for seen in answers.iter().map(String::as_str).chain([&*log.text()]) {
        assert!(!PASSWORD.iter().any(|password| seen.contains(password)), "{seen}");
    }
    assert!(log.text().contains("\"resource\":\"secrets\""), "the writes are told");
}
