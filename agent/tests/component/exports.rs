//! The bytes of Images and Volumes: of one state, for whoever may have them, and in nobody's way.

use std::sync::Arc;

use http::{
    HeaderName, Request, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, RANGE},
};
use http_body_util::BodyExt as _;
use kube::{Api, Client, ResourceExt as _, api::DeleteParams, client::Body};
use serde_json::{Value, json};
use ucloud_agent_core::block_store::{DiskId, Readable};
use ucloud_agent_sim::{Effect, Fault, Method, SimHost, When, bytes_of};
use ucloud_api::pki::Subject;
use ucloud_types::{
    Host, Image, Volume,
    condition::{READY, is_true},
};

use crate::{
    files::{Answer, ask},
    world::{Running, World, effect, eventually},
};

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

fn path(kind: &str, name: &str) -> String {
    format!("/apis/ucloud.ungleich.ch/v1alpha1/namespaces/default/{kind}/{name}/content")
}

async fn get(client: &Client, path: &str, headers: &[(HeaderName, &str)]) -> Answer {
    let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(name, *value));
    ask(client, request, b"").await
}

fn header(answer: &Answer, name: HeaderName) -> String {
    answer.headers[name].to_str().unwrap().to_owned()
}

/// Begins to read, and says how many bytes have come; the rest is still to come.
async fn begin(client: &Client, path: &str) -> (usize, Body) {
    let answer = client.send(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut body = answer.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    (first.len(), body)
}

/// Reads on; tells how many bytes came before it broke off.
async fn until_broken(mut body: Body) -> usize {
    let mut read = 0;
    loop {
        match body.frame().await {
            Some(Ok(frame)) => read += frame.into_data().map_or(0, |bytes| bytes.len()),
            Some(Err(_)) => return read,
            None => panic!("it came to its end"),
        }
    }
}

struct Lab {
    world: World,
    host: Arc<SimHost>,
    agent: Running,
}

impl Lab {
    async fn start() -> Self {
        let world = World::start().await;
        let host = world.host("h1");
        let agent = world.streaming_agent(&host).await;
        Self { world, host, agent }
    }

    fn images(&self) -> Api<Image> {
        self.world.namespaced()
    }

    fn volumes(&self) -> Api<Volume> {
        self.world.namespaced()
    }

    async fn ready_image(&self) -> Image {
        let is_ready = |image: &Image| image.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY));
        self.world.wait_for(&self.images(), "alpine", "Ready", is_ready).await
    }

    async fn get(&self, kind: &str, name: &str, headers: &[(HeaderName, &str)]) -> Answer {
        get(&self.world.admin, &path(kind, name), headers).await
    }

    async fn until_free(&self, name: &str) -> Volume {
        let is_free = |volume: &Volume| {
            volume.status.as_ref().is_some_and(|status| status.attachment.is_none() && status.size.is_some())
        };
        self.world.wait_for(&self.volumes(), name, "it to be free", is_free).await
    }

    /// A volume that a VM has had and given back.
    async fn volume(&self, name: &str, size: &str) -> Volume {
        self.world.make(&self.volumes(), name, json!({"size": size})).await;
        self.lend(name, &format!("maker-of-{name}")).await
    }

    /// A VM has the volume, and gives it back.
    async fn lend(&self, name: &str, vm: &str) -> Volume {
        self.world.bound_vm(vm, &self.host, disks(&[name])).await;
        self.world.wait_running(vm).await;
        self.world.respecify(vm, disks(&[])).await;
        self.until_free(name).await
    }
}

