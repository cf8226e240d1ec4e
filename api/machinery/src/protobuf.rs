//! Kubernetes' protobuf encoding of requests, for the kinds for which kubectl and other Go clients use it whether the
//! server likes it or not (`kubectl create namespace`). Answers are JSON, which those clients accept.
//!
//! A body is the bytes `k8s\0` and a `runtime.Unknown` message that names the kind and holds the object. What a kind's
//! messages look like is data (the numbers are those of Kubernetes' `generated.proto` files).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::meta;

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
/// Messages nest no deeper than the tables, which this bounds for good measure.
const MAX_DEPTH: usize = 16;

/// A field: its number, its name in JSON and what it holds.
type Field = (u64, &'static str, Shape);

/// The fields of a message that are read; others are passed over.
pub(crate) type Message = &'static [Field];

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    Text,
    Integer,
    Bool,
    Time,
    Message(Message),
    Texts,
    Messages(Message),
    TextMap,
    /// A map of texts to bytes, which JSON has in base64.
    BytesMap,
    /// A map of texts to messages with one text in field 1 (`Quantity`).
    QuantityMap,
}

const TYPE_META: Message = &[(1, "apiVersion", Shape::Text), (2, "kind", Shape::Text)];

const QUANTITY: Message = &[(1, "string", Shape::Text)];

const OWNER_REFERENCE: Message = &[
    (1, "kind", Shape::Text),
    (3, "name", Shape::Text),
    (4, "uid", Shape::Text),
    (5, "apiVersion", Shape::Text),
    (6, "controller", Shape::Bool),
    (7, "blockOwnerDeletion", Shape::Bool),
];

/// `metadata` of every kind.
pub(crate) const OBJECT_META: Message = &[
    (1, "name", Shape::Text),
    (2, "generateName", Shape::Text),
    (3, "namespace", Shape::Text),
    (5, "uid", Shape::Text),
    (6, "resourceVersion", Shape::Text),
    (7, "generation", Shape::Integer),
    (8, "creationTimestamp", Shape::Time),
    (9, "deletionTimestamp", Shape::Time),
    (10, "deletionGracePeriodSeconds", Shape::Integer),
    (11, "labels", Shape::TextMap),
    (12, "annotations", Shape::TextMap),
    (13, "ownerReferences", Shape::Messages(OWNER_REFERENCE)),
    (14, "finalizers", Shape::Texts),
];

/// `DeleteOptions`.
pub(crate) const DELETE_OPTIONS: Message = &[
    (1, "gracePeriodSeconds", Shape::Integer),
    (2, "preconditions", Shape::Message(&[(1, "uid", Shape::Text), (2, "resourceVersion", Shape::Text)])),
    (3, "orphanDependents", Shape::Bool),
    (4, "propagationPolicy", Shape::Text),
    (5, "dryRun", Shape::Texts),
    (6, "ignoreStoreReadErrorWithClusterBreakingPotential", Shape::Bool),
];

/// A body that is not what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtobufError {
    #[error("it does not begin with k8s\\0")]
    Magic,
    #[error("it ends in the middle of a field")]
    Truncated,
    #[error("a number is longer than 64 bits")]
    Overlong,
    #[error("a field has the wire type {0}, which is not used")]
    WireType(u64),
    #[error("a text is not UTF-8")]
    Text,
    #[error("it nests too deep")]
    Depth,
}

/// Decodes a body that holds an object whose message is `message`.
pub(crate) fn decode(bytes: &[u8], message: Message) -> Result<Value, ProtobufError> {
    let mut envelope = Reader(bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?);
    let mut object = Map::new();
    let mut head = Map::new();
    while let Some((number, field)) = envelope.next()? {
        match (number, field) {
            (1, Wire::Bytes(bytes)) => head = read(bytes, TYPE_META, 0)?,
            (2, Wire::Bytes(bytes)) => object = read(bytes, message, 0)?,
            _ => {}
        }
    }
    object.extend(head);
    Ok(Value::Object(object))
}

