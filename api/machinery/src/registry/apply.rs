//! Server-side apply: a configuration becomes a new object, or is merged into the one that is there. One that changes
//! nothing writes nothing, and finds that out without building or encoding an object.

use serde_json::{Value, json};

use super::admit::{Admitted, AdmittedConfiguration, admit_configuration, complete, untyped};
use super::prepare::{self, Ownership, Part};
use super::store::Freshness;
use super::write::{Change, Stamp, Write, Written, check_name, set_namespace};
use crate::apply::Configuration;
use crate::auth::{Attributes, Decision};
use crate::decode::Decoded;
use crate::meta;
use crate::status::{ApiError, Reason};

/// How often it is tried, when the object comes into being and goes at that very moment.
const ATTEMPTS: usize = 8;

/// A configuration that somebody applies to one object.
struct Application<'n> {
    name: &'n str,
    part: Part,
    config: Configuration,
    /// Whether to take what others own.
    force: bool,
    stamp: Stamp,
    warnings: Vec<String>,
}

impl Write<'_> {
    /// Applies a configuration to an object or to its status. Answers whether the object is new too.
    pub(crate) async fn apply(
        &self,
        name: &str,
        part: Part,
        body: Decoded,
        force: bool,
    ) -> Result<(Written, bool), ApiError> {
        let application = self.application(name, part, body, force)?;
        for _ in 0..ATTEMPTS {
            let absent = self.store.cached(self.resource, self.attributes.namespace, name).is_none();
            if absent && part == Part::Main {
                match self.create_applied(&application).await {
                    // the cache did not know it yet
                    Err(error) if error.reason() == Reason::AlreadyExists => {}
                    Err(error) => {
                        // what is wrong with a new object need not be wrong with one that is there
                        self.store.reach(Freshness::Consistent).await?;
                        if self.store.cached(self.resource, self.attributes.namespace, name).is_none() {
                            return Err(error);
                        }
                    }
                    Ok(written) => return Ok((written, true)),
                }
            }
            match self.merge_applied(&application).await {
                // it is gone: next time it is made anew
                Err(error) if error.reason() == Reason::NotFound && part == Part::Main => {}
                result => return Ok((result?, false)),
            }
        }
        let (group, plural) = self.names();
        Err(ApiError::modified(group, plural, name))
    }

    fn application<'n>(
        &self,
        name: &'n str,
        part: Part,
        body: Decoded,
        force: bool,
    ) -> Result<Application<'n>, ApiError> {
        let description = &self.resource.description;
        let AdmittedConfiguration { mut object, warnings } = admit_configuration(description, body, self.validation)?;
        set_namespace(&mut object, self.attributes.namespace)?;
        if !meta::text(&object, "name").is_empty() {
            check_name(&object, name)?;
        }
        if description.status_subresource {
            self.leave_out_of_reach(&mut object, part);
        }
        let problem = |problem: String| untyped(description, &json!({"metadata": {"name": name}}), &[problem]);
        let config = Configuration::new(object, &self.resource.type_).map_err(problem)?;
        Ok(Application { name, part, config, force, stamp: self.stamp(), warnings })
    }

    /// What this write does not reach is not owned by who applies it.
    fn leave_out_of_reach(&self, object: &mut Value, part: Part) {
        let Some(map) = object.as_object_mut() else { return };
        if part == Part::Main {
            map.remove("status");
            return;
        }
        map.retain(|field, _| matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|field, _| matches!(field.as_str(), "name" | "namespace" | "resourceVersion" | "uid"));
        }
        if let Some(status) = map.get_mut("status").and_then(Value::as_object_mut) {
            status.retain(|field, _| !self.resource.strategy.protected_status().contains(&field.as_str()));
        }
    }

    async fn create_applied(&self, application: &Application<'_>) -> Result<Written, ApiError> {
        let Application { name, config, stamp, warnings, .. } = application;
        let (group, plural) = self.names();
        let object = config.object();
        for field in ["uid", "resourceVersion"] {
            let given = meta::text(object, field);
            if !given.is_empty() {
                let why = format!(
                    "{field} mismatch: the provided object specified {field} {given}, and no existing object was found"
                );
                return Err(ApiError::conflict(group, plural, name, &why));
            }
        }
        if meta::text(object, "name").is_empty() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        let create = Self { attributes: Attributes { verb: "create", ..self.attributes }, ..*self };
        if let Decision::Deny(reason) = self.authorizer.authorize(&create.attributes, self.store) {
            return Err(ApiError::forbidden(group, plural, name, &reason));
        }
        let mut object = config.create(&self.writer(stamp));
        complete(&self.resource.description, &mut object);
        let admitted = Admitted { object, warnings: warnings.clone(), errors: Vec::new() };
        let surroundings = self.require_surroundings(false).await?;
        create.create_named(admitted, &Ownership::Noted, surroundings).await
    }

    async fn merge_applied(&self, application: &Application<'_>) -> Result<Written, ApiError> {
        let Application { name, part, config, force, stamp, .. } = application;
        let (context, writer) = (self.context(name), self.writer(stamp));
        let type_ = &self.resource.type_;
        let mut warnings = Vec::new();
        let mut decide = |old: &Value| {
            self.check_preconditions(name, config.object(), old, false)?;
            let served = self.resource.served(old);
            if config.is_applied(&writer, type_, &served) {
                self.authorize(name, Some(old), Some(old))?;
                warnings = self.resource.strategy.warnings(&context, old, Some(old));
                return Ok(Change::Keep);
            }
            let (mut object, ledger) = config.merge_into(&writer, type_, &served);
            complete(&self.resource.description, &mut object);
            let admitted = Admitted { object, warnings: Vec::new(), errors: Vec::new() };
            let ownership = Ownership::Applies { config, ledger: Box::new(ledger), force: *force };
            let prepared = prepare::update(self.resource, &context, &writer, *part, admitted, ownership, old)?;
            self.authorize(name, Some(old), Some(&prepared.object))?;
            warnings = prepared.warnings;
            Ok(self.change(prepared.object, old))
        };
        let mut written = self.swap(name, &mut decide).await?;
        written.warnings = application.warnings.iter().cloned().chain(warnings).collect();
        Ok(written)
    }
}
