//! The bytes of Files: by the API server to the agent, in pieces, across restarts, and refused where they must be.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header::RANGE};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use kube::{Api, Client, ResourceExt as _, api::DeleteParams, client::Body};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256 as Hasher};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use ucloud_agent_sim::SimHost;
use ucloud_api::{
    Agents,
    pki::{Subject, directory},
};
use ucloud_machinery::strategy::StreamError;
use ucloud_types::{
    File, Host, StoragePool,
    condition::{self, READY},
    image::Sha256,
};

use crate::world::{Running, World};

/// A world with a pool in a real directory, and an agent that takes streams.
struct Lab {
    world: World,
    host: Arc<SimHost>,
    agent: Option<Running>,
    folder: tempfile::TempDir,
}

fn sum(bytes: &[u8]) -> Sha256 {
    Sha256::from(<[u8; 32]>::from(Hasher::digest(bytes)))
}

fn path(name: &str) -> String {
    format!("/apis/ucloud.ungleich.ch/v1alpha1/namespaces/default/files/{name}/content")
}

pub struct Answer {
    pub code: StatusCode,
    pub headers: HeaderMap,
    offset: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn message(&self) -> String {
        let status: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(self.code.as_u16())));
        status["message"].as_str().unwrap().to_owned()
    }
}

pub async fn ask(client: &Client, request: http::request::Builder, bytes: &[u8]) -> Answer {
    let answer = client.send(request.body(Body::from(bytes.to_vec())).unwrap()).await.unwrap();
    let (code, headers) = (answer.status(), answer.headers().clone());
    let offset = headers.get("upload-offset").map(|value| value.to_str().unwrap().to_owned());
    let body = answer.into_body().collect().await.unwrap().to_bytes().to_vec();
    Answer { code, headers, offset, body }
}

async fn put(client: &Client, name: &str, offset: usize, bytes: &[u8]) -> Answer {
    ask(client, Request::put(path(name)).header("upload-offset", offset), bytes).await
}

impl Lab {
    async fn start() -> Self {
        let world = World::start().await;
        // a pool has no hidden folder in its path
        let folder = tempfile::Builder::new().prefix("files").tempdir().unwrap();
        let directory = json!({"directory": {"path": folder.path().join("pool")}});
        world.make::<StoragePool>(&world.cluster(), "real", directory).await;
        let host = world.host("h1");
        let agent = Some(world.streaming_agent(&host).await);
        Self { world, host, agent, folder }
    }

    fn admin(&self) -> &Client {
        &self.world.admin
    }

    fn files(&self) -> Api<File> {
        self.world.namespaced()
    }

    async fn make(&self, name: &str, size: usize, sha256: Option<&Sha256>) -> File {
        let mut spec = json!({"size": size, "pool": "real"});
        if let Some(sha256) = sha256 {
            spec["sha256"] = json!(sha256);
        }
        self.world.make(&self.files(), name, spec).await;
        let has_host = |file: &File| file.status.as_ref().is_some_and(|status| status.host.is_some());
        self.world.wait_for(&self.files(), name, "a host", has_host).await
    }

    async fn until_reason(&self, name: &str, reason: &str) -> File {
        let is = |file: &File| {
            let conditions = file.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            condition::get(conditions, READY).is_some_and(|ready| ready.reason == reason)
        };
        self.world.wait_for(&self.files(), name, reason, is).await
    }

