//! Every write of every kind: one transaction each, on the state that the cache holds, and again on the state that the
//! store holds if the cache was behind.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rand::Rng as _;
use serde_json::{Value, json};

use super::admit::{Admitted, FieldValidation, admit};
use super::charged::{Conditions, Operation, Rejection};
use super::deletion::{DeleteOptions, Deletion, is_held, plan_deletion};
use super::prepare::{self, Ownership, Part, is_unchanged};
use super::resource::Resource;
use super::store::{Freshness, Store, decode_cached};
use super::{definitions, failure, namespaces, quota};
use crate::apply::Writer;
use crate::auth::{Attributes, Authorizer, Decision};
use crate::cache::{Encoded, Object};
use crate::decode::Decoded;
use crate::meta;
use crate::status::{ApiError, Reason};
use crate::storage::{Guard, Revision, StorageError, StoredValue};
use crate::strategy::Context;

/// How often a write is tried when other writers are faster.
pub(super) const ATTEMPTS: usize = 16;
/// How many names are tried for `generateName`.
const NAME_ATTEMPTS: usize = 8;
/// The longest `generateName` that is used whole; a label's 63 bytes less the random part.
const GENERATED_BASE: usize = 58;
/// Without vowels and look-alikes, as Kubernetes does.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A write: who does it, to what, and how.
#[derive(Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) store: &'a Store,
    pub(crate) authorizer: &'a dyn Authorizer,
    pub(crate) resource: &'a Resource,
    pub(crate) attributes: Attributes<'a>,
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// The name under which the client owns fields.
    pub(crate) manager: &'a str,
}

/// What a write led to.
#[derive(Debug)]
pub(crate) struct Written {
    /// The object as it is stored now, in its stored form with its resource version; as it was last, if it is gone.
    pub(crate) object: Value,
    /// The same as JSON, where it need not be encoded anew.
    pub(crate) json: Option<Bytes>,
    /// Whether the object is gone.
    pub(crate) removed: bool,
    /// For the client to hear.
    pub(crate) warnings: Vec<String>,
}

/// What to do with the present object.
pub(crate) enum Change {
    Keep,
    Put(Value),
    /// Remove it; the client sees this as its last state.
    Remove(Value),
}

/// How an update makes the new object, in its served form.
pub(crate) enum Edit<'e> {
    /// The client sent all of it.
    Replace(Decoded),
    /// It comes from the present object, which the function gets in its served form.
    Derive(&'e mut (dyn FnMut(&Value) -> Result<Value, ApiError> + Send)),
}

/// The present state of an object, and whether the store itself vouches for it.
struct Current {
    object: Value,
    cached: Option<Arc<Object>>,
    revision: Revision,
    proven: bool,
}

/// What the parts of one write have in common.
pub(super) struct Stamp {
    api_version: String,
    /// As metadata has it.
    now: String,
}

impl<'a> Write<'a> {
    pub(crate) fn context<'c>(&'c self, name: &'c str) -> Context<'c> {
        let Attributes { namespace, subresource, user, .. } = self.attributes;
        Context {
            user,
            resource: &self.resource.description,
            namespace: super::store::optional(namespace),
            name,
            subresource: (!subresource.is_empty()).then_some(subresource),
            dry_run: self.dry_run,
            lister: self.store,
        }
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp { api_version: self.resource.description.api_version(), now: meta::timestamp(Timestamp::now()) }
    }

