//! `files/NAME/content`, `images/NAME/content` and `volumes/NAME/content`: bytes, handed on to and from the agents of the hosts
//! that keep them.
//!
//! Of a File HEAD tells in `Upload-Offset` how many there are; PUT adds some behind those, whose number it says in the same
//! header, and may say in `Upload-Sha256` which checksum all have with these; GET gives them, or a range of them, once they are
//! complete. Of an Image and a Volume GET gives the bytes that a guest
//! sees, or a range of them, and HEAD tells how many there are.

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderName, Method as HttpMethod, Request, Response, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST, IF_MATCH, IF_RANGE, RANGE},
};
use http_body_util::{BodyExt as _, Collected, Empty, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ucloud_machinery::{
    status::{ApiError, Reason},
    strategy::{ByteStream, Lister, Method, StreamError, StreamHandler, StreamRequest},
};
use ucloud_types::{
    File, GROUP, Host, Image, StoragePool, Volume,
    condition::{self, READY, SCHEDULED},
    image::ImagePhase,
    meta::{UPLOAD_LENGTH, UPLOAD_OFFSET, UPLOAD_SHA256},
};

use crate::agents::{Agents, Unreachable};

/// What of a request the agent is told, and what of an answer the client.
const ASKED: [HeaderName; 6] = [
    CONTENT_LENGTH,
    IF_MATCH,
    IF_RANGE,
    RANGE,
    HeaderName::from_static(UPLOAD_OFFSET),
    HeaderName::from_static(UPLOAD_SHA256),
];
const ANSWERED: [HeaderName; 7] = [
    ACCEPT_RANGES,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    ETAG,
    HeaderName::from_static(UPLOAD_LENGTH),
    HeaderName::from_static(UPLOAD_OFFSET),
];
/// No more than this is read of what an agent says of a failure.
const MAX_MESSAGE: usize = 4096;

/// Whose bytes are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A File's.
    File,
    /// An Image's.
    Image,
    /// A Volume's.
    Volume,
}

impl Content {
    /// The plural of the kind, as errors and agents name it.
    fn plural(self) -> &'static str {
        match self {
            Self::File => "files",
            Self::Image => "images",
            Self::Volume => "volumes",
        }
    }
}

/// Serves the subresource.
pub struct ContentHandler(pub Agents, pub Content);

#[async_trait]
impl StreamHandler for ContentHandler {
    fn methods(&self) -> &'static [Method] {
        match self.1 {
            Content::File => &[Method::Get, Method::Update],
            Content::Image | Content::Volume => &[Method::Get],
        }
    }

    fn kind(&self) -> &'static str {
        match self.1 {
            Content::File => "File",
            Content::Image => "Image",
            Content::Volume => "Volume",
        }
    }

    async fn handle(&self, request: StreamRequest<'_>) -> Result<Response<ByteStream>, ApiError> {
        let Self(agents, content) = self;
        let (name, lister) = (request.context.name, request.context.lister);
        let object = request.target.get().await?;
        if object.pointer("/metadata/deletionTimestamp").is_some() {
            let why = format!("the {} is being deleted", self.kind().to_lowercase());
            return Err(ApiError::conflict(GROUP, content.plural(), name, &why));
        }
        let hosts = match content {
            Content::File => file_host(&read(object.clone())?, lister).map(|host| vec![host]),
            Content::Image => image_hosts(&read(object.clone())?, lister),
            Content::Volume => volume_host(&read(object.clone())?, lister).map(|host| vec![host]),
        }?;
        let method = match *request.method {
            HttpMethod::PUT => HttpMethod::PATCH,
            ref other => other.clone(),
        };
        let path = format!("/{}/{}", content.plural(), object["metadata"]["uid"].as_str().unwrap_or_default());
        // What is sent goes to one host; where several have the bytes, nothing is
        let mut body = Some(request.body);
        let mut silent = ApiError::unavailable("no host has its bytes");
        for host in hosts {
            let host_name = host.metadata.name.as_deref().unwrap_or_default();
            let mut asked = Request::builder().method(method.clone()).uri(&path).header(HOST, host_name);
            for header in ASKED {
                if let Some(value) = request.headers.get(&header) {
                    asked = asked.header(header, value);
                }
            }
            let nothing = || Empty::new().map_err(|never| match never {}).boxed_unsync();
            let asked = asked.body(body.take().unwrap_or_else(nothing)).map_err(ApiError::internal)?;
            match agents.send(&host, asked).await {
                Ok(answer) if answer.status().is_success() => return Ok(handed_on(answer)),
                Ok(answer) => return Err(refused(*content, name, host_name, answer).await),
                Err(error) => silent = unreachable(host_name, &error),
            }
        }
        Err(silent)
    }
}

