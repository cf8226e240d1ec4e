//! The rules that a CustomResourceDefinition keeps, in Kubernetes' words.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionSpec, CustomResourceDefinitionVersion,
};
use serde_json::Value;

use super::structural;
use crate::jsonpath::JsonPath;
use crate::meta::names::{dns1035_label, dns1123_subdomain};
use crate::schema::Schema;
use crate::status::{FieldError, FieldPath};

/// No version has more selectable fields.
const MAX_SELECTABLE_FIELDS: usize = 8;
/// The types of printer columns, and their formats.
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// The schema of one of the definition's versions, as it was written.
pub(crate) fn raw_schema(object: &Value, version: usize) -> Option<&Value> {
    object.pointer(&format!("/spec/versions/{version}/schema/openAPIV3Schema"))
}

/// Everything that is wrong with the definition. `object` and `crd` are the same.
pub(super) fn check(object: &Value, crd: &CustomResourceDefinition) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &crd.spec;
    let path = FieldPath::new("spec");
    let name = crd.metadata.name.as_deref().unwrap_or_default();
    if name != format!("{}.{}", spec.names.plural, spec.group) {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid(FieldPath::new("metadata.name"), name, why));
    }
    check_group(&spec.group, &path.child("group"), &mut errors);
    if !matches!(spec.scope.as_str(), "Cluster" | "Namespaced") {
        let supported = ["Cluster", "Namespaced"].map(str::to_owned);
        errors.push(FieldError::not_supported(path.child("scope"), spec.scope.clone(), &supported));
    }
    check_names(spec, &path.child("names"), &mut errors);
    if spec.preserve_unknown_fields == Some(true) {
        let why = "must be false: set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(path.child("preserveUnknownFields"), true, why));
    }
    if let Some(conversion) = &spec.conversion
        && conversion.strategy != "None"
    {
        let at = path.child("conversion").child("strategy");
        let mut error = FieldError::not_supported(at, conversion.strategy.clone(), &["None".to_owned()]);
        error.detail.push_str(": this server calls no conversion webhooks");
        errors.push(error);
    }
    check_versions(object, spec, &path.child("versions"), &mut errors);
    errors
}

fn check_group(group: &str, path: &FieldPath, errors: &mut Vec<FieldError>) {
    if group.is_empty() {
        errors.push(FieldError::required(path.clone(), ""));
    } else if let Err(why) = dns1123_subdomain(group) {
        errors.push(FieldError::invalid(path.clone(), group, &why));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid(path.clone(), group, "should be a domain with at least one dot"));
    }
}

fn check_names(spec: &CustomResourceDefinitionSpec, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let names = &spec.names;
    let mut label = |at: FieldPath, given: &str, lower: bool| {
        let name = if lower { given.to_lowercase() } else { given.to_owned() };
        if name.is_empty() {
            errors.push(FieldError::required(at, ""));
        } else if let Err(why) = dns1035_label(&name) {
            errors.push(FieldError::invalid(at, given, &why));
        }
    };
    label(path.child("plural"), &names.plural, false);
    label(path.child("kind"), &names.kind, true);
    for (field, name, lower) in [("singular", &names.singular, false), ("listKind", &names.list_kind, true)] {
        if let Some(name) = name {
            label(path.child(field), name, lower);
        }
    }
    for (field, list) in [("shortNames", &names.short_names), ("categories", &names.categories)] {
        for (index, name) in list.iter().flatten().enumerate() {
            label(path.child(field).index(index), name, false);
        }
    }
    if names.list_kind.as_ref() == Some(&names.kind) {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(path.child("listKind"), names.kind.clone(), why));
    }
}

fn check_versions(object: &Value, spec: &CustomResourceDefinitionSpec, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let names: Vec<&str> = spec.versions.iter().map(|version| version.name.as_str()).collect();
    if names.iter().enumerate().any(|(index, name)| names[..index].contains(name)) {
        errors.push(FieldError::invalid(path.clone(), names.join(","), "must contain unique version names"));
    }
    if spec.versions.iter().filter(|version| version.storage).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(path.clone(), names.join(","), why));
    }
    for (index, version) in spec.versions.iter().enumerate() {
        let at = path.index(index);
        if let Err(why) = dns1035_label(&version.name) {
            errors.push(FieldError::invalid(at.child("name"), version.name.clone(), &why));
        }
        let schema_at = at.child("schema").child("openAPIV3Schema");
        match raw_schema(object, index) {
            None => errors.push(FieldError::required(schema_at, "schemas are required")),
            Some(schema) => {
                errors.extend(structural::check(schema, &schema_at));
                if let Err(error) = Schema::compile(schema) {
                    errors.push(FieldError::invalid(schema_at, "", &error.to_string()));
                }
                check_selectable_fields(version, schema, &at.child("selectableFields"), errors);
            }
        }
        check_columns(version, &at.child("additionalPrinterColumns"), errors);
        check_scale(version, &at.child("subresources").child("scale"), errors);
    }
}