fn disks(volumes: &[&str]) -> Value {
    let mut disks = vec![json!({"name": "root", "image": "alpine"})];
    disks.extend(volumes.iter().map(|name| json!({"name": name, "volume": name})));
    json!({"disks": disks})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_downloaded_in_parts_once_it_is_ready() {
    let world = World::start().await;
    let early = get(&world.admin, &path("images", "alpine"), &[]).await;
    assert_eq!(early.code, StatusCode::CONFLICT);
    assert!(early.message().contains("not Ready"), "{}", early.message());

    let host = world.host("h1");
    let agent = world.streaming_agent(&host).await;
    let lab = Lab { world, host, agent };
    let image = lab.ready_image().await;
    let what = Readable::Image(image.uid().unwrap());
    let tag = format!("\"{}\"", image.uid().unwrap());
    let head = ask(&lab.world.admin, Request::head(path("images", "alpine")), b"").await;
    assert_eq!((head.code, head.body.len()), (StatusCode::OK, 0));
    let told = [CONTENT_LENGTH, ETAG, ACCEPT_RANGES].map(|name| header(&head, name));
    assert_eq!(told, [GIB.to_string(), tag.clone(), "bytes".to_owned()]);

    let part = lab.get("images", "alpine", &[(RANGE, "bytes=1000-3000999"), (IF_MATCH, &tag)]).await;
    assert_eq!((part.code, header(&part, ETAG)), (StatusCode::PARTIAL_CONTENT, tag.clone()));
    assert_eq!(header(&part, CONTENT_RANGE), format!("bytes 1000-3000999/{GIB}"));
    assert!(part.body == bytes_of(&what, 1000, 3_000_000));
    let last = lab.get("images", "alpine", &[(RANGE, &format!("bytes={}-", GIB - 5))]).await;
    assert!(last.body == bytes_of(&what, GIB - 5, 5));

    let other = lab.get("images", "alpine", &[(IF_MATCH, "\"another\"")]).await;
    assert_eq!(other.code, StatusCode::CONFLICT);
    assert!(other.message().contains("download it anew"), "{}", other.message());
    let behind = lab.get("images", "alpine", &[(RANGE, &format!("bytes={GIB}-"))]).await;
    assert_eq!(behind.code, StatusCode::BAD_REQUEST);
    for method in [http::Method::PUT, http::Method::POST, http::Method::DELETE] {
        let request = Request::builder().method(method).uri(path("images", "alpine"));
        assert_eq!(ask(&lab.world.admin, request, b"").await.code, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(lab.get("images", "absent", &[]).await.code, StatusCode::NOT_FOUND);

    // What is being deleted is not begun any more, and what was begun breaks off
    lab.world.bound_vm("web", &lab.host, json!({})).await;
    lab.world.wait_running("web").await;
    let (_, body) = begin(&lab.world.admin, &path("images", "alpine")).await;
    lab.images().delete("alpine", &DeleteParams::default()).await.unwrap();
    let refused = lab.get("images", "alpine", &[]).await;
    assert_eq!(refused.code, StatusCode::CONFLICT);
    assert!(refused.message().contains("being deleted"), "{}", refused.message());
    until_broken(body).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_downloaded_while_no_vm_has_it() {
    let lab = Lab::start().await;
    lab.world.make(&lab.volumes(), "data", json!({"size": "8Mi"})).await;
    let empty = lab.get("volumes", "data", &[]).await;
    assert_eq!(empty.code, StatusCode::CONFLICT);
    assert!(empty.message().contains("the first VM"), "{}", empty.message());

    lab.world.bound_vm("first", &lab.host, disks(&["data"])).await;
    lab.world.wait_running("first").await;
    let taken = lab.get("volumes", "data", &[]).await;
    assert_eq!(taken.code, StatusCode::CONFLICT);
    for part in ["VM first has the volume", "ucloudctl snapshot volume/data"] {
        assert!(taken.message().contains(part), "{}", taken.message());
    }

    lab.world.respecify("first", disks(&[])).await;
    let volume = lab.until_free("data").await;
    let whole = lab.get("volumes", "data", &[]).await;
    let what = Readable::Disk(DiskId::of_volume(volume.uid().unwrap()));
    assert_eq!((whole.code, header(&whole, CONTENT_LENGTH)), (StatusCode::OK, (8 * MIB).to_string()));
    assert!(whole.body == bytes_of(&what, 0, 8 * MIB));
    let tag = header(&whole, ETAG);
    let again = lab.get("volumes", "data", &[(RANGE, "bytes=5-9"), (IF_MATCH, &tag)]).await;
    assert!(again.code == StatusCode::PARTIAL_CONTENT && again.body == bytes_of(&what, 5, 5));

    // Another VM may have written to it meanwhile
    let volume = lab.lend("data", "second").await;
    assert_eq!(volume.status.unwrap().attachments, 2);
    let changed = lab.get("volumes", "data", &[(RANGE, "bytes=5-9"), (IF_MATCH, &tag)]).await;
    assert_eq!(changed.code, StatusCode::CONFLICT);
    assert!(changed.message().contains("download it anew"), "{}", changed.message());
    assert_ne!(header(&lab.get("volumes", "data", &[(RANGE, "bytes=0-0")]).await, ETAG), tag);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_does_not_wait_for_who_reads_its_volume() {
    let lab = Lab::start().await;
    lab.volume("data", "1Gi").await;
    let (first, body) = begin(&lab.world.admin, &path("volumes", "data")).await;
    lab.world.bound_vm("web", &lab.host, disks(&["data"])).await;
    lab.world.wait_running("web").await;
    assert!(((first + until_broken(body).await) as u64) < GIB);
    eventually("nobody to read any more", || effect(&lab.host, "read") == 1).await;
    let refused = lab.get("volumes", "data", &[(RANGE, "bytes=5-")]).await;
    assert!(refused.message().contains("VM web has the volume"), "{}", refused.message());
    assert_eq!(lab.host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_who_has_left_nothing_is_left() {
    let lab = Lab::start().await;
    lab.volume("data", "1Gi").await;
    for left in 1..=3 {
        let (_, body) = begin(&lab.world.admin, &path("volumes", "data")).await;
        drop(body);
        eventually("nobody to read any more", || effect(&lab.host, "read") == left).await;
    }
    // Also where the disk does not answer
    lab.host.inject(Fault { method: Method::Read, when: When::Nth(1), effect: Effect::Stall });
    assert_eq!(lab.get("volumes", "data", &[]).await.code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(lab.get("volumes", "data", &[(RANGE, "bytes=0-0")]).await.code, StatusCode::PARTIAL_CONTENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_after_the_agent_was_killed() {
    let Lab { world, host, agent } = Lab::start().await;
    let lab = Lab { world, host, agent };
    let volume = lab.volume("data", "1Gi").await;
    let tag = header(&lab.get("volumes", "data", &[(RANGE, "bytes=0-0")]).await, ETAG);
    let (first, body) = begin(&lab.world.admin, &path("volumes", "data")).await;
    lab.agent.kill().await;
    until_broken(body).await;
    let silent = get(&lab.world.admin, &path("volumes", "data"), &[]).await;
    assert_eq!(silent.code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(silent.message().contains("host h1"), "{}", silent.message());

    let agent = lab.world.streaming_agent(&lab.host).await;
    let new_port = |host: &Host| host.status.as_ref().unwrap().stream_port == agent.stream_port();
    lab.world.wait_for(&lab.world.cluster(), "h1", "the new port", new_port).await;
    let range = format!("bytes={first}-{}", first + MIB - 1);
    let rest = get(&lab.world.admin, &path("volumes", "data"), &[(RANGE, &range), (IF_MATCH, &tag)]).await;
    assert_eq!(rest.code, StatusCode::PARTIAL_CONTENT);
    let what = Readable::Disk(DiskId::of_volume(volume.uid().unwrap()));
    assert!(rest.body == bytes_of(&what, first as u64, MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_says_so() {
    let lab = Lab::start().await;
    lab.volume("data", "8Mi").await;
    for method in [Method::Size, Method::Read] {
        let effect = Effect::Refuse { reason: "StorageFailed", terminal: false };
        lab.host.inject(Fault { method, when: When::Nth(1), effect });
        let failed = lab.get("volumes", "data", &[]).await;
        assert_eq!(failed.code, StatusCode::SERVICE_UNAVAILABLE);
        let said = failed.message();
        assert!(said.contains("host h1") && said.contains(&format!("fails in {method:?}")), "{said}");
    }
    assert_eq!(lab.get("volumes", "data", &[]).await.code, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_had_from_another_host_when_one_does_not_answer() {
    let lab = Lab::start().await;
    let other = lab.world.host("h2");
    let other_agent = lab.world.streaming_agent(&other).await;
    lab.ready_image().await;
    for (vm, host) in [("one", &lab.host), ("two", &other)] {
        lab.world.bound_vm(vm, host, json!({})).await;
        lab.world.wait_running(vm).await;
    }
    let has_it = |host: &Host| host.status.as_ref().is_some_and(|status| !status.images.is_empty());
    for host in ["h1", "h2"] {
        lab.world.wait_for(&lab.world.cluster(), host, "its copy to be told", has_it).await;
    }
    lab.agent.kill().await;
    let one = get(&lab.world.admin, &path("images", "alpine"), &[(RANGE, "bytes=0-9")]).await;
    assert_eq!((one.code, one.body.len()), (StatusCode::PARTIAL_CONTENT, 10));
    other_agent.kill().await;
    let none = get(&lab.world.admin, &path("images", "alpine"), &[]).await;
    assert_eq!(none.code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(none.message().contains("does not answer"), "{}", none.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_the_right_reads_disks() {
    let lab = Lab::start().await;
    lab.volume("data", "1Mi").await;
    let stranger = lab.world.api.client(&Subject::client("somebody", None)).await.unwrap();
    let (agent, controllers) = (lab.world.api.agent("h1").await.unwrap(), lab.world.api.controllers().await.unwrap());
    for client in [&stranger, &agent, &controllers] {
        for (kind, name) in [("images", "alpine"), ("volumes", "data"), ("volumes", "absent")] {
            assert_eq!(get(client, &path(kind, name), &[]).await.code, StatusCode::FORBIDDEN, "{kind}");
        }
    }
    for odd in ["absent", "..%2f..%2fetc"] {
        assert_eq!(lab.get("volumes", odd, &[]).await.code, StatusCode::NOT_FOUND, "{odd}");
    }
}