fn read<K: DeserializeOwned>(object: Value) -> Result<K, ApiError> {
    serde_json::from_value(object)
        .map_err(|error| ApiError::internal(format!("the stored object cannot be read: {error}")))
}

/// The host that keeps the file.
fn file_host(file: &File, lister: &dyn Lister) -> Result<Host, ApiError> {
    let status = file.status.as_ref();
    let host = status.and_then(|status| status.host.as_deref()).ok_or_else(|| {
        let name = file.metadata.name.as_deref().unwrap_or_default();
        let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let why = condition::get(conditions, SCHEDULED).map_or("none was chosen yet", |c| c.message.as_str());
        ApiError::unavailable(format!("file {name:?} has no host that keeps it: {why}"))
    })?;
    find_host(host, lister).ok_or_else(|| {
        ApiError::unavailable(format!(
            "host {host}, which keeps the file, does not exist any more: delete the file and upload it again"
        ))
    })
}

/// The host that has the volume's bytes.
fn volume_host(volume: &Volume, lister: &dyn Lister) -> Result<Host, ApiError> {
    let Some(host) = volume.status.as_ref().and_then(|status| status.host.as_deref()) else {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let why = "it holds nothing yet: it is made when the first VM has it";
        return Err(ApiError::conflict(GROUP, Content::Volume.plural(), name, why));
    };
    find_host(host, lister)
        .ok_or_else(|| ApiError::unavailable(format!("host {host}, which has the volume, does not exist any more")))
}

fn find_host(name: &str, lister: &dyn Lister) -> Option<Host> {
    serde_json::from_value(lister.get(GROUP, "hosts", None, name)?).ok()
}

/// The hosts that have the image's bytes: of several, those first that are known to.
fn image_hosts(image: &Image, lister: &dyn Lister) -> Result<Vec<Host>, ApiError> {
    let (name, pool) = (image.metadata.name.as_deref().unwrap_or_default(), image.spec.effective_pool());
    let conditions = image.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    if !condition::is_true(conditions, READY) {
        let why = condition::get(conditions, READY).map_or("nothing is known of it yet", |ready| &ready.message);
        return Err(ApiError::conflict(GROUP, Content::Image.plural(), name, &format!("it is not Ready: {why}")));
    }
    let found = lister.get(GROUP, "storagepools", None, pool).and_then(|pool| serde_json::from_value(pool).ok());
    let shared = found.is_some_and(|pool: StoragePool| pool.spec.is_shared());
    let hosts = lister.list(GROUP, "hosts", None).into_iter().filter_map(|host| serde_json::from_value(host).ok());
    let hosts = having(image, shared, hosts);
    if hosts.is_empty() {
        let which = if shared { format!("has pool {pool}") } else { "has a copy of it".to_owned() };
        return Err(ApiError::unavailable(format!("image {name:?} cannot be read: no host that is Ready {which}")));
    }
    Ok(hosts)
}

/// Of the hosts, those that are Ready and have a copy of the image; where its pool is shared those that have that, too.
fn having(image: &Image, shared: bool, hosts: impl Iterator<Item = Host>) -> Vec<Host> {
    let (uid, pool) = (image.metadata.uid.as_deref().unwrap_or_default(), image.spec.effective_pool());
    let mut ranked: Vec<_> = hosts
        .filter_map(|host| {
            let status = host.status.as_ref().filter(|status| condition::is_true(&status.conditions, READY))?;
            let copy = status.images.iter().any(|copy| copy.uid == uid && copy.phase == ImagePhase::Ready);
            let in_reach = shared && status.pools.iter().any(|has| has.name == pool && has.error.is_none());
            (copy || in_reach).then_some((!copy, host))
        })
        .collect();
    ranked.sort_by_key(|(foreign, _)| *foreign);
    ranked.into_iter().map(|(_, host)| host).collect()
}

fn unreachable(host: &str, error: &Unreachable) -> ApiError {
    ApiError::unavailable(format!("host {host} has the bytes: {error}"))
}

