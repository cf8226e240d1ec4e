//! The decisions about names, and the forms in which versions show objects.

use serde_json::json;

use super::*;
use crate::registry::Resources;

fn crd(created: &str, names: &Value, accepted: &Value) -> Crd {
    let plural = names["plural"].as_str().unwrap().to_owned();
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com"), "uid": plural, "creationTimestamp": created},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"a": {"type": "string", "default": "x"}}},
            }}}},
            {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer", "default": 7}}},
            }}}},
        ]},
        "status": {"acceptedNames": accepted},
    });
    Crd { typed: serde_json::from_value(object.clone()).unwrap(), object }
}

fn judged(crds: &[Crd]) -> Vec<Option<&'static str>> {
    let verdicts = names::judge(crds, &Resources::default());
    verdicts.into_iter().map(|verdict| verdict.conflict.map(|(reason, _)| reason)).collect()
}

#[test]
fn of_two_who_ask_the_older_one_gets_the_name() {
    let names = |plural: &str| json!({"plural": plural, "singular": plural, "kind": "Toy", "listKind": "ToyList"});
    let older = crd("2026-01-01T00:00:00Z", &names("toys"), &json!({}));
    let newer = crd("2026-01-02T00:00:00Z", &names("toyz"), &json!({}));
    assert_eq!(judged(&[newer, older]), [Some("KindConflict"), None]);
}

#[test]
fn whoever_has_a_name_keeps_it() {
    let names = |plural: &str| json!({"plural": plural, "singular": plural, "kind": plural, "shortNames": ["t"]});
    let older = crd("2026-01-01T00:00:00Z", &names("toys"), &json!({"plural": "toys", "kind": "toys"}));
    let newer = crd("2026-01-02T00:00:00Z", &names("tops"), &names("tops"));
    assert_eq!(judged(&[older, newer]), [Some("ShortNamesConflict"), None]);
    let verdict = names::judge(
        &[crd("2026-01-01T00:00:00Z", &names("toys"), &json!({"plural": "toys", "kind": "toys"}))],
        &Resources::default(),
    );
    assert_eq!(verdict[0].accepted.short_names, Some(vec!["t".to_owned()]));
}

#[test]
fn names_that_are_built_in_are_taken() {
    let namespaces = crd("2026-01-01T00:00:00Z", &json!({"plural": "toys", "kind": "Lease"}), &json!({}));
    let mut leases = namespaces;
    leases.typed.spec.group = "coordination.k8s.io".to_owned();
    let built_in = Resources::new(crate::standard::resources().unwrap()).unwrap();
    let verdicts = names::judge(&[leases], &built_in);
    assert_eq!(verdicts[0].conflict, Some(("KindConflict", "\"Lease\" is already in use".to_owned())));
}

#[test]
fn a_version_shows_its_own_fields_and_defaults() {
    let crd = crd("2026-01-01T00:00:00Z", &json!({"plural": "toys", "kind": "Toy"}), &json!({}));
    let kind = versions::build(&crd, &crd.typed.spec.names).unwrap();
    let by_version = |version: &str| {
        kind.resources.iter().find(|resource| resource.description().version == version).unwrap().clone()
    };
    let (v1, v2) = (by_version("v1"), by_version("v2"));
    assert!(v1.conversion.is_none(), "the stored version is served as the cache holds it");
    let mut stored = json!({"apiVersion": "example.com/v0", "kind": "Toy", "metadata": {}, "spec": {"old": 1}});
    v1.normalise(&mut stored);
    assert_eq!(stored, json!({"apiVersion": "example.com/v1", "kind": "Toy", "metadata": {}, "spec": {"a": "x"}}));
    let served = v2.to_served(stored);
    assert_eq!(
        served,
        json!({"apiVersion": "example.com/v2", "kind": "Toy", "metadata": {}, "spec": {"a": "x", "b": 7}})
    );
    assert_eq!(v2.to_stored(served)["apiVersion"], "example.com/v1");
}
