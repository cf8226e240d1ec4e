//! Structural schemas (OpenAPI v3 as CRDs use it): compiled once per kind, then applied to every object written.
//!
//! [`Schema::validate`] finds every field that breaks the schema; [`Schema::prune`] removes the fields that the schema
//! does not know and tells their paths; [`Schema::apply_defaults`] fills in what is absent. `metadata` belongs to [`crate::meta`] and is left alone here at the object's
//! root. Rules in CEL are not evaluated: what they would say, a kind's strategy says.

mod compile;
mod defaults;
mod format;
mod place;
mod prune;
mod validate;

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;

pub use compile::SchemaError;
use format::Format;

/// A JSON type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::IntOrString => "integer,string",
        }
    }
}

/// What an object may hold besides its declared properties.
#[derive(Debug, Clone, Default)]
enum Additional {
    /// Nothing: other fields are unknown.
    #[default]
    Nothing,
    /// Anything.
    Anything,
    /// Values of this schema: the object is a map.
    Values(Box<Schema>),
}

/// How a list's elements are told apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Default)]
enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// A bound of a number.
#[derive(Debug, Clone, Copy)]
struct Bound {
    value: f64,
    exclusive: bool,
}

/// A compiled schema.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    type_: Option<Type>,
    nullable: bool,
    /// What the field is where it is absent.
    default: Option<Value>,
    properties: BTreeMap<String, Schema>,
    additional: Additional,
    /// Fields that are not declared are kept, whatever they hold.
    preserve_unknown: bool,
    /// The value is an object of some kind of its own, with apiVersion, kind and metadata.
    embedded_resource: bool,
    required: BTreeSet<String>,
    items: Option<Box<Schema>>,
    list_type: ListType,
    enumeration: Vec<Value>,
    minimum: Option<Bound>,
    maximum: Option<Bound>,
    multiple_of: Option<f64>,
    min_length: Option<usize>,
    max_length: Option<usize>,
    min_items: Option<usize>,
    max_items: Option<usize>,
    min_properties: Option<usize>,
    max_properties: Option<usize>,
    pattern: Option<Regex>,
    format: Option<Format>,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
}
