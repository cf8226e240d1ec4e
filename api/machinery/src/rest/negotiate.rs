//! Which representation a client wants: what its `Accept` header asks for.

use http::HeaderMap;
use http::header::ACCEPT;

use crate::status::ApiError;
use crate::table::IncludeObject;

const SUPPORTED: [&str; 1] = ["application/json"];

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Object,
    /// As rows of a Table.
    Table(IncludeObject),
    /// Their metadata alone.
    Metadata,
}

/// The form of discovery documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiscoveryForm {
    /// Group by group.
    Plain,
    /// All at once, of this version of apidiscovery.k8s.io.
    Aggregated(&'static str),
}

/// The clauses of the header that speak of JSON, with the `as`, `g` and `v` that each asks for, in the order in which the
/// client prefers them.
fn clauses(headers: &HeaderMap) -> Result<Vec<[String; 3]>, ApiError> {
    let mut clauses = Vec::new();
    let mut given = false;
    for header in headers.get_all(ACCEPT) {
        let text = header.to_str().map_err(|_| ApiError::not_acceptable(&SUPPORTED))?;
        for clause in text.split(',').map(str::trim).filter(|clause| !clause.is_empty()) {
            given = true;
            let mut parts = clause.split(';').map(str::trim);
            if !matches!(parts.next(), Some("application/json" | "application/*" | "*/*")) {
                continue;
            }
            let mut asked = [String::new(), String::new(), String::new()];
            let mut quality = 1.0;
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                if let Some(at) = ["as", "g", "v"].iter().position(|known| *known == key) {
                    value.clone_into(&mut asked[at]);
                } else if key == "q" {
                    quality = value.parse().unwrap_or(1.0);
                }
            }
            if quality > 0.0 {
                clauses.push((quality, asked));
            }
        }
    }
    if given && clauses.is_empty() {
        return Err(ApiError::not_acceptable(&SUPPORTED));
    }
    // stable: of equal ones the first counts
    clauses.sort_by(|(one, _): &(f32, _), (other, _)| other.total_cmp(one));
    Ok(clauses.into_iter().map(|(_, asked)| asked).collect())
}

/// The first form that the client accepts and that exists. `include` is the query's `includeObject`.
pub(crate) fn object_form(headers: &HeaderMap, is_list: bool, include: &str) -> Result<Form, ApiError> {
    let clauses = clauses(headers)?;
    for [as_, group, version] in &clauses {
        match (as_.as_str(), group.as_str(), version.as_str()) {
            ("", ..) => return Ok(Form::Object),
            ("Table", "meta.k8s.io", "v1") => return include_object(include).map(Form::Table),
            ("PartialObjectMetadata", "meta.k8s.io", "v1") if !is_list => return Ok(Form::Metadata),
            ("PartialObjectMetadataList", "meta.k8s.io", "v1") if is_list => return Ok(Form::Metadata),
            _ => {}
        }
    }
    if clauses.is_empty() { Ok(Form::Object) } else { Err(ApiError::not_acceptable(&SUPPORTED)) }
}

fn include_object(include: &str) -> Result<IncludeObject, ApiError> {
    Ok(match include {
        "" | "Metadata" => IncludeObject::Metadata,
        "None" => IncludeObject::None,
        "Object" => IncludeObject::Object,
        other => {
            return Err(ApiError::bad_request(format!(
                "unrecognized includeObject value {other:?}: use None, Metadata or Object"
            )));
        }
    })
}

/// The form of a watch. Watches of metadata are asked for by the name of the single object.
pub(crate) fn watch_form(headers: &HeaderMap, include: &str) -> Result<Form, ApiError> {
    object_form(headers, false, include).or_else(|_| object_form(headers, true, include))
}

/// The form of `/api` and `/apis`.
pub(crate) fn discovery_form(headers: &HeaderMap) -> Result<DiscoveryForm, ApiError> {
    for [as_, group, version] in &clauses(headers)? {
        match (as_.as_str(), group.as_str(), version.as_str()) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => return Ok(DiscoveryForm::Aggregated("v2")),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
                return Ok(DiscoveryForm::Aggregated("v2beta1"));
            }
            ("", ..) => return Ok(DiscoveryForm::Plain),
            _ => {}
        }
    }
    Ok(DiscoveryForm::Plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, text.parse().unwrap())])
    }

    #[test]
    fn kubectls_headers() {
        let tables = accept(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
        );
        assert_eq!(object_form(&tables, true, "").unwrap(), Form::Table(IncludeObject::Metadata));
        assert_eq!(object_form(&tables, true, "Object").unwrap(), Form::Table(IncludeObject::Object));
        assert!(object_form(&tables, true, "x").is_err());
        let partial = accept(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
        );
        assert_eq!(object_form(&partial, false, "").unwrap(), Form::Metadata);
        assert_eq!(watch_form(&partial, "").unwrap(), Form::Metadata);
        assert_eq!(object_form(&accept("*/*"), false, "").unwrap(), Form::Object);
        let rather = accept("application/json;q=0.5, application/json;as=Table;v=v1;g=meta.k8s.io;q=0.9");
        assert_eq!(object_form(&rather, false, "").unwrap(), Form::Table(IncludeObject::Metadata));
        assert_eq!(object_form(&accept("application/json;q=0"), false, "").unwrap_err().code(), 406);
        let unknown = accept("application/json;as=Picture;v=v1;g=meta.k8s.io");
        assert_eq!(object_form(&unknown, false, "").unwrap_err().code(), 406);
        assert_eq!(object_form(&HeaderMap::new(), false, "").unwrap(), Form::Object);
        assert_eq!(object_form(&accept("text/html"), false, "").unwrap_err().code(), 406);
        let discovery = accept("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json");
        assert_eq!(discovery_form(&discovery).unwrap(), DiscoveryForm::Aggregated("v2"));
    }
}
