//! Quotas: what a write takes of its namespace's `ResourceQuota`s, and whether there is so much.
//!
//! A quota's `status.used` is written in the same transaction as the object that takes or gives back something, under the
//! condition that the quota is as it was when it was looked at. So what is used is exact after any crash, and no number of
//! servers that write at the same time can go past what is allowed. The controller of quotas calculates `used` when a quota
//! is new or limits something new; until then nothing that it limits can be created.
//!
//! One thing remains: a write that does not know of a new quota yet. It depends on the namespace being as it was, as every
//! creation does. So whoever creates a quota, or changes what one limits, writes the namespace too (without changing it),
//! and the other write is decided anew.
//!
//! Quotas themselves are counted by looking, for that is exact under the same condition: two that come at the same time
//! both write the namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::resource::{Resource, storage_prefix};
use super::store::{Store, decode_cached};
use crate::cache::{KindCache, Stale};
use crate::meta;
use crate::quantity::Quantity;
use crate::status::ApiError;
use crate::storage::{Guard, Revision};

/// Kinds of the core group that quotas may also name without `count/`.
const PLAIN_COUNTS: [&str; 3] = ["configmaps", "resourcequotas", "secrets"];

/// Names that mean the same as others.
const ALIASES: [(&str, &str); 2] = [("requests.cpu", "cpu"), ("requests.memory", "memory")];

const RESOURCE_QUOTAS: &str = "resourcequotas";

/// What a write changes of what is used.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// By the names that stand in a quota's `hard`; never zero.
    amounts: BTreeMap<String, Quantity>,
    /// Fields that are not there, without which nobody can tell how much the object takes of something.
    unknown: BTreeSet<(&'static str, String)>,
}

/// Whether the resource is that of quotas.
pub(crate) fn is_quota(resource: &Resource) -> bool {
    resource.prefix() == storage_prefix("", RESOURCE_QUOTAS)
}

/// Whether a write of a quota changes what it limits.
pub(crate) fn limits_change(old: Option<&Value>, new: &Value) -> bool {
    old.and_then(|old| old.get("spec")) != new.get("spec")
}

impl Change {
    /// From the object before and after; nothing where there is none.
    pub(crate) fn between(resource: &Resource, old: Option<&Value>, new: Option<&Value>) -> Self {
        // what goes by itself when its time is over could not be given back
        if !resource.description.is_namespaced() || resource.ttl.is_some() {
            return Self::default();
        }
        if let (Some(old), Some(new)) = (old, new)
            && old.get("spec") == new.get("spec")
        {
            return Self::default();
        }
        let mut change = Self::default();
        for (object, sign) in [(old, false), (new, true)] {
            let usage = object.map(|object| resource.strategy.usage(object)).unwrap_or_default();
            for taken in usage {
                change.add(taken.resource, if sign { taken.amount } else { -taken.amount });
                if let Some((_, alias)) = ALIASES.iter().find(|(name, _)| *name == taken.resource) {
                    change.add(alias, if sign { taken.amount } else { -taken.amount });
                }
                for field in taken.unknown {
                    if sign {
                        change.unknown.insert((taken.resource, field));
                    }
                }
            }
        }
        if let (Some(old), Some(_)) = (old, new) {
            // what was not told before need not be told now
            for taken in resource.strategy.usage(old) {
                for field in taken.unknown {
                    change.unknown.remove(&(taken.resource, field));
                }
            }
        } else {
            let one = Quantity::count(if new.is_some() { 1 } else { -1 });
            for name in count_names(resource) {
                change.add(&name, one);
            }
        }
        change.amounts.retain(|_, amount| *amount != Quantity::default());
        change
    }

    fn add(&mut self, name: &str, amount: Quantity) {
        let entry = self.amounts.entry(name.to_owned()).or_default();
        *entry = *entry + amount;
    }

    /// Whether it is none.
    pub(crate) fn is_none(&self) -> bool {
        self.amounts.is_empty() && self.unknown.is_empty()
    }

    /// Whether it takes anything, which must be allowed.
    pub(crate) fn takes(&self) -> bool {
        self.amounts.values().any(|amount| amount.is_positive()) || !self.unknown.is_empty()
    }
}

