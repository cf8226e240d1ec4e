//! FieldsV1: a field set as JSON. A field of the set is a key with what is below it as its value; `{}` is a field with
//! nothing below it, and the key `.` says that a field is in the set although something below it is too.

use serde_json::{Map, Value};

use super::element;
use super::set::{FieldSet, Node};

/// No object nests deeper, so no field is deeper.
const MAX_DEPTH: usize = 128;

/// The field itself.
const SELF: &str = ".";

impl FieldSet {
    /// Reads a set. Elements of unknown types are passed over, as Kubernetes does.
    pub(super) fn from_json(value: &Value) -> Result<Self, String> {
        Ok(read(value, 0)?.below)
    }

    /// Writes the set.
    pub(super) fn to_json(&self) -> Value {
        Value::Object(write(self, false))
    }

    /// Whether `json` is how the set is written; it is cheaper to find out than to read it.
    pub(super) fn is_written_as(&self, json: &Value) -> bool {
        is_written_as(self, false, json)
    }
}

fn read(value: &Value, depth: usize) -> Result<Node, String> {
    if depth > MAX_DEPTH {
        return Err(format!("it nests deeper than {MAX_DEPTH}"));
    }
    let Value::Object(map) = value else {
        return Err("every element must be a JSON object".to_owned());
    };
    let mut nodes = Vec::with_capacity(map.len());
    for (key, below) in map {
        if key != SELF
            && let Some(element) = element::parse(key)?
        {
            nodes.push((element, read(below, depth + 1)?));
        }
    }
    let below = FieldSet::from_nodes(nodes);
    Ok(Node { member: map.contains_key(SELF) || below.is_empty(), below })
}

fn write(set: &FieldSet, itself: bool) -> Map<String, Value> {
    let mut map = Map::new();
    for (element, node) in set.nodes() {
        map.insert((**element).to_owned(), Value::Object(write(&node.below, node.member)));
    }
    if itself && !map.is_empty() {
        map.insert(SELF.to_owned(), Value::Object(Map::new()));
    }
    map
}

fn is_written_as(set: &FieldSet, itself: bool, json: &Value) -> bool {
    let Value::Object(map) = json else { return false };
    let nodes = set.nodes();
    let marked = itself && !nodes.is_empty();
    map.len() == nodes.len() + usize::from(marked)
        && (!marked || map.contains_key(SELF))
        && nodes.iter().all(|(element, node)| {
            map.get(&**element).is_some_and(|below| is_written_as(&node.below, node.member, below))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_read_is_written() {
        let written =
            json!({"f:a": {".": {}, "f:b": {}}, "f:c": {"k:{\"name\":\"x\"}": {}}, "f:d": {}, "v:1": {}, "i:0": {}});
        let set = FieldSet::from_json(&written).unwrap();
        assert_eq!(set.to_json(), written);
        assert!(set.is_written_as(&written));
        assert!(!set.is_written_as(&json!({"f:a": {"f:b": {}}})));
    }

    #[test]
    fn other_spellings_mean_the_same() {
        let set =
            FieldSet::from_json(&json!({"f:a": {".": {}}, "q:new": {}, "k:{ \"b\": 1, \"a\": 2.0}": {}})).unwrap();
        assert_eq!(set.to_json(), json!({"f:a": {}, "k:{\"a\":2,\"b\":1}": {}}));
        assert!(FieldSet::from_json(&json!({})).unwrap().is_empty());
    }

    #[test]
    fn rubbish_is_refused() {
        let deep = (0..200).fold(json!({}), |below, _| json!({"f:a": below}));
        for bad in [json!([]), json!({"f:a": 1}), json!({"a": {}}), json!({"k:x": {}}), deep] {
            assert!(FieldSet::from_json(&bad).is_err(), "{bad}");
        }
    }
}
