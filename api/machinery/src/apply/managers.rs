//! `metadata.managedFields`: an entry for each manager, with the fields that it owns.
//!
//! A manager that applies is one and the same whichever version it applies; plain writes of one manager in several
//! versions, or through several subresources, are several entries.

use serde_json::{Map, Value, json};

use super::set::FieldSet;

/// Only so many entries of plain writes are kept; the oldest are joined.
const MAX_UPDATERS: usize = 10;
/// Who the joined entries belong to.
const JOINED: &str = "ancient-changes";
const FIELDS_TYPE: &str = "FieldsV1";

/// By what kind of write a manager came to own fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// Server-side apply: it owns what its configuration mentions.
    Apply,
    /// Any other: it owns what it changed.
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Whose an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) subresource: String,
    /// The version in which the fields are named.
    pub(super) api_version: String,
}

impl Owner {
    /// Whether the other owner is the same one: those who apply are, in whatever version.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// What one manager owns.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) owner: Owner,
    /// When it last changed what it owns.
    pub(super) time: Option<String>,
    fields: FieldSet,
    /// How the fields stand in the object, as long as they are the same.
    written: Option<Value>,
}

impl Entry {
    pub(super) fn new(owner: Owner, fields: FieldSet, time: &str) -> Self {
        Self { owner, time: Some(time.to_owned()), fields, written: None }
    }

    pub(super) fn fields(&self) -> &FieldSet {
        &self.fields
    }

    /// Takes fields away.
    pub(super) fn lose(&mut self, fields: &FieldSet) {
        if !self.fields.is_disjoint(fields) {
            self.fields = self.fields.difference(fields);
            self.written = None;
        }
    }

    /// Adds fields.
    pub(super) fn gain(&mut self, fields: &FieldSet) {
        self.fields = self.fields.union(fields);
        self.written = None;
    }
}

/// Reads the entries. Where one owner has two, the later counts.
pub(super) fn decode(list: Option<&Value>) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = Vec::new();
    for value in list.and_then(Value::as_array).into_iter().flatten() {
        let entry = decode_entry(value)?;
        match entries.iter_mut().find(|known| known.owner.is(&entry.owner)) {
            Some(known) => *known = entry,
            None => entries.push(entry),
        }
    }
    Ok(entries)
}

fn decode_entry(value: &Value) -> Result<Entry, String> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let owner = owner_of(value)?;
    if owner.api_version.is_empty() {
        return Err("apiVersion must not be empty".to_owned());
    }
    if text("fieldsType") != FIELDS_TYPE {
        return Err(format!("fieldsType must be {FIELDS_TYPE}"));
    }
    let written = value.get("fieldsV1");
    let fields = written.map(FieldSet::from_json).transpose()?.unwrap_or_default();
    let time = Some(text("time")).filter(|time| !time.is_empty()).map(str::to_owned);
    Ok(Entry { owner, time, written: written.filter(|written| fields.is_written_as(written)).cloned(), fields })
}

fn owner_of(value: &Value) -> Result<Owner, String> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let operation = match text("operation") {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return Err("operation must be `Apply` or `Update`".to_owned()),
    };
    Ok(Owner {
        manager: text("manager").to_owned(),
        operation,
        subresource: text("subresource").to_owned(),
        api_version: text("apiVersion").to_owned(),
    })
}

/// The entry of an owner that stands in the object, if its fields are exactly these.
pub(super) fn has_entry(list: Option<&Value>, owner: &Owner, fields: &FieldSet) -> bool {
    let entries = list.and_then(Value::as_array).into_iter().flatten();
    entries
        .filter(|entry| owner_of(entry).is_ok_and(|known| known == *owner))
        .any(|entry| entry.get("fieldsV1").is_some_and(|written| fields.is_written_as(written)))
}

/// Writes the entries: those who apply first, then by time. `None` if nobody owns anything.
pub(super) fn encode(mut entries: Vec<Entry>) -> Option<Value> {
    entries.retain(|entry| !entry.fields.is_empty());
    if entries.is_empty() {
        return None;
    }
    // no entry is without a time in what this server writes; a missing one is older than all
    entries.sort_by(|a, b| {
        let order = |entry: &Entry| (entry.owner.operation, entry.time.clone());
        order(a).cmp(&order(b)).then_with(|| {
            let names = |entry: &'_ Entry| -> [String; 3] {
                [&entry.owner.manager, &entry.owner.api_version, &entry.owner.subresource].map(String::clone)
            };
            names(a).cmp(&names(b))
        })
    });
    Some(Value::Array(entries.into_iter().map(encode_entry).collect()))
}

fn encode_entry(entry: Entry) -> Value {
    let Entry { owner, time, fields, written } = entry;
    let mut map = Map::new();
    for (field, text) in [
        ("manager", owner.manager),
        ("operation", owner.operation.name().to_owned()),
        ("apiVersion", owner.api_version),
        ("fieldsType", FIELDS_TYPE.to_owned()),
        ("subresource", owner.subresource),
        ("time", time.unwrap_or_default()),
    ] {
        if !text.is_empty() {
            map.insert(field.to_owned(), text.into());
        }
    }
    map.insert("fieldsV1".to_owned(), written.unwrap_or_else(|| fields.to_json()));
    Value::Object(map)
}

