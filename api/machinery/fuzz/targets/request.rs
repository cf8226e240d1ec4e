//! A whole request: `METHOD URI CONTENT-TYPE ACCEPT`, a line feed, and the body. Whatever comes in, the server neither panics nor says
//! that something is wrong with itself, and an answer in JSON is JSON.
//!
//! Every request is a dry run, so that each input meets the same objects. The clock stands still while something is to do, and
//! jumps when all wait: so watches end at once.

#![no_main]

use std::cell::RefCell;

use async_trait::async_trait;
use bytes::Bytes;
use http::Request;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use ucloud_machinery::{
    ApiServer,
    auth::{Attributes, AuthenticationError, Authenticator, Authorizer, Credentials, Decision, UserInfo},
    registry::Resource,
    storage::MemoryStorage,
    strategy::Lister,
};

/// After so many inputs a new server takes over: a body may say that it is no dry run.
const INPUTS: usize = 5000;

/// Everybody is known and may do everything.
struct Open;

#[async_trait]
impl Authenticator for Open {
    async fn authenticate(&self, _: Credentials<'_>) -> Result<Option<UserInfo>, AuthenticationError> {
        Ok(Some(UserInfo::new("fuzzer", [])))
    }
}

impl Authorizer for Open {
    fn authorize(&self, _: &Attributes<'_>, _: &dyn Lister) -> Decision {
        Decision::Allow
    }
}

struct Server {
    runtime: Runtime,
    api: ApiServer,
    answered: usize,
}

impl Server {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let api = runtime.block_on(async {
            let widgets = Resource::from_crd(&widgets()).expect("the kind is as it should be");
            let builder = ApiServer::builder(MemoryStorage::new(), Open).authenticator(Open).resource(widgets);
            builder.build().expect("a server")
        });
        let mut this = Self { runtime, api, answered: 0 };
        for (uri, object) in [
            ("/api/v1/namespaces", json!({"metadata": {"name": "n"}})),
            ("/apis/x.io/v1/namespaces/n/widgets", json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {"color": "red", "parts": [{"name": "p", "size": 1}]}})),
            ("/apis/x.io/v1/namespaces/n/widgets", json!({"metadata": {"name": "b", "finalizers": ["x.io/f"]}, "spec": {"color": "blue", "tags": ["t"]}})),
            ("/apis/coordination.k8s.io/v1/namespaces/n/leases", json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "h"}})),
        ] {
            let request = Request::post(uri).header("content-type", "application/json");
            let (code, body) = this.answer(request.body(object.to_string().into()).expect("a request"));
            assert_eq!(code, 201, "{}", String::from_utf8_lossy(&body));
        }
        this
    }

    fn answer(&mut self, request: Request<Bytes>) -> (u16, Bytes) {
        self.answered += 1;
        self.runtime.block_on(self.api.answer(request))
    }
}

fn widgets() -> CustomResourceDefinition {
    let part = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"}, "size": {"type": "integer"}, "ratio": {"type": "number"},
    }});
    let spec = json!({"type": "object", "required": ["color"], "properties": {
        "color": {"type": "string", "enum": ["red", "blue"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 10},
        "parts": {"type": "array", "items": part, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "whole": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic"},
        "more": {"type": "object", "additionalProperties": {"type": "string"}},
        "any": {"x-kubernetes-preserve-unknown-fields": true, "type": "object"},
        "either": {"x-kubernetes-int-or-string": true},
    }});
    serde_json::from_value(json!({
        "metadata": {"name": "widgets.x.io"},
        "spec": {
            "group": "x.io", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": spec, "status": {"type": "object", "properties": {"host": {"type": "string"}}},
                }}},
            }],
        },
    }))
    .expect("the kind can be read")
}

thread_local! {
    static SERVER: RefCell<Server> = RefCell::new(Server::new());
}

fuzz_target!(|data: &[u8]| {
    let Some(request) = parse(data) else {
        return;
    };
    SERVER.with_borrow_mut(|server| {
        if server.answered > INPUTS {
            *server = Server::new();
        }
        let (code, body) = server.answer(request);
        let text = String::from_utf8_lossy(&body);
        // who asks for what is still to come waits for it in vain
        assert!(code < 500 || text.contains("Too large resource version"), "{code} {text}");
        if body.first() == Some(&b'{') {
            // a watch answers with a value for each event
            let values = serde_json::Deserializer::from_slice(&body).into_iter::<Value>();
            assert!(values.into_iter().all(|value| value.is_ok()), "{code} {text}");
        }
    });
});

fn parse(data: &[u8]) -> Option<Request<Bytes>> {
    let at = data.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&data[..at]).ok()?;
    let mut words = line.split(' ');
    let (method, uri) = (words.next()?, words.next()?);
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut request = Request::builder().method(method).uri(format!("{path}?dryRun=All&{query}"));
    for (name, value) in ["content-type", "accept"].into_iter().zip(words) {
        request = request.header(name, value);
    }
    request.body(Bytes::copy_from_slice(&data[at + 1..])).ok()
}
