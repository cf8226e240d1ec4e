//! Documents that clients keep: schemas with a hash in their address, discovery with an ETag; what requests are called.

use serde_json::Value;

use crate::support::{Harness, raw};

async fn get(harness: &Harness, path: &str, headers: &[(&str, &str)]) -> (u16, http::HeaderMap, String) {
    let mut request = http::Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    raw(&harness.client("admin").await, request.body(Vec::new()).unwrap()).await
}

#[tokio::test]
async fn schemas_can_be_kept_by_their_hash() {
    let harness = Harness::start().await;
    let (_, _, index) = get(&harness, "/openapi/v3", &[]).await;
    let index: Value = serde_json::from_str(&index).unwrap();
    let url = index["paths"]["apis/test.example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    let (code, headers, body) = get(&harness, url, &[]).await;
    assert_eq!((code, headers["cache-control"].to_str().unwrap()), (200, "public, immutable"));
    assert!(headers["expires"].to_str().unwrap().ends_with("GMT"), "{headers:?}");
    let document: Value = serde_json::from_str(&body).unwrap();
    assert!(document["components"]["schemas"]["com.example.test.v1.WidgetList"].is_object());

    let etag = headers["etag"].to_str().unwrap();
    let (code, _, body) = get(&harness, url, &[("if-none-match", etag)]).await;
    assert_eq!((code, body.as_str()), (304, ""));
    let (plain, _) = url.split_once('?').unwrap();
    let (code, headers, _) = get(&harness, plain, &[]).await;
    assert_eq!((code, headers["cache-control"].to_str().unwrap()), (200, "no-cache, private"));
    let (code, headers, _) = get(&harness, &format!("{plain}?hash=0"), &[]).await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (301, url));
    assert_eq!(get(&harness, "/openapi/v3/apis/none.example.com/v1", &[]).await.0, 404);
    assert_eq!(get(&harness, plain, &[("accept", "text/html")]).await.0, 406);
}

#[tokio::test]
async fn version_2_is_there_as_protobuf() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    for accept in [
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    ] {
        use http_body_util::BodyExt as _;
        let request = http::Request::get("/openapi/v2").header("accept", accept).body(Vec::new()).unwrap();
        let (head, body) = client.send(request.map(kube::client::Body::from)).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let content_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        assert_eq!((head.status.as_u16(), &head.headers["content-type"]), (200, &content_type.parse().unwrap()));
        assert!(body.starts_with(b"\x0a\x032.0"), "field 1 is the version");
        assert!(body.windows(26).any(|part| part == b"com.example.test.v1.Widget"));
    }
}

#[tokio::test]
async fn discovery_is_sent_once() {
    let harness = Harness::start().await;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let (code, headers, _) = get(&harness, "/apis", &[("accept", aggregated)]).await;
    assert_eq!((code, headers["vary"].to_str().unwrap()), (200, "Accept"));
    let etag = headers["etag"].to_str().unwrap();
    assert_eq!(get(&harness, "/apis", &[("accept", aggregated), ("if-none-match", etag)]).await.0, 304);
    let (code, other, _) = get(&harness, "/apis", &[("if-none-match", etag)]).await;
    assert_eq!(code, 200, "another form is another document");
    assert_ne!(other["etag"], headers["etag"]);
}

#[tokio::test]
async fn requests_have_names() {
    let harness = Harness::start().await;
    let (_, headers, _) = get(&harness, "/api/v1/namespaces/default", &[("audit-id", "mine-1")]).await;
    assert_eq!(headers["audit-id"], "mine-1");
    let new = async || get(&harness, "/api/v1/namespaces/default", &[]).await.1["audit-id"].clone();
    assert_ne!(new().await, new().await);
}
