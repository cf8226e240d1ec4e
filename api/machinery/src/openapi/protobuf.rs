//! An OpenAPI 2 document as protobuf: the message `openapi.v2.Document` of gnostic's `OpenAPIv2.proto`, whose numbers
//! stand here. It is what kubectl asks for.

use serde_json::{Map, Value};

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

/// Wire types (protobuf's encoding): what follows a field's number.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint((field << 3) | LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    fn text(&mut self, field: u64, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, values: &Value) {
        for text in values.as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u64, value: &Value) {
        if value.as_bool() == Some(true) {
            self.varint((field << 3) | VARINT);
            self.varint(1);
        }
    }

    fn integer(&mut self, field: u64, value: &Value) {
        if let Some(number) = value.as_i64() {
            self.varint((field << 3) | VARINT);
            self.varint(number.cast_unsigned());
        }
    }

    fn double(&mut self, field: u64, value: &Value) {
        if let Some(number) = value.as_f64() {
            self.varint((field << 3) | FIXED64);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// A field of one of gnostic's messages that stand for maps: each member by name and value.
    fn members(&mut self, field: u64, members: &Value, write: impl Fn(&Value) -> Self) {
        for (name, value) in members.as_object().into_iter().flatten() {
            let mut member = Self::default();
            member.bytes(1, name.as_bytes());
            member.message(2, &write(value));
            self.message(field, &member);
        }
    }

    /// `x-...`, whose values are given as text.
    fn extensions(&mut self, field: u64, of: &Value) {
        for (name, value) in of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
            let mut member = Self::default();
            member.bytes(1, name.as_bytes());
            member.message(2, &any(value));
            self.message(field, &member);
        }
    }
}

/// The message of a document in JSON.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    message.message(2, &info);
    let mut paths = Message::default();
    paths.members(2, &document["paths"], path_item);
    message.message(8, &paths);
    let mut definitions = Message::default();
    definitions.members(1, &document["definitions"], schema);
    message.message(9, &definitions);
    message.0
}

/// A value of any type: as YAML, which JSON is.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, value.to_string().as_bytes());
    message
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if item[method].is_object() {
            message.message(field, &operation(&item[method]));
        }
    }
    for parameter in item["parameters"].as_array().into_iter().flatten() {
        message.message(9, &parameters_item(parameter));
    }
    message
}

fn operation(operation: &Value) -> Message {
    let mut message = Message::default();
    message.text(5, &operation["operationId"]);
    message.texts(6, &operation["produces"]);
    message.texts(7, &operation["consumes"]);
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        message.message(8, &parameters_item(parameter));
    }
    let mut responses = Message::default();
    responses.members(1, &operation["responses"], |response| {
        let (mut value, mut answer, mut item) = (Message::default(), Message::default(), Message::default());
        answer.text(1, &response["description"]);
        item.message(1, &schema(&response["schema"]));
        answer.message(2, &item);
        value.message(1, &answer);
        value
    });
    message.message(9, &responses);
    message.extensions(13, operation);
    message
}

/// `ParametersItem`, which holds a `Parameter`, which is one of the body or one of others.
fn parameters_item(given: &Value) -> Message {
    let (mut item, mut parameter) = (Message::default(), Message::default());
    if given["in"] == "body" {
        let mut body = Message::default();
        body.text(2, &given["name"]);
        body.text(3, &given["in"]);
        body.flag(4, &given["required"]);
        body.message(5, &schema(&given["schema"]));
        parameter.message(1, &body);
    } else {
        let (mut other, mut plain) = (Message::default(), Message::default());
        plain.flag(1, &given["required"]);
        plain.text(2, &given["in"]);
        plain.text(4, &given["name"]);
        if given["in"] == "path" {
            plain.text(5, &given["type"]);
            other.message(4, &plain);
        } else {
            plain.text(6, &given["type"]);
            plain.flag(20, &given["uniqueItems"]);
            other.message(3, &plain);
        }
        parameter.message(2, &other);
    }
    item.message(1, &parameter);
    item
}

fn schema(schema: &Value) -> Message {
    let mut message = Message::default();
    for (field, keyword) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        message.text(field, &schema[keyword]);
    }
    if !schema["default"].is_null() {
        message.message(5, &any(&schema["default"]));
    }
    for (field, keyword) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        message.double(field, &schema[keyword]);
    }
    for (field, keyword) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems"), (27, "readOnly")] {
        message.flag(field, &schema[keyword]);
    }
    for (field, keyword) in [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ] {
        message.integer(field, &schema[keyword]);
    }
    message.texts(19, &schema["required"]);
    for value in schema["enum"].as_array().into_iter().flatten() {
        message.message(20, &any(value));
    }
    match &schema["additionalProperties"] {
        Value::Null => {}
        given => {
            let mut item = Message::default();
            match given {
                Value::Bool(_) => item.flag(2, given),
                given => item.message(1, &self::schema(given)),
            }
            message.message(21, &item);
        }
    }
    if schema["type"].is_string() {
        let mut item = Message::default();
        item.text(1, &schema["type"]);
        message.message(22, &item);
    }
    if schema["items"].is_object() {
        let mut item = Message::default();
        item.message(1, &self::schema(&schema["items"]));
        message.message(23, &item);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        message.message(24, &self::schema(part));
    }
    if schema["properties"].as_object().is_some_and(|properties: &Map<_, _>| !properties.is_empty()) {
        let mut properties = Message::default();
        properties.members(1, &schema["properties"], self::schema);
        message.message(25, &properties);
    }
    if !schema["example"].is_null() {
        message.message(30, &any(&schema["example"]));
    }
    message.extensions(31, schema);
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_lengths_are_protobufs() {
        let mut message = Message::default();
        message.text(1, &json!("2.0"));
        message.integer(11, &json!(300));
        message.flag(16, &json!(true));
        message.flag(8, &json!(false));
        message.double(7, &json!(1));
        let expected: Vec<u8> =
            [&[0x0a, 3, b'2', b'.', b'0'][..], &[0x58, 0xac, 0x02], &[0x80, 0x01, 1], &[0x39], &1f64.to_le_bytes()]
                .concat();
        assert_eq!(message.0, expected);
    }

    #[test]
    fn a_schema_is_a_message() {
        let encoded = schema(&json!({"type": "string", "x-a": [1]})).0;
        let type_ = [0xb2, 0x01, 8, 0x0a, 6, b's', b't', b'r', b'i', b'n', b'g'];
        let extension = [0xfa, 0x01, 12, 0x0a, 3, b'x', b'-', b'a', 0x12, 5, 0x12, 3, b'[', b'1', b']'];
        assert_eq!(encoded, [&type_[..], &extension].concat());
    }
}