fn read(bytes: &[u8], message: Message, depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    let mut map = Map::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        let Some((_, name, shape)) = message.iter().find(|(known, ..)| *known == number) else {
            continue;
        };
        let mut append = |value: Value| {
            if let Some(list) = map.entry(*name).or_insert_with(|| json!([])).as_array_mut() {
                list.push(value);
            }
        };
        match (shape, wire) {
            (Shape::Texts, Wire::Bytes(bytes)) => append(text(bytes)?.into()),
            (Shape::Messages(inner), Wire::Bytes(bytes)) => append(read(bytes, inner, depth + 1)?.into()),
            // what Go cannot leave out it writes empty
            (Shape::Text, Wire::Bytes([])) => {}
            (Shape::Text, Wire::Bytes(bytes)) => {
                map.insert((*name).to_owned(), text(bytes)?.into());
            }
            (Shape::Integer, Wire::Varint(number)) => {
                map.insert((*name).to_owned(), number.cast_signed().into());
            }
            (Shape::Bool, Wire::Varint(number)) => {
                map.insert((*name).to_owned(), (number != 0).into());
            }
            (Shape::Time, Wire::Bytes(bytes)) => {
                if let Some(time) = time(bytes)? {
                    map.insert((*name).to_owned(), time.into());
                }
            }
            (Shape::Message(inner), Wire::Bytes(bytes)) => {
                map.insert((*name).to_owned(), read(bytes, inner, depth + 1)?.into());
            }
            (Shape::TextMap | Shape::BytesMap | Shape::QuantityMap, Wire::Bytes(bytes)) => {
                let (key, value) = entry(bytes)?;
                let value = match shape {
                    Shape::BytesMap => STANDARD.encode(value),
                    Shape::QuantityMap => read(value, QUANTITY, depth + 1)?
                        .remove("string")
                        .and_then(|text| text.as_str().map(str::to_owned))
                        .unwrap_or_default(),
                    _ => text(value)?.to_owned(),
                };
                if let Some(entries) = map.entry(*name).or_insert_with(|| json!({})).as_object_mut() {
                    entries.insert(key.to_owned(), value.into());
                }
            }
            _ => {}
        }
    }
    Ok(map)
}

fn text(bytes: &[u8]) -> Result<&str, ProtobufError> {
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::Text)
}

/// The key and the value of a map's entry.
fn entry(bytes: &[u8]) -> Result<(&str, &[u8]), ProtobufError> {
    let (mut key, mut value) = ("", &[][..]);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => key = text(bytes)?,
            (2, Wire::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Ok((key, value))
}

/// A `Time`: seconds since the epoch in its first field; nothing at all stands for no time.
fn time(bytes: &[u8]) -> Result<Option<String>, ProtobufError> {
    let mut reader = Reader(bytes);
    let mut seconds = None;
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Varint(value)) = (number, wire) {
            seconds = Some(value.cast_signed());
        }
    }
    Ok(seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()).map(meta::timestamp))
}

/// A field's value as it is on the wire.
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Reads the fields of a message one by one.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Fixed
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed
            }
            other => return Err(ProtobufError::WireType(other)),
        };
        Ok(Some((tag >> 3, wire)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Overlong)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMESPACE: Message = &[(1, "metadata", Shape::Message(OBJECT_META))];

    /// A field with bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    #[test]
    fn what_kubectl_sends() {
        let label = [field(1, b"a"), field(2, b"b")].concat();
        let time = [0x08, 0x80, 0xf2, 0xd6, 0xca, 0x06];
        let metadata =
            [field(1, b"team"), field(2, b""), field(8, &[]), field(9, &time), field(11, &label), field(14, b"x/y")];
        let object = field(1, &metadata.concat());
        let head = [field(1, b"v1"), field(2, b"Namespace")].concat();
        let body = [MAGIC, &field(1, &head), &field(2, &object), &field(3, b""), &field(4, b"")].concat();
        assert_eq!(
            decode(&body, NAMESPACE).unwrap(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": "team", "labels": {"a": "b"}, "finalizers": ["x/y"], "deletionTimestamp": "2026-01-01T00:00:00Z",
            }})
        );
    }

    #[test]
    fn maps_of_bytes_and_of_quantities() {
        const BOTH: Message = &[(2, "data", Shape::BytesMap), (3, "hard", Shape::QuantityMap)];
        let data = [field(1, b"a"), field(2, b"\xff\x00")].concat();
        let hard = [field(1, b"cpu"), field(2, &field(1, b"500m"))].concat();
        let body = [MAGIC, &field(2, &[field(2, &data), field(3, &hard)].concat())].concat();
        assert_eq!(decode(&body, BOTH).unwrap(), json!({"data": {"a": "/wA="}, "hard": {"cpu": "500m"}}));
    }

    #[test]
    fn rubbish_is_refused() {
        assert_eq!(decode(b"{}", NAMESPACE), Err(ProtobufError::Magic));
        assert_eq!(decode(b"k8s\0\x12\x05ab", NAMESPACE), Err(ProtobufError::Truncated));
        assert_eq!(decode(b"k8s\0\x0b", NAMESPACE), Err(ProtobufError::WireType(3)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[MAGIC, &bytes].concat(), NAMESPACE);
        }
    }
}
