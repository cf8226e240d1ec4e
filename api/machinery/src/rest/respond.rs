//! How answers are written.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::negotiate::Form;
use super::read::Listed;
use crate::cache::Object;
use crate::registry::Resource;
use crate::status::ApiError;
use crate::storage::Revision;
use crate::strategy::ByteStream;
use crate::table::{self, META_API_VERSION};

/// The body of every answer.
pub type Body = ByteStream;

/// Lists are written in pieces of about this size; the first one is large enough to tell whether a list is worth compressing.
const CHUNK: usize = 64 * 1024;
const FIRST: usize = super::compress::THRESHOLD;
/// No more warnings than this go into headers, and none longer.
const MAX_WARNINGS: usize = 20;
const MAX_WARNING: usize = 1024;

/// A body that is there already.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes piece by piece.
pub(crate) fn streamed(pieces: impl stream::Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

/// An answer with this body.
pub(crate) fn answer(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A JSON answer.
pub(crate) fn json(code: u16, value: &Value) -> Response<Body> {
    answer(code, "application/json", full(value.to_string()))
}

/// The answer to a request that failed.
pub(crate) fn failure(error: &ApiError) -> Response<Body> {
    let mut response = json(error.code(), &error.to_status());
    if let Some(seconds) = error.retry_after_seconds() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Adds `Warning` headers (RFC 9111's 299, as Kubernetes uses it).
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let mut text = String::from("299 - \"");
        for character in warning.chars().take(MAX_WARNING) {
            match character {
                '"' | '\\' => text.extend(['\\', character]),
                control if control.is_control() => text.push(' '),
                other => text.push(other),
            }
        }
        text.push('"');
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// A cached object as the client gets it: the bytes that the cache holds, unless another form is asked for.
pub(crate) fn render(resource: &Resource, form: Form, object: &Object, now: Timestamp) -> Option<Bytes> {
    if form == Form::Object && resource.conversion.is_none() {
        return Some(object.json().clone());
    }
    // the cache wrote these bytes itself: they are JSON
    let stored: Value = serde_json::from_slice(object.json()).ok()?;
    let served = resource.to_served(stored);
    let value = match form {
        Form::Object => served,
        Form::Table(include) => table::row(&resource.description, served, include, now),
        Form::Metadata => table::partial_metadata(served),
    };
    serde_json::to_vec(&value).ok().map(Into::into)
}

/// The `metadata` of a list that is whole, or of a Table.
pub(crate) fn version_metadata(revision: Revision) -> Value {
    json!({"resourceVersion": revision.to_string()})
}

/// What stands around objects in a list, or around the row of a single object: before and after.
pub(crate) fn frame(resource: &Resource, form: Form, metadata: &Value, columns: bool) -> (String, &'static str) {
    let description = &resource.description;
    let head = |kind: &str, api_version: &str| {
        let [kind, api_version] = [kind, api_version].map(|text| Value::from(text).to_string());
        format!(r#"{{"kind":{kind},"apiVersion":{api_version},"metadata":{metadata}"#)
    };
    match form {
        Form::Object => (format!("{},\"items\":[", head(&description.list_kind, &description.api_version())), "]}\n"),
        Form::Metadata => (format!("{},\"items\":[", head("PartialObjectMetadataList", META_API_VERSION)), "]}\n"),
        Form::Table(_) => {
            let table = head("Table", META_API_VERSION);
            let definitions =
                if columns { table::column_definitions(description).to_string() } else { "[]".to_owned() };
            (format!("{table},\"columnDefinitions\":{definitions},\"rows\":["), "]}")
        }
    }
}

/// A list. The objects are written while they are sent, so that a long list is never in memory a second time.
pub(super) fn list(resource: Arc<Resource>, form: Form, listed: Listed) -> Response<Body> {
    let now = Timestamp::now();
    let (head, tail) = frame(&resource, form, &listed.metadata(), true);
    let mut writer = ListWriter { resource, form, now, objects: listed.objects.into_iter(), begun: false, tail };
    let mut first = BytesMut::from(head.as_bytes());
    let body = if writer.fill(&mut first, FIRST) {
        full(first.freeze())
    } else {
        let rest = stream::unfold(Some(writer), |writer| async {
            let mut writer = writer?;
            let mut piece = BytesMut::with_capacity(CHUNK + CHUNK / 4);
            let done = writer.fill(&mut piece, CHUNK);
            Some((piece.freeze(), (!done).then_some(writer)))
        });
        streamed(stream::iter([first.freeze()]).chain(rest))
    };
    answer(200, "application/json", body)
}

struct ListWriter {
    resource: Arc<Resource>,
    form: Form,
    now: Timestamp,
    objects: std::vec::IntoIter<Arc<Object>>,
    begun: bool,
    tail: &'static str,
}

impl ListWriter {
    /// Writes objects until the piece is so large or the list is at its end, which it then says.
    fn fill(&mut self, piece: &mut BytesMut, size: usize) -> bool {
        while piece.len() < size {
            let Some(object) = self.objects.next() else {
                piece.extend_from_slice(self.tail.as_bytes());
                return true;
            };
            let Some(bytes) = render(&self.resource, self.form, &object, self.now) else {
                continue;
            };
            if self.begun {
                piece.extend_from_slice(b",");
            }
            self.begun = true;
            piece.extend_from_slice(&bytes);
        }
        false
    }
}

/// One object from the cache.
pub(crate) fn cached(resource: &Resource, form: Form, object: &Object) -> Result<Response<Body>, ApiError> {
    let rendered = render(resource, form, object, Timestamp::now())
        .ok_or_else(|| ApiError::internal(format!("the cached object {} is not JSON", object.name())))?;
    let body = match form {
        Form::Table(_) => {
            let (head, tail) = frame(resource, form, &version_metadata(object.resource_version()), true);
            full([head.as_bytes(), &rendered, tail.as_bytes()].concat())
        }
        Form::Object | Form::Metadata => full(rendered),
    };
    Ok(answer(200, "application/json", body))
}

/// One object that was just written, in its stored form, and as JSON where that is there already.
pub(crate) fn written(
    code: u16,
    resource: &Resource,
    form: Form,
    stored: Value,
    encoded: Option<Bytes>,
) -> Response<Body> {
    if form == Form::Object
        && resource.conversion.is_none()
        && let Some(encoded) = encoded
    {
        return answer(code, "application/json", full(encoded));
    }
    let served = resource.to_served(stored);
    match form {
        Form::Object => json(code, &served),
        Form::Metadata => json(code, &table::partial_metadata(served)),
        Form::Table(include) => {
            let metadata = json!({"resourceVersion": crate::meta::text(&served, "resourceVersion")});
            let (head, tail) = frame(resource, form, &metadata, true);
            let row = table::row(&resource.description, served, include, Timestamp::now());
            answer(code, "application/json", full(format!("{head}{row}{tail}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Fields;

    #[tokio::test]
    async fn a_long_list_is_never_in_memory_as_a_whole() {
        let stored = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"text": "x".repeat(1400)}});
        let object = Object::from_stored(stored.to_string().as_bytes(), Revision(7), &Fields::default(), None).unwrap();
        let (size, object) = (object.json().len(), Arc::new(object));
        let resource = Arc::new(crate::standard::resources().unwrap().remove(0));
        let objects = vec![object; 10_000];
        let listed = Listed { revision: Revision(7), objects, next: None, remaining: None };
        let mut body = list(resource, Form::Object, listed).into_body();
        let (mut pieces, mut all) = (0, Vec::new());
        while let Some(Ok(frame)) = body.frame().await {
            let piece = frame.into_data().unwrap();
            let limit = if pieces == 0 { FIRST } else { CHUNK };
            assert!(piece.len() <= limit + size + 64, "piece {pieces} has {} bytes", piece.len());
            pieces += 1;
            all.extend_from_slice(&piece);
        }
        let list: Value = serde_json::from_slice(&all).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 10_000);
        assert!(pieces > 200, "{pieces}");
    }
}