fn count_names(resource: &Resource) -> Vec<String> {
    let description = &resource.description;
    match description.group.as_str() {
        "" if PLAIN_COUNTS.contains(&description.plural.as_str()) => {
            vec![format!("count/{}", description.plural), description.plural.clone()]
        }
        "" => vec![format!("count/{}", description.plural)],
        group => vec![format!("count/{}.{group}", description.plural)],
    }
}

/// The cache of quotas, if there are any in the namespace.
fn cached(store: &Store, namespace: &str) -> Option<Arc<KindCache>> {
    let quotas = store.cache.kind(&storage_prefix("", RESOURCE_QUOTAS))?;
    (!quotas.list(Some(namespace)).1.is_empty()).then_some(quotas)
}

/// Whether the namespace has quotas.
pub(crate) fn exist(store: &Store, namespace: &str) -> bool {
    cached(store, namespace).is_some()
}

/// Judges a change by the namespace's quotas as the cache knows them: what must not change until it is stored, and what
/// the quotas become then; or 403.
pub(crate) fn charge(
    store: &Store,
    resource: &Resource,
    namespace: &str,
    name: &str,
    change: &Change,
) -> Result<Vec<Guard>, ApiError> {
    let Some(kind) = cached(store, namespace) else {
        return Ok(Vec::new());
    };
    let quotas = kind.list(Some(namespace)).1;
    let counted = is_quota(resource).then(|| Quantity::count(i64::try_from(quotas.len()).unwrap_or(i64::MAX)));
    let mut guards = Vec::new();
    for cached in &quotas {
        let mut quota = decode_cached(cached)?;
        let refused = |why: &str| {
            let description = &resource.description;
            ApiError::forbidden(&description.group, &description.plural, name, why)
        };
        let charged = judge(&mut quota, change, counted).map_err(|why| refused(&why))?;
        if charged && counted.is_none() {
            meta::set(&mut quota, "resourceVersion", None);
            let key = format!("{}{namespace}/{}", storage_prefix("", RESOURCE_QUOTAS), cached.name());
            guards.push(Guard::becomes(key, cached.resource_version(), quota.to_string().into()));
        }
    }
    Ok(guards)
}

/// Whether the quota limits any of what changes, which it then has in its `used`; an error says why it must not be.
/// `counted` is what is used where that is known otherwise.
fn judge(quota: &mut Value, change: &Change, counted: Option<Quantity>) -> Result<bool, String> {
    let name = meta::text(quota, "name").to_owned();
    let hard = amounts(quota.pointer("/spec/hard"));
    let used = amounts(quota.pointer("/status/used"));
    if let Some((_, field)) = change.unknown.iter().find(|(resource, _)| hard.contains_key(*resource)) {
        return Err(format!("failed quota: {name}: must specify {field}"));
    }
    let limited: Vec<(&String, Quantity, Quantity)> = change
        .amounts
        .iter()
        .filter_map(|(resource, amount)| Some((resource, *amount, *hard.get(resource)?)))
        .collect();
    let before = |resource: &String| counted.or_else(|| used.get(resource).copied());
    let unknown: Vec<&str> = limited
        .iter()
        .filter(|(resource, amount, _)| amount.is_positive() && before(resource).is_none())
        .map(|(resource, ..)| resource.as_str())
        .collect();
    if !unknown.is_empty() {
        return Err(format!("status unknown for quota: {name}, resources: {}", unknown.join(",")));
    }
    let exceeded: Vec<(&String, Quantity, Quantity, Quantity)> = limited
        .iter()
        .map(|(resource, amount, most)| (*resource, *amount, before(resource).unwrap_or_default(), *most))
        .filter(|(_, amount, before, most)| amount.is_positive() && *before + *amount > *most)
        .collect();
    if !exceeded.is_empty() {
        let list = |pick: fn(&(&String, Quantity, Quantity, Quantity)) -> Quantity| {
            let parts: Vec<String> = exceeded.iter().map(|entry| format!("{}={}", entry.0, pick(entry))).collect();
            parts.join(",")
        };
        return Err(format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            list(|entry| entry.1),
            list(|entry| entry.2),
            list(|entry| entry.3)
        ));
    }
    for (resource, amount, _) in &limited {
        // what is not known stays so; that the quota is written tells its controller to look again
        if let Some(before) = used.get(*resource) {
            let after = (*before + *amount).max(Quantity::default());
            quota["status"]["used"][resource.as_str()] = json!(after.to_string());
        }
    }
    Ok(!limited.is_empty())
}

