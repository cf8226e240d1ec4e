//! Events: stored once, in the form of core/v1, and served as core/v1 and as events.k8s.io/v1. They go after an hour.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event as CoreEvent;
use k8s_openapi::api::events::v1::Event;
use serde_json::Value;

use super::{Names, StandardKindError, describe, selectable};
use crate::jsonpath::JsonPath;
use crate::registry::{Cell, Column, Resource, Scope, SelectableField};
use crate::status::{FieldError, FieldPath};
use crate::strategy::{Context, Conversion, Strategy};
use crate::table::age;

const TTL: Duration = Duration::from_hours(1);

const NAMES: Names = Names {
    group: "",
    kind: "Event",
    plural: "events",
    singular: "event",
    short: &["ev"],
    scope: Scope::Namespaced,
    status_subresource: false,
};

/// The fields that have another name in events.k8s.io/v1: there, here.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// How long the texts of an event may be, in bytes: Kubernetes' limits for events.k8s.io/v1, here for both forms.
const MAX_LENGTHS: [(&str, usize); 6] = [
    ("reason", 128),
    ("action", 128),
    ("reportingInstance", 128),
    ("message", 1024),
    // a qualified name
    ("reportingComponent", 317),
    // Normal or Warning, and what may be added to them
    ("type", 64),
];

const REFERENCE_FIELDS: [&str; 7] = ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"];

pub(super) fn core() -> Result<Resource, StandardKindError> {
    let mut description = describe::<CoreEvent>(&NAMES)?;
    description.columns = columns();
    let involved: Vec<String> = REFERENCE_FIELDS.iter().map(|field| format!("involvedObject.{field}")).collect();
    let mut paths: Vec<&str> = involved.iter().map(String::as_str).collect();
    paths.extend(["reason", "type", "reportingComponent", "source.component"]);
    description.selectable_fields = selectable(&paths)?;
    for field in &mut description.selectable_fields {
        // clients select by the source without saying what of it
        if field.label == "source.component" {
            "source".clone_into(&mut field.label);
        }
    }
    Ok(Resource::new(description).strategy(EventStrategy).ttl(TTL))
}

pub(super) fn events_k8s_io() -> Result<Resource, StandardKindError> {
    let mut description = describe::<Event>(&Names { group: "events.k8s.io", ..NAMES })?;
    description.columns = columns();
    let renamed = |label: String, stored: String| -> Result<SelectableField, StandardKindError> {
        let path = JsonPath::parse(&format!(".{stored}"))?;
        Ok(SelectableField { label, stored, path })
    };
    for field in REFERENCE_FIELDS {
        let field = renamed(format!("regarding.{field}"), format!("involvedObject.{field}"))?;
        description.selectable_fields.push(field);
    }
    description.selectable_fields.extend(selectable(&["reason", "type"])?);
    description.selectable_fields.push(renamed("reportingController".to_owned(), "reportingComponent".to_owned())?);
    Ok(Resource::new(description).strategy(EventStrategy).ttl(TTL).stored_as("", "events", EventConversion))
}

struct EventConversion;

fn rename(object: &mut Value, api_version: &str, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    map.insert("apiVersion".to_owned(), api_version.into());
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

impl Conversion for EventConversion {
    fn to_served(&self, mut stored: Value) -> Value {
        rename(&mut stored, "events.k8s.io/v1", RENAMED.iter().map(|&(there, here)| (here, there)));
        stored
    }

    fn to_stored(&self, mut served: Value) -> Value {
        rename(&mut served, "v1", RENAMED.iter().copied());
        served
    }
}

struct EventStrategy;

impl Strategy for EventStrategy {
    fn validate_create(&self, ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        validate(ctx, object)
    }

    fn validate_update(&self, ctx: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        validate(ctx, new)
    }

    fn allows_unconditional_update(&self) -> bool {
        true
    }

    fn supports_garbage_collection(&self) -> bool {
        false
    }
}

fn validate(ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
    let mut errors = validate_reference(ctx, object);
    let served = ctx.resource.group == "events.k8s.io";
    for (stored, max) in MAX_LENGTHS {
        let name = RENAMED.iter().find(|(_, here)| served && *here == stored).map_or(stored, |(there, _)| *there);
        if object.get(stored).and_then(Value::as_str).is_some_and(|text| text.len() > max) {
            errors.push(FieldError::too_long(FieldPath::new(name), max));
        }
    }
    errors
}

/// An event stands in the namespace of what it is about; those about cluster-scoped objects in `default` or `kube-system`.
fn validate_reference(ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
    let about = object.pointer("/involvedObject/namespace").and_then(Value::as_str).unwrap_or_default();
    let own = ctx.namespace.unwrap_or_default();
    if about == own || (about.is_empty() && matches!(own, "default" | "kube-system")) {
        return Vec::new();
    }
    let path = FieldPath::new("involvedObject.namespace");
    vec![FieldError::invalid(path, about, "does not match event.namespace")]
}

fn text<'a>(object: &'a Value, pointers: &[&str]) -> &'a str {
    pointers
        .iter()
        .find_map(|pointer| object.pointer(pointer)?.as_str().filter(|text| !text.is_empty()))
        .unwrap_or_default()
}

