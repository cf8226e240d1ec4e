//! One step of a field's path, as FieldsV1 spells it: `f:<field>`, `k:<keys of a list's item>`, `v:<item of a set>`,
//! `i:<index>`. Elements are kept in this spelling, in one normal form, so that comparing them is comparing text.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Number, Value};

/// An element in its normal form.
pub(super) type Element = Arc<str>;

/// The field of a map.
pub(super) fn field(name: &str) -> Element {
    prefixed("f:", name)
}

/// The item of a set.
pub(super) fn item(value: &Value) -> Element {
    prefixed("v:", &normal(value).to_string())
}

/// The item of a list that is told apart by the values of these fields.
pub(super) fn keyed(keys: &Map<String, Value>) -> Element {
    let keys: Map<String, Value> = keys.iter().map(|(name, value)| (name.clone(), normal(value))).collect();
    prefixed("k:", &Value::Object(keys).to_string())
}

fn prefixed(prefix: &str, rest: &str) -> Element {
    let mut text = String::with_capacity(prefix.len() + rest.len());
    text.push_str(prefix);
    text.push_str(rest);
    text.into()
}

/// The name of the field that an element is.
pub(super) fn field_name(element: &str) -> Option<&str> {
    element.strip_prefix("f:")
}

/// An element as somebody else spelt it, in its normal form. `None` if it is of a type that is not known, which the format leaves
/// room for; an error if it cannot be read.
pub(super) fn parse(text: &str) -> Result<Option<Element>, String> {
    let Some((kind, rest)) = text.split_once(':') else {
        return Err(format!("{} is no path element: it has no colon", quoted(text)));
    };
    let json = || serde_json::from_str::<Value>(rest).map_err(|error| format!("{}: {error}", quoted(text)));
    match kind {
        "f" => Ok(Some(text.into())),
        "v" => Ok(Some(item(&json()?))),
        "k" => match json()? {
            Value::Object(keys) => Ok(Some(keyed(&keys))),
            _ => Err(format!("{} is no path element: its keys must be a JSON object", quoted(text))),
        },
        "i" => match rest.parse::<i64>() {
            Ok(index) => Ok(Some(prefixed("i:", &index.to_string()))),
            Err(error) => Err(format!("{}: {error}", quoted(text))),
        },
        _ => Ok(None),
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", crate::status::segment(text))
}

/// Numbers that are equal are spelt the same: `1.0` as `1`.
fn normal(value: &Value) -> Value {
    if let Value::Number(number) = value
        && let Some(float) = number.as_f64()
        && number.is_f64()
        && float.fract() == 0.0
        && float.abs() < EXACT
    {
        #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and is small")]
        return Value::Number(Number::from(float as i64));
    }
    value.clone()
}

/// Below this a float holds every integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Adds the element to a path as Kubernetes shows it to people: `.spec.disks[name="root"].size`, `.metadata.finalizers[="a/b"]`.
pub(super) fn show(element: &str, path: &mut String) {
    let (kind, rest) = element.split_at(2.min(element.len()));
    let shown = match kind {
        "f:" => write!(path, ".{}", crate::status::segment(rest)),
        "v:" => write!(path, "[={}]", crate::status::segment(rest)),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            write!(path, "[{}]", crate::status::segment(&keys.join(",")))
        }
        _ => write!(path, "[{}]", crate::status::segment(rest)),
    };
    // writing to a string cannot fail
    debug_assert!(shown.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_element_has_one_spelling() {
        for (given, normal) in [
            ("f:a:b", "f:a:b"),
            (r#"k:{ "name" : "x", "ip": 1.0 }"#, r#"k:{"ip":1,"name":"x"}"#),
            (r#"v: "x""#, r#"v:"x""#),
            ("v:2.0", "v:2"),
            ("v:2.5", "v:2.5"),
            ("i:+7", "i:7"),
        ] {
            assert_eq!(parse(given).unwrap().as_deref(), Some(normal), "{given}");
        }
        assert_eq!(parse("q:x").unwrap(), None);
        for bad in ["", "x", "k:1", "k:{", "v:", "i:x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn people_read_paths() {
        let mut path = String::new();
        for element in ["f:spec", "f:ports", r#"k:{"port":80,"protocol":"TCP"}"#, "f:x", r#"v:"a/b""#, "i:3"] {
            show(element, &mut path);
        }
        assert_eq!(path, r#".spec.ports[port=80,protocol="TCP"].x[="a/b"][3]"#);
    }
}
