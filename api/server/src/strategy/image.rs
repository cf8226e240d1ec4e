//! Image: a source that can be fetched, and that never changes.

use serde_json::Value;
use ucloud_machinery::{
    status::{FieldError, FieldPath},
    strategy::{Context, Strategy},
};
use ucloud_types::Image;

use super::{check_immutable, check_name, status_errors, typed};

const ADVICE: &str = "make a new image instead";

/// The rules of Images.
pub struct ImageStrategy;

impl Strategy for ImageStrategy {
    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        typed(object).map_or_else(|error| vec![error], |image| validate(&image))
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<Image>(new), typed::<Image>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = Vec::new();
                let (old, new) = (&old.spec, &new.spec);
                check_immutable("spec.source", &old.source, &new.source, ADVICE, &mut errors);
                check_immutable("spec.format", &old.format, &new.format, ADVICE, &mut errors);
                check_immutable("spec.compression", &old.compression, &new.compression, ADVICE, &mut errors);
                check_immutable("spec.checksum", &old.checksum, &new.checksum, ADVICE, &mut errors);
                check_immutable("spec.pool", &old.effective_pool(), &new.effective_pool(), ADVICE, &mut errors);
                errors
            }
            (Err(error), _) | (_, Err(error)) => vec![error],
        }
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<Image>(new)
    }
}

fn validate(image: &Image) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(source) = &image.spec.source.http
        && let Err(rule) = check_url(&source.url)
    {
        errors.push(FieldError::invalid(FieldPath::new("spec.source.http.url"), source.url.as_str(), rule));
    }
    if let Some(source) = &image.spec.source.upload {
        check_name(FieldPath::new("spec.source.upload.file"), &source.file, &mut errors);
    }
    if let Some(source) = &image.spec.source.snapshot {
        let owners = image.metadata.owner_references.iter().flatten();
        let is_its = owners.filter(|owner| owner.kind == "Snapshot").any(|owner| owner.name == source.name);
        if !is_its {
            let why = format!(
                "a snapshot makes its images itself: use those that Snapshot {} names in status.disks, or make a snapshot",
                source.name
            );
            errors.push(FieldError::forbidden(FieldPath::new("spec.source.snapshot"), &why));
        }
    }
    if let Some(pool) = &image.spec.pool {
        check_name(FieldPath::new("spec.pool"), pool, &mut errors);
    }
    errors
}

fn check_url(url: &str) -> Result<(), &'static str> {
    let uri: http::Uri = url.parse().map_err(|_| "is not a URL such as https://HOST/PATH")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("must begin with http:// or https://");
    }
    let Some(authority) = uri.authority() else { return Err("names no host") };
    if authority.as_str().contains('@') {
        return Err("must not hold a user name or a password: everybody who may read the image could read them");
    }
    if authority.host().is_empty() {
        return Err("names no host");
    }
    // what is left behind the host is a port, or was meant to be one
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has a port that is no number from 1 to 65535");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for good in ["http://h", "https://example.com/a.qcow2?x=y", "http://[::1]:8000/a", "http://1.2.3.4/"] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/a",
            "h/a",
            "ftp://h/a",
            "http://",
            "http:///a",
            "http://u:p@h/",
            "http://h:0/",
            "http://h:99999/",
            "http://h:/",
            "http://h :8",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