/// The columns that kubectl's users know, for both served forms.
fn columns() -> Vec<Column> {
    let column = |name: &str, description: &str, priority: i32, compute: fn(&Value) -> Value| Column {
        name: name.to_owned(),
        type_: "string".to_owned(),
        format: String::new(),
        description: description.to_owned(),
        priority,
        cell: Cell::Computed(compute),
    };
    let mut name = Column::name();
    name.priority = 1;
    vec![
        column("Last Seen", "How long ago it happened last.", 0, |event| {
            let last = [
                "/series/lastObservedTime",
                "/lastTimestamp",
                "/deprecatedLastTimestamp",
                "/eventTime",
                "/firstTimestamp",
                "/deprecatedFirstTimestamp",
                "/metadata/creationTimestamp",
            ];
            age(text(event, &last), Timestamp::now()).into()
        }),
        column("Type", "Normal or Warning.", 0, |event| text(event, &["/type"]).into()),
        column("Reason", "Why, in one word.", 0, |event| text(event, &["/reason"]).into()),
        column("Object", "What it is about.", 0, |event| {
            let kind = text(event, &["/involvedObject/kind", "/regarding/kind"]).to_lowercase();
            let name = text(event, &["/involvedObject/name", "/regarding/name"]);
            if kind.is_empty() { name.into() } else { format!("{kind}/{name}").into() }
        }),
        column("Subobject", "Which part of it.", 1, |event| {
            text(event, &["/involvedObject/fieldPath", "/regarding/fieldPath"]).into()
        }),
        column("Source", "Who reports it.", 1, |event| {
            let component =
                ["/source/component", "/deprecatedSource/component", "/reportingComponent", "/reportingController"];
            text(event, &component).into()
        }),
        column("Message", "What happened.", 0, |event| text(event, &["/message", "/note"]).trim().into()),
        column("First Seen", "How long ago it happened first.", 1, |event| {
            let first = ["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime", "/metadata/creationTimestamp"];
            age(text(event, &first), Timestamp::now()).into()
        }),
        column("Count", "How often it happened.", 1, |event| {
            let count = ["/series/count", "/count", "/deprecatedCount"].iter().find_map(|path| event.pointer(path));
            count.map_or_else(|| "1".to_owned(), ToString::to_string).into()
        }),
        name,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_hold_the_same() {
        let stored = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "x", "namespace": "n"},
            "involvedObject": {"kind": "VM", "name": "web"}, "message": "m", "reason": "R", "type": "Normal", "count": 2,
            "reportingComponent": "c", "source": {"component": "c"}, "firstTimestamp": "2026-01-01T00:00:00Z",
        });
        let served = EventConversion.to_served(stored.clone());
        assert_eq!(served["apiVersion"], "events.k8s.io/v1");
        assert_eq!(served["regarding"]["name"], "web");
        assert_eq!(served["note"], "m");
        assert_eq!(served["deprecatedCount"], 2);
        assert_eq!(served.get("message"), None);
        assert_eq!(EventConversion.to_stored(served), stored);
    }

    #[test]
    fn texts_are_bounded() {
        use crate::strategy::Lister;
        struct Nothing;
        impl Lister for Nothing {
            fn get(&self, _: &str, _: &str, _: Option<&str>, _: &str) -> Option<Value> {
                None
            }
            fn list(&self, _: &str, _: &str, _: Option<&str>) -> Vec<Value> {
                Vec::new()
            }
        }
        let user = crate::auth::UserInfo::new("u", []);
        for (resource, names) in [
            (core().unwrap(), ["reason", "action", "reportingInstance", "message", "reportingComponent", "type"]),
            (
                events_k8s_io().unwrap(),
                ["reason", "action", "reportingInstance", "note", "reportingController", "type"],
            ),
        ] {
            let ctx = Context {
                user: &user,
                resource: resource.description(),
                namespace: Some("n"),
                name: "x",
                subresource: None,
                dry_run: false,
                lister: &Nothing,
            };
            for ((field, max), name) in MAX_LENGTHS.into_iter().zip(names) {
                let mut event = json!({"involvedObject": {"namespace": "n"}});
                event[field] = json!("x".repeat(max));
                assert_eq!(validate(&ctx, &event), [], "{field}");
                event[field] = json!("x".repeat(max + 1));
                let errors = validate(&ctx, &event);
                assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), [name]);
            }
        }
    }

    #[test]
    fn kubectls_columns() {
        let event = json!({"metadata": {"name": "x"}, "regarding": {"kind": "VM", "name": "web"}, "note": "n\n"});
        let shown = |name: &str| {
            let columns = columns();
            match &columns.iter().find(|column| column.name == name).unwrap().cell {
                Cell::Computed(compute) => compute(&event),
                Cell::Path(_) => Value::Null,
            }
        };
        assert_eq!(shown("Object"), "vm/web");
        assert_eq!(shown("Message"), "n");
        assert_eq!(shown("Count"), "1");
    }
}
