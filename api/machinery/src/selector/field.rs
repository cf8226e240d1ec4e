//! Field selectors: `metadata.name=x`, `status.binding.host!=h1`, joined by commas; `\` takes `,`, `=` or `\` literally.
//!
//! A parsed selector knows no kind. Binding it to a kind checks that each field can be selected by and finds the name
//! under which the cache holds the field's value.

use super::SelectorError;
use crate::registry::ResourceDescription;

/// A selector that was parsed. The empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses a selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for term in split_unescaped(text, ',') {
            if term.trim().is_empty() {
                continue;
            }
            terms.push(parse_term(term)?);
        }
        Ok(Self { terms })
    }

    /// The same, for objects of this name alone.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.terms.insert(0, Term { field: "metadata.name".to_owned(), equal: true, value: name.to_owned() });
        self
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that the selector demands for `field`, if it demands one: what is selected has this value there.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Finds each field in the kind; an error names those that it has.
    pub fn bind(&self, description: &ResourceDescription) -> Result<BoundFieldSelector, SelectorError> {
        let mut terms = Vec::with_capacity(self.terms.len());
        for term in &self.terms {
            let source = match term.field.as_str() {
                "metadata.name" => Source::Name,
                "metadata.namespace" => Source::Namespace,
                label => description
                    .selectable_fields
                    .iter()
                    .find(|field| field.label == label)
                    .map(|field| Source::Field(field.stored.clone()))
                    .ok_or_else(|| not_supported(label, description))?,
            };
            terms.push((source, term.equal, term.value.clone()));
        }
        Ok(BoundFieldSelector { terms })
    }
}

fn not_supported(label: &str, description: &ResourceDescription) -> SelectorError {
    let mut supported = vec!["metadata.name"];
    if description.is_namespaced() {
        supported.push("metadata.namespace");
    }
    supported.extend(description.selectable_fields.iter().map(|field| field.label.as_str()));
    let problem = format!("field label not supported: {label}; {} supports {}", description.kind, supported.join(", "));
    SelectorError::new(label, problem)
}

/// A field selector for one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoundFieldSelector {
    terms: Vec<(Source, bool, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Name,
    Namespace,
    Field(String),
}

impl BoundFieldSelector {
    /// Whether an object is selected; `field` looks up the value of a selectable field. One that the object does not have
    /// counts as the empty string.
    pub fn matches<'a>(&self, namespace: &str, name: &str, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|(source, equal, wanted)| {
            let value = match source {
                Source::Name => name,
                Source::Namespace => namespace,
                Source::Field(stored) => field(stored).unwrap_or_default(),
            };
            (value == wanted) == *equal
        })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

/// Splits at `separator` where no backslash stands before it.
fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, character) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == separator {
            parts.push(&text[start..at]);
            start = at + separator.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_term(term: &str) -> Result<Term, SelectorError> {
    let Some((left, mut value)) = term.split_once('=') else {
        return Err(SelectorError::new(term, "expected field=value or field!=value"));
    };
    let (field, equal) = match left.strip_suffix('!') {
        Some(field) => (field, false),
        None => (left, true),
    };
    if equal {
        value = value.strip_prefix('=').unwrap_or(value);
    }
    let field = field.trim();
    if field.is_empty() {
        return Err(SelectorError::new(term, "the field has no name"));
    }
    Ok(Term { field: field.to_owned(), equal, value: unescape(term, value)? })
}

fn unescape(term: &str, value: &str) -> Result<String, SelectorError> {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(literal @ ('\\' | ',' | '=')) => text.push(literal),
                _ => return Err(SelectorError::new(term, r"a \ must be followed by \, a comma or =")),
            },
            '=' => return Err(SelectorError::new(term, r"a = in a value must be written \=")),
            other => text.push(other),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read() {
        let selector = FieldSelector::parse(r"metadata.name!=x,status.host=h1,a==b\,c\=d\\").unwrap();
        assert_eq!(selector.required_value("status.host"), Some("h1"));
        assert_eq!(selector.required_value("a"), Some(r"b,c=d\"));
        assert_eq!(selector.required_value("metadata.name"), None);
        assert!(FieldSelector::parse("").unwrap().is_empty());
        for bad in ["a", "=b", "a=b=c", r"a=\x", r"a=\"] {
            assert!(FieldSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_escaped_comma_does_not_smuggle_a_term_in() {
        let selector = FieldSelector::parse(r"metadata.name!=x\,status.host\=h1").unwrap();
        assert_eq!(selector.required_value("status.host"), None);
    }
}
