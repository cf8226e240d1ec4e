//! gzip for large answers, for those who take it.

use std::io::Read as _;

use flate2::read::GzDecoder;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::support::{Harness, eventually, raw, request};
use crate::watch::fill;

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

#[tokio::test]
async fn large_lists_are_compressed_for_those_who_take_it() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let last = fill(&harness.storage, 400, 1_000).await;
    let at_last = format!("{PATH}?resourceVersion={last}");
    eventually("the cache has seen it all", async || raw(&client, request("GET", &at_last, "", "")).await.0 == 200)
        .await;
    let zipped = async |path: &str| {
        let request = http::Request::get(path).header("accept-encoding", "gzip").body(Vec::new()).unwrap();
        let response = client.send(request.map(kube::client::Body::from)).await.unwrap();
        let (head, body) = response.into_parts();
        (head.headers, body.collect().await.unwrap().to_bytes())
    };
    let (headers, body) = zipped(PATH).await;
    assert_eq!(
        (&headers["content-encoding"], &headers["vary"]),
        (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
    );
    let mut text = String::new();
    GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 400);
    assert!(body.len() < text.len() / 4, "{} of {}", body.len(), text.len());

    let (_, headers, plain) = raw(&client, request("GET", PATH, "", "")).await;
    assert!(!headers.contains_key("content-encoding") && plain == text);
    let (headers, small) = zipped(&format!("{PATH}?limit=2")).await;
    assert!(!headers.contains_key("content-encoding"));
    assert!(serde_json::from_slice::<Value>(&small).is_ok());
}