/// Joins the oldest entries of plain writes, those of one version with each other, until there are not too many.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let updaters = |entries: &[Entry]| {
        let mut updaters: Vec<usize> = (0..entries.len())
            .filter(|index| entries.get(*index).is_some_and(|entry| entry.owner.operation == Operation::Update))
            .collect();
        updaters
            .sort_by_key(|index| entries.get(*index).map(|entry| (entry.time.clone(), entry.owner.manager.clone())));
        updaters
    };
    loop {
        let oldest = updaters(entries);
        if oldest.len() <= MAX_UPDATERS {
            return;
        }
        let version = |index: &usize| entries.get(*index).map(|entry| entry.owner.api_version.clone());
        // the two oldest of one version
        let pair = oldest.iter().enumerate().find_map(|(place, later)| {
            let earlier = oldest.get(..place)?.iter().find(|earlier| version(earlier) == version(later))?;
            Some((*earlier, *later))
        });
        let Some((into, from)) = pair else { return };
        let Some(taken) = entries.get(from).cloned() else { return };
        if let Some(entry) = entries.get_mut(into) {
            entry.gain(&taken.fields);
            entry.time = taken.time;
            JOINED.clone_into(&mut entry.owner.manager);
            entry.owner.subresource.clear();
        }
        entries.remove(from);
    }
}

/// Whether a client asks that nobody own anything any more: by an empty list, or a list of one empty entry.
pub(super) fn is_reset(list: Option<&Value>) -> bool {
    match list {
        Some(Value::Array(entries)) => match entries.as_slice() {
            [] => true,
            [only] => only == &json!({}),
            _ => false,
        },
        _ => false,
    }
}

/// Whether two lists of entries differ in nothing but their times.
pub(crate) fn same_but_for_times(a: Option<&Value>, b: Option<&Value>) -> bool {
    fn fields(entry: &Value) -> impl Iterator<Item = (&String, &Value)> {
        entry.as_object().into_iter().flatten().filter(|(name, _)| *name != "time")
    }
    match (a.and_then(Value::as_array), b.and_then(Value::as_array)) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| fields(a).eq(fields(b))),
        (a, b) => a.is_none() && b.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, version: &str, time: &str, field: &str) -> Entry {
        let owner = Owner {
            manager: manager.to_owned(),
            operation: Operation::Update,
            subresource: String::new(),
            api_version: version.to_owned(),
        };
        let mut fields = Map::new();
        fields.insert(format!("f:{field}"), json!({}));
        Entry::new(owner, FieldSet::from_json(&Value::Object(fields)).unwrap(), time)
    }

    #[test]
    fn entries_are_read_and_written() {
        let list = json!([
            {"manager": "b", "operation": "Apply", "apiVersion": "g/v1", "fieldsType": "FieldsV1", "time": "2026-01-02T00:00:00Z",
             "fieldsV1": {"f:spec": {"f:a": {}}}},
            {"manager": "a", "operation": "Update", "apiVersion": "g/v1", "fieldsType": "FieldsV1", "subresource": "status",
             "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:status": {}}},
        ]);
        assert_eq!(encode(decode(Some(&list)).unwrap()), Some(list));
        assert_eq!(encode(decode(None).unwrap()), None);
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for bad in [
            json!({}),
            json!({"operation": "Apply", "fieldsType": "FieldsV1"}),
            json!({"operation": "Apply", "apiVersion": "v1"}),
            json!({"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV2"}),
            json!({"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"x": {}}}),
        ] {
            assert!(decode(Some(&json!([bad]))).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_oldest_updates_are_joined() {
        let mut entries: Vec<Entry> = (10..22)
            .map(|index| {
                let version = if index == 11 { "v0" } else { "v1" };
                entry(&format!("m{index}"), version, &format!("2026-01-01T00:00:{index}Z"), &format!("x{index}"))
            })
            .collect();
        cap(&mut entries);
        let managers: Vec<&str> = entries.iter().map(|entry| entry.owner.manager.as_str()).collect();
        assert_eq!(managers.len(), MAX_UPDATERS);
        assert_eq!(managers[..3], [JOINED, "m11", "m14"]);
        assert_eq!(entries[0].fields.to_json(), json!({"f:x10": {}, "f:x12": {}, "f:x13": {}}));
        assert_eq!(entries[0].time.as_deref(), Some("2026-01-01T00:00:13Z"));
    }

    #[test]
    fn resets() {
        assert!(is_reset(Some(&json!([]))) && is_reset(Some(&json!([{}]))));
        assert!(!is_reset(None) && !is_reset(Some(&json!([{}, {}]))) && !is_reset(Some(&json!([{"manager": "a"}]))));
    }
}
