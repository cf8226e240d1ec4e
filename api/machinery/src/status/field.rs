//! What is wrong with one field: Kubernetes' `field.Error`, with its wording, and the path that names the field.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

/// Values longer than this are cut in messages, so that a 3 MiB string does not come back in its own error.
const MAX_SHOWN: usize = 256;
/// What is said about a value is cut where it is longer: it may quote the value.
const MAX_DETAIL: usize = 4096;
/// Longer names are cut in paths. The longest key of a label or an annotation is 317 bytes.
pub(crate) const MAX_SEGMENT: usize = 320;
/// A path that is longer is not made longer still.
pub(crate) const MAX_PATH: usize = 1024;

/// The path of a field, written as Kubernetes does: `spec.disks[0].size`, `metadata.labels[a/b]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(String);

impl FieldPath {
    /// The object itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// A path given as text, e.g. `spec.networks`.
    pub fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// The field `name` of this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(segment(name).into_owned()) } else { self.longer(&format!(".{}", segment(name))) }
    }

    /// The element `index` of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.longer(&format!("[{index}]"))
    }

    /// The entry `key` of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.longer(&format!("[{}]", segment(key)))
    }

    fn longer(&self, part: &str) -> Self {
        if self.0.len() > MAX_PATH { self.clone() } else { Self([&self.0, part].concat()) }
    }

    /// The path as text; empty for the object itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("<nil>") } else { f.write_str(&self.0) }
    }
}

/// In which way a field is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    /// A value is missing.
    Required,
    /// The value breaks a rule.
    Invalid,
    /// The value has the wrong type.
    TypeInvalid,
    /// The value is not one of those allowed.
    NotSupported,
    /// The value must be unique and is not.
    Duplicate,
    /// The value must not be given at all, or not in this combination.
    Forbidden,
    /// The string is too long.
    TooLong,
    /// The list or map has too many entries.
    TooMany,
    /// What the value names does not exist.
    NotFound,
}

impl FieldErrorKind {
    /// The cause's reason on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
        }
    }
}

/// One thing that is wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// In which way it is wrong.
    pub kind: FieldErrorKind,
    /// Where.
    pub field: FieldPath,
    /// What was given, where that helps.
    pub value: Option<Value>,
    /// The rule that was broken, for people.
    pub detail: String,
}

impl FieldError {
    fn new(kind: FieldErrorKind, field: FieldPath, value: Option<Value>, detail: String) -> Self {
        Self { kind, field, value, detail }
    }

    /// `Required value`, with an optional detail.
    pub fn required(field: FieldPath, detail: &str) -> Self {
        Self::new(FieldErrorKind::Required, field, None, detail.to_owned())
    }

    /// `Invalid value: <value>: <detail>`.
    pub fn invalid(field: FieldPath, value: impl Into<Value>, detail: &str) -> Self {
        let value = Some(value.into());
        Self::new(FieldErrorKind::Invalid, field, value, detail.to_owned())
    }

    /// `Invalid value: <value>: <detail>`, with the reason that the type is wrong.
    pub fn type_invalid(field: FieldPath, value: impl Into<Value>, detail: &str) -> Self {
        let value = Some(value.into());
        Self::new(FieldErrorKind::TypeInvalid, field, value, detail.to_owned())
    }

    /// `Unsupported value: <value>: supported values: ...`.
    pub fn not_supported(field: FieldPath, value: impl Into<Value>, supported: &[String]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|text| format!("{text:?}")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self::new(FieldErrorKind::NotSupported, field, Some(value.into()), detail)
    }

    /// `Duplicate value: <value>`.
    pub fn duplicate(field: FieldPath, value: impl Into<Value>) -> Self {
        let value = Some(value.into());
        Self::new(FieldErrorKind::Duplicate, field, value, String::new())
    }

    /// `Forbidden: <detail>`.
    pub fn forbidden(field: FieldPath, detail: &str) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, None, detail.to_owned())
    }

    /// `Too long: may not be more than <max> bytes`.
    pub fn too_long(field: FieldPath, max: usize) -> Self {
        let detail = format!("may not be more than {max} bytes");
        Self::new(FieldErrorKind::TooLong, field, None, detail)
    }

    /// `Too many: <actual>: must have at most <max> items`.
    pub fn too_many(field: FieldPath, actual: usize, max: usize) -> Self {
        let detail = format!("must have at most {max} items");
        Self::new(FieldErrorKind::TooMany, field, Some(Value::from(actual)), detail)
    }

    /// `Not found: <value>`.
    pub fn not_found(field: FieldPath, value: impl Into<Value>) -> Self {
        let value = Some(value.into());
        Self::new(FieldErrorKind::NotFound, field, value, String::new())
    }

    /// The error without its path: what a cause's message holds.
    pub fn body(&self) -> String {
        let head = match self.kind {
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Invalid | FieldErrorKind::TypeInvalid => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::TooLong => "Too long",
            FieldErrorKind::TooMany => "Too many",
            FieldErrorKind::NotFound => "Not found",
        };
        let mut text = head.to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(&shown(value));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        shorten(&mut text, MAX_DETAIL);
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// A value as it appears in a message: JSON, cut where it gets long.
pub(crate) fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    shorten(&mut text, MAX_SHOWN);
    text
}

/// Cuts a text that is longer than `max` bytes, and shows that it was cut.
pub(crate) fn shorten(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push_str("...");
    }
}

/// A name as a part of a path.
pub(crate) fn segment(name: &str) -> Cow<'_, str> {
    if name.len() <= MAX_SEGMENT {
        return Cow::Borrowed(name);
    }
    Cow::Owned(format!("{}...", &name[..name.floor_char_boundary(MAX_SEGMENT)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_read_like_kubernetes() {
        let path = FieldPath::root().child("spec").child("disks").index(0).child("size");
        assert_eq!(path.to_string(), "spec.disks[0].size");
        assert_eq!(FieldPath::new("metadata.labels").key("a/b").to_string(), "metadata.labels[a/b]");
    }

    #[test]
    fn bodies_read_like_kubernetes() {
        let path = FieldPath::new("spec.mode");
        let supported = ["A".to_owned(), "B".to_owned()];
        assert_eq!(
            FieldError::not_supported(path.clone(), "C", &supported).to_string(),
            r#"spec.mode: Unsupported value: "C": supported values: "A", "B""#
        );
        assert_eq!(FieldError::too_many(path, 3, 2).body(), "Too many: 3: must have at most 2 items");
    }

    #[test]
    fn a_huge_value_is_cut() {
        let error = FieldError::invalid(FieldPath::new("a"), json!("ü".repeat(5000)), "x");
        assert!(error.body().len() < 400, "{}", error.body().len());
        let error = FieldError::invalid(FieldPath::new("a"), 1, &"x".repeat(1 << 20));
        assert!(error.body().len() < 5000, "{}", error.body().len());
    }

    #[test]
    fn a_huge_path_is_cut() {
        let long = "x".repeat(1 << 20);
        let mut path = FieldPath::root();
        for _ in 0..100 {
            path = path.child(&long).key(&long).index(3);
        }
        assert!(path.as_str().len() < 2 * MAX_PATH, "{}", path.as_str().len());
    }
}
