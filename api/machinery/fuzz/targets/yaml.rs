//! A YAML body: what is accepted is a JSON value, and reads back as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ucloud_machinery::decode;

fuzz_target!(|data: &[u8]| {
    let Ok(decoded) = decode::yaml(data) else {
        return;
    };
    let written = serde_json::to_vec(&decoded.value).expect("a value can be written");
    let again = decode::json(&written).expect("what we wrote can be read");
    assert_eq!(again.value, decoded.value);
    assert_eq!(again.duplicates, [""; 0]);
});
