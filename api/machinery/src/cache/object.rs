//! One object as the cache keeps it: its JSON, encoded once, and beside it what lists and selectors ask for.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::storage::Revision;

/// Why stored bytes are not an object.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("the stored value is not JSON")]
    Json(#[from] serde_json::Error),
    /// JSON, but not an object with such a field of the right type.
    #[error("the stored value has no valid {0}")]
    Field(&'static str),
    /// An object that belongs under another key.
    #[error("the stored object is named {0}, which is not its key")]
    Misplaced(String),
    /// More than 4 GiB.
    #[error("the stored value is too large")]
    Size,
}

/// Names with values, sorted by name, in two allocations however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    text: Box<str>,
    /// Where each name and each value ends in `text`, in turn.
    ends: Box<[u32]>,
}

impl Pairs {
    /// Packs the pairs; of two with the same name the later one counts.
    fn new(mut pairs: Vec<(&str, &str)>) -> Result<Self, DecodeError> {
        // stable, so that of equal names the last one stays last
        pairs.sort_by_key(|(name, _)| *name);
        let mut text = String::with_capacity(pairs.iter().map(|(name, value)| name.len() + value.len()).sum());
        let mut ends = Vec::with_capacity(pairs.len() * 2);
        for (index, (name, value)) in pairs.iter().enumerate() {
            if pairs.get(index + 1).is_some_and(|(next, _)| next == name) {
                continue;
            }
            for part in [name, value] {
                text.push_str(part);
                ends.push(u32::try_from(text.len()).map_err(|_| DecodeError::Size)?);
            }
        }
        Ok(Self { text: text.into_boxed_str(), ends: ends.into_boxed_slice() })
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(candidate, value)| (candidate == name).then_some(value))
    }

    /// All pairs in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.as_chunks::<2>().0.iter().map(move |[name_end, value_end]| {
            let (name_end, value_end) = (*name_end as usize, *value_end as usize);
            let pair = (&self.text[start..name_end], &self.text[name_end..value_end]);
            start = value_end;
            pair
        })
    }
}

/// An object at one resource version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    resource_version: Revision,
    /// Where the digits of the resource version stand in `json`.
    version_at: u32,
    namespace: Option<Box<str>>,
    name: Box<str>,
    uid: Box<str>,
    labels: Pairs,
    fields: Pairs,
    json: Bytes,
}

impl Object {
    /// Reads an object as the store keeps it (JSON, without or with an outdated `metadata.resourceVersion`), written at
    /// `revision`. `fields` gives its selectable fields, and may bring the object into another form before. Also makes the answer to a write, from the bytes just written.
    pub fn from_stored(
        stored: &[u8],
        revision: Revision,
        fields: impl FnOnce(&mut Value) -> Vec<(String, String)>,
    ) -> Result<Self, DecodeError> {
        let mut value: Value = serde_json::from_slice(stored)?;
        let fields = fields(&mut value);
        let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let metadata = value.get("metadata").and_then(Value::as_object).ok_or(DecodeError::Field("metadata"))?;
        let (json, version_at) = encode(&value, metadata, revision, stored.len())?;
        Ok(Self {
            resource_version: revision,
            version_at,
            namespace: text(metadata, "namespace").map(Into::into),
            name: text(metadata, "name").ok_or(DecodeError::Field("metadata.name"))?.into(),
            uid: text(metadata, "uid").unwrap_or_default().into(),
            labels: labels(metadata)?,
            fields: Pairs::new(fields)?,
            json,
        })
    }

    /// The same object with another resource version: what a watch shows of an object that is gone.
    #[must_use]
    pub fn at_revision(&self, revision: Revision) -> Self {
        let digits_start = self.version_at as usize;
        let digits_end = digits_start + self.resource_version.to_string().len();
        let json = [&self.json[..digits_start], revision.to_string().as_bytes(), &self.json[digits_end..]].concat();
        Self { resource_version: revision, json: json.into(), ..self.clone() }
    }

    /// The revision of the write that made this state.
    pub fn resource_version(&self) -> Revision {
        self.resource_version
    }

    /// The namespace, if the kind has namespaces.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The UID; empty if the object has none.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The labels.
    pub fn labels(&self) -> &Pairs {
        &self.labels
    }

    /// The selectable fields, as the kind defines them.
    pub fn fields(&self) -> &Pairs {
        &self.fields
    }

    /// The object as clients get it, with its resource version.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// Where the object stands below its kind's prefix: `<namespace>/<name>` or `<name>`.
    pub(super) fn path(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.to_string(),
        }
    }
}

