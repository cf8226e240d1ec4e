//! Label selectors: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, `a>1`, `a<1`, joined by commas.

use super::SelectorError;
use crate::meta::names::{label_value, qualified_name};

/// A selector that was parsed. The empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    Exists,
    DoesNotExist,
    In(Vec<String>),
    NotIn(Vec<String>),
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Parses a selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text)? {
            requirements.push(parse_requirement(term)?);
        }
        Ok(Self { requirements })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object is selected; `label` looks up a label's value.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.operator.matches(label(&requirement.key)))
    }
}

impl Operator {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
            Self::In(values) => value.is_some_and(|value| values.iter().any(|allowed| allowed == value)),
            Self::NotIn(values) => value.is_none_or(|value| values.iter().all(|other| other != value)),
            Self::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Self::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// Splits at the commas outside parentheses.
fn split_terms(text: &str) -> Result<Vec<&str>, SelectorError> {
    let mut terms = Vec::new();
    let (mut start, mut open) = (0, false);
    for (at, character) in text.char_indices() {
        match (character, open) {
            ('(', false) => open = true,
            (')', true) => open = false,
            ('(', true) | (')', false) => return Err(SelectorError::new(text, "parentheses do not match")),
            (',', false) => {
                terms.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if open {
        return Err(SelectorError::new(text, "parentheses do not match"));
    }
    terms.push(text[start..].trim());
    if terms.len() == 1 && terms[0].is_empty() {
        return Ok(Vec::new());
    }
    Ok(terms)
}

fn parse_requirement(term: &str) -> Result<Requirement, SelectorError> {
    let error = |problem: String| SelectorError::new(term, problem);
    let (key, operator) = if let Some(key) = term.strip_prefix('!') {
        (key, Operator::DoesNotExist)
    } else if let Some((key, value)) = term.split_once("!=") {
        (key, Operator::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = term.split_once('=') {
        (key, Operator::In(vec![value.strip_prefix('=').unwrap_or(value).trim().to_owned()]))
    } else if let Some((head, values)) = term.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(|| error("text after )".to_owned()))?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        match head.trim().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => (key, Operator::In(values)),
            Some((key, "notin")) => (key, Operator::NotIn(values)),
            _ => return Err(error("expected in or notin before (".to_owned())),
        }
    } else if let Some((key, value)) = term.split_once(['>', '<']) {
        let bound = value.trim().parse().map_err(|_| error("> and < need an integer".to_owned()))?;
        (key, if term.contains('>') { Operator::GreaterThan(bound) } else { Operator::LessThan(bound) })
    } else {
        (term, Operator::Exists)
    };
    let key = key.trim();
    qualified_name(key).map_err(&error)?;
    if let Operator::In(values) | Operator::NotIn(values) = &operator {
        for value in values {
            label_value(value).map_err(&error)?;
        }
    }
    Ok(Requirement { key: key.to_owned(), operator })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &'static str)]) -> bool {
        let selector = LabelSelector::parse(selector).unwrap();
        selector.matches(|key| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    }

    #[test]
    fn every_operator() {
        let labels = [("app", "web"), ("n", "5")];
        for yes in [
            "",
            "app=web",
            "app==web",
            "app = web",
            "app!=db",
            "other!=x",
            "app in (db, web)",
            "app notin (db)",
            "other notin (x)",
            "app",
            "!other",
            "n>4",
            "n<6",
            "app=web,n,!x",
            "app in (web),n in (5,6)",
        ] {
            assert!(matches(yes, &labels), "{yes}");
        }
        for no in
            ["app=db", "app!=web", "app in (db)", "app notin (db,web)", "other", "!app", "n>5", "app=web,x", "app="]
        {
            assert!(!matches(no, &labels), "{no}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for bad in ["a=b=c", "a in b", "a in (b", "a)", ",", "a,,b", "=x", "a b", "a>x", "!", "a in (b) c"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }
}
