//! The server as a process sees it: metrics, connections, the end.

use std::time::{Duration, Instant};

use kube::api::PostParams;
use kube::config::KubeConfigOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Harness, PATIENCE, failure, raw, request, widget};

#[tokio::test]
async fn requests_are_counted() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    failure(widgets.create(&PostParams::default(), &widget("a", "red")).await);
    for made_up in [
        "/apis/made.up/v1/names",
        "/apis/made.up/v1/names?labelSelector=%21%21",
        "/apis/test.example.com/v1/made.up?watch=1&resourceVersion=x",
        "/apis/test.example.com/v1/namespaces/default/widgets/a/made.up",
    ] {
        raw(&client, request("GET", made_up, "", "")).await;
    }
    let (code, _, metrics) = raw(&client, request("GET", "/metrics", "", "")).await;
    assert_eq!(code, 200);
    let created = r#"apiserver_request_total{verb="POST""#;
    assert!(!metrics.contains(created), "verbs are Kubernetes'");
    for line in [
        r#"apiserver_request_total{verb="CREATE",group="test.example.com",version="v1",resource="widgets",subresource="",code="201"} 1"#,
        r#"apiserver_request_total{verb="CREATE",group="test.example.com",version="v1",resource="widgets",subresource="",code="409"} 1"#,
        r#"apiserver_request_total{verb="GET",group="test.example.com",version="v1",resource="widgets",subresource="",code="404"} 1"#,
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert!(!metrics.contains("made.up"), "clients cannot make up labels");
}

#[tokio::test]
async fn plain_text_and_silence_do_no_harm() {
    let harness = Harness::start().await;
    let mut plain = TcpStream::connect(harness.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("the connection is closed").ok();
    let _silent = TcpStream::connect(harness.address).await.unwrap();
    harness.widgets().await.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
}

#[tokio::test]
async fn a_foreign_certificate_is_refused() {
    let harness = Harness::start().await;
    let other = Harness::start().await;
    let mut kubeconfig: serde_json::Value = serde_json::from_str(&other.kubeconfig("admin")).unwrap();
    let own: serde_json::Value = serde_json::from_str(&harness.kubeconfig("admin")).unwrap();
    kubeconfig["clusters"] = own["clusters"].clone();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&kubeconfig.to_string()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let request = http::Request::get("/version").body(Vec::new()).unwrap();
    assert!(client.request_text(request).await.is_err());
}

#[tokio::test]
async fn the_end_is_quick() {
    let mut harness = Harness::start().await;
    let client = harness.client("admin").await;
    let watch = http::Request::get("/api/v1/namespaces?watch=true").body(Vec::new()).unwrap();
    let _open = client.request_stream(watch).await.unwrap();
    let started = Instant::now();
    harness.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(TcpStream::connect(harness.address).await.is_err());
}
