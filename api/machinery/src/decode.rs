//! Reads request bodies, JSON or YAML, into a JSON value: duplicate keys are told with their paths (the last one
//! counts), depth and expansion are bounded.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use crate::status::{MAX_PATH, segment, shorten};

/// No more duplicates than this are told.
const MAX_DUPLICATES: usize = 100;
/// A document holds no more values than this, those in lists and maps counted: each takes many times the bytes that it
/// came as.
const MAX_VALUES: usize = 100_000;
/// What the parser of YAML may see of a document, with what its aliases add.
const MAX_YAML_EVENTS: usize = 500_000;
/// What aliases may add to a YAML document, in events.
const MAX_YAML_REPLAYED: usize = 50_000;
/// JSON nests no deeper than serde_json's limit of 128; YAML likewise.
const MAX_YAML_DEPTH: usize = 128;

/// A body that was decoded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decoded {
    /// The value.
    pub value: Value,
    /// The paths of keys that are given more than once, e.g. `spec.disks[0].size`.
    pub duplicates: Vec<String>,
}

/// A body that is no JSON, or no YAML, or goes past the limits.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl DecodeError {
    fn new(problem: &impl fmt::Display) -> Self {
        let mut text = problem.to_string();
        shorten(&mut text, MAX_PATH);
        Self(text)
    }
}

/// Decodes JSON.
pub fn json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut progress = Progress::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let error = |error: serde_json::Error| DecodeError::new(&error);
    let value = Seed(&mut progress).deserialize(&mut deserializer).map_err(error)?;
    deserializer.end().map_err(error)?;
    Ok(Decoded { value, duplicates: progress.duplicates })
}

/// Decodes one YAML document.
pub fn yaml(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|error| DecodeError::new(&error))?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_YAML_DEPTH,
            flow_nesting_limit: MAX_YAML_DEPTH,
            max_events: MAX_YAML_EVENTS,
            max_nodes: 2 * MAX_VALUES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_YAML_REPLAYED },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        // as in YAML 1.2: `y`, `no` and `on` are strings
        strict_booleans: true,
        with_snippet: false,
    };
    let mut progress = Progress::default();
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        Seed(&mut progress).deserialize(deserializer)
    })
    .map_err(|error| DecodeError::new(&error))?;
    Ok(Decoded { value, duplicates: progress.duplicates })
}

/// What is known of a document while it is read.
#[derive(Default)]
struct Progress {
    /// How many values there were.
    values: usize,
    /// The paths of duplicate keys. A path is built on the way back, from the inner to the outer, so that documents
    /// without duplicates pay nothing.
    duplicates: Vec<String>,
}

impl Progress {
    /// Puts `parent` before every path that was found since there were `before`. Of a long path the inner part is told.
    fn prefix(&mut self, before: usize, parent: impl FnOnce() -> String) {
        if self.duplicates.len() == before {
            return;
        }
        let parent = parent();
        for path in &mut self.duplicates[before..] {
            if path.starts_with(CUT) {
                continue;
            }
            let dot = if path.starts_with('[') { "" } else { "." };
            *path = if path.len() > MAX_PATH { format!("{CUT}{path}") } else { format!("{parent}{dot}{path}") };
        }
    }
}

/// What stands for the outer part of a path that is too long.
const CUT: &str = "...";

