//! How the fields of a kind merge, compiled once from its OpenAPI schema (`x-kubernetes-list-type`, `-list-map-keys`,
//! `-map-type`, as structured-merge-diff reads them).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};

use super::element::{self, Element};

/// How a value merges.
#[derive(Debug, Clone)]
pub(crate) enum Type {
    /// As a whole: a scalar, an atomic list or an atomic map.
    Leaf,
    /// Field by field.
    Map(MapType),
    /// A list whose items are told apart by their values.
    Set,
    /// A list whose items are told apart by some of their fields.
    Keyed(KeyedType),
    /// As the value says, since the schema says nothing: maps field by field, all else as a whole.
    Deduced,
}

/// A map or a structure.
#[derive(Debug, Clone)]
pub(crate) struct MapType {
    /// The fields that the schema declares.
    fields: BTreeMap<String, (Element, Type)>,
    /// Every other.
    others: Box<Type>,
}

/// A list of maps with keys.
#[derive(Debug, Clone)]
pub(crate) struct KeyedType {
    /// The fields that tell items apart, with what counts where one is left out.
    pub(super) keys: Vec<(String, Option<Value>)>,
    pub(super) item: Box<Type>,
}

static DEDUCED_MAP: LazyLock<MapType> =
    LazyLock::new(|| MapType { fields: BTreeMap::new(), others: Box::new(Type::Deduced) });

/// The metadata of every object.
static METADATA: LazyLock<Arc<Value>> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let texts = json!({"type": "object", "additionalProperties": text});
    Arc::new(json!({"type": "object", "properties": {
        "annotations": texts,
        "labels": texts,
        "creationTimestamp": text,
        "deletionGracePeriodSeconds": {"type": "integer"},
        "deletionTimestamp": text,
        "finalizers": {"type": "array", "items": text, "x-kubernetes-list-type": "set"},
        "generateName": text,
        "generation": {"type": "integer"},
        "managedFields": {"type": "array", "x-kubernetes-list-type": "atomic"},
        "name": text,
        "namespace": text,
        "ownerReferences": {
            "type": "array",
            "items": {"type": "object", "x-kubernetes-map-type": "atomic"},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
        },
        "resourceVersion": text,
        "selfLink": text,
        "uid": text,
    }}))
});

impl Type {
    /// The type of a kind's objects. What the schema does not say is deduced from values.
    pub(crate) fn of_kind(openapi: &Value) -> Self {
        let properties = openapi.get("properties").and_then(Value::as_object);
        let mut fields = fields(properties);
        add_type_meta(&mut fields);
        Self::Map(MapType { fields, others: Box::new(others(openapi.get("additionalProperties"))) })
    }

    fn compile(schema: &Value) -> Self {
        let Value::Object(schema) = schema else { return Self::Deduced };
        let marked = |mark: &str, as_what: &str| schema.get(mark).and_then(Value::as_str) == Some(as_what);
        if marked("x-kubernetes-map-type", "atomic") {
            return Self::Leaf;
        }
        // a description beside a reference comes as an allOf of one
        if let Some([only]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
            && !schema.contains_key("properties")
            && !schema.contains_key("type")
        {
            return Self::compile(only);
        }
        if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
            return Self::Leaf;
        }
        match type_name(schema) {
            Some("object") => Self::Map(MapType::compile(schema)),
            Some("array") if marked("x-kubernetes-list-type", "set") => Self::Set,
            Some("array") if marked("x-kubernetes-list-type", "map") => Self::Keyed(KeyedType::compile(schema)),
            Some(_) => Self::Leaf,
            None if schema.contains_key("properties") => Self::Map(MapType::compile(schema)),
            None => Self::Deduced,
        }
    }

    /// The type below an element, and whether the element is a field that the schema names.
    pub(super) fn below(&self, element: &str) -> (&Self, bool) {
        match (self, element::field_name(element)) {
            (Self::Map(map), Some(name)) => match map.fields.get(name) {
                Some((_, type_)) => (type_, true),
                None => (&*map.others, false),
            },
            (Self::Keyed(list), None) => (&*list.item, false),
            (Self::Deduced, Some(_)) => (&Self::Deduced, false),
            _ => (&Self::Leaf, false),
        }
    }

    /// How this value, if it is one, merges: by its type, but as a whole where it is not what its type demands. `None`
    /// where there is no value or `null`, which goes with everything.
    pub(super) fn shape<'t>(&'t self, value: Option<&Value>) -> Option<Shape<'t>> {
        match (self, value) {
            (_, None) => None,
            (Self::Map(_) | Self::Set | Self::Keyed(_), Some(Value::Null)) => Some(self.natural()),
            (Self::Map(map), Some(Value::Object(_))) => Some(Shape::Map(map)),
            (Self::Deduced, Some(Value::Object(_))) => Some(Shape::Map(&DEDUCED_MAP)),
            (Self::Set | Self::Keyed(_), Some(Value::Array(_))) => Some(Shape::Items(self)),
            _ => Some(Shape::Leaf),
        }
    }

    fn natural(&self) -> Shape<'_> {
        match self {
            Self::Map(map) => Shape::Map(map),
            Self::Set | Self::Keyed(_) => Shape::Items(self),
            Self::Leaf | Self::Deduced => Shape::Leaf,
        }
    }
}

/// How one value merges.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape<'t> {
    Leaf,
    Map(&'t MapType),
    /// A list of this type.
    Items(&'t Type),
}

impl MapType {
    fn compile(schema: &Map<String, Value>) -> Self {
        let mut fields = fields(schema.get("properties").and_then(Value::as_object));
        if schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
            add_type_meta(&mut fields);
        }
        Self { fields, others: Box::new(others(schema.get("additionalProperties"))) }
    }

    /// A field's element and type, and whether the schema names it.
    pub(super) fn field(&self, name: &str) -> (Element, &Type, bool) {
        match self.fields.get(name) {
            Some((element, type_)) => (element.clone(), type_, true),
            None => (element::field(name), &*self.others, false),
        }
    }

    /// A field's type.
    pub(super) fn type_of(&self, name: &str) -> &Type {
        self.fields.get(name).map_or(&*self.others, |(_, type_)| type_)
    }
}

impl KeyedType {
    fn compile(schema: &Map<String, Value>) -> Self {
        let item = schema.get("items").unwrap_or(&Value::Null);
        let default = |key: &str| item.get("properties")?.get(key)?.get("default").cloned();
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let keys = keys.into_iter().flatten().filter_map(Value::as_str);
        Self { keys: keys.map(|key| (key.to_owned(), default(key))).collect(), item: Box::new(Type::compile(item)) }
    }
}

fn fields(properties: Option<&Map<String, Value>>) -> BTreeMap<String, (Element, Type)> {
    let compile = |(name, schema): (&String, &Value)| (name.clone(), (element::field(name), Type::compile(schema)));
    properties.into_iter().flatten().map(compile).collect()
}

fn others(additional: Option<&Value>) -> Type {
    additional.map_or(Type::Deduced, Type::compile)
}

/// What every object has besides what its schema says.
fn add_type_meta(fields: &mut BTreeMap<String, (Element, Type)>) {
    for name in ["apiVersion", "kind"] {
        fields.insert(name.to_owned(), (element::field(name), Type::Leaf));
    }
    fields.insert("metadata".to_owned(), (element::field("metadata"), Type::compile(&METADATA)));
}

/// The type's name; the one beside `null`, where `null` is allowed too.
fn type_name(schema: &Map<String, Value>) -> Option<&str> {
    match schema.get("type")? {
        Value::String(name) => Some(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    }
}
