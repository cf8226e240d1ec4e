//! A JSON body: what is accepted is what serde_json reads, and reads back as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use ucloud_machinery::decode;

fuzz_target!(|data: &[u8]| {
    let Ok(decoded) = decode::json(data) else {
        return;
    };
    let plain: Value = serde_json::from_slice(data).expect("what we read is JSON");
    assert_eq!(decoded.value, plain);
    for path in &decoded.duplicates {
        assert!(!path.is_empty() || decoded.value.is_object(), "a duplicate has a place");
    }
    let written = serde_json::to_vec(&decoded.value).expect("a value can be written");
    let again = decode::json(&written).expect("what we wrote can be read");
    assert_eq!(again.value, decoded.value);
    assert_eq!(again.duplicates, [""; 0]);
});