fn check_columns(version: &CustomResourceDefinitionVersion, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for (index, column) in version.additional_printer_columns.iter().flatten().enumerate() {
        let at = path.index(index);
        if column.name.is_empty() {
            errors.push(FieldError::required(at.child("name"), ""));
        }
        if column.type_.is_empty() {
            let why = format!("must be one of {}", COLUMN_TYPES.join(","));
            errors.push(FieldError::required(at.child("type"), &why));
        } else if !COLUMN_TYPES.contains(&column.type_.as_str()) {
            let supported = COLUMN_TYPES.map(str::to_owned);
            errors.push(FieldError::not_supported(at.child("type"), column.type_.clone(), &supported));
        }
        if let Some(format) = column.format.as_deref().filter(|format| !format.is_empty())
            && !COLUMN_FORMATS.contains(&format)
        {
            errors.push(FieldError::not_supported(at.child("format"), format, &COLUMN_FORMATS.map(str::to_owned)));
        }
        if column.json_path.is_empty() {
            errors.push(FieldError::required(at.child("jsonPath"), ""));
        } else if let Err(error) = JsonPath::parse(&column.json_path) {
            errors.push(FieldError::invalid(at.child("jsonPath"), column.json_path.clone(), &error.to_string()));
        }
    }
}

/// The fields of a path without lists and filters; an error says what it is not.
pub(crate) fn simple_path(path: &str) -> Result<Vec<&str>, &'static str> {
    const SIMPLE: &str = "must be a simple json path: a dot before each field, no lists, no filters";
    let fields: Vec<&str> = path.strip_prefix('.').ok_or(SIMPLE)?.split('.').collect();
    let plain = |field: &&str| !field.is_empty() && !field.contains(['[', ']', '*', '\'', '"', '\\', '{', '}', '@']);
    if fields.iter().all(plain) { Ok(fields) } else { Err(SIMPLE) }
}

fn check_scale(version: &CustomResourceDefinitionVersion, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(scale) = version.subresources.as_ref().and_then(|subresources| subresources.scale.as_ref()) else {
        return;
    };
    let label_selector = scale.label_selector_path.as_deref().unwrap_or_default();
    for (field, given, roots, why) in [
        ("specReplicasPath", scale.spec_replicas_path.as_str(), &["spec"][..], "should be a json path under .spec"),
        ("statusReplicasPath", &scale.status_replicas_path, &["status"], "should be a json path under .status"),
        (
            "labelSelectorPath",
            label_selector,
            &["spec", "status"],
            "should be a json path under either .spec or .status",
        ),
    ] {
        let at = path.child(field);
        if given.is_empty() {
            if field != "labelSelectorPath" {
                errors.push(FieldError::required(at, ""));
            }
            continue;
        }
        match simple_path(given) {
            Err(why) => errors.push(FieldError::invalid(at, given, why)),
            Ok(fields) if fields.len() < 2 || !roots.contains(&fields[0]) => {
                errors.push(FieldError::invalid(at, given, why));
            }
            Ok(_) => {}
        }
    }
}

fn check_selectable_fields(
    version: &CustomResourceDefinitionVersion,
    schema: &Value,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let fields = version.selectable_fields.as_deref().unwrap_or_default();
    if fields.len() > MAX_SELECTABLE_FIELDS {
        errors.push(FieldError::too_many(path.clone(), fields.len(), MAX_SELECTABLE_FIELDS));
    }
    for (index, field) in fields.iter().enumerate() {
        let (at, given) = (path.index(index).child("jsonPath"), field.json_path.as_str());
        let problem = match simple_path(given) {
            Err(why) => Some(why),
            Ok(names) if names[0] == "metadata" => Some("must not point to fields in metadata"),
            Ok(names) => {
                let found = names.iter().try_fold(schema, |at, name| at.get("properties")?.get(name));
                match found.map(|found| found.get("type").and_then(Value::as_str)) {
                    None => Some("is an invalid path: does not refer to a valid field"),
                    Some(Some("string" | "boolean" | "integer")) => None,
                    Some(_) => Some(
                        "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
                    ),
                }
            }
        };
        if let Some(why) = problem {
            errors.push(FieldError::invalid(at, given, why));
        } else if fields[..index].iter().any(|earlier| earlier.json_path == given) {
            errors.push(FieldError::duplicate(at, given));
        }
    }
}

/// What may not change, given the definition before. Once a kind is served its scope and its kind stay.
pub(super) fn check_update(new: &CustomResourceDefinition, old: &CustomResourceDefinition) -> Vec<FieldError> {
    const IMMUTABLE: &str = "field is immutable";
    let mut errors = Vec::new();
    let mut same = |path: &str, new: &str, old: &str| {
        if new != old {
            errors.push(FieldError::invalid(FieldPath::new(path), new, IMMUTABLE));
        }
    };
    same("spec.group", &new.spec.group, &old.spec.group);
    same("spec.names.plural", &new.spec.names.plural, &old.spec.names.plural);
    let conditions = old.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    if conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True") {
        same("spec.scope", &new.spec.scope, &old.spec.scope);
        same("spec.names.kind", &new.spec.names.kind, &old.spec.names.kind);
    }
    errors
}

/// Objects may still be stored in the versions that the status names.
pub(super) fn check_stored_versions(crd: &CustomResourceDefinition) -> Vec<FieldError> {
    let path = FieldPath::new("status.storedVersions");
    let stored = crd.status.as_ref().and_then(|status| status.stored_versions.as_deref()).unwrap_or_default();
    if stored.is_empty() {
        return vec![FieldError::invalid(path, "", "must have at least one stored version")];
    }
    let mut errors = Vec::new();
    for (index, name) in stored.iter().enumerate() {
        if !crd.spec.versions.iter().any(|version| version.name == *name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(path.index(index), name.clone(), &why));
        }
    }
    if let Some(storage) = crd.spec.versions.iter().find(|version| version.storage)
        && !stored.contains(&storage.name)
    {
        let why = format!("must have the storage version {}", storage.name);
        errors.push(FieldError::invalid(path, stored.join(","), &why));
    }
    errors
}
