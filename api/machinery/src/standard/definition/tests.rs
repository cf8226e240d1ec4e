//! What a definition may be.

use super::*;

/// A definition of good size, in the way of those that GitOps tools bring: conditions, references, intervals, defaults.
fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["url"], "properties": {
            "url": {"type": "string", "pattern": "^(http|https|ssh)://.*$"},
            "interval": {"type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$", "default": "1m"},
            "replicas": {"type": "integer", "default": 1},
        }},
        "status": {"type": "object", "default": {"observedGeneration": -1}, "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "replicas": {"type": "integer"}, "selector": {"type": "string"},
            "conditions": {"type": "array", "items": {"type": "object", "required": ["type"], "properties": {
                "type": {"type": "string"}, "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            }}},
        }},
    }});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "sources.gitops.example.com"},
        "spec": {
            "group": "gitops.example.com", "scope": "Namespaced",
            "names": {"kind": "Source", "plural": "sources", "shortNames": ["src"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector",
                }},
                "additionalPrinterColumns": [{"name": "Ready", "type": "string",
                    "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}],
                "selectableFields": [{"jsonPath": ".spec.url"}],
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

fn strategy() -> DefinitionStrategy {
    DefinitionStrategy { built_in: vec![("built.example.com".to_owned(), "ins".to_owned())] }
}

fn errors(change: impl Fn(&mut Value)) -> Vec<String> {
    let mut object = definition();
    change(&mut object);
    set_defaults(&mut object);
    strategy().validate(&object, None).iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_definition_passes() {
    assert_eq!(errors(|_| {}), Vec::<String>::new());
    // and the kind itself lets it through
    let resource = resource(Vec::new()).unwrap();
    let mut object = definition();
    assert!(resource.description().schema.prune(&mut object).is_empty());
    assert!(resource.description().schema.validate(&object).is_empty());
    assert_eq!(object, definition());
}

type Change = Box<dyn Fn(&mut Value)>;

#[test]
fn each_error_has_its_place() {
    let version = |field: &str, value: Value| {
        let field = field.to_owned();
        move |object: &mut Value| object["spec"]["versions"][0][field.as_str()] = value.clone()
    };
    let spec = |field: &str, value: Value| {
        let field = field.to_owned();
        move |object: &mut Value| object["spec"][field.as_str()] = value.clone()
    };
    let cases: Vec<(&str, Change)> = vec![
        ("metadata.name", Box::new(|object| object["metadata"]["name"] = "x.gitops.example.com".into())),
        ("spec.group", Box::new(spec("group", json!("example")))),
        ("spec.scope", Box::new(spec("scope", json!("Global")))),
        ("spec.preserveUnknownFields", Box::new(spec("preserveUnknownFields", json!(true)))),
        ("spec.conversion.strategy", Box::new(spec("conversion", json!({"strategy": "Webhook"})))),
        ("spec.names.listKind", Box::new(|object| object["spec"]["names"]["listKind"] = "Source".into())),
        ("spec.names.shortNames[0]", Box::new(|object| object["spec"]["names"]["shortNames"] = json!(["Src"]))),
        ("spec.versions", Box::new(version("storage", json!(false)))),
        ("spec.versions[0].name", Box::new(version("name", json!("1")))),
        ("spec.versions[0].schema.openAPIV3Schema", Box::new(version("schema", json!({})))),
        ("spec.versions[0].schema.openAPIV3Schema.type", Box::new(version("schema", json!({"openAPIV3Schema": {}})))),
        (
            "spec.versions[0].additionalPrinterColumns[0].type",
            Box::new(version("additionalPrinterColumns", json!([{"name": "A", "type": "text", "jsonPath": ".a"}]))),
        ),
        (
            "spec.versions[0].additionalPrinterColumns[0].jsonPath",
            Box::new(version("additionalPrinterColumns", json!([{"name": "A", "type": "string", "jsonPath": ".a["}]))),
        ),
        (
            "spec.versions[0].selectableFields[0].jsonPath",
            Box::new(version("selectableFields", json!([{"jsonPath": ".spec.none"}]))),
        ),
        (
            "spec.versions[0].selectableFields[1].jsonPath",
            Box::new(version("selectableFields", json!([{"jsonPath": ".spec.url"}, {"jsonPath": ".spec.url"}]))),
        ),
        (
            "spec.versions[0].subresources.scale.specReplicasPath",
            Box::new(version(
                "subresources",
                json!({"scale": {
                "specReplicasPath": ".status.x", "statusReplicasPath": ".status.replicas"}}),
            )),
        ),
        (
            "spec.versions[0].subresources.scale.statusReplicasPath",
            Box::new(version(
                "subresources",
                json!({"scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.list[0]"}}),
            )),
        ),
    ];
    for (path, change) in cases {
        let found = errors(change);
        assert!(found.iter().any(|error| error.starts_with(&format!("{path}: "))), "{path}: {found:?}");
    }
}

#[test]
fn what_is_built_in_takes_no_definition() {
    let found = errors(|object| {
        object["spec"]["group"] = "built.example.com".into();
        object["spec"]["names"]["plural"] = "ins".into();
        object["metadata"]["name"] = "ins.built.example.com".into();
    });
    assert_eq!(
        found,
        [
            "metadata.name: Forbidden: ins.built.example.com is built into this server: it needs no CustomResourceDefinition and takes none"
        ]
    );
}

#[test]
fn an_established_kind_keeps_its_scope_and_its_stored_versions() {
    let mut old = definition();
    old["status"] = json!({"storedVersions": ["v0", "v1"], "conditions": [
        {"type": "Established", "status": "True"}]});
    let mut new = old.clone();
    new["spec"]["scope"] = "Cluster".into();
    new["spec"]["names"]["kind"] = "Other".into();
    let found: Vec<String> =
        strategy().validate(&new, Some(&old)).iter().map(|error| error.field.as_str().to_owned()).collect();
    assert_eq!(found, ["spec.scope", "spec.names.kind", "status.storedVersions[0]"]);
}

#[test]
fn deletion_waits_for_the_objects() {
    let mut object = definition();
    assert!(strategy().holds_deletion(&object));
    strategy().prepare_for_deletion(&mut object);
    assert_eq!(meta::finalizers(&object), [CLEANUP_FINALIZER]);
    assert_eq!(object["status"]["conditions"][0]["reason"], "InstanceDeletionPending");
    object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert!(!strategy().holds_deletion(&object), "from now on the finalizer does");
}
