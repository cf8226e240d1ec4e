//! Patches: RFC 6902 (JSON patch) and RFC 7396 (JSON merge patch).

use json_patch::{Patch as Operations, PatchOperation};
use serde_json::Value;

use crate::status::{ApiError, Reason};

/// The media type of a JSON patch.
pub const JSON_PATCH: &str = "application/json-patch+json";
/// The media type of a JSON merge patch.
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// More operations than this are refused, as Kubernetes does.
const MAX_OPERATIONS: usize = 10_000;
/// All `copy` operations together may copy no more than this, in bytes of JSON: else a short patch that doubles a
/// document thirty times fills the memory.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// A patch that was parsed.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(Operations),
    /// RFC 7396.
    Merge(Value),
}

impl Patch {
    /// Reads a JSON patch from its decoded body.
    pub fn json(body: Value) -> Result<Self, ApiError> {
        let operations: Operations = serde_json::from_value(body)
            .map_err(|error| ApiError::bad_request(format!("error decoding JSON patch: {error}")))?;
        if operations.0.len() > MAX_OPERATIONS {
            let given = operations.0.len();
            return Err(ApiError::new(
                Reason::RequestEntityTooLarge,
                format!("the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {given}"),
            ));
        }
        Ok(Self::Json(operations))
    }

    /// Reads a merge patch from its decoded body.
    pub fn merge(body: Value) -> Result<Self, ApiError> {
        if body.is_object() {
            Ok(Self::Merge(body))
        } else {
            Err(ApiError::bad_request("error decoding merge patch: it must be a JSON object"))
        }
    }

    /// The patched object.
    pub fn apply(&self, object: &Value) -> Result<Value, ApiError> {
        let mut patched = object.clone();
        match self {
            Self::Merge(patch) => json_patch::merge(&mut patched, patch),
            Self::Json(operations) => {
                let mut copied = 0;
                for operation in &operations.0 {
                    if let PatchOperation::Copy(copy) = operation {
                        copied += patched.pointer(copy.from.as_str()).map_or(0, json_size);
                        if copied > MAX_COPIED {
                            return Err(ApiError::new(
                                Reason::RequestEntityTooLarge,
                                format!("the copy operations of the patch copy more than {MAX_COPIED} bytes"),
                            ));
                        }
                    }
                    json_patch::patch(&mut patched, std::slice::from_ref(operation)).map_err(|error| {
                        ApiError::new(Reason::Invalid, format!("the patch cannot be applied: {error}"))
                    })?;
                }
            }
        }
        if !patched.is_object() {
            return Err(ApiError::new(Reason::Invalid, "the patch cannot be applied: it leaves no object"));
        }
        Ok(patched)
    }
}

/// How many bytes the value takes as JSON, without writing it.
fn json_size(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => usize::MAX / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_kinds() {
        let object = json!({"a": 1, "b": {"c": [1, 2]}});
        let merge = Patch::merge(json!({"a": null, "b": {"d": 1}})).unwrap();
        assert_eq!(merge.apply(&object).unwrap(), json!({"b": {"c": [1, 2], "d": 1}}));
        let patch = Patch::json(json!([
            {"op": "test", "path": "/a", "value": 1},
            {"op": "add", "path": "/b/c/-", "value": 3},
            {"op": "remove", "path": "/a"},
        ]))
        .unwrap();
        assert_eq!(patch.apply(&object).unwrap(), json!({"b": {"c": [1, 2, 3]}}));
    }

    #[test]
    fn what_cannot_be_applied_says_so() {
        let patch = Patch::json(json!([{"op": "test", "path": "/a", "value": 2}])).unwrap();
        assert_eq!(patch.apply(&json!({"a": 1})).unwrap_err().reason(), Reason::Invalid);
        let patch = Patch::json(json!([{"op": "replace", "path": "", "value": 2}])).unwrap();
        assert_eq!(patch.apply(&json!({"a": 1})).unwrap_err().reason(), Reason::Invalid);
        assert_eq!(Patch::json(json!({"op": "x"})).unwrap_err().reason(), Reason::BadRequest);
        assert_eq!(Patch::merge(json!([])).unwrap_err().reason(), Reason::BadRequest);
    }

    #[test]
    fn a_patch_that_doubles_a_document_is_stopped() {
        let double = json!({"op": "copy", "from": "/a", "path": "/a/x"});
        let mut operations = vec![json!({"op": "add", "path": "/a", "value": {"t": "x".repeat(100)}})];
        for index in 0..60 {
            operations.push(json!({"op": "copy", "from": "/a", "path": format!("/a/x{index}")}));
        }
        operations.push(double);
        let error = Patch::json(Value::Array(operations)).unwrap().apply(&json!({})).unwrap_err();
        assert_eq!(error.reason(), Reason::RequestEntityTooLarge);
    }

    #[test]
    fn too_many_operations_are_refused() {
        let operations = vec![json!({"op": "remove", "path": "/a"}); MAX_OPERATIONS + 1];
        assert_eq!(Patch::json(Value::Array(operations)).unwrap_err().reason(), Reason::RequestEntityTooLarge);
    }
}
