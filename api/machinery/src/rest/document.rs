//! What is served beside objects: discovery, schemas and metrics.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, Method, Response, StatusCode};
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::{SignedDuration, Timestamp};

use super::query::Selectors;
use super::respond::Body;
use super::{Api, Query, negotiate, respond};
use crate::auth::{Attributes, UserInfo};
use crate::discovery;
use crate::metrics::exposition;
use crate::openapi::{self, Format};
use crate::status::ApiError;

/// For how long a document may be kept whose address names its content.
const YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);

impl Api {
    pub(super) fn answer_document(
        &self,
        head: &http::request::Parts,
        query: &Query,
        user: &UserInfo,
    ) -> Result<Response<Body>, ApiError> {
        let url_path = head.uri.path();
        let verb = head.method.as_str().to_lowercase();
        let selectors = Selectors::default();
        self.authorize(&Attributes {
            user,
            verb: &verb,
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            field_selector: &selectors.fields,
            label_selector: &selectors.labels,
            path: url_path,
        })?;
        if head.method != Method::GET && head.method != Method::HEAD {
            return Err(ApiError::method_not_allowed(&verb, "", url_path));
        }
        match url_path.trim_end_matches('/') {
            "/metrics" => {
                let form = exposition(&head.headers);
                let text = self.metrics.encode(&self.kinds.current().resources, &self.store.cache, &self.flow);
                Ok(respond::answer(200, form.content_type(), respond::full(form.write(text))))
            }
            path if path.starts_with("/openapi/") => self.answer_schema(path, &head.headers, query),
            path => self.answer_discovery(path, &head.headers),
        }
    }

    fn answer_schema(&self, path: &str, headers: &HeaderMap, query: &Query) -> Result<Response<Body>, ApiError> {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let formats: &[Format] =
            if path == "/openapi/v2" { &[Format::Json, Format::ProtobufV2] } else { &[Format::Json] };
        let format = openapi::negotiate(accept, formats)?;
        let served = self.kinds.current();
        let document = served.openapi.document(&served.resources, path, format).ok_or_else(ApiError::no_such_path)?;
        let asked = query.get("hash");
        if !asked.is_empty() && asked != document.hash {
            // the client knows an older one; this is where the present one is
            let mut moved = respond::answer(301, "text/plain; charset=utf-8", respond::full(Bytes::new()));
            let location = format!("{path}?hash={}", document.hash);
            moved.headers_mut().insert(LOCATION, header(&location)?);
            return Ok(moved);
        }
        let mut response = conditional(headers, &document.hash, format.content_type(), document.bytes.clone())?;
        let own = response.headers_mut();
        own.append(VARY, HeaderValue::from_static("Accept"));
        if !asked.is_empty() {
            own.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            let expires = DateTimePrinter::new().timestamp_to_rfc9110_string(&(Timestamp::now() + YEAR));
            own.insert(EXPIRES, header(&expires.map_err(ApiError::internal)?)?);
        }
        Ok(response)
    }

    fn answer_discovery(&self, path: &str, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
        let form = negotiate::discovery_form(headers)?;
        let document =
            discovery::document(&self.kinds.current().resources, path, form).ok_or_else(ApiError::no_such_path)?;
        let text = document.body.to_string();
        let hash = openapi::hash(text.as_bytes());
        let mut response = conditional(headers, &hash, document.content_type, text.into())?;
        response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
        Ok(response)
    }
}

/// The document with its hash as `ETag`; 304 without it if the client has it already.
fn conditional(
    headers: &HeaderMap,
    hash: &str,
    content_type: &'static str,
    document: Bytes,
) -> Result<Response<Body>, ApiError> {
    let etag = format!("\"{hash}\"");
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let unmodified = known
        .flat_map(|tags| tags.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag);
    let mut response = respond::answer(200, content_type, respond::full(document));
    if unmodified {
        *response.body_mut() = respond::full(Bytes::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    response.headers_mut().insert(ETAG, header(&etag)?);
    Ok(response)
}

fn header(text: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(text).map_err(ApiError::internal)
}