/// Quantities by name. What is none was refused when it came, and counts as absent.
fn amounts(map: Option<&Value>) -> BTreeMap<String, Quantity> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some((name.clone(), text.parse().ok()?))
        })
        .collect()
}

/// Lets the writes that a namespace's quotas limit follow one another, each on what the one before left: else those of one
/// server would make each other begin anew.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    by_namespace: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Revision>>>>,
}

/// The right to write. It ends when this is dropped.
pub(crate) struct Turn(OwnedMutexGuard<Revision>);

impl Turns {
    /// Waits for the turn, and until the cache has what the turn before wrote.
    pub(crate) async fn take(&self, store: &Store, namespace: &str) -> Result<Turn, Stale> {
        let lock = {
            let mut all = self.by_namespace.lock().unwrap_or_else(PoisonError::into_inner);
            // those that nobody holds or waits for tell nothing that the cache does not know by now, or will not tell
            all.retain(|known, lock| known == namespace || Arc::strong_count(lock) > 1);
            all.entry(namespace.to_owned()).or_default().clone()
        };
        let turn = Turn(lock.lock_owned().await);
        store.cache.wait_for(*turn.0).await?;
        Ok(turn)
    }
}

impl Turn {
    /// What was written in this turn.
    pub(crate) fn wrote(&mut self, revision: Revision) {
        *self.0 = revision;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(amounts: &[(&str, &str)]) -> Change {
        let parse = |(name, amount): &(&str, &str)| ((*name).to_owned(), amount.parse().unwrap());
        Change { amounts: amounts.iter().map(parse).collect(), unknown: BTreeSet::new() }
    }

    fn quota(hard: &Value, used: &Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    #[test]
    fn what_fits_is_added_and_what_does_not_is_refused_in_kubernetes_words() {
        let mut quota = quota(
            &json!({"requests.cpu": "4", "count/vms.g": "3", "x": 1}),
            &json!({
                "requests.cpu": "1500m", "count/vms.g": "2", "x": "0",
            }),
        );
        let taken = change(&[("requests.cpu", "2"), ("count/vms.g", "1"), ("cpu", "2")]);
        assert_eq!(judge(&mut quota, &taken, None), Ok(true));
        assert_eq!(quota["status"]["used"], json!({"requests.cpu": "3500m", "count/vms.g": "3", "x": "0"}));
        assert_eq!(
            judge(&mut quota, &taken, None).unwrap_err(),
            "exceeded quota: q, requested: count/vms.g=1,requests.cpu=2, used: count/vms.g=3,requests.cpu=3500m, \
             limited: count/vms.g=3,requests.cpu=4"
        );
        let given_back = change(&[("requests.cpu", "-9"), ("count/vms.g", "-1")]);
        assert_eq!(judge(&mut quota, &given_back, None), Ok(true));
        assert_eq!(quota["status"]["used"]["requests.cpu"], "0", "never below nothing");
        assert_eq!(judge(&mut quota, &change(&[("other", "1")]), None), Ok(false));
    }

    #[test]
    fn nothing_is_admitted_while_it_is_not_known_what_is_used() {
        let mut quota = quota(&json!({"secrets": "1"}), &json!({}));
        assert_eq!(
            judge(&mut quota, &change(&[("secrets", "1")]), None).unwrap_err(),
            "status unknown for quota: q, resources: secrets"
        );
        let before = quota.clone();
        assert_eq!(judge(&mut quota, &change(&[("secrets", "-1")]), None), Ok(true), "the quota must be written");
        assert_eq!(quota, before);
        let unspecified =
            Change { amounts: BTreeMap::new(), unknown: BTreeSet::from([("secrets", "spec.size".to_owned())]) };
        assert_eq!(judge(&mut quota, &unspecified, None).unwrap_err(), "failed quota: q: must specify spec.size");
    }
}
