//! Label and field selectors: which objects a list, a watch or a collective deletion is about.

mod field;
mod label;

pub use field::{BoundFieldSelector, FieldSelector};
pub use label::LabelSelector;

/// A selector that cannot be read, or that names a field which cannot be selected by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse requirement {requirement:?}: {problem}")]
pub struct SelectorError {
    requirement: String,
    problem: String,
}

impl SelectorError {
    fn new(requirement: &str, problem: impl Into<String>) -> Self {
        Self { requirement: requirement.to_owned(), problem: problem.into() }
    }
}
