//! What holds of every application, whatever is applied by whom in which order.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::compare::compare;
use super::extract::fields_of;
use super::managers::{Entry, Operation, decode};
use super::merge::{merge, would_change};
use super::set::FieldSet;
use super::{Configuration, Type, Writer, created, updated};

fn type_() -> Type {
    Type::of_kind(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {"type": "integer"},
        "b": {"type": "integer"},
        "struct": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "atomic": {"type": "array", "items": {"type": "integer"}},
        "set": {"type": "array", "items": {"type": "integer"}, "x-kubernetes-list-type": "set"},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {
                "name": {"type": "string"}, "x": {"type": "integer"},
                "map": {"type": "object", "additionalProperties": {"type": "integer"}},
            }}},
        "any": {},
    }}}}))
}

fn small_map() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-c]", 0..3_i64, 1..3).prop_map(|map| json!(map))
}

fn list() -> impl Strategy<Value = Value> {
    let item = (prop::option::of(0..3_i64), prop::option::of(small_map()));
    let items =
        prop::collection::btree_map("[a-d]", item, 1..4).prop_map(|items| items.into_iter().collect::<Vec<_>>());
    items.prop_shuffle().prop_map(|items| {
        let item = |(name, (x, map)): (String, (Option<i64>, Option<Value>))| {
            let mut item = Map::from_iter([("name".to_owned(), json!(name))]);
            item.extend(x.map(|x| ("x".to_owned(), json!(x))));
            item.extend(map.map(|map| ("map".to_owned(), map)));
            Value::Object(item)
        };
        Value::Array(items.into_iter().map(item).collect())
    })
}

fn config() -> impl Strategy<Value = Value> {
    let integer = || prop::option::of(0..3_i64).prop_map(|integer| integer.map(|integer| json!(integer)));
    let structure = (prop::option::of(0..3_i64), prop::option::of(0..3_i64)).prop_map(|(x, y)| {
        let mut map = Map::new();
        map.extend(x.map(|x| ("x".to_owned(), json!(x))));
        map.extend(y.map(|y| ("y".to_owned(), json!(y))));
        (!map.is_empty()).then_some(Value::Object(map))
    });
    let set = prop::collection::btree_set(0..4_i64, 1..4).prop_map(|set| set.into_iter().collect::<Vec<_>>());
    let atomic = prop::collection::vec(0..3_i64, 0..3).prop_map(|list| json!(list));
    let any = prop_oneof![Just(json!("text")), small_map(), Just(json!({"deep": {"x": 1}})), Just(json!([1]))];
    (
        integer(),
        integer(),
        structure,
        prop::option::of(small_map()),
        prop::option::of(atomic),
        prop::option::of(set.prop_shuffle().prop_map(|set| json!(set))),
        prop::option::of(list()),
        prop::option::of(any),
    )
        .prop_map(|(a, b, structure, map, atomic, set, list, any)| {
            let fields = [
                ("a", a),
                ("b", b),
                ("struct", structure),
                ("map", map),
                ("atomic", atomic),
                ("set", set),
                ("list", list),
                ("any", any),
            ];
            let spec = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
            json!({"metadata": {"name": "x"}, "spec": spec.collect::<Map<_, _>>()})
        })
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "g/v1", subresource: "", now: "2026-01-01T00:00:00Z" }
}

/// Applies by force, unless told otherwise; `None` is a conflict.
fn apply(manager: &str, live: Option<&Value>, config: &Value, force: bool) -> Option<Value> {
    let (type_, writer) = (type_(), writer(manager));
    let config = Configuration::new(config.clone(), &type_).unwrap();
    let Some(live) = live else { return Some(config.create(&writer)) };
    let (mut object, ledger) = config.merge_into(&writer, &type_, live);
    ledger.settle(&writer, &type_, &config, force, live, &mut object).ok()?;
    Some(object)
}

fn entries(object: &Value) -> Vec<Entry> {
    decode(object["metadata"].get("managedFields")).unwrap()
}

fn owned_by(object: &Value, manager: &str) -> FieldSet {
    let mut entries = entries(object).into_iter();
    entries.find(|entry| entry.owner.manager == manager).map(|entry| entry.fields().clone()).unwrap_or_default()
}

fn spec(object: &Value) -> &Value {
    &object["spec"]
}

fn fields(config: &Value) -> FieldSet {
    super::system::without_system(&fields_of(config, &type_()))
}

