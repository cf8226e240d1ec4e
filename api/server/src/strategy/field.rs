//! A place in an object: what stands there, and the path by which errors name it.

use serde::de::DeserializeOwned;
use serde_json::Value;
use ucloud_machinery::status::{FieldError, FieldPath};

/// A place in an object that its schema has accepted.
#[derive(Clone)]
pub struct Field<'a> {
    value: Option<&'a Value>,
    path: FieldPath,
}

impl<'a> Field<'a> {
    /// The object's `spec`.
    pub fn spec(object: &'a Value) -> Self {
        Self { value: object.get("spec"), path: FieldPath::new("spec") }
    }

    /// The field `name` of this one.
    pub fn child(&self, name: &str) -> Self {
        Self { value: self.value.and_then(|value| value.get(name)), path: self.path.child(name) }
    }

    /// The elements of this list.
    pub fn items(&self) -> impl Iterator<Item = Self> {
        let items = self.value.and_then(Value::as_array).into_iter().flatten().enumerate();
        items.map(|(index, value)| Self { value: Some(value), path: self.path.index(index) })
    }

    /// The entries of this map.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Self)> {
        let entries = self.value.and_then(Value::as_object).into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), Self { value: Some(value), path: self.path.key(key) }))
    }

    /// The string that stands here.
    pub fn text(&self) -> Option<&'a str> {
        self.value.and_then(Value::as_str)
    }

    /// The boolean that stands here.
    pub fn flag(&self) -> Option<bool> {
        self.value.and_then(Value::as_bool)
    }

    /// The value that stands here. One that its type refuses becomes an error; one that is absent is none.
    pub fn read<T: DeserializeOwned>(&self, errors: &mut Vec<FieldError>) -> Option<T> {
        let value = self.value?;
        match T::deserialize(value) {
            Ok(read) => Some(read),
            Err(reason) => {
                errors.push(self.invalid(&reason.to_string()));
                None
            }
        }
    }

    /// An error about what stands here.
    pub fn invalid(&self, rule: &str) -> FieldError {
        FieldError::invalid(self.path.clone(), self.value.cloned().unwrap_or_default(), rule)
    }

    /// The error that nothing may stand here.
    pub fn forbidden(&self, rule: &str) -> FieldError {
        FieldError::forbidden(self.path.clone(), rule)
    }

    /// The error that this value must be unique, and where else it is.
    pub fn duplicate(&self, elsewhere: &str) -> FieldError {
        let mut error = FieldError::duplicate(self.path.clone(), self.value.cloned().unwrap_or_default());
        elsewhere.clone_into(&mut error.detail);
        error
    }

    /// Whether anything stands here.
    pub fn is_given(&self) -> bool {
        self.value.is_some()
    }

    /// The path.
    pub fn path(&self) -> FieldPath {
        self.path.clone()
    }
}
