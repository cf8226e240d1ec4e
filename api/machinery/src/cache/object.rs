//! One object as the cache keeps it: its JSON, encoded once, and beside it what lists and selectors ask for.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    Fields, Normaliser,
    stored::{Outline, OwnMetadata, insert_version},
};
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
    /// `revision`, with what `fields` names. Only where it has to be brought into another form before, or is none of our own
    /// writing, is it built as a whole: else its bytes stay what they are.
    pub fn from_stored(
        stored: &[u8],
        revision: Revision,
        fields: &Fields,
        normalise: Option<&Normaliser>,
    ) -> Result<Self, DecodeError> {
        if normalise.is_none()
            && let Some(object) = Self::from_own_bytes(stored, revision, fields)
        {
            return Ok(object);
        }
        let mut value: Value = serde_json::from_slice(stored)?;
        if let Some(normalise) = normalise {
            normalise(&mut value);
        }
        let metadata = value.get("metadata").and_then(Value::as_object).ok_or(DecodeError::Field("metadata"))?;
        let (json, version_at) = encode(&value, metadata, revision, stored.len())?;
        Ok(Self {
            resource_version: revision,
            version_at,
            namespace: text(metadata, "namespace").map(Into::into),
            name: text(metadata, "name").ok_or(DecodeError::Field("metadata.name"))?.into(),
            uid: text(metadata, "uid").unwrap_or_default().into(),
            labels: labels(metadata)?,
            fields: pairs_of(&fields.values(&value))?,
            json,
        })
    }

    /// The same, of bytes as the server writes them. None if they are others.
    fn from_own_bytes(stored: &[u8], revision: Revision, fields: &Fields) -> Option<Self> {
        let Outline { metadata, parts } = Outline::read(stored, fields.parts())?;
        let own: OwnMetadata<'_> = serde_json::from_str(metadata.get()).ok()?;
        let (json, version_at) = insert_version(stored, metadata.get(), revision)?;
        let labels = own.labels.iter().flatten().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
        Some(Self {
            resource_version: revision,
            version_at,
            namespace: own.namespace.as_deref().map(Into::into),
            name: own.name.into(),
            uid: own.uid.as_deref().unwrap_or_default().into(),
            labels: Pairs::new(labels).ok()?,
            fields: pairs_of(&fields.values(&parts)).ok()?,
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

fn pairs_of(values: &[(&str, Cow<'_, str>)]) -> Result<Pairs, DecodeError> {
    Pairs::new(values.iter().map(|(name, value)| (*name, value.as_ref())).collect())
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
pub(super) fn begin_member(json: &mut Vec<u8>, name: &str, first: bool) -> serde_json::Result<()> {
    json.push(if first { b'{' } else { b',' });
    serde_json::to_writer(&mut *json, name)?;
    json.push(b':');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{cache::Encoded, jsonpath::JsonPath};

    fn fields() -> Fields {
        let paths = [".spec.host", ".metadata.labels.app"];
        Fields::new(paths.map(|path| (path[1..].to_owned(), JsonPath::parse(path).unwrap())).into())
    }

    fn object(value: &Value, revision: u64) -> Result<Object, DecodeError> {
        Object::from_stored(&serde_json::to_vec(value).unwrap(), Revision(revision), &fields(), None)
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
    fn our_own_bytes_stay_as_they_are() {
        let mut value = stored();
        value["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        let bytes = serde_json::to_vec(&value).unwrap();
        let nothing: Normaliser = Arc::new(|_| ());
        for (value, own) in [(value, true), (stored(), false), (json!({"metadata": {"name": "\u{e9} \"\\"}}), true)] {
            let bytes = serde_json::to_vec(&value).unwrap();
            let quick = Object::from_own_bytes(&bytes, Revision(42), &fields());
            let built = Object::from_stored(&bytes, Revision(42), &fields(), Some(&nothing)).unwrap();
            assert_eq!(quick, own.then(|| built.clone()));
            if own {
                let encoded = Encoded::new(&value).unwrap();
                assert_eq!(
                    (encoded.bytes(), encoded.with_version(Revision(42))),
                    (&bytes.into(), built.json().clone())
                );
            }
        }
        let found = Object::from_stored(&bytes, Revision(42), &fields(), None).unwrap();
        assert_eq!(found.fields().iter().collect::<Vec<_>>(), [("metadata.labels.app", "y"), ("spec.host", "h1")]);
    }

    #[test]
    fn what_somebody_else_wrote_is_read_too() {
        let text = " { \"spec\": {\"host\": \"h1\"}, \"metadata\": { \"labels\": null, \"name\": \"a\" } } ";
        let object = Object::from_stored(text.as_bytes(), Revision(7), &fields(), None).unwrap();
        assert_eq!(
            object.json().as_ref(),
            br#"{"metadata":{"resourceVersion":"7","labels":null,"name":"a"},"spec":{"host":"h1"}}"#
        );
        for broken in ["{\"metadata\":{\"name\":\"a\"}} x", "{\"metadata\":{\"name\":\"a\"}", "{\"a\":\"\u{0}\"}"] {
            assert!(object_of(broken.as_bytes()).is_err(), "{broken}");
        }
        assert!(object_of(b"{\"metadata\":{\"name\":\"a\"},\"spec\":\"\xff\"}").is_err());
    }

    fn object_of(stored: &[u8]) -> Result<Object, DecodeError> {
        Object::from_stored(stored, Revision(1), &fields(), None)
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(matches!(object_of(b"{"), Err(DecodeError::Json(_))));
        for value in [
            json!([1]),
            json!({"metadata": []}),
            json!({"metadata": {"namespace": "n"}}),
            json!({"metadata": {"name": "a", "labels": {"app": 1}}}),
            json!({"metadata": {"name": 1}}),
            json!({"spec": {}}),
        ] {
            assert!(matches!(object(&value, 1), Err(DecodeError::Field(_))), "{value}");
        }
    }
}
