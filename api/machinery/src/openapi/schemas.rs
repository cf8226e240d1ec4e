//! The schemas of the kinds, of their lists, and of what all kinds have.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, ObjectMeta, Status};
use serde_json::{Map, Value, json};

use crate::registry::ResourceDescription;
use crate::standard::openapi_of;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A reference to a schema.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A reference to one of the shared schemas.
pub(super) fn shared_reference(kind: &str) -> Value {
    reference(&format!("{META}.{kind}"))
}

/// What documents of all groups contain.
pub(super) fn shared() -> Map<String, Value> {
    let mut meta = openapi_of::<ObjectMeta>();
    for (field, list_type, keys) in
        [("finalizers", "set", &[][..]), ("ownerReferences", "map", &["uid"]), ("managedFields", "atomic", &[])]
    {
        let schema = &mut meta["properties"][field];
        schema["x-kubernetes-list-type"] = list_type.into();
        if !keys.is_empty() {
            schema["x-kubernetes-list-map-keys"] = json!(keys);
        }
    }
    let schemas = [
        ("ObjectMeta", meta),
        ("ListMeta", openapi_of::<ListMeta>()),
        ("Status", openapi_of::<Status>()),
        ("DeleteOptions", openapi_of::<DeleteOptions>()),
        (
            "Patch",
            json!({"type": "object", "description": "A change of an object, in the form that its media type says."}),
        ),
    ];
    schemas.into_iter().map(|(kind, schema)| (format!("{META}.{kind}"), schema)).collect()
}

/// The name of a kind's schema: the group backwards, the version, the kind.
pub(super) fn name(description: &ResourceDescription, kind: &str) -> String {
    let group = match description.group.as_str() {
        "" => "io.k8s.core".to_owned(),
        group => group.rsplit('.').collect::<Vec<_>>().join("."),
    };
    format!("{group}.{}.{kind}", description.version)
}

/// What a schema or an operation is about.
pub(super) fn group_version_kind(description: &ResourceDescription, kind: &str) -> Value {
    json!({"group": description.group, "version": description.version, "kind": kind})
}

/// Adds a kind and the kind of its lists.
pub(super) fn add(schemas: &mut Map<String, Value>, description: &ResourceDescription) {
    let ResourceDescription { kind, list_kind, .. } = description;
    let mut object = (*description.openapi).clone();
    add_type(&mut object, description, kind);
    object["properties"]["metadata"] = referring("Standard object metadata.", &shared_reference("ObjectMeta"));
    schemas.insert(name(description, kind), object);

    let mut list = json!({
        "type": "object",
        "description": format!("A list of {}.", description.plural),
        "required": ["items"],
        "properties": {
            "metadata": referring("Standard list metadata.", &shared_reference("ListMeta")),
            "items": {
                "type": "array",
                "description": format!("The {}.", description.plural),
                "items": {"allOf": [reference(&name(description, kind))], "default": {}},
            },
        },
    });
    add_type(&mut list, description, list_kind);
    schemas.insert(name(description, list_kind), list);
}

/// What every object says of itself.
fn add_type(schema: &mut Value, description: &ResourceDescription, kind: &str) {
    schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(description, kind)]);
    for (field, text) in
        [("apiVersion", "The group and version of this kind, as GROUP/VERSION."), ("kind", "The kind of this object.")]
    {
        schema["properties"][field] = json!({"type": "string", "description": text});
    }
}

/// A field that refers to another schema. OpenAPI 3.0 allows nothing beside a reference, hence the detour.
fn referring(description: &str, reference: &Value) -> Value {
    json!({"description": description, "allOf": [reference], "default": {}})
}
