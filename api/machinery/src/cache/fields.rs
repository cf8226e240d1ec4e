//! The selectable fields of a kind, and how they are read without reading the object as a whole.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::jsonpath::JsonPath;

/// The fields that clients may select by.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    fields: Vec<(String, JsonPath)>,
    parts: Parts,
}

impl Fields {
    /// Fields by their names.
    pub fn new(fields: Vec<(String, JsonPath)>) -> Self {
        let mut parts = Parts::default();
        for (_, path) in &fields {
            parts.add(path.leading_fields());
        }
        Self { fields, parts }
    }

    /// The values that the object has, by name. It may lack whatever is in none of [`Fields::parts`].
    pub(super) fn values<'a>(&'a self, object: &'a Value) -> Vec<(&'a str, Cow<'a, str>)> {
        let value = |path: &JsonPath| {
            Some(match path.find(object).first()? {
                Value::String(text) => Cow::Borrowed(text.as_str()),
                Value::Null => return None,
                other => Cow::Owned(other.to_string()),
            })
        };
        self.fields.iter().filter_map(|(name, path)| Some((name.as_str(), value(path)?))).collect()
    }

    /// What has to be read of an object for that.
    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }
}

/// Some parts of an object: members by their names, and of those again some parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// All that is there.
    Whole,
    /// These members.
    Members(BTreeMap<String, Parts>),
}

impl Default for Parts {
    fn default() -> Self {
        Self::Members(BTreeMap::new())
    }
}

impl Parts {
    /// Adds all of what stands at a path.
    fn add<'a>(&mut self, mut path: impl Iterator<Item = &'a str>) {
        match (path.next(), &mut *self) {
            (_, Self::Whole) => {}
            (None, _) => *self = Self::Whole,
            (Some(name), Self::Members(members)) => members.entry(name.to_owned()).or_default().add(path),
        }
    }

    /// The parts of one member, if any is wanted.
    pub(super) fn of(&self, member: &str) -> Option<&Self> {
        match self {
            Self::Whole => Some(&Self::Whole),
            Self::Members(members) => members.get(member),
        }
    }
}

/// Reads these parts of a JSON value, and passes over the others.
impl<'de> DeserializeSeed<'de> for &Parts {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            Parts::Whole => Value::deserialize(deserializer),
            Parts::Members(_) => deserializer.deserialize_any(PartsVisitor(self)),
        }
    }
}

struct PartsVisitor<'p>(&'p Parts);

/// What has no members has none of the parts.
impl<'de> Visitor<'de> for PartsVisitor<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some(MemberName(name)) = map.next_key()? {
            match self.0.of(&name) {
                Some(parts) => {
                    let value = map.next_value_seed(parts)?;
                    found.insert(name.into_owned(), value);
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(found))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// A member's name, not copied where it has no escapes.
#[derive(Deserialize)]
pub(super) struct MemberName<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(paths: &[&str]) -> Fields {
        Fields::new(paths.iter().map(|path| ((*path).to_owned(), JsonPath::parse(path).unwrap())).collect())
    }

    #[test]
    fn the_fields_are_the_same_without_the_rest() {
        let object = json!({
            "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"host": "h", "list": [1, {"a": [2.5]}], "none": null, "deep": {"er": {"n": 7, "no": true}}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            "text": "\u{1F980} \\ \"", "number": -1, "flag": true, "nothing": null,
        });
        let fields = fields(&[
            ".spec.host",
            ".spec.deep.er.n",
            ".spec.none",
            ".spec.list[0]",
            ".spec.absent.x",
            ".text",
            ".text.x",
            ".number.x",
            ".flag.x",
            ".nothing.x",
            ".metadata.labels.x",
            ".spec.list.x",
            r#".status.conditions[?(@.type=="Ready")].status"#,
        ]);
        let text = object.to_string();
        let mut reader = serde_json::Deserializer::from_str(&text);
        let sparse = fields.parts().deserialize(&mut reader).unwrap();
        assert_eq!(fields.values(&sparse), fields.values(&object));
        assert_eq!(fields.values(&sparse).len(), 6);
        assert_eq!(sparse["spec"]["deep"], json!({"er": {"n": 7}}), "the rest is not read");
        assert_eq!(sparse["metadata"].get("name"), None);
    }

    #[test]
    fn the_whole_holds_its_parts() {
        let (inner_first, outer_first) = (fields(&[".a.b", ".a"]), fields(&[".a", ".a.b"]));
        assert_eq!(inner_first.parts(), outer_first.parts());
        assert_eq!(inner_first.parts().of("a"), Some(&Parts::Whole));
        assert_eq!(fields(&[]).parts().of("a"), None);
    }
}
