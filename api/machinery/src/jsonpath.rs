//! The part of JSONPath that printer columns and selectable fields use: `.spec.a`, `['a.b']`, `[0]`, `[-1]`, `[*]`
//! and `[?(@.type=="Ready")]`. Everything else is refused when it is parsed, never when it is used.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::Value;

/// A path that was parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// The elements whose field (a path without further filters) equals (or not) the value.
    Filter {
        field: Vec<String>,
        equal: bool,
        value: Value,
    },
}

/// A path that this subset does not hold.
#[derive(Debug, thiserror::Error)]
#[error("JSONPath {path:?}: {problem}")]
pub struct JsonPathError {
    path: String,
    problem: &'static str,
}

impl JsonPath {
    /// Parses a path. The leading `.` or `$` may be missing.
    pub fn parse(path: &str) -> Result<Self, JsonPathError> {
        let error = |problem| JsonPathError { path: path.to_owned(), problem };
        let inner = path.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(path);
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        let mut chars = inner.chars().peekable();
        let mut steps = Vec::new();
        while let Some(&next) = chars.peek() {
            match next {
                '.' => {
                    chars.next();
                    if chars.peek() == Some(&'.') {
                        return Err(error("recursive descent is not supported"));
                    }
                }
                '[' => {
                    chars.next();
                    let inside = bracket(&mut chars).ok_or_else(|| error("a [ is not closed"))?;
                    steps.push(parse_bracket(&inside).map_err(error)?);
                }
                _ => steps.push(match field(&mut chars).as_str() {
                    "*" => Step::All,
                    name => Step::Field(name.to_owned()),
                }),
            }
        }
        if steps.is_empty() {
            return Err(error("it names no field"));
        }
        Ok(Self { steps })
    }

    /// The names with which the path begins: what it finds is below them.
    pub(crate) fn leading_fields(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map_while(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The values at the path, in order; none where it leads nowhere.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.steps {
            found = found.into_iter().flat_map(|value| step.apply(value)).collect();
        }
        found
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => value
                .as_array()
                .and_then(|list| {
                    let at = match usize::try_from(*index) {
                        Ok(at) => Some(at),
                        Err(_) => {
                            usize::try_from(index.unsigned_abs()).ok().and_then(|back| list.len().checked_sub(back))
                        }
                    };
                    at.and_then(|at| list.get(at))
                })
                .into_iter()
                .collect(),
            Self::All => match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Filter { field, equal, value: wanted } => value
                .as_array()
                .into_iter()
                .flatten()
                .filter(|element| {
                    let found = field.iter().try_fold(*element, |at, name| at.get(name));
                    found.is_some_and(|found| (found == wanted) == *equal)
                })
                .collect(),
        }
    }
}

/// Reads a field's name up to the next `.` or `[`; a backslash takes the next character as it is.
fn field(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut name = String::new();
    while let Some(&next) = chars.peek() {
        match next {
            '.' | '[' => break,
            '\\' => {
                chars.next();
                name.extend(chars.next());
            }
            other => {
                name.push(other);
                chars.next();
            }
        }
    }
    name
}

/// Reads up to the `]` that closes, past quoted text.
fn bracket(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut inside = String::new();
    let mut quote = None;
    for next in chars.by_ref() {
        match (quote, next) {
            (None, ']') => return Some(inside),
            (None, '\'' | '"') => quote = Some(next),
            (Some(open), _) if open == next => quote = None,
            _ => {}
        }
        inside.push(next);
    }
    None
}

fn unquote(text: &str) -> Option<&str> {
    ['\'', '"'].iter().find_map(|&quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

fn parse_bracket(inside: &str) -> Result<Step, &'static str> {
    let inside = inside.trim();
    if inside == "*" {
        return Ok(Step::All);
    }
    if let Ok(index) = inside.parse() {
        return Ok(Step::Index(index));
    }
    if let Some(name) = unquote(inside) {
        return Ok(Step::Field(name.to_owned()));
    }
    let Some(filter) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) else {
        return Err("a [ ] holds neither an index, nor *, nor a quoted name, nor a filter ?( )");
    };
    let (left, right, equal) = if let Some((left, right)) = filter.split_once("==") {
        (left, right, true)
    } else if let Some((left, right)) = filter.split_once("!=") {
        (left, right, false)
    } else {
        return Err("a filter must compare by == or !=");
    };
    let Some(left) = left.trim().strip_prefix("@.") else {
        return Err("a filter must begin with @.");
    };
    let right = right.trim();
    let value = match unquote(right) {
        Some(text) => Value::from(text),
        None => {
            serde_json::from_str(right).map_err(|_| "a filter must compare with a string, a number or a boolean")?
        }
    };
    Ok(Step::Filter { field: left.split('.').map(str::to_owned).collect(), equal, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(path: &str, value: &Value) -> Vec<Value> {
        JsonPath::parse(path).unwrap().find(value).into_iter().cloned().collect()
    }

    #[test]
    fn every_form_is_found() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "status": {
                "conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}],
                "addresses": ["1", "2", "3"],
            },
        });
        assert_eq!(find(r#".status.conditions[?(@.type=="Ready")].status"#, &object), [json!("True")]);
        assert_eq!(find(".status.conditions[?(@.type!='Ready')].status", &object), [json!("False")]);
        assert_eq!(find(".status.addresses[0]", &object), [json!("1")]);
        assert_eq!(find(".status.addresses[-1]", &object), [json!("3")]);
        assert_eq!(find("{.status.addresses[*]}", &object), [json!("1"), json!("2"), json!("3")]);
        assert_eq!(find(r".metadata.annotations.a\.b/c", &object), [json!("x")]);
        assert_eq!(find(".metadata.annotations['a.b/c']", &object), [json!("x")]);
        assert!(find(".status.none.deeper[3]", &object).is_empty());
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for bad in ["", ".", "..a", ".a[", ".a[?(@.b>1)]", ".a[?(b==1)]", ".a[b]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
