//! An object, a line feed, and a patch for it: JSON patch or merge patch. Whatever comes of it can be stored and read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use ucloud_machinery::{decode, patch::Patch};

/// What the server bounds: see `patch::MAX_DEPTH`.
const MAX_DEPTH: usize = 128;

fuzz_target!(|data: &[u8]| {
    let Some(at) = data.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let (Ok(object), Ok(patch)) = (decode::json(&data[..at]), decode::json(&data[at + 1..])) else {
        return;
    };
    if !object.value.is_object() {
        return;
    }
    let parsed = if patch.value.is_array() { Patch::json(patch.value) } else { Patch::merge(patch.value) };
    let Ok(parsed) = parsed else {
        return;
    };
    let Ok(patched) = parsed.apply(&object.value) else {
        return;
    };
    assert!(patched.is_object());
    assert!(depth(&patched) <= MAX_DEPTH, "{} levels", depth(&patched));
    let written = serde_json::to_vec(&patched).expect("a patched object can be written");
    let again: Value = serde_json::from_slice(&written).expect("a patched object can be read");
    assert_eq!(again, patched);
    if let Patch::Merge(_) = parsed {
        assert_eq!(parsed.apply(&patched).expect("a merge patch applies to anything"), patched, "merging is idempotent");
    }
});

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(depth).max().map_or(0, |deepest| deepest + 1),
        Value::Object(map) => map.values().map(depth).max().map_or(0, |deepest| deepest + 1),
        _ => 0,
    }
}
