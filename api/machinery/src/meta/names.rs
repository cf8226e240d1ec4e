//! The rules for names, label keys and label values, as Kubernetes has them and words them.

/// The namespace of objects that have none.
pub(crate) const NO_NAMESPACE: &str = "";

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            inner(first) && inner(last) && bytes.iter().all(|&byte| inner(byte) || byte == b'-')
        }
        _ => false,
    }
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        }
        _ => false,
    }
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// A DNS-1123 label (RFC 1123), at most 63 bytes: namespaces.
pub fn dns1123_label(name: &str) -> Result<(), String> {
    if name.len() > LABEL_MAX {
        return Err(too_long(LABEL_MAX));
    }
    if is_label(name) { Ok(()) } else { Err(LABEL_RULE.to_owned()) }
}

/// A DNS-1035 label, at most 63 bytes: names of kinds and of versions.
pub fn dns1035_label(name: &str) -> Result<(), String> {
    if name.len() > LABEL_MAX {
        return Err(too_long(LABEL_MAX));
    }
    let starts = name.starts_with(|first: char| first.is_ascii_lowercase());
    if starts && is_label(name) { Ok(()) } else { Err(LABEL_1035_RULE.to_owned()) }
}

/// A DNS-1123 subdomain (RFC 1123), at most 253 bytes: most kinds.
pub fn dns1123_subdomain(name: &str) -> Result<(), String> {
    if name.len() > SUBDOMAIN_MAX {
        return Err(too_long(SUBDOMAIN_MAX));
    }
    if name.split('.').all(is_label) { Ok(()) } else { Err(SUBDOMAIN_RULE.to_owned()) }
}

/// A label's or annotation's key, or a finalizer: `name` or `prefix/name`.
pub fn qualified_name(key: &str) -> Result<(), String> {
    let name = match key.split_once('/') {
        Some(("", _)) => return Err("prefix part must be non-empty".to_owned()),
        Some((prefix, name)) => {
            dns1123_subdomain(prefix).map_err(|rule| format!("prefix part {rule}"))?;
            name
        }
        None => key,
    };
    if name.is_empty() {
        return Err("name part must be non-empty".to_owned());
    }
    if name.len() > LABEL_MAX {
        return Err(format!("name part {}", too_long(LABEL_MAX)));
    }
    if is_qualified_part(name) { Ok(()) } else { Err(QUALIFIED_RULE.to_owned()) }
}

/// A label's value.
pub fn label_value(value: &str) -> Result<(), String> {
    if value.len() > LABEL_MAX {
        return Err(too_long(LABEL_MAX));
    }
    if value.is_empty() || is_qualified_part(value) { Ok(()) } else { Err(VALUE_RULE.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "a-b", "web.example.com", "0"] {
            assert!(dns1123_subdomain(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", "a_b", "../x", "a/b", &"a".repeat(254)] {
            assert!(dns1123_subdomain(bad).is_err(), "{bad}");
        }
        assert!(dns1123_label("a.b").is_err());
        assert!(dns1123_label(&"a".repeat(64)).is_err());
    }

    #[test]
    fn label_keys_and_values() {
        for good in ["app", "app.kubernetes.io/name", "A_b.c-d"] {
            assert!(qualified_name(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "a b", "UPPER.x/..", &"a".repeat(64)] {
            assert!(qualified_name(bad).is_err(), "{bad}");
        }
        assert!(label_value("").is_ok() && label_value("v1.2_x").is_ok());
        assert!(label_value("-x").is_err() && label_value(&"a".repeat(64)).is_err());
    }
}
