//! What a write makes of an object and of who owns what of it.

use serde_json::Value;

use super::compare::{Difference, compare};
use super::conflict::{self, Conflict};
use super::extract::fields_of;
use super::managers::{self, Entry, Operation, Owner};
use super::merge::{merge, would_change};
use super::remove::{disowned, remove};
use super::set::FieldSet;
use super::system::without_system;
use super::types::Type;
use super::{check, last_applied};
use crate::meta;
use crate::status::ApiError;

const MANAGED_FIELDS: &str = "managedFields";
/// Who owns what an object held before anybody applied to it, where nobody kept count.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes, and through what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer<'a> {
    /// The name that the client goes by.
    pub(crate) manager: &'a str,
    /// The version in which it writes.
    pub(crate) api_version: &'a str,
    /// The subresource; empty for the object itself.
    pub(crate) subresource: &'a str,
    /// Now, as metadata has it.
    pub(crate) now: &'a str,
}

impl Writer<'_> {
    fn owner(&self, operation: Operation) -> Owner {
        Owner {
            manager: self.manager.to_owned(),
            operation,
            subresource: self.subresource.to_owned(),
            api_version: self.api_version.to_owned(),
        }
    }
}

/// Notes in a new object that its writer owns all of it. What the client sent as managed fields counts as Kubernetes lets it count.
pub(crate) fn created(writer: &Writer<'_>, type_: &Type, new: &mut Value) {
    let given = take(new);
    let entries = managers::decode(given.as_ref()).unwrap_or_default();
    let difference = compare(None, Some(new), type_);
    put(new, managers::encode(recorded(entries, difference, writer)));
}

/// Notes in an updated object that its writer owns what it changed. `new` has the managed fields that the client sent: of a
/// client that does not know of them none, or those that it read.
pub(crate) fn updated(writer: &Writer<'_>, type_: &Type, old: &Value, new: &mut Value) {
    let before = meta::get(old, MANAGED_FIELDS);
    let given = take(new);
    if managers::is_reset(given.as_ref()) {
        return;
    }
    let given = given.filter(|given| Some(given) != before);
    let given = given.and_then(|given| managers::decode(Some(&given)).ok()).filter(|entries| !entries.is_empty());
    if given.is_none() && before.is_none() {
        // nobody kept count so far, and this is no time to begin
        return;
    }
    let difference = compare(Some(old), Some(new), type_);
    if given.is_none() && touches_nothing(&difference) {
        put(new, before.cloned());
        return;
    }
    let entries = given.unwrap_or_else(|| managers::decode(before).unwrap_or_default());
    put(new, managers::encode(recorded(entries, difference, writer)));
}

/// The managed fields themselves are always among what is removed, since `new` is compared without them.
fn touches_nothing(difference: &Difference) -> bool {
    difference.changed.is_empty() && without_system(&difference.removed).is_empty()
}

fn recorded(mut entries: Vec<Entry>, difference: Difference, writer: &Writer<'_>) -> Vec<Entry> {
    let Difference { changed, removed, .. } = difference;
    keep_convertible(&mut entries, writer);
    for entry in &mut entries {
        entry.lose(&changed);
        entry.lose(&removed);
    }
    let changed = without_system(&changed);
    if !changed.is_empty() {
        let owner = writer.owner(Operation::Update);
        match entries.iter_mut().find(|entry| entry.owner.is(&owner)) {
            Some(entry) => {
                entry.gain(&changed);
                entry.time = Some(writer.now.to_owned());
            }
            None => entries.push(Entry::new(owner, changed, writer.now)),
        }
    }
    entries.retain(|entry| !entry.fields().is_empty());
    managers::cap(&mut entries);
    entries
}

/// The versions of one group name fields alike. Entries in versions of other groups cannot be read here, and go.
fn keep_convertible(entries: &mut Vec<Entry>, writer: &Writer<'_>) {
    let group = |version: &str| version.split_once('/').map(|(group, _)| group.to_owned());
    let own = group(writer.api_version);
    entries.retain(|entry| group(&entry.owner.api_version) == own);
}

/// What somebody applies.
#[derive(Debug)]
pub(crate) struct Configuration {
    object: Value,
    fields: FieldSet,
}

/// Who owned what before, and what the applier is to own.
#[derive(Debug)]
pub(crate) struct Ledger {
    others: Vec<Entry>,
    last: Option<Entry>,
    fields: FieldSet,
}

impl Configuration {
    /// A configuration of those fields alone that the write reaches.
    pub(crate) fn new(object: Value, type_: &Type) -> Result<Self, String> {
        check::items(&object, type_)?;
        let fields = without_system(&fields_of(&object, type_));
        Ok(Self { object, fields })
    }

