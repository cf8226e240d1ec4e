//! `files/NAME/content`: the bytes of a File, handed on to and from the agent of the host that keeps them.
//!
//! HEAD tells in `Upload-Offset` how many there are; PUT adds some behind those, whose number it says in the same header;
//! GET gives them, or a range of them, once they are complete.

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderName, Method as HttpMethod, Request, Response, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST, RANGE},
};
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use ucloud_machinery::{
    status::{ApiError, Reason},
    strategy::{ByteStream, Method, StreamError, StreamHandler, StreamRequest},
};
use ucloud_types::{
    File, GROUP, Host, condition,
    meta::{UPLOAD_LENGTH, UPLOAD_OFFSET},
};

use crate::agents::{Agents, Unreachable};

/// The plural of Files, as errors name it.
const FILES: &str = "files";
/// What of a request the agent is told, and what of an answer the client.
const ASKED: [HeaderName; 3] = [CONTENT_LENGTH, RANGE, HeaderName::from_static(UPLOAD_OFFSET)];
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

/// Serves the subresource.
pub struct ContentHandler(pub Agents);

#[async_trait]
impl StreamHandler for ContentHandler {
    fn methods(&self) -> &'static [Method] {
        &[Method::Get, Method::Update]
    }

    fn kind(&self) -> &'static str {
        "File"
    }

    async fn handle(&self, request: StreamRequest<'_>) -> Result<Response<ByteStream>, ApiError> {
        let name = request.context.name;
        let file: File = serde_json::from_value(request.target.get().await?)
            .map_err(|error| ApiError::internal(format!("the stored File cannot be read: {error}")))?;
        let host_name = place(&file)?;
        let host = request.context.lister.get(GROUP, "hosts", None, host_name);
        let host: Host = host.and_then(|host| serde_json::from_value(host).ok()).ok_or_else(|| {
            ApiError::unavailable(format!(
                "host {host_name}, which keeps the file, does not exist any more: delete the file and upload it again"
            ))
        })?;
        let method = match *request.method {
            HttpMethod::PUT => HttpMethod::PATCH,
            ref other => other.clone(),
        };
        let uid = file.metadata.uid.as_deref().unwrap_or_default();
        let mut asked = Request::builder().method(method).uri(format!("/files/{uid}")).header(HOST, host_name);
        for header in ASKED {
            if let Some(value) = request.headers.get(&header) {
                asked = asked.header(header, value);
            }
        }
        let asked = asked.body(request.body).map_err(ApiError::internal)?;
        let answer = self.0.send(&host, asked).await.map_err(|error| unreachable(host_name, &error))?;
        if answer.status().is_success() { Ok(handed_on(answer)) } else { Err(refused(name, host_name, answer).await) }
    }
}

/// The host that keeps the file.
fn place(file: &File) -> Result<&str, ApiError> {
    let name = file.metadata.name.as_deref().unwrap_or_default();
    if file.metadata.deletion_timestamp.is_some() {
        return Err(ApiError::conflict(GROUP, FILES, name, "the file is being deleted"));
    }
    let status = file.status.as_ref();
    status.and_then(|status| status.host.as_deref()).ok_or_else(|| {
        let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let why =
            condition::get(conditions, condition::SCHEDULED).map_or("none was chosen yet", |c| c.message.as_str());
        ApiError::unavailable(format!("file {name:?} has no host that keeps it: {why}"))
    })
}

fn unreachable(host: &str, error: &Unreachable) -> ApiError {
    ApiError::unavailable(format!("host {host} keeps the file: {error}"))
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
async fn refused(name: &str, host: &str, answer: Response<Incoming>) -> ApiError {
    let code = answer.status();
    let offset = answer.headers().get(UPLOAD_OFFSET).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let said = Limited::new(answer.into_body(), MAX_MESSAGE).collect().await;
    let said = said.map_or_else(|_| Bytes::new(), Collected::to_bytes);
    let said = String::from_utf8_lossy(&said);
    match code {
        StatusCode::BAD_REQUEST | StatusCode::RANGE_NOT_SATISFIABLE => ApiError::bad_request(said),
        StatusCode::CONFLICT | StatusCode::LOCKED => {
            let conflict = ApiError::conflict(GROUP, FILES, name, &said);
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

    #[test]
    fn a_file_without_a_host_says_why() {
        let file: File = serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "File", "metadata": {"name": "iso"},
            "spec": {"size": "1"},
            "status": {"conditions": [{"type": "Scheduled", "status": "False", "reason": "NoHost",
                "message": "there is no host", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap();
        let error = place(&file).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains("there is no host")), (503, true), "{error}");
    }
}
