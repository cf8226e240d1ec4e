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
    widgets.get("a").await.expect("it is in the cache by now");
    let (code, _, metrics) = raw(&client, request("GET", "/metrics", "", "")).await;
    assert_eq!(code, 200);
    let widgets = r#"group="test.example.com",version="v1",resource="widgets",subresource="",scope="resource",component="apiserver""#;
    for line in [
        "# TYPE apiserver_request_total counter".to_owned(),
        format!(r#"apiserver_request_total{{verb="POST",dry_run="",{widgets},code="201"}} 1"#),
        format!(r#"apiserver_request_total{{verb="POST",dry_run="",{widgets},code="409"}} 1"#),
        format!(r#"apiserver_request_total{{verb="GET",dry_run="",{widgets},code="404"}} 1"#),
        format!(r#"apiserver_request_duration_seconds_count{{verb="POST",dry_run="",{widgets}}} 2"#),
        r#"apiserver_storage_objects{resource="widgets.test.example.com"} 1"#.to_owned(),
        r#"apiserver_current_inflight_requests{request_kind="mutating"} 0"#.to_owned(),
        r#"etcd_requests_total{operation="create",type="widgets.test.example.com"} "#.to_owned(),
        r#"apiserver_flowcontrol_nominal_limit_seats{priority_level="workload"} 256"#.to_owned(),
        r#"apiserver_flowcontrol_current_executing_requests{priority_level="workload"} 0"#.to_owned(),
        "process_resident_memory_bytes ".to_owned(),
        "process_open_fds ".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    let open_metrics = http::Request::get("/metrics").header("accept", "application/openmetrics-text; version=1.0.0");
    let (_, headers, open_metrics) = raw(&client, open_metrics.body(Vec::new()).unwrap()).await;
    assert!(headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(open_metrics.ends_with("# EOF\n") && open_metrics.contains("# TYPE apiserver_request counter"));
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
