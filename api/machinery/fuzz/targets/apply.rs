//! An object with managed fields, a line feed, and a configuration that is applied to it; or a field set alone. Applying twice is
//! applying once, and what is written of who owns what can be read.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use ucloud_machinery::{decode, fuzzing};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let part = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "size": {"type": "integer"},
        "more": {"type": "object", "additionalProperties": {"type": "string"}},
    }});
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "n": {"type": "integer"},
        "parts": {"type": "array", "items": part, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "whole": {"type": "array", "items": {"type": "string"}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "atomic": {"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-map-type": "atomic"},
        "any": {"x-kubernetes-preserve-unknown-fields": true},
    }}}})
});

fuzz_target!(|data: &[u8]| {
    let Some(at) = data.iter().position(|byte| *byte == b'\n') else {
        let Some(written) = decode::json(data).ok().and_then(|set| fuzzing::rewrite_fields_v1(&set.value)) else {
            return;
        };
        assert_eq!(fuzzing::rewrite_fields_v1(&written).as_ref(), Some(&written));
        return;
    };
    let (Ok(live), Ok(configuration)) = (decode::json(&data[..at]), decode::yaml(&data[at + 1..])) else {
        return;
    };
    let shaped = |object: &Value| object.is_object() && object["metadata"].is_object();
    if !shaped(&live.value) || !shaped(&configuration.value) {
        return;
    }
    let Some(once) = fuzzing::apply(&SCHEMA, &live.value, &configuration.value) else {
        return;
    };
    // where nobody owns anything, the next application notes who owned all of it before
    let Some(entries) = once["metadata"]["managedFields"].as_array() else {
        return;
    };
    for entry in entries {
        let written = fuzzing::rewrite_fields_v1(&entry["fieldsV1"]);
        assert_eq!(written.as_ref(), Some(&entry["fieldsV1"]));
    }
    assert_eq!(fuzzing::apply(&SCHEMA, &once, &configuration.value).as_ref(), Some(&once));
});