    /// The way to the agent past the API server, for somebody with this name.
    fn way_of(&self, subject: &Subject) -> (Agents, Host) {
        let port = self.agent.as_ref().unwrap().stream_port().unwrap();
        let host = serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host", "metadata": {"name": "h1"}, "spec": {},
            "status": {"addresses": ["::1"], "streamPort": port},
        }));
        let (api, identity) = (&self.world.api, self.world.api.identity(subject).unwrap());
        let (certificate, key) = (identity.certificate.as_bytes(), identity.key.as_bytes());
        (Agents::from_pem(certificate, key, api.authority().as_bytes()).unwrap(), host.unwrap())
    }

    /// The files in the pool.
    fn contents(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.folder.path().join("pool/files")).unwrap();
        files.map(|entry| entry.unwrap().path()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_uploaded_across_a_kill_and_downloaded() {
    let mut lab = Lab::start().await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let file = lab.make("iso", bytes.len(), Some(&sum(&bytes))).await;

    let first = put(lab.admin(), "iso", 0, &bytes[..1_000_000]).await;
    assert_eq!((first.code, first.offset.as_deref()), (StatusCode::OK, Some("1000000")));
    let received = |file: &File| file.status.as_ref().unwrap().received.is_some_and(|all| all.bytes() == 1_000_000);
    lab.world.wait_for(&lab.files(), "iso", "what is there to be told", received).await;
    assert_eq!(ask(lab.admin(), Request::get(path("iso")), b"").await.code, StatusCode::CONFLICT, "not complete");

    lab.agent.take().unwrap().kill().await;
    let silent = put(lab.admin(), "iso", 1_000_000, &bytes[1_000_000..]).await;
    assert_eq!(silent.code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(silent.message().contains("host h1"), "{}", silent.message());
    lab.agent = Some(lab.world.streaming_agent(&lab.host).await);
    let port = lab.agent.as_ref().unwrap().stream_port();
    let new_port = |host: &Host| host.status.as_ref().unwrap().stream_port == port;
    lab.world.wait_for(&lab.world.cluster(), "h1", "the new port", new_port).await;

    let head = ask(lab.admin(), Request::head(path("iso")), b"").await;
    assert_eq!((head.code, head.offset.as_deref()), (StatusCode::OK, Some("1000000")));
    let last = put(lab.admin(), "iso", 1_000_000, &bytes[1_000_000..]).await;
    assert_eq!((last.code, last.offset.as_deref()), (StatusCode::OK, Some("3000000")));
    let complete = lab.until_reason("iso", "Complete").await.status.unwrap();
    assert_eq!((complete.sha256, complete.host.as_deref()), (Some(sum(&bytes)), Some("h1")));

    let all = ask(lab.admin(), Request::get(path("iso")), b"").await;
    assert!(all.code == StatusCode::OK && all.body == bytes);
    let part = ask(lab.admin(), Request::get(path("iso")).header(RANGE, "bytes=2999990-"), b"").await;
    assert!(part.code == StatusCode::PARTIAL_CONTENT && part.body == bytes[2_999_990..]);

    lab.files().delete("iso", &DeleteParams::default()).await.unwrap();
    lab.world.wait_deleted(&lab.files(), &file).await;
    assert_eq!(lab.contents(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused() {
    let lab = Lab::start().await;
    lab.make("iso", 10, Some(&sum(b"0123456789"))).await;
    let admin = lab.admin();
    assert_eq!(put(admin, "iso", 0, b"012").await.code, StatusCode::OK);
    let wrong = put(admin, "iso", 0, b"0").await;
    assert_eq!(wrong.code, StatusCode::CONFLICT);
    let status: Value = serde_json::from_slice(&wrong.body).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3", "{status}");
    let many = put(admin, "iso", 3, b"3456789x").await;
    assert_eq!(many.code, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(many.message().contains("size 10"), "{}", many.message());
    let none = ask(admin, Request::put(path("iso")), b"3").await;
    assert!(none.code == StatusCode::BAD_REQUEST && none.message().contains("Upload-Offset"));

    let other = put(admin, "iso", 3, b"345678x").await;
    assert_eq!(other.code, StatusCode::UNPROCESSABLE_ENTITY);
    let mismatch = lab.until_reason("iso", "ChecksumMismatch").await.status.unwrap();
    assert_eq!(mismatch.received.map(ucloud_types::Quantity::bytes), Some(0));
    assert_eq!(put(admin, "iso", 0, b"0123456789").await.code, StatusCode::OK);
    lab.until_reason("iso", "Complete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_the_last_bytes_may_promise_what_all_are() {
    let lab = Lab::start().await;
    lab.make("iso", 10, None).await;
    let right = sum(b"0123456789").to_string();
    let promising = |offset: usize, promise: &str| {
        Request::put(path("iso")).header("upload-offset", offset).header("upload-sha256", promise)
    };
    let odd = ask(lab.admin(), promising(0, "md5:00"), b"012").await;
    assert!(odd.code == StatusCode::BAD_REQUEST && odd.message().contains("Upload-Sha256"), "{}", odd.message());
    assert_eq!(ask(lab.admin(), promising(0, &right), b"01x").await.code, StatusCode::OK, "it is that of all bytes");
    let mixed = ask(lab.admin(), promising(3, &right), b"3456789").await;
    assert!(mixed.code == StatusCode::UNPROCESSABLE_ENTITY && mixed.message().contains(&right), "{}", mixed.message());
    lab.until_reason("iso", "ChecksumMismatch").await;
    assert_eq!(put(lab.admin(), "iso", 0, b"012").await.code, StatusCode::OK);
    assert_eq!(ask(lab.admin(), promising(3, &right), b"3456789").await.code, StatusCode::OK);
    lab.until_reason("iso", "Complete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_behind_the_last_byte_completes_the_file() {
    let mut lab = Lab::start().await;
    let right = sum(b"0123456789");
    let files = [lab.make("iso", 10, Some(&right)).await, lab.make("promised", 10, None).await];
    lab.agent.take().unwrap().kill().await;
    let parts = files.map(|file| lab.folder.path().join(format!("pool/files/{}.part", file.uid().unwrap())));
    std::fs::create_dir_all(parts[0].parent().unwrap()).unwrap();
    std::fs::write(&parts[0], b"0123456789").unwrap();
    std::fs::write(&parts[1], b"012345678x").unwrap();
    lab.agent = Some(lab.world.streaming_agent(&lab.host).await);
    let complete = lab.until_reason("iso", "Complete").await.status.unwrap();
    assert_eq!(complete.sha256.as_ref(), Some(&right));

    // What its sender has promised went with the agent: it is awaited
    let all =
        |file: &File| file.status.as_ref().is_some_and(|status| status.received.is_some_and(|all| all.bytes() == 10));
    let awaited = lab.world.wait_for(&lab.files(), "promised", "all bytes", all).await.status.unwrap();
    let ready = condition::get(&awaited.conditions, READY).unwrap();
    assert!(ready.reason == "Receiving" && ready.message.contains("compared"), "{ready:?}");
    let last = Request::put(path("promised")).header("upload-offset", 10).header("upload-sha256", right.to_string());
    assert_eq!(ask(lab.admin(), last, b"").await.code, StatusCode::UNPROCESSABLE_ENTITY);
    lab.until_reason("promised", "ChecksumMismatch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_told_until_there_is_room() {
    let lab = Lab::start().await;
    let file = lab.make("iso", 10, None).await;
    let part = lab.folder.path().join(format!("pool/files/{}.part", file.uid().unwrap()));
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let full = put(lab.admin(), "iso", 0, b"0123456789").await;
    assert_eq!(full.code, StatusCode::INSUFFICIENT_STORAGE, "{}", full.message());
    let told = lab.until_reason("iso", "StorageFull").await.status.unwrap();
    assert_eq!(told.received.map(ucloud_types::Quantity::bytes), Some(0));
    std::fs::remove_file(&part).unwrap();
    assert_eq!(put(lab.admin(), "iso", 0, b"01234").await.code, StatusCode::OK);
    lab.until_reason("iso", "Receiving").await;
    assert_eq!(put(lab.admin(), "iso", 5, b"56789").await.code, StatusCode::OK);
    lab.until_reason("iso", "Complete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_deleted_does_not_wait_for_bytes_that_never_come() {
    let lab = Lab::start().await;
    let file = lab.make("iso", 10, None).await;
    let (sender, pieces) = mpsc::channel::<std::io::Result<_>>(1);
    let body = StreamBody::new(ReceiverStream::new(pieces)).map_err(StreamError::from).boxed_unsync();
    let request = Request::patch(format!("/files/{}", file.uid().unwrap())).header("host", "h1");
    let request = request.header("upload-offset", 0).body(body).unwrap();
    let (agents, host) = lab.way_of(&directory::api());
    let upload = tokio::spawn(async move { agents.send(&host, request).await.unwrap().status() });
    sender.send(Ok(Frame::data(Bytes::from_static(b"012")))).await.unwrap();
    let received = |file: &File| file.status.as_ref().unwrap().received.is_some_and(|all| all.bytes() == 3);
    lab.world.wait_for(&lab.files(), "iso", "the first bytes", received).await;
    let deleted = Instant::now();
    lab.files().delete("iso", &DeleteParams::default()).await.unwrap();
    assert_eq!(upload.await.unwrap(), StatusCode::NOT_FOUND);
    lab.world.wait_deleted(&lab.files(), &file).await;
    assert!(deleted.elapsed() < Duration::from_secs(25), "less than a silent sender is borne");
    assert_eq!(lab.contents(), Vec::<PathBuf>::new());
    drop(sender);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_the_right_reaches_bytes() {
    let lab = Lab::start().await;
    lab.make("iso", 3, None).await;
    let stranger = lab.world.api.client(&Subject::client("somebody", None)).await.unwrap();
    let agent = lab.world.api.agent("h1").await.unwrap();
    // more than fits into the buffers of a connection: who is still sending sees the answer all the same
    let many = vec![0; 8 << 20];
    for client in [&stranger, &agent] {
        assert_eq!(put(client, "iso", 0, &many).await.code, StatusCode::FORBIDDEN);
    }
    assert_eq!(ask(&stranger, Request::get(path("iso")), b"").await.code, StatusCode::FORBIDDEN);
    for odd in ["absent", "..%2f..%2fetc", "iso%2f..%2fiso"] {
        assert_eq!(put(lab.admin(), odd, 0, b"abc").await.code, StatusCode::NOT_FOUND, "{odd}");
    }
    for method in [Method::POST, Method::DELETE, Method::PATCH] {
        let request = Request::builder().method(method).uri(path("iso"));
        assert_eq!(ask(lab.admin(), request, b"").await.code, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(put(lab.admin(), "iso", 0, b"abc").await.code, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_service_is_for_the_api_server_alone() {
    let lab = Lab::start().await;
    let file = lab.make("iso", 3, None).await;
    let uid = file.uid().unwrap();
    let connect = async |subject: Subject| {
        let (agents, host) = lab.way_of(&subject);
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::head(format!("/files/{uid}")).header("host", "h1").body(body).unwrap();
        agents.send(&host, request).await.map(|answer| answer.status())
    };
    assert_eq!(connect(directory::api()).await.unwrap(), StatusCode::OK);
    for other in [directory::admin(), Subject::client("somebody", None)] {
        assert!(connect(other).await.is_err());
    }
}