/// Builds one value.
struct Seed<'a>(&'a mut Progress);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.values += 1;
        if self.0.values > MAX_VALUES {
            return Err(D::Error::custom(format_args!("it holds more than {MAX_VALUES} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let before = self.0.duplicates.len();
            let Some(value) = access.next_element_seed(Seed(self.0))? else {
                return Ok(Value::Array(list));
            };
            self.0.prefix(before, || format!("[{}]", list.len()));
            list.push(value);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let before = self.0.duplicates.len();
            let value = access.next_value_seed(Seed(self.0))?;
            self.0.prefix(before, || segment(&key).into_owned());
            match map.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(mut entry) => {
                    if self.0.duplicates.len() < MAX_DUPLICATES {
                        self.0.duplicates.push(segment(entry.key()).into_owned());
                    }
                    entry.insert(value);
                }
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_told_with_their_paths() {
        let body =
            br#"{"a": 1, "spec": {"disks": [{}, {"size": 1, "size": 2}], "x": {}, "x": {"y": 1, "y": 2}}, "a": 3}"#;
        let decoded = json(body).unwrap();
        assert_eq!(decoded.duplicates, ["spec.disks[1].size", "spec.x.y", "spec.x", "a"]);
        assert_eq!(decoded.value, json!({"a": 3, "spec": {"disks": [{}, {"size": 2}], "x": {"y": 2}}}));
    }

    #[test]
    fn yaml_is_the_same() {
        let decoded =
            yaml(b"a: 1\nspec:\n  list:\n  - size: 1\n    size: 2\n  t: 'x'\n  n:\n  f: 1.5\n  b: true\n  y: y\n")
                .unwrap();
        assert_eq!(
            decoded.value,
            json!({"a": 1, "spec": {"list": [{"size": 2}], "t": "x", "n": null, "f": 1.5, "b": true, "y": "y"}})
        );
        assert_eq!(decoded.duplicates, ["spec.list[0].size"]);
    }

    #[test]
    fn the_number_of_values_is_bounded() {
        let list = |values: usize| format!("[{}0]", "0,".repeat(values - 2));
        assert!(json(list(MAX_VALUES).as_bytes()).is_ok());
        let error = json(list(MAX_VALUES + 1).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("more than 100000 values"), "{error}");
        assert!(yaml(list(MAX_VALUES).as_bytes()).is_ok());
        assert!(yaml(list(MAX_VALUES + 1).as_bytes()).is_err());
        let maps = format!("[{}{{}}]", r#"{"":0},"#.repeat(MAX_VALUES / 2));
        assert!(json(maps.as_bytes()).is_err());
    }

    #[test]
    fn long_paths_and_messages_are_cut() {
        let key = "k".repeat(20_000);
        let inner = format!("{{{}}}", vec![format!(r#""{key}": 1"#); 20].join(","));
        let deep = (0..100).fold(inner, |inner, _| format!(r#"{{"{key}": {inner}}}"#));
        let decoded = json(deep.as_bytes()).unwrap();
        assert_eq!(decoded.duplicates.len(), 19);
        for path in decoded.duplicates {
            assert!(path.starts_with("...kkk") && path.len() < 2000, "{} bytes", path.len());
        }
        let error = yaml(format!("a: *{key}").as_bytes()).unwrap_err();
        assert!(error.to_string().len() < 2000, "{} bytes", error.to_string().len());
    }

    #[test]
    fn depth_is_bounded() {
        assert!(json("[".repeat(10_000).as_bytes()).is_err());
        assert!(yaml("[".repeat(10_000).as_bytes()).is_err());
        let deep = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<Vec<_>>().concat();
        assert!(yaml(deep.as_bytes()).is_err());
    }

    #[test]
    fn an_alias_bomb_is_refused_quickly() {
        let level = |level: usize| {
            let list = vec![format!("*a{}", level - 1); 10].join(",");
            format!("a{level}: &a{level} [{list}]\n")
        };
        let bomb = format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}", (1..12).map(level).collect::<Vec<_>>().concat());
        let start = std::time::Instant::now();
        assert!(yaml(bomb.as_bytes()).is_err());
        assert!(start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
    }

    #[test]
    fn a_number_reads_back_as_it_was_written() {
        // rounded badly, it would change in its last bit each time that an object is read and written
        let decoded = json(b"[4444444444444444444444444444444444444444332]").unwrap();
        let written = serde_json::to_vec(&decoded.value).unwrap();
        assert_eq!(json(&written).unwrap(), decoded);
    }

    #[test]
    fn rubbish_is_refused() {
        for bad in ["", "{", "{} {}", "{\"a\": 1e999}", "\u{0}"] {
            assert!(json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(yaml(b"\xff").is_err());
        assert!(yaml(b"a: .nan").is_err());
    }
}