proptest! {
    #[test]
    fn a_field_set_survives_its_json(config in config()) {
        let set = fields(&config);
        let json = set.to_json();
        prop_assert!(set.is_written_as(&json));
        prop_assert_eq!(FieldSet::from_json(&json).unwrap(), set);
    }

    #[test]
    fn sets_are_sets(a in config(), b in config()) {
        let (a, b) = (fields(&a), fields(&b));
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(a.intersection(&b).is_empty(), a.is_disjoint(&b));
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert!(a.difference(&b).is_disjoint(&b));
        prop_assert_eq!(a.union(&b).len(), a.len() + b.difference(&a).len());
    }

    #[test]
    fn merging_is_idempotent(live in config(), config in config()) {
        let type_ = type_();
        let merged = merge(live.clone(), &config, &type_);
        prop_assert_eq!(would_change(&live, &config, &type_), merged != live);
        prop_assert!(!would_change(&merged, &config, &type_), "{merged}");
        prop_assert_eq!(merge(merged.clone(), &config, &type_), merged);
    }

    #[test]
    fn applying_twice_is_applying_once(first in config(), second in config(), third in config()) {
        let object = apply("other", None, &first, true).unwrap();
        let object = apply("me", Some(&object), &second, true).unwrap();
        let once = apply("me", Some(&object), &third, true).unwrap();
        let mine = Configuration::new(third.clone(), &type_()).unwrap();
        prop_assert!(mine.is_applied(&writer("me"), &type_(), &once));
        prop_assert_eq!(apply("me", Some(&once), &third, false), Some(once));
    }

    #[test]
    fn who_applies_owns_what_is_applied(configs in prop::collection::vec((0..3_usize, config()), 1..6)) {
        let mut object: Option<Value> = None;
        for (manager, config) in configs {
            let manager = ["a", "b", "c"][manager];
            let before = object.clone();
            let after = apply(manager, before.as_ref(), &config, true).unwrap();
            prop_assert_eq!(owned_by(&after, manager), fields(&config));
            // it is as it was applied
            prop_assert!(!would_change(&after, &config, &type_()));
            // nobody owns what is not there
            let there = compare(None, Some(&after), &type_()).changed;
            for entry in entries(&after) {
                let absent = entry.fields().difference(&there);
                prop_assert!(absent.is_empty(), "{:?} of {}: {}", absent.paths(9), entry.owner.manager, after);
            }
            object = Some(after);
        }
    }

    #[test]
    fn nobody_takes_away_what_others_apply(theirs in config(), mine in config(), less in config()) {
        let object = apply("they", None, &theirs, true).unwrap();
        let Some(object) = apply("me", Some(&object), &mine, false) else { return Ok(()) };
        let Some(object) = apply("me", Some(&object), &less, false) else { return Ok(()) };
        prop_assert!(holds(&object, &theirs), "{theirs} in {object}");
        prop_assert_eq!(owned_by(&object, "they"), fields(&theirs));
    }

    #[test]
    fn disjoint_managers_never_conflict(one in config(), two in config()) {
        let mut two = two;
        super::remove::remove(&mut two, &fields(&one), &type_());
        if overlap(spec(&one), spec(&two)) {
            two["spec"].as_object_mut().unwrap().remove("any");
        }
        prop_assert!(fields(&one).is_disjoint(&fields(&two)));
        let object = apply("one", None, &one, false).unwrap();
        let object = apply("two", Some(&object), &two, false);
        prop_assert!(object.is_some());
        let object = object.unwrap();
        let again = apply("one", Some(&object), &one, false);
        prop_assert_eq!(again.as_ref(), Some(&object));
    }

    #[test]
    fn what_is_no_longer_applied_goes(mine in config(), less in config()) {
        let object = apply("me", None, &mine, true).unwrap();
        let object = apply("me", Some(&object), &less, false).unwrap();
        let fresh = apply("me", None, &less, true).unwrap();
        prop_assert!(!would_change(&object, &less, &type_()));
        prop_assert_eq!(fields_of(&object, &type_()), fields_of(&fresh, &type_()));
    }

    #[test]
    fn plain_writes_own_what_they_change(first in config(), second in config(), theirs in config()) {
        let type_ = type_();
        let mut object = first;
        created(&writer("maker"), &type_, &mut object);
        let object = apply("they", Some(&object), &theirs, true).unwrap();
        let mut changed = second;
        changed["metadata"] = object["metadata"].clone();
        updated(&writer("me"), &type_, &object, &mut changed);
        let difference = compare(Some(&object), Some(&changed), &type_);
        for entry in entries(&changed) {
            let mine = entry.owner.manager == "me" && entry.owner.operation == Operation::Update;
            if mine {
                prop_assert_eq!(entry.fields(), &super::system::without_system(&difference.changed));
            } else {
                prop_assert!(entry.fields().is_disjoint(&difference.changed));
                prop_assert!(entry.fields().is_disjoint(&difference.removed));
            }
        }
    }
}

/// Whether the object has all that the configuration says, in whatever order.
fn holds(object: &Value, config: &Value) -> bool {
    let difference = compare(Some(config), Some(object), &type_());
    let fields = fields(config);
    fields.is_disjoint(&difference.changed) && fields.is_disjoint(&difference.removed)
}

/// Whether one configuration has a value where the other has a map of values: then they do not speak of one field, and
/// still not of different ones.
fn overlap(one: &Value, two: &Value) -> bool {
    let any = |spec: &Value| spec.get("any").cloned();
    match (any(one), any(two)) {
        (Some(one), Some(two)) => !(one.is_object() && two.is_object()),
        _ => false,
    }
}
