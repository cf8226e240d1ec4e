//! A JSONPath of a printer column or a selectable field, on an object that has something of everything.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use ucloud_machinery::jsonpath::JsonPath;

static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "metadata": {"name": "a", "labels": {"a.b/c": "d", "": "e"}},
        "spec": {"list": [1, 2.5, "x", null, true, {"type": "Ready", "status": "True", "n": [[0]]}], "n": 5},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]},
    })
});

fuzz_target!(|text: &str| {
    let Ok(path) = JsonPath::parse(text) else {
        return;
    };
    let found = path.find(&OBJECT);
    // a wildcard of a wildcard gives each value once
    assert!(found.len() <= 1000, "{} values", found.len());
    assert_eq!(path.find(&OBJECT), found);
});
