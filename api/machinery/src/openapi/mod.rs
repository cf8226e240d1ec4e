//! What the kinds look like, in OpenAPI: version 3 by group at `/openapi/v3`, version 2 as one document at `/openapi/v2`.
//!
//! kubectl explains fields with them, validates what it sends (old ones), and finds out whether the server validates
//! (`fieldValidation`). `schemas` describes the objects, `paths` the requests, `v2` and `protobuf` write both in the older
//! forms. Documents are made when they are asked for first; they belong to one set of kinds.

mod paths;
mod protobuf;
mod schemas;
mod v2;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::registry::Resources;
use crate::status::ApiError;

/// The form in which a document is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    /// The message `openapi.v2.Document` of gnostic.
    ProtobufV2,
}

const JSON: &str = "application/json";
const PROTOBUF_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How kubectl before 1.27 asks for it, which is no valid media type.
const PROTOBUF_V2_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

impl Format {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::ProtobufV2 => PROTOBUF_V2,
        }
    }
}

/// The format that the client's `Accept` header asks for, of those that there are.
pub(crate) fn negotiate(accept: &str, formats: &[Format]) -> Result<Format, ApiError> {
    let named = |clause: &str| match clause.split(';').next().unwrap_or_default().trim() {
        "" | "*/*" | "application/*" | JSON => Some(Format::Json),
        PROTOBUF_V2 | PROTOBUF_V2_OLD => Some(Format::ProtobufV2),
        _ => None,
    };
    let wanted = accept.split(',').filter_map(named).find(|format| formats.contains(format));
    wanted.ok_or_else(|| {
        let supported: Vec<&str> = formats.iter().map(|format| format.content_type()).collect();
        ApiError::not_acceptable(&supported)
    })
}

/// What tells a document from others.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}

/// A document as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    pub(crate) hash: String,
}

impl Document {
    fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { hash: hash(&bytes), bytes }
    }
}

struct Documents {
    v3: BTreeMap<String, Document>,
    v2: Document,
    v2_protobuf: Document,
}

/// The documents of a set of kinds, made when one is asked for first.
#[derive(Default)]
pub(crate) struct OpenApi {
    documents: OnceLock<Documents>,
}

impl OpenApi {
    /// The document at a path; `None` if there is none.
    pub(crate) fn document(&self, resources: &Resources, path: &str, format: Format) -> Option<Document> {
        let documents = self.documents.get_or_init(|| Documents::of(resources));
        match (path, format) {
            ("/openapi/v2", Format::Json) => Some(documents.v2.clone()),
            ("/openapi/v2", Format::ProtobufV2) => Some(documents.v2_protobuf.clone()),
            (path, Format::Json) => documents.v3.get(path).cloned(),
            (_, Format::ProtobufV2) => None,
        }
    }
}

impl Documents {
    fn of(resources: &Resources) -> Self {
        let (mut v3, mut index, mut groups) = (BTreeMap::new(), Map::new(), Vec::new());
        for group in resources.groups().chain([""]) {
            for version in resources.versions(group) {
                let Some(group_version) = group_version(resources, group, version) else { continue };
                let document = Document::new(group_version.to_string());
                let root = root(group, version);
                let url = format!("/openapi/v3/{root}?hash={}", document.hash);
                v3.insert(format!("/openapi/v3/{root}"), document);
                index.insert(root, json!({"serverRelativeURL": url}));
                groups.push(group_version);
            }
        }
        v3.insert("/openapi/v3".to_owned(), Document::new(json!({"paths": index}).to_string()));
        let v2 = v2::document(&groups);
        Self { v3, v2_protobuf: Document::new(protobuf::encode(&v2)), v2: Document::new(v2.to_string()) }
    }
}

/// Below which path a version of a group is served.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn group_version(resources: &Resources, group: &str, version: &str) -> Option<Value> {
    let (mut paths, mut schemas) = (Map::new(), schemas::shared());
    for resource in resources.kinds(group, version)? {
        schemas::add(&mut schemas, &resource.description);
        paths::add(&mut paths, resource);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": root(group, version), "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> Resources {
        Resources::new(crate::standard::resources().unwrap()).unwrap()
    }

    fn read(openapi: &OpenApi, resources: &Resources, path: &str) -> Value {
        let document = openapi.document(resources, path, Format::Json).unwrap();
        serde_json::from_slice(&document.bytes).unwrap()
    }

    #[test]
    fn kubectl_finds_that_the_server_validates_fields() {
        let (openapi, resources) = (OpenApi::default(), resources());
        let index = read(&openapi, &resources, "/openapi/v3");
        let url = index["paths"]["apis/coordination.k8s.io/v1"]["serverRelativeURL"].as_str().unwrap();
        let document = read(&openapi, &resources, url.split('?').next().unwrap());
        let path = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}";
        let patch = &document["paths"][path]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Lease");
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
        let schemas = &document["components"]["schemas"];
        let lease = &schemas["io.k8s.coordination.v1.Lease"];
        assert_eq!(lease["properties"]["spec"]["properties"]["leaseDurationSeconds"]["type"], "integer");
        let list = &schemas["io.k8s.coordination.v1.LeaseList"];
        assert_eq!(
            list["properties"]["items"]["items"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.coordination.v1.Lease"
        );
        assert_eq!(list["x-kubernetes-group-version-kind"][0]["kind"], "LeaseList");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let (openapi, resources) = (OpenApi::default(), resources());
        for path in ["/openapi/v2", "/openapi/v3/api/v1", "/openapi/v3/apis/events.k8s.io/v1"] {
            let document = read(&openapi, &resources, path);
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(!found.is_empty());
            for reference in found {
                assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} of {path}");
            }
        }
    }

    #[test]
    fn formats_are_negotiated() {
        let both = [Format::Json, Format::ProtobufV2];
        assert_eq!(negotiate("", &both).unwrap(), Format::Json);
        assert_eq!(negotiate(PROTOBUF_V2_OLD, &both).unwrap(), Format::ProtobufV2);
        assert_eq!(negotiate(&format!("{PROTOBUF_V2},*/*"), &[Format::Json]).unwrap(), Format::Json);
        assert_eq!(negotiate("text/html", &both).unwrap_err().code(), 406);
    }
}