fn text<'a>(metadata: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    metadata.get(field).and_then(Value::as_str)
}

fn labels(metadata: &Map<String, Value>) -> Result<Pairs, DecodeError> {
    const LABELS: DecodeError = DecodeError::Field("metadata.labels");
    let Some(labels) = metadata.get("labels").filter(|labels| !labels.is_null()) else {
        return Ok(Pairs::default());
    };
    let labels = labels.as_object().ok_or(LABELS)?;
    let pairs = labels.iter().map(|(name, value)| Ok((name.as_str(), value.as_str().ok_or(LABELS)?)));
    Pairs::new(pairs.collect::<Result<_, DecodeError>>()?)
}

/// Encodes the object with its resource version, and tells where the version's digits stand, so that another version can
/// be put there without encoding anew.
fn encode(
    value: &Value,
    metadata: &Map<String, Value>,
    revision: Revision,
    size: usize,
) -> Result<(Bytes, u32), DecodeError> {
    const VERSION: &str = "resourceVersion";
    let top = value.as_object().ok_or(DecodeError::Field("object"))?;
    let mut json = Vec::with_capacity(size + 48);
    let mut version_at = 0;
    for (index, (name, value)) in top.iter().enumerate() {
        begin_member(&mut json, name, index == 0)?;
        if name != "metadata" {
            serde_json::to_writer(&mut json, value)?;
            continue;
        }
        begin_member(&mut json, VERSION, true)?;
        json.push(b'"');
        version_at = json.len();
        json.extend_from_slice(revision.to_string().as_bytes());
        json.push(b'"');
        for (name, value) in metadata.iter().filter(|(name, _)| *name != VERSION) {
            begin_member(&mut json, name, false)?;
            serde_json::to_writer(&mut json, value)?;
        }
        json.push(b'}');
    }
    json.push(b'}');
    json.shrink_to_fit();
    Ok((json.into(), u32::try_from(version_at).map_err(|_| DecodeError::Size)?))
}

/// Writes what stands before a member's value; the first one opens its object.
fn begin_member(json: &mut Vec<u8>, name: &str, first: bool) -> Result<(), DecodeError> {
    json.push(if first { b'{' } else { b',' });
    serde_json::to_writer(&mut *json, name)?;
    json.push(b':');
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: &Value, revision: u64) -> Result<Object, DecodeError> {
        Object::from_stored(&serde_json::to_vec(value).unwrap(), Revision(revision), |value| {
            let host = value["spec"]["host"].as_str().unwrap_or_default();
            vec![("spec.host".to_owned(), host.to_owned())]
        })
    }

    fn stored() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Thing", "spec": {"host": "h1", "text": "quote \" and \u{1F980}"},
            "metadata": {"name": "a", "namespace": "n", "uid": "u-1", "resourceVersion": "1", "labels": {"tier": "x", "app": "y"}},
        })
    }

    #[test]
    fn the_json_is_what_was_stored_with_the_resource_version() {
        let object = object(&stored(), 42).unwrap();
        let mut expected = stored();
        expected["metadata"]["resourceVersion"] = "42".into();
        assert_eq!(serde_json::from_slice::<Value>(object.json()).unwrap(), expected);
        assert_eq!((object.namespace(), object.name(), object.uid()), (Some("n"), "a", "u-1"));
        assert_eq!(object.labels().iter().collect::<Vec<_>>(), [("app", "y"), ("tier", "x")]);
        assert_eq!((object.fields().get("spec.host"), object.fields().get("spec")), (Some("h1"), None));
    }

    #[test]
    fn another_revision_changes_nothing_but_the_resource_version() {
        let object = object(&stored(), 99).unwrap();
        for revision in [7, 100, 123_456_789] {
            let mut expected = stored();
            expected["metadata"]["resourceVersion"] = revision.to_string().into();
            let moved = object.at_revision(Revision(revision));
            assert_eq!(serde_json::from_slice::<Value>(moved.json()).unwrap(), expected);
            assert_eq!(moved.at_revision(Revision(99)), object);
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(matches!(Object::from_stored(b"{", Revision(1), |_| Vec::new()), Err(DecodeError::Json(_))));
        for value in [
            json!([1]),
            json!({"metadata": []}),
            json!({"metadata": {"namespace": "n"}}),
            json!({"metadata": {"name": "a", "labels": {"app": 1}}}),
        ] {
            assert!(matches!(object(&value, 1), Err(DecodeError::Field(_))), "{value}");
        }
    }
}
