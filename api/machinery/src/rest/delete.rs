//! Deletion, of one object or of a selected collection.

use http::Response;
use serde_json::Value;

use super::options::ListOptions;
use super::query::{self, WriteOptions};
use super::respond::Body;
use super::{Call, body, respond};
use crate::meta;
use crate::protobuf;
use crate::registry::{DeleteOptions, Propagation, Written};
use crate::status::{ApiError, FieldError, FieldPath, IN_USE, Reason, shown, success};

/// The option of a deletion that would remove an object whose finalizers cannot be read.
const IGNORE_STORE_READ_ERROR: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

impl Call<'_> {
    pub(super) async fn delete(&self, bytes: &[u8]) -> Result<Response<Body>, ApiError> {
        let (options, write) = self.delete_options(bytes)?;
        let Written { object, removed, .. } = self.write(write).delete(&self.path.name, &options).await?;
        if removed {
            let uid = meta::text(&object, "uid");
            let path = self.path;
            return Ok(respond::json(200, &success(&path.group, &path.resource, &path.name, uid)));
        }
        Ok(respond::json(200, &self.resource.to_served(object)))
    }

    pub(super) async fn delete_collection(&self, bytes: &[u8]) -> Result<Response<Body>, ApiError> {
        let (options, write) = self.delete_options(bytes)?;
        let selected = self.page(&ListOptions::parse(self.query)?).await?;
        for object in &selected.objects {
            // a successor of the same name was not selected
            let options = DeleteOptions { uid: Some(object.uid().to_owned()), ..options.clone() };
            match self.write(write).delete(object.name(), &options).await {
                Ok(_) => {}
                // it is gone, or another one has its name
                Err(error) if error.reason() == Reason::NotFound => {}
                Err(error)
                    if error.reason() == Reason::Conflict
                        && error.causes().iter().all(|cause| cause.reason != IN_USE) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(respond::list(self.resource.clone(), super::negotiate::Form::Object, selected))
    }

    /// From the body (`DeleteOptions`) and the query. What cannot be read is refused: a precondition that is not
    /// understood must not count as none.
    fn delete_options(&self, bytes: &[u8]) -> Result<(DeleteOptions, WriteOptions), ApiError> {
        let mut write = WriteOptions::parse(self.query)?;
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            body::object(self.headers, bytes, Some(protobuf::DELETE_OPTIONS))?.value
        };
        if !body.is_null() && !body.is_object() {
            return Err(ApiError::bad_request("the body must be a DeleteOptions object"));
        }
        let kind = text(&body, "kind")?.unwrap_or("DeleteOptions");
        if kind != "DeleteOptions" {
            return Err(ApiError::bad_request(format!("the body must be a DeleteOptions object, not a {kind}")));
        }
        let in_body = |name: &str| body.get(name).filter(|value| !value.is_null());
        match in_body("dryRun") {
            None => {}
            Some(Value::Array(stages)) => {
                write.dry_run |= query::dry_run(stages.iter().map(|stage| stage.as_str().unwrap_or("(no string)")))?;
            }
            Some(other) => return Err(malformed("dryRun", "a list of strings", other)),
        }
        if self.flag(&body, IGNORE_STORE_READ_ERROR)? == Some(true) {
            return Err(ApiError::bad_request(format!(
                "{IGNORE_STORE_READ_ERROR} is not supported by this server: an object that cannot be read is removed in etcd"
            )));
        }
        let propagation = self.propagation(&body)?;
        let grace_period_seconds = match in_body("gracePeriodSeconds") {
            Some(value) => Some(value.as_i64().ok_or_else(|| malformed("gracePeriodSeconds", "an integer", value))?),
            None => self.query.number("gracePeriodSeconds")?,
        };
        let preconditions = in_body("preconditions").unwrap_or(&Value::Null);
        if !preconditions.is_null() && !preconditions.is_object() {
            return Err(malformed("preconditions", "an object", preconditions));
        }
        let precondition = |name: &str| Ok(text(preconditions, name)?.map(str::to_owned));
        let options = DeleteOptions {
            propagation,
            grace_period_seconds,
            uid: precondition("uid")?,
            resource_version: precondition("resourceVersion")?,
        };
        Ok((options, write))
    }

    /// What becomes of the dependents: `propagationPolicy`, or what stood for it before.
    fn propagation(&self, body: &Value) -> Result<Option<Propagation>, ApiError> {
        let refused = |error| Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
        let policy = match text(body, "propagationPolicy")? {
            Some(policy) => policy,
            None => self.query.get("propagationPolicy"),
        };
        let path = FieldPath::new("propagationPolicy");
        let orphan = self.flag(body, "orphanDependents")?;
        if orphan.is_some() && !policy.is_empty() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            return refused(FieldError::invalid(path, policy, detail));
        }
        match (policy, orphan) {
            ("", None) => Ok(None),
            ("Orphan", _) | ("", Some(true)) => Ok(Some(Propagation::Orphan)),
            ("Background", _) | ("", Some(false)) => Ok(Some(Propagation::Background)),
            ("Foreground", _) => Ok(Some(Propagation::Foreground)),
            _ => refused(FieldError::not_supported(
                path,
                policy,
                &["Background", "Foreground", "Orphan"].map(str::to_owned),
            )),
        }
    }

    /// A truth value in the body, or else in the query.
    fn flag(&self, body: &Value, name: &str) -> Result<Option<bool>, ApiError> {
        match body.get(name) {
            None | Some(Value::Null) => match self.query.get(name) {
                "" => Ok(None),
                text => {
                    let flag = text.parse().map_err(|_| malformed(name, "true or false", &text.into()))?;
                    Ok(Some(flag))
                }
            },
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(malformed(name, "true or false", other)),
        }
    }
}

/// A field that holds a string, or is not there.
fn text<'a>(object: &'a Value, field: &str) -> Result<Option<&'a str>, ApiError> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(malformed(field, "a string", other)),
    }
}

fn malformed(field: &str, wanted: &str, given: &Value) -> ApiError {
    ApiError::bad_request(format!("{field} in DeleteOptions must be {wanted}, not {}", shown(given)))
}
