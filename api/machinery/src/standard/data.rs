//! What the two kinds that hold a user's data have in common: keys, the limit of their size, and that they can be closed for
//! changes.

use serde_json::Value;

use crate::meta;
use crate::status::{FieldError, FieldPath};

/// The most that an object's data may take, in bytes.
pub(super) const MAX_DATA: usize = 1024 * 1024;

/// The entries of one of the object's maps.
pub(super) fn entries<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a str)> {
    let map = object.get(field).and_then(Value::as_object);
    map.into_iter().flatten().map(|(key, value)| (key, value.as_str().unwrap_or_default()))
}

/// Keys may be used as the names of files (Kubernetes' `IsConfigMapKey`).
pub(super) fn check_keys(object: &Value, field: &str, errors: &mut Vec<FieldError>) {
    for (key, _) in entries(object, field) {
        let path = FieldPath::new(field).key(key);
        if let Err(rule) = is_key(key) {
            errors.push(FieldError::invalid(path, key.as_str(), rule));
        }
    }
}

fn is_key(key: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match key {
        _ if key.len() > 253 => Err("must be no more than 253 bytes"),
        _ if key.is_empty() || !key.bytes().all(allowed) => Err(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name', or 'KEY_NAME', or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        "." => Err("must not be '.'"),
        ".." => Err("must not be '..'"),
        _ if key.starts_with("..") => Err("must not start with '..'"),
        _ => Ok(()),
    }
}

/// How many bytes a value in base64 stands for; `None` if it is none.
pub(super) fn decoded_length(base64: &str) -> Option<usize> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64).ok().map(|bytes| bytes.len())
}

/// An object that was closed for changes stays closed, and its data stays what it is.
pub(super) fn check_immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if new.get("immutable") != Some(&Value::Bool(true)) {
        errors.push(FieldError::forbidden(FieldPath::new("immutable"), detail));
    }
    for field in fields {
        // an empty map is none
        if !entries(new, field).eq(entries(old, field)) {
            errors.push(FieldError::forbidden(FieldPath::new(field), detail));
        }
    }
}

/// The value of an annotation; empty if there is none.
pub(super) fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    let annotations = meta::get(object, "annotations");
    annotations.and_then(|annotations| annotations.get(name)).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_of_files() {
        for good in ["a", "key.name", "KEY_NAME", ".dockercfg", "a..b"] {
            assert_eq!(is_key(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "..x", "a/b", "ä", &"x".repeat(254)] {
            assert!(is_key(bad).is_err(), "{bad}");
        }
    }
}