    /// What was sent.
    pub(crate) fn object(&self) -> &Value {
        &self.object
    }

    /// Whether applying it would change nothing, neither of the object nor of who owns what.
    pub(crate) fn is_applied(&self, writer: &Writer<'_>, type_: &Type, live: &Value) -> bool {
        let owner = writer.owner(Operation::Apply);
        managers::has_entry(meta::get(live, MANAGED_FIELDS), &owner, &self.fields)
            && !would_change(live, &self.object, type_)
            && last_applied::renewed(live, &self.object, writer.manager).is_none()
    }

    /// The new object that it makes, with its owner.
    pub(crate) fn create(&self, writer: &Writer<'_>) -> Value {
        let mut object = self.object.clone();
        let entry = Entry::new(writer.owner(Operation::Apply), self.fields.clone(), writer.now);
        put(&mut object, managers::encode(vec![entry]));
        object
    }

    /// The object with it merged in, and without what its manager applied before and nobody owns any more; and who owned what.
    pub(crate) fn merge_into(&self, writer: &Writer<'_>, type_: &Type, live: &Value) -> (Value, Ledger) {
        let mut others = managers::decode(meta::get(live, MANAGED_FIELDS)).unwrap_or_default();
        keep_convertible(&mut others, writer);
        if others.is_empty() {
            let all = compare(None, Some(live), type_).changed;
            let writer = Writer { manager: BEFORE_FIRST_APPLY, ..*writer };
            others.push(Entry::new(writer.owner(Operation::Update), without_system(&all), writer.now));
        }
        let owner = writer.owner(Operation::Apply);
        let place = others.iter().position(|entry| entry.owner.is(&owner));
        let last = place.map(|place| others.swap_remove(place));

        let mut object = merge(live.clone(), &self.object, type_);
        if let Some(last) = &last {
            let mut owned: Vec<&FieldSet> = others.iter().map(Entry::fields).collect();
            owned.push(&self.fields);
            let gone = disowned(last.fields(), &owned, type_);
            if !gone.is_empty() {
                remove(&mut object, &gone, type_);
                // what became empty and was applied empty stays
                object = merge(object, &self.object, type_);
            }
        }
        (object, Ledger { others, last, fields: self.fields.clone() })
    }
}

impl Ledger {
    /// Notes in `new`, which became of `live`, who owns what. An error names what is owned by others, unless it is taken by force.
    pub(crate) fn settle(
        self,
        writer: &Writer<'_>,
        type_: &Type,
        config: &Configuration,
        force: bool,
        live: &Value,
        new: &mut Value,
    ) -> Result<(), ApiError> {
        let Self { mut others, last, fields } = self;
        take(new);
        let difference = compare(Some(live), Some(new), type_);
        let untouched = touches_nothing(&difference);
        let Difference { changed, removed, overwritten } = difference;
        let mut conflicts: Vec<Conflict> = Vec::new();
        if !force {
            // Kubernetes takes what is overwritten without a word
            let taken = changed.union(&overwritten);
            for entry in others.iter().filter(|entry| !entry.fields().is_disjoint(&taken)) {
                let fields = entry.fields().intersection(&taken);
                conflicts.push(Conflict { owner: entry.owner.clone(), fields });
            }
        }
        if !conflicts.is_empty()
            && writer.manager == last_applied::KUBECTL
            && let Some(taken_over) = last_applied::taken_over(live, type_, writer.api_version)
        {
            for conflict in &mut conflicts {
                conflict.fields = conflict.fields.difference(&taken_over);
            }
            conflicts.retain(|conflict| !conflict.fields.is_empty());
        }
        if !conflicts.is_empty() {
            return Err(conflict::refusal(conflicts));
        }
        for entry in &mut others {
            entry.lose(&changed);
            entry.lose(&removed);
        }
        let owner = writer.owner(Operation::Apply);
        let unchanged = untouched && last.as_ref().is_some_and(|last| last.owner == owner && *last.fields() == fields);
        let mut own = Entry::new(owner, fields, writer.now);
        if let Some(last) = last.filter(|_| unchanged) {
            own.time = last.time;
        }
        others.push(own);
        put(new, managers::encode(others));
        if let Some(text) = last_applied::renewed(new, config.object(), writer.manager) {
            last_applied::set(new, text);
        }
        Ok(())
    }
}

fn take(object: &mut Value) -> Option<Value> {
    meta::metadata_mut(object)?.remove(MANAGED_FIELDS)
}

fn put(object: &mut Value, managed: Option<Value>) {
    meta::set(object, MANAGED_FIELDS, managed);
}