    pub(super) fn writer<'s>(&self, stamp: &'s Stamp) -> Writer<'s>
    where
        'a: 's,
    {
        Writer {
            manager: self.manager,
            api_version: &stamp.api_version,
            subresource: self.attributes.subresource,
            now: &stamp.now,
        }
    }

    pub(super) fn names(&self) -> (&'a str, &'a str) {
        (&self.resource.description.group, &self.resource.description.plural)
    }

    pub(super) fn authorize(&self, name: &str, old: Option<&Value>, new: Option<&Value>) -> Result<(), ApiError> {
        let attributes = Attributes { name, ..self.attributes };
        match self.authorizer.authorize_object(&attributes, old, new, self.store) {
            Decision::Allow => Ok(()),
            Decision::Deny(reason) => {
                let (group, plural) = self.names();
                Err(ApiError::forbidden(group, plural, name, &reason))
            }
        }
    }

    /// Stores a new object.
    pub(crate) async fn create(&self, body: Decoded) -> Result<Written, ApiError> {
        let description = &self.resource.description;
        let mut admitted = admit(description, body, self.validation)?;
        set_namespace(&mut admitted.object, self.attributes.namespace)?;
        if !meta::text(&admitted.object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let surroundings = self.require_surroundings(false).await?;
        let base = meta::text(&admitted.object, "generateName").to_owned();
        if !meta::text(&admitted.object, "name").is_empty() || base.is_empty() {
            return self.create_named(admitted, &Ownership::Changes, surroundings).await;
        }
        let mut attempts = NAME_ATTEMPTS;
        loop {
            attempts -= 1;
            let mut attempt = admitted.clone();
            meta::set(&mut attempt.object, "name", Some(generate_name(&base).into()));
            match self.create_named(attempt, &Ownership::Changes, surroundings.clone()).await {
                Err(error) if attempts > 0 && error.reason() == Reason::AlreadyExists => {}
                result => return result,
            }
        }
    }

    /// What a new object depends on must be there, and stay until it is stored.
    pub(super) async fn require_surroundings(&self, fresh: bool) -> Result<Vec<Guard>, ApiError> {
        let description = &self.resource.description;
        let mut guards = Vec::new();
        if description.is_namespaced() {
            guards.push(namespaces::require(self.store, description, self.attributes.namespace, fresh).await?);
        }
        guards.extend(definitions::require(self.store, self.resource, fresh).await?);
        Ok(guards)
    }

    pub(super) async fn create_named(
        &self,
        admitted: Admitted,
        ownership: &Ownership<'_>,
        surroundings: Vec<Guard>,
    ) -> Result<Written, ApiError> {
        let name = meta::text(&admitted.object, "name").to_owned();
        let uid = uuid::Uuid::new_v4().to_string();
        let stamp = self.stamp();
        let (context, writer) = (self.context(&name), self.writer(&stamp));
        let prepared = prepare::create(self.resource, &context, &writer, admitted, ownership, &uid)?;
        self.authorize(&name, None, Some(&prepared.object))?;
        let mut object = prepared.object;
        let namespace = self.attributes.namespace;
        let change = quota::Change::between(self.resource, None, Some(&object));
        let mut json = None;
        if self.dry_run {
            self.store.reach(Freshness::Consistent).await?;
            quota::charge(self.store, self.resource, namespace, &name, &change)?;
            if self.store.cached(self.resource, namespace, &name).is_some() {
                let (group, plural) = self.names();
                return Err(ApiError::already_exists(group, plural, &name));
            }
        } else {
            let conditions = Conditions { surroundings, creates: true, touches: quota::is_quota(self.resource) };
            let encoded = Encoded::new(&object).map_err(ApiError::internal)?;
            let stored = self.charged(&name, Operation::Create(encoded.bytes()), &change, conditions).await;
            let revision = stored.map_err(|rejection| self.answer(&name, rejection))?;
            json = self.answer_of(&encoded, revision);
            // as it will be read
            self.resource.normalise(&mut object);
            meta::set(&mut object, "resourceVersion", Some(json!(revision.to_string())));
        }
        Ok(Written { object, json, removed: false, warnings: prepared.warnings })
    }

    /// What has just been stored, as it will be read.
    fn answer_of(&self, stored: &Encoded, revision: Revision) -> Option<Bytes> {
        self.resource.normaliser.is_none().then(|| stored.with_version(revision))
    }

    fn answer(&self, name: &str, rejection: Rejection) -> ApiError {
        match rejection {
            Rejection::Refused(error) => error,
            Rejection::Storage(error) => failure::of_write(&error, self.resource, name),
        }
    }

    /// Changes a part of an object.
    pub(crate) async fn update(&self, name: &str, part: Part, mut edit: Edit<'_>) -> Result<Written, ApiError> {
        let mut warnings = Vec::new();
        let stamp = self.stamp();
        let (context, writer) = (self.context(name), self.writer(&stamp));
        let mut decide = |old: &Value| {
            let (body, replaces) = match &mut edit {
                Edit::Replace(body) => (body.clone(), true),
                Edit::Derive(derive) => {
                    let value = derive(&self.resource.served(old))?;
                    (Decoded { value, duplicates: Vec::new() }, false)
                }
            };
            let mut admitted = admit(&self.resource.description, body, self.validation)?;
            set_namespace(&mut admitted.object, self.attributes.namespace)?;
            check_name(&admitted.object, name)?;
            self.check_preconditions(name, &admitted.object, old, replaces)?;
            let prepared = prepare::update(self.resource, &context, &writer, part, admitted, Ownership::Changes, old)?;
            self.authorize(name, Some(old), Some(&prepared.object))?;
            warnings = prepared.warnings;
            Ok(self.change(prepared.object, old))
        };
        let mut written = self.swap(name, &mut decide).await?;
        written.warnings = warnings;
        Ok(written)
    }

    /// What has to happen so that `new` is what becomes of `old`.
    pub(super) fn change(&self, new: Value, old: &Value) -> Change {
        if meta::is_terminating(old) && !is_held(self.resource, &new) {
            Change::Remove(new)
        } else if is_unchanged(&new, old) {
            Change::Keep
        } else {
            Change::Put(new)
        }
    }

    /// Deletes an object, or begins to.
    pub(crate) async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<Written, ApiError> {
        let now = Timestamp::now();
        let mut decide = |old: &Value| {
            for (what, wanted, field) in
                [("UID", &options.uid, "uid"), ("ResourceVersion", &options.resource_version, "resourceVersion")]
            {
                if let Some(wanted) = wanted
                    && wanted != meta::text(old, field)
                {
                    return Err(self.failed_precondition(name, what, wanted, meta::text(old, field)));
                }
            }
            self.authorize(name, Some(old), None)?;
            if !meta::is_terminating(old)
                && let Err(why) = self.resource.strategy.validate_delete(&self.context(name), old)
            {
                let (group, plural) = self.names();
                return Err(ApiError::in_use(group, plural, name, &why));
            }
            Ok(match plan_deletion(self.resource, old, options, now) {
                Deletion::Remove => Change::Remove(old.clone()),
                Deletion::Mark(marked) => Change::Put(marked),
                Deletion::Underway => Change::Keep,
            })
        };
        self.swap(name, &mut decide).await
    }

    fn failed_precondition(&self, name: &str, what: &str, wanted: &str, found: &str) -> ApiError {
        let (group, plural) = self.names();
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        ApiError::conflict(group, plural, name, &why)
    }

    pub(super) fn check_preconditions(
        &self,
        name: &str,
        new: &Value,
        old: &Value,
        replaces: bool,
    ) -> Result<(), ApiError> {
        let (uid, version) = (meta::text(new, "uid"), meta::text(new, "resourceVersion"));
        if !uid.is_empty() && uid != meta::text(old, "uid") {
            return Err(self.failed_precondition(name, "UID", uid, meta::text(old, "uid")));
        }
        if version.is_empty() {
            if replaces && !self.resource.strategy.allows_unconditional_update() {
                return Err(prepare::version_required(self.resource, name));
            }
        } else if version != meta::text(old, "resourceVersion") {
            let (group, plural) = self.names();
            return Err(ApiError::modified(group, plural, name));
        }
        Ok(())
    }

    /// Compare-and-swap: `decide` sees the present object and says what becomes of it. It sees the cache's first, and a
    /// newer one if the cache turns out to be behind; an error or a "nothing to do" counts only on a state that is
    /// proven to be the newest.
    pub(crate) async fn swap(
        &self,
        name: &str,
        decide: &mut (dyn FnMut(&Value) -> Result<Change, ApiError> + Send),
    ) -> Result<Written, ApiError> {
        let mut current = match self.current_cached(name)? {
            Some(current) => current,
            None => self.current_proven(name).await?,
        };
        for _ in 0..ATTEMPTS {
            let decision = decide(&current.object);
            let ends_here = matches!(decision, Err(_) | Ok(Change::Keep));
            if ends_here && !current.proven {
                // decided anew also where the object is the same: the other objects that were looked at are newer now
                current = self.proven(name, current).await?;
                continue;
            }
            let (object, removed) = match decision? {
                Change::Keep => {
                    let Current { object, cached, .. } = current;
                    let json = cached.map(|cached| cached.json().clone());
                    return Ok(Written { object, json, removed: false, warnings: Vec::new() });
                }
                Change::Put(object) => (object, false),
                Change::Remove(object) => (object, true),
            };
            match self.commit(name, object, removed, &current).await {
                Ok(written) => return Ok(written),
                Err(Rejection::Storage(StorageError::Conflict { current: stored, .. })) => {
                    current = self.current_stored(&stored)?;
                }
                Err(rejection) => return Err(self.answer(name, rejection)),
            }
        }
        let (group, plural) = self.names();
        Err(ApiError::modified(group, plural, name))
    }

    async fn commit(
        &self,
        name: &str,
        mut object: Value,
        removed: bool,
        current: &Current,
    ) -> Result<Written, Rejection> {
        let namespace = self.attributes.namespace;
        let old = &current.object;
        let change = if removed && !quota::exist(self.store, namespace) {
            // what nobody limits need not be given back
            quota::Change::default()
        } else {
            quota::Change::between(self.resource, Some(old), (!removed).then_some(&object))
        };
        let mut json = None;
        let revision = if self.dry_run {
            quota::charge(self.store, self.resource, namespace, name, &change)?;
            current.revision
        } else if removed {
            let conditions = Conditions { surroundings: Vec::new(), creates: false, touches: false };
            self.charged(name, Operation::Delete(current.revision), &change, conditions).await?
        } else {
            let touches = quota::is_quota(self.resource) && quota::limits_change(Some(old), &object);
            let guard = if touches || change.takes() { namespaces::known(self.store, namespace) } else { None };
            let conditions = Conditions { surroundings: guard.into_iter().collect(), creates: false, touches };
            meta::set(&mut object, "resourceVersion", None);
            let encoded = Encoded::new(&object).map_err(|error| Rejection::Refused(ApiError::internal(error)))?;
            let operation = Operation::Update(encoded.bytes(), current.revision);
            let revision = self.charged(name, operation, &change, conditions).await?;
            json = self.answer_of(&encoded, revision);
            revision
        };
        meta::set(&mut object, "resourceVersion", Some(json!(revision.to_string())));
        Ok(Written { object, json, removed, warnings: Vec::new() })
    }

    fn current_cached(&self, name: &str) -> Result<Option<Current>, ApiError> {
        let Some(object) = self.store.cached(self.resource, self.attributes.namespace, name) else {
            return Ok(None);
        };
        let revision = object.resource_version();
        Ok(Some(Current { object: decode_cached(&object)?, cached: Some(object), revision, proven: false }))
    }

    /// The object as it is after every write that was answered before this call, where `current` is what the cache held before.
    async fn proven(&self, name: &str, current: Current) -> Result<Current, ApiError> {
        self.store.reach(Freshness::Consistent).await?;
        let cached = self.store.cached(self.resource, self.attributes.namespace, name);
        if cached.is_some_and(|cached| cached.resource_version() == current.revision) {
            return Ok(Current { proven: true, ..current });
        }
        self.current_fresh(name)
    }

    /// The object as it is after every write that was answered before this call.
    async fn current_proven(&self, name: &str) -> Result<Current, ApiError> {
        self.store.reach(Freshness::Consistent).await?;
        self.current_fresh(name)
    }

    /// What the cache holds, which is known to be fresh.
    fn current_fresh(&self, name: &str) -> Result<Current, ApiError> {
        let (group, plural) = self.names();
        let current = self.current_cached(name)?.ok_or_else(|| ApiError::not_found(group, plural, name))?;
        Ok(Current { proven: true, ..current })
    }

    /// The object that a failed transaction found.
    fn current_stored(&self, stored: &StoredValue) -> Result<Current, ApiError> {
        let mut object: Value = serde_json::from_slice(&stored.value)
            .map_err(|error| ApiError::internal(format!("the stored value of {} is not JSON: {error}", stored.key)))?;
        self.resource.normalise(&mut object);
        let revision = stored.mod_revision;
        meta::set(&mut object, "resourceVersion", Some(json!(revision.to_string())));
        Ok(Current { object, cached: None, revision, proven: true })
    }
}

/// The object's namespace is that of the request's path.
pub(super) fn set_namespace(object: &mut Value, namespace: &str) -> Result<(), ApiError> {
    let given = meta::text(object, "namespace");
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta::set(object, "namespace", (!namespace.is_empty()).then(|| namespace.into()));
    Ok(())
}

pub(super) fn check_name(object: &Value, name: &str) -> Result<(), ApiError> {
    let given = meta::text(object, "name");
    if given == name {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("the name of the object ({given}) does not match the name on the URL ({name})")))
}

fn generate_name(base: &str) -> String {
    let mut end = base.len().min(GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut random = rand::rng();
    for _ in 0..5 {
        name.push(char::from(NAME_ALPHABET[random.random_range(0..NAME_ALPHABET.len())]));
    }
    name
}