fn handed_on(answer: Response<Incoming>) -> Response<ByteStream> {
    let (head, body) = answer.into_parts();
    let mut response = Response::new(body.map_err(StreamError::from).boxed_unsync());
    *response.status_mut() = head.status;
    for header in ANSWERED {
        if let Some(value) = head.headers.get(&header) {
            response.headers_mut().insert(header, value.clone());
        }
    }
    response
}

/// What an agent refuses, in Kubernetes' words.
async fn refused(content: Content, name: &str, host: &str, answer: Response<Incoming>) -> ApiError {
    let code = answer.status();
    let offset = answer.headers().get(UPLOAD_OFFSET).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let said = Limited::new(answer.into_body(), MAX_MESSAGE).collect().await;
    let said = said.map_or_else(|_| Bytes::new(), Collected::to_bytes);
    let said = String::from_utf8_lossy(&said);
    match code {
        StatusCode::BAD_REQUEST | StatusCode::RANGE_NOT_SATISFIABLE => ApiError::bad_request(said),
        // Kubernetes has no word of its own for a precondition that fails
        StatusCode::CONFLICT | StatusCode::LOCKED | StatusCode::PRECONDITION_FAILED => {
            let conflict = ApiError::conflict(GROUP, content.plural(), name, &said);
            match offset {
                Some(offset) => conflict.with_cause("WrongOffset", &offset, "Upload-Offset"),
                None => conflict,
            }
        }
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(Reason::RequestEntityTooLarge, said),
        StatusCode::UNPROCESSABLE_ENTITY => ApiError::new(Reason::Invalid, said),
        StatusCode::INSUFFICIENT_STORAGE => ApiError::new(Reason::InsufficientStorage, said),
        _ => ApiError::unavailable(format!("host {host}: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authorization::test_support::Objects;

    #[test]
    fn a_file_without_a_host_says_why() {
        let file: File = serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "File", "metadata": {"name": "iso"},
            "spec": {"size": "1"},
            "status": {"conditions": [{"type": "Scheduled", "status": "False", "reason": "NoHost",
                "message": "there is no host", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap();
        let error = file_host(&file, &Objects::default()).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains("there is no host")), (503, true), "{error}");
    }

    #[test]
    fn a_volume_that_was_never_made_says_so() {
        let volume: Volume = serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume", "metadata": {"name": "data"},
            "spec": {"size": "1Gi"},
        }))
        .unwrap();
        let error = volume_host(&volume, &Objects::default()).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains("the first VM")), (409, true), "{error}");
    }

    fn image(ready: &str) -> Image {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image", "metadata": {"name": "alpine", "uid": "u"},
            "spec": {"source": {"file": {"name": "alpine"}}, "format": "raw"},
            "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "Importing",
                "message": "host h1 is importing it", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    }

    #[test]
    fn an_image_that_is_not_there_yet_or_nowhere_says_why() {
        let error = image_hosts(&image("False"), &Objects::default()).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains("host h1 is importing it")), (409, true), "{error}");
        let error = image_hosts(&image("True"), &Objects::default()).unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().contains("no host that is Ready has a copy")),
            (503, true),
            "{error}"
        );
    }

    #[test]
    fn an_image_is_read_where_it_is_or_where_its_pool_is() {
        let host = |name: &str, ready: &str, phase: &str, error: Option<&str>| -> Host {
            serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host", "metadata": {"name": name}, "spec": {},
                "status": {
                    "conditions": [{"type": "Ready", "status": ready, "reason": "x", "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                    "pools": [{"name": "default", "capacity": "1Gi", "available": "1Gi", "error": error}],
                    "images": [{"uid": "u", "phase": phase}, {"uid": "other", "phase": "Ready"}],
                },
            }))
            .unwrap()
        };
        let hosts = [
            host("reaches", "True", "Importing", None),
            host("fails", "True", "Pending", Some("no key")),
            host("has", "True", "Ready", None),
            host("silent", "Unknown", "Ready", None),
        ];
        let names = |shared| -> Vec<String> {
            let found = having(&image("True"), shared, hosts.iter().cloned());
            found.into_iter().filter_map(|host| host.metadata.name).collect()
        };
        assert_eq!(names(false), ["has"]);
        assert_eq!(names(true), ["has", "reaches"]);
    }
}
