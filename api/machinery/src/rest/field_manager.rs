//! The name under which a client owns the fields that it writes: `fieldManager` in the query, else what the client calls
//! itself in its `User-Agent`. The rules and their words are Kubernetes'.

use http::HeaderMap;
use http::header::USER_AGENT;

use super::Query;
use crate::status::{ApiError, FieldError, FieldPath};

/// In bytes.
const MAX_LENGTH: usize = 128;
/// A client that does not say who it is.
const UNKNOWN: &str = "unknown";

/// The manager of a write.
pub(super) fn of(query: &Query, headers: &HeaderMap) -> Result<String, ApiError> {
    let given = query.get("fieldManager");
    if given.is_empty() {
        return Ok(from_user_agent(headers));
    }
    let path = FieldPath::new("fieldManager");
    let mut errors = Vec::new();
    if given.len() > MAX_LENGTH {
        errors.push(FieldError::too_long(path.clone(), MAX_LENGTH));
    }
    if let Some((position, character)) = given.char_indices().find(|(_, character)| !is_printable(*character)) {
        let detail = format!("invalid character U+{:04X} (at position {position})", u32::from(character));
        errors.push(FieldError::invalid(path, given, &detail));
    }
    if errors.is_empty() { Ok(given.to_owned()) } else { Err(invalid(&errors)) }
}

/// Who applies has to say under which name.
pub(super) fn require(query: &Query) -> Result<(), ApiError> {
    if query.get("fieldManager").is_empty() {
        let path = FieldPath::new("fieldManager");
        return Err(invalid(&[FieldError::required(path, "is required for apply patch")]));
    }
    Ok(())
}

/// Whether an apply takes what others own.
pub(super) fn force(query: &Query) -> Result<bool, ApiError> {
    match query.get("force") {
        "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        other => Err(ApiError::bad_request(format!("force must be true or false, not {other:?}"))),
    }
}

/// Other patches take everything anyway, and who says `force` means to apply.
pub(super) fn forbid_force(query: &Query) -> Result<(), ApiError> {
    if query.get("force").is_empty() {
        return Ok(());
    }
    let path = FieldPath::new("force");
    Err(invalid(&[FieldError::forbidden(path, "may not be specified for non-apply patch")]))
}

fn invalid(errors: &[FieldError]) -> ApiError {
    ApiError::invalid("meta.k8s.io", "PatchOptions", "", errors)
}

fn is_printable(character: char) -> bool {
    character == ' ' || !(character.is_control() || character.is_whitespace())
}

/// `kubectl` of `kubectl/v1.36.0 (linux/amd64) ...`.
fn from_user_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let agent = agent.as_deref().unwrap_or_default();
    let mut name = String::new();
    for character in agent.split('/').next().unwrap_or_default().chars().filter(|character| is_printable(*character)) {
        if name.len() + character.len_utf8() > MAX_LENGTH {
            break;
        }
        name.push(character);
    }
    if name.is_empty() { UNKNOWN.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(query: &str, agent: &str) -> Result<String, ApiError> {
        let headers = HeaderMap::from_iter([(USER_AGENT, agent.parse().unwrap())]);
        of(&Query::parse(Some(query)), &headers)
    }

    #[test]
    fn names_of_clients() {
        assert_eq!(manager("fieldManager=me", "kubectl/v1").unwrap(), "me");
        assert_eq!(manager("", "kubectl/v1.36.0 (linux/amd64)").unwrap(), "kubectl");
        assert_eq!(manager("", "Go http client").unwrap(), "Go http client");
        assert_eq!(manager("", "/x").unwrap(), UNKNOWN);
        assert_eq!(manager("", &"x".repeat(500)).unwrap().len(), MAX_LENGTH);
        assert_eq!(of(&Query::default(), &HeaderMap::new()).unwrap(), UNKNOWN);
    }

    #[test]
    fn names_are_checked() {
        for bad in [format!("fieldManager={}", "x".repeat(129)), "fieldManager=a%0Ab".to_owned()] {
            assert_eq!(manager(&bad, "").unwrap_err().code(), 422, "{bad}");
        }
        let error = require(&Query::default()).unwrap_err();
        assert!(error.to_string().contains("fieldManager: Required value: is required for apply patch"), "{error}");
    }

    #[test]
    fn only_an_apply_is_forced() {
        assert!(force(&Query::parse(Some("force=true"))).unwrap());
        assert!(!force(&Query::parse(Some("force=false"))).unwrap() && !force(&Query::default()).unwrap());
        assert!(force(&Query::parse(Some("force=x"))).is_err());
        assert_eq!(forbid_force(&Query::parse(Some("force=false"))).unwrap_err().code(), 422);
    }
}
