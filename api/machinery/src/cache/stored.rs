//! Objects as the bytes that are stored: written so that the answer to the client needs no second encoding, and read no further than the cache needs.

use std::{borrow::Cow, collections::HashMap, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer as _,
    de::{DeserializeSeed as _, Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::{
    fields::{MemberName, Parts},
    object::begin_member,
};
use crate::storage::Revision;

const METADATA: &str = "metadata";
/// What stands before the digits of a resource version.
const VERSION: &[u8] = br#""resourceVersion":""#;

/// An object as it is stored, which has no resource version yet.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    bytes: Bytes,
    /// Where the first member of its metadata stands.
    metadata_at: usize,
}

impl Encoded {
    /// Encodes an object. Its metadata holds a name at least, and no resource version.
    pub(crate) fn new(object: &Value) -> serde_json::Result<Self> {
        let mut bytes = Vec::with_capacity(1024);
        let mut metadata_at = 0;
        for (index, (name, value)) in object.as_object().into_iter().flatten().enumerate() {
            begin_member(&mut bytes, name, index == 0)?;
            if name == METADATA {
                metadata_at = bytes.len() + 1;
            }
            serde_json::to_writer(&mut bytes, value)?;
        }
        bytes.push(b'}');
        Ok(Self { bytes: bytes.into(), metadata_at })
    }

    /// What is stored.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same as clients get it, after it was stored.
    pub(crate) fn with_version(&self, revision: Revision) -> Bytes {
        let (before, after) = self.bytes.split_at(self.metadata_at);
        splice(before, revision, after)
    }
}

/// A stored object, read no further than it must be.
pub(super) struct Outline<'a> {
    pub(super) metadata: &'a RawValue,
    /// The parts that were asked for.
    pub(super) parts: Value,
}

impl<'a> Outline<'a> {
    /// None of what is no object of our own writing.
    pub(super) fn read(stored: &'a [u8], parts: &Parts) -> Option<Self> {
        // what is passed over is not checked to be text
        let stored = str::from_utf8(stored).ok()?;
        let mut reader = serde_json::Deserializer::from_str(stored);
        let outline = reader.deserialize_map(OutlineVisitor(parts)).ok()?;
        reader.end().ok()?;
        Some(outline)
    }
}

struct OutlineVisitor<'p>(&'p Parts);

impl<'de> Visitor<'de> for OutlineVisitor<'_> {
    type Value = Outline<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline<'de>, A::Error> {
        let (mut metadata, mut found) = (None, Map::new());
        while let Some(MemberName(name)) = map.next_key()? {
            let parts = self.0.of(&name);
            if name == METADATA {
                let raw: &RawValue = map.next_value()?;
                if metadata.replace(raw).is_some() {
                    return Err(A::Error::duplicate_field(METADATA));
                }
                if let Some(parts) = parts {
                    let mut reader = serde_json::Deserializer::from_str(raw.get());
                    found.insert(METADATA.to_owned(), parts.deserialize(&mut reader).map_err(A::Error::custom)?);
                }
            } else if let Some(parts) = parts {
                let value = map.next_value_seed(parts)?;
                found.insert(name.into_owned(), value);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        let metadata = metadata.ok_or_else(|| A::Error::missing_field(METADATA))?;
        Ok(Outline { metadata, parts: Value::Object(found) })
    }
}

/// What the cache reads of metadata.
#[derive(Deserialize)]
pub(super) struct OwnMetadata<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) namespace: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) uid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) labels: Option<HashMap<Cow<'a, str>, Cow<'a, str>>>,
}

/// Puts the resource version to the front of `metadata`, which is a part of `stored` and has none. Also tells where its digits
/// stand.
pub(super) fn insert_version(stored: &[u8], metadata: &str, revision: Revision) -> Option<(Bytes, u32)> {
    let inner = metadata.strip_prefix('{')?;
    if !inner.starts_with('"') || inner.contains("\"resourceVersion\"") {
        return None;
    }
    let inner_at = (inner.as_ptr() as usize).checked_sub(stored.as_ptr() as usize)?;
    let (before, after) = stored.split_at_checked(inner_at)?;
    let version_at = u32::try_from(before.len() + VERSION.len()).ok()?;
    Some((splice(before, revision, after), version_at))
}

fn splice(before: &[u8], revision: Revision, after: &[u8]) -> Bytes {
    [before, VERSION, revision.to_string().as_bytes(), b"\",", after].concat().into()
}
