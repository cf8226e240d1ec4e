//! Patches: RFC 6902 (JSON patch) and RFC 7396 (JSON merge patch).
//!
//! A short JSON patch can ask for endless work or memory: by copying what it copied, by nesting what it nested, by
//! inserting at the head of a long list again and again. What one patch may cost is bounded here, before it is spent.

use json_patch::jsonptr::{Pointer, Token};
use json_patch::{Patch as Operations, PatchOperation};
use serde_json::Value;

use crate::status::{ApiError, Reason, segment};

/// The media type of a JSON patch.
pub const JSON_PATCH: &str = "application/json-patch+json";
/// The media type of a JSON merge patch.
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// The media type of a server-side apply, which [`crate::apply`] carries out.
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// The media type of Kubernetes' strategic merge patch.
pub const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";

/// Lists of the standard kinds that a strategic merge patch merges, where a merge patch replaces them.
const MERGED_LISTS: [&str; 3] = ["/metadata/finalizers", "/metadata/ownerReferences", "/status/conditions"];

/// More operations than this are refused, as Kubernetes does.
const MAX_OPERATIONS: usize = 10_000;
/// All `copy` operations together may copy no more than this, in bytes of JSON: else a short patch that doubles a
/// document thirty times fills the memory.
const MAX_COPIED: usize = 3 * 1024 * 1024;
/// No operation may make a document that nests deeper, as no document that is decoded does: whatever walks through it
/// later does so by recursion.
const MAX_DEPTH: usize = 128;
/// How many values all operations together may walk over or move aside in lists.
const MAX_WORK: usize = 20_000_000;

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
        if let Some(given) = body.as_array().map(Vec::len).filter(|given| *given > MAX_OPERATIONS) {
            let problem = format!("the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {given}");
            return Err(ApiError::new(Reason::RequestEntityTooLarge, problem));
        }
        serde_json::from_value(body)
            .map(Self::Json)
            .map_err(|error| ApiError::bad_request(format!("error decoding JSON patch: {error}")))
    }

    /// Reads a merge patch from its decoded body.
    pub fn merge(body: Value) -> Result<Self, ApiError> {
        if body.is_object() {
            Ok(Self::Merge(body))
        } else {
            Err(ApiError::bad_request("error decoding merge patch: it must be a JSON object"))
        }
    }

    /// Reads a strategic merge patch of a standard kind that means the same as a merge patch does: it has no directives,
    /// and sets none of the lists that would be merged.
    pub fn strategic(body: Value) -> Result<Self, ApiError> {
        let merged = MERGED_LISTS.into_iter().find(|list| body.pointer(list).is_some_and(|value| !value.is_null()));
        let special = merged.map(str::to_owned).or_else(|| directive(&body));
        if let Some(special) = special {
            return Err(ApiError::bad_request(format!(
                "this server does not carry out {special} in a strategic merge patch; send a merge patch ({MERGE_PATCH})"
            )));
        }
        Self::merge(body)
    }

    /// The patched object.
    pub fn apply(&self, object: &Value) -> Result<Value, ApiError> {
        let mut patched = object.clone();
        match self {
            Self::Merge(patch) => json_patch::merge(&mut patched, patch),
            Self::Json(operations) => {
                let mut allowance = Allowance { copied: MAX_COPIED, work: MAX_WORK };
                for operation in &operations.0 {
                    allowance
                        .charge(operation, &patched)
                        .map_err(|problem| ApiError::new(Reason::RequestEntityTooLarge, problem))?;
                    // a document that is left half-patched is thrown away
                    json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation)).map_err(|error| {
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

/// A key that is an order to the server and not a field, such as `$patch` or `$setElementOrder/conditions`.
fn directive(patch: &Value) -> Option<String> {
    match patch {
        Value::Object(map) => {
            let own = map.keys().find(|key| key.starts_with('$'));
            own.map(|key| segment(key).into_owned()).or_else(|| map.values().find_map(directive))
        }
        Value::Array(list) => list.iter().find_map(directive),
        _ => None,
    }
}

/// What the rest of a patch may cost.
struct Allowance {
    /// In bytes of JSON.
    copied: usize,
    /// In values.
    work: usize,
}

impl Allowance {
    /// Takes the cost of the next operation on `document` off; an error says which bound it would go past.
    fn charge(&mut self, operation: &PatchOperation, document: &Value) -> Result<(), String> {
        match operation {
            PatchOperation::Add(add) => self.nest(&add.path, &add.value)?,
            PatchOperation::Replace(replace) => self.nest(&replace.path, &replace.value)?,
            PatchOperation::Move(moved) => {
                if let Some(value) = document.pointer(moved.from.as_str()) {
                    self.nest(&moved.path, value)?;
                }
                self.shift(&moved.from, document)?;
            }
            PatchOperation::Copy(copy) => {
                if let Some(value) = document.pointer(copy.from.as_str()) {
                    self.nest(&copy.path, value)?;
                    let size = json_size(value);
                    self.copied = self
                        .copied
                        .checked_sub(size)
                        .ok_or_else(|| format!("the copy operations of the patch copy more than {MAX_COPIED} bytes"))?;
                }
            }
            PatchOperation::Test(_) | PatchOperation::Remove(_) => {}
        }
        match operation {
            PatchOperation::Test(test) => self.walk(&test.value).map(|_depth| ()),
            PatchOperation::Replace(_) => Ok(()),
            other => self.shift(other.path(), document),
        }
    }

    fn work(&mut self, values: usize) -> Result<(), String> {
        let left = self.work.checked_sub(values);
        self.work = left.ok_or_else(|| format!("the patch moves or visits more than {MAX_WORK} values"))?;
        Ok(())
    }

    /// `value` comes to stand at `path`.
    fn nest(&mut self, path: &Pointer, value: &Value) -> Result<(), String> {
        let depth = path.tokens().count() + self.walk(value)?;
        if depth > MAX_DEPTH {
            return Err(format!("the patch makes a document of more than {MAX_DEPTH} levels"));
        }
        Ok(())
    }

    /// How deep the value nests. Decoded values nest no deeper than recursion bears, and patched ones neither.
    fn walk(&mut self, value: &Value) -> Result<usize, String> {
        self.work(1)?;
        let mut deepest = 0;
        match value {
            Value::Array(list) => {
                for element in list {
                    deepest = deepest.max(self.walk(element)? + 1);
                }
            }
            Value::Object(map) => {
                for element in map.values() {
                    deepest = deepest.max(self.walk(element)? + 1);
                }
            }
            _ => {}
        }
        Ok(deepest)
    }

    /// An element comes or goes at `path`: if it is one of a list, those behind it move.
    fn shift(&mut self, path: &Pointer, document: &Value) -> Result<(), String> {
        let Some((parent, last)) = path.split_back() else { return Ok(()) };
        let list = document.pointer(parent.as_str()).and_then(Value::as_array);
        self.work(list.map_or(0, |list| behind(list, &last)))
    }
}

/// How many elements stand at and behind an index.
fn behind(list: &[Value], index: &Token<'_>) -> usize {
    index.encoded().parse().map_or(0, |index| list.len().saturating_sub(index))
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
    fn a_strategic_patch_is_read_where_it_is_a_merge_patch() {
        let label = json!({"metadata": {"labels": {"a": "b"}, "finalizers": null}, "spec": {"list": [{"a": 1}]}});
        assert!(Patch::strategic(label).is_ok());
        for special in [
            json!({"metadata": {"finalizers": ["a/b"]}}),
            json!({"metadata": {"ownerReferences": []}}),
            json!({"status": {"conditions": [{"type": "Ready"}]}}),
            json!({"$patch": "replace"}),
            json!({"spec": {"list": [{"$patch": "delete", "name": "x"}]}}),
            json!({"metadata": {"$retainKeys": ["labels"]}}),
        ] {
            let error = Patch::strategic(special.clone()).unwrap_err();
            assert!(error.to_string().contains("send a merge patch"), "{special}: {error}");
        }
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
    fn a_patch_that_nests_a_document_without_end_is_stopped() {
        let nest = |depth: usize| (0..depth).fold(json!({}), |inner, _| json!({"a": inner}));
        for operation in ["add", "copy", "move"] {
            // each operation puts a document of 100 levels into the innermost place of the one before
            let mut operations = vec![json!({"op": "add", "path": "/b", "value": nest(100)})];
            for round in 1..3 {
                let path = format!("/b{}/x", "/a".repeat(100 * round));
                operations.push(match operation {
                    "add" => json!({"op": "add", "path": path, "value": nest(100)}),
                    from => json!({"op": from, "from": format!("/c{round}"), "path": path}),
                });
            }
            let object = json!({"c1": nest(100), "c2": nest(100)});
            let error = Patch::json(Value::Array(operations)).unwrap().apply(&object).unwrap_err();
            assert!(error.to_string().contains("levels"), "{operation}: {error}");
        }
        let deepest = json!([{"op": "add", "path": "/b", "value": nest(127)}]);
        assert!(Patch::json(deepest).unwrap().apply(&json!({})).is_ok());
        let deeper = json!([{"op": "add", "path": "/b", "value": nest(128)}]);
        assert!(Patch::json(deeper).unwrap().apply(&json!({})).is_err());
    }

    #[test]
    fn a_patch_that_shifts_a_long_list_ten_thousand_times_is_stopped() {
        let object = json!({"list": vec![0; 90_000]});
        for operation in [
            json!({"op": "add", "path": "/list/0", "value": 1}),
            json!({"op": "remove", "path": "/list/0"}),
            json!({"op": "move", "from": "/list/0", "path": "/list/-"}),
            json!({"op": "move", "from": "/list", "path": "/list"}),
        ] {
            let patch = Patch::json(Value::Array(vec![operation.clone(); MAX_OPERATIONS])).unwrap();
            let error = patch.apply(&object).unwrap_err();
            assert!(error.to_string().contains("moves or visits"), "{operation}: {error}");
        }
        let at_the_end = json!({"op": "add", "path": "/list/-", "value": 1});
        let patch = Patch::json(Value::Array(vec![at_the_end; MAX_OPERATIONS])).unwrap();
        assert_eq!(patch.apply(&object).unwrap()["list"].as_array().unwrap().len(), 100_000);
    }

    #[test]
    fn too_many_operations_are_refused() {
        let operations = vec![json!({"op": "remove", "path": "/a"}); MAX_OPERATIONS + 1];
        assert_eq!(Patch::json(Value::Array(operations)).unwrap_err().reason(), Reason::RequestEntityTooLarge);
    }
}
