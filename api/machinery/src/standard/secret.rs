//! Secrets: data that only those see who may read secrets. It is in no log, no Event and no error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::data::{MAX_DATA, annotation, check_immutable, check_keys, decoded_length, entries};
use super::{Names, StandardKindError, describe, selectable};
use crate::protobuf::{Message, OBJECT_META, Shape};
use crate::registry::{Cell, Column, Resource, Scope};
use crate::status::{FieldError, FieldPath};
use crate::strategy::{Context, Strategy};

const OPAQUE: &str = "Opaque";
const SERVICE_ACCOUNT: &str = "kubernetes.io/service-account.name";

const MESSAGE: Message = &[
    (1, "metadata", Shape::Message(OBJECT_META)),
    (2, "data", Shape::BytesMap),
    (3, "type", Shape::Text),
    (4, "stringData", Shape::TextMap),
    (5, "immutable", Shape::Bool),
];

pub(super) fn resource() -> Result<Resource, StandardKindError> {
    let mut description = describe::<Secret>(&Names {
        group: "",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short: &[],
        scope: Scope::Namespaced,
        status_subresource: false,
    })?;
    let column = |name: &str, description: &str, cell: fn(&Value) -> Value| Column {
        name: name.to_owned(),
        type_: "string".to_owned(),
        format: String::new(),
        description: description.to_owned(),
        priority: 0,
        cell: Cell::Computed(cell),
    };
    description.columns.insert(1, column("Type", "What the data is.", |object| object["type"].clone()));
    let count = column("Data", "How many entries it has.", |object| entries(object, "data").count().into());
    description.columns.insert(2, count);
    description.selectable_fields = selectable(&["type"])?;
    Ok(Resource::new(description).strategy(SecretStrategy).protobuf(MESSAGE))
}

struct SecretStrategy;

impl Strategy for SecretStrategy {
    fn prepare_for_create(&self, _: &Context<'_>, object: &mut Value) {
        take_string_data(object);
        if is_untyped(object) {
            object["type"] = OPAQUE.into();
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        take_string_data(new);
        // a type that is not given is the one that it has
        if is_untyped(new) {
            new["type"] = old["type"].clone();
        }
    }

    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if new["type"] != old["type"] {
            errors.push(FieldError::invalid(FieldPath::new("type"), new["type"].clone(), "field is immutable"));
        }
        check_immutable(new, old, &["data"], &mut errors);
        errors.extend(validate(new));
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        true
    }

    fn confidential_fields(&self) -> &'static [&'static str] {
        &["data", "stringData"]
    }
}

fn is_untyped(object: &Value) -> bool {
    object.get("type").is_none_or(|given| given.is_null() || given == "")
}

/// `stringData` is for writing alone: its entries become data, and take the place of those of the same name. One that is no
/// string is left for validation to refuse.
fn take_string_data(object: &mut Value) {
    let is_plain = |map: &Value| map.as_object().is_some_and(|map| map.values().all(Value::is_string));
    let Some(map) = object.as_object_mut() else { return };
    if !map.get("stringData").is_some_and(is_plain) {
        return;
    }
    let Some(Value::Object(given)) = map.remove("stringData") else { return };
    let data = map.entry("data").or_insert_with(|| json!({}));
    if let Some(data) = data.as_object_mut() {
        for (key, value) in given {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
        }
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_keys(object, "data", &mut errors);
    let size: usize = entries(object, "data").filter_map(|(_, value)| decoded_length(value)).sum();
    if size > MAX_DATA {
        errors.push(FieldError::too_long(FieldPath::new("data"), MAX_DATA));
    }
    errors.extend(validate_type(object));
    errors
}

/// What the types that Kubernetes knows must hold.
fn validate_type(object: &Value) -> Vec<FieldError> {
    let path = |key: &str| FieldPath::new("data").key(key);
    let value = |key: &str| object.get("data").and_then(|data| data.get(key)).and_then(Value::as_str);
    let required = |keys: &[&str]| -> Vec<FieldError> {
        let missing = keys.iter().filter(|key| value(key).is_none());
        missing.map(|key| FieldError::required(path(key), "")).collect()
    };
    match object["type"].as_str().unwrap_or_default() {
        "kubernetes.io/service-account-token" if annotation(object, SERVICE_ACCOUNT).is_empty() => {
            vec![FieldError::required(FieldPath::new("metadata.annotations").key(SERVICE_ACCOUNT), "")]
        }
        "kubernetes.io/dockercfg" => require_json(".dockercfg", value(".dockercfg")),
        "kubernetes.io/dockerconfigjson" => require_json(".dockerconfigjson", value(".dockerconfigjson")),
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            required(&["username", "password"])
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").unwrap_or_default().is_empty() => {
            vec![FieldError::required(path("ssh-privatekey"), "")]
        }
        "kubernetes.io/tls" => required(&["tls.crt", "tls.key"]),
        _ => Vec::new(),
    }
}

fn require_json(key: &str, value: Option<&str>) -> Vec<FieldError> {
    let path = FieldPath::new("data").key(key);
    let Some(value) = value else {
        return vec![FieldError::required(path, "")];
    };
    let decoded = STANDARD.decode(value).unwrap_or_default();
    match serde_json::from_slice::<serde::de::IgnoredAny>(&decoded) {
        Ok(_) => Vec::new(),
        // the decoder's words may quote what it read
        Err(_) => vec![FieldError::invalid(path, "<secret contents redacted>", "must be JSON")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(object: &Value) -> Vec<String> {
        validate(object).iter().map(|error| error.field.to_string()).collect()
    }

    #[test]
    fn what_is_written_as_text_becomes_data() {
        let mut secret = json!({"data": {"a": "eA==", "b": "eQ=="}, "stringData": {"a": "new", "c": ""}});
        take_string_data(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "bmV3", "b": "eQ==", "c": ""}}));
        let mut wrong = json!({"stringData": {"pin": 1234}});
        take_string_data(&mut wrong);
        assert_eq!(wrong, json!({"stringData": {"pin": 1234}}));
    }

    #[test]
    fn known_types_hold_what_they_must() {
        for (type_, data, wrong) in [
            ("Opaque", json!({}), vec![]),
            ("example.com/own", json!({}), vec![]),
            ("kubernetes.io/tls", json!({"tls.crt": ""}), vec!["data[tls.key]"]),
            ("kubernetes.io/basic-auth", json!({}), vec!["data[username]", "data[password]"]),
            ("kubernetes.io/basic-auth", json!({"password": "eA=="}), vec![]),
            ("kubernetes.io/ssh-auth", json!({"ssh-privatekey": ""}), vec!["data[ssh-privatekey]"]),
            ("kubernetes.io/dockercfg", json!({".dockercfg": "e30="}), vec![]),
            ("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "eA=="}), vec!["data[.dockerconfigjson]"]),
            ("kubernetes.io/dockerconfigjson", json!({}), vec!["data[.dockerconfigjson]"]),
            (
                "kubernetes.io/service-account-token",
                json!({}),
                vec!["metadata.annotations[kubernetes.io/service-account.name]"],
            ),
        ] {
            assert_eq!(fields(&json!({"type": type_, "data": data})), wrong, "{type_} {data}");
        }
        let large = |size: usize| fields(&json!({"data": {"a": STANDARD.encode(vec![0; size])}}));
        assert_eq!(large(MAX_DATA), Vec::<String>::new());
        assert_eq!(large(MAX_DATA + 1), ["data"]);
    }
}
