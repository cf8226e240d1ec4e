//! Deletion, of one object or of a selected collection.

use http::Response;
use serde_json::Value;

use super::query::{self, ReadOptions, WriteOptions};
use super::respond::Body;
use super::{Call, body, respond};
use crate::meta;
use crate::registry::{DeleteOptions, Written};
use crate::status::{ApiError, FieldError, FieldPath, Reason, success};

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
        let read = ReadOptions::parse(self.query)?;
        let filter = self.filter()?;
        self.api.store.reach(read.freshness).await?;
        let (revision, selected) = self.selected(&filter)?;
        for object in &selected {
            // a successor of the same name was not selected
            let options = DeleteOptions { uid: Some(object.uid().to_owned()), ..options.clone() };
            match self.write(write).delete(object.name(), &options).await {
                Ok(_) => {}
                Err(error) if error.reason() == Reason::NotFound || error.reason() == Reason::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(respond::list(self.resource.clone(), super::negotiate::Form::Object, revision, selected))
    }

    /// From the body (`DeleteOptions`) and the query.
    fn delete_options(&self, bytes: &[u8]) -> Result<(DeleteOptions, WriteOptions), ApiError> {
        let mut write = WriteOptions::parse(self.query)?;
        let body = if bytes.is_empty() { Value::Null } else { body::object(self.headers, bytes, None)?.value };
        if !body.is_null() && !body.is_object() {
            return Err(ApiError::bad_request("the body must be a DeleteOptions object"));
        }
        if let Some(kind) = body.get("kind").and_then(Value::as_str)
            && kind != "DeleteOptions"
        {
            return Err(ApiError::bad_request(format!("the body must be a DeleteOptions object, not a {kind}")));
        }
        let dry_run = body.get("dryRun").and_then(Value::as_array).into_iter().flatten();
        write.dry_run |= query::dry_run(dry_run.map(|value| value.as_str().unwrap_or("(no string)")))?;

        let in_body = |name: &str| body.get(name).filter(|value| !value.is_null());
        let policy = in_body("propagationPolicy").and_then(Value::as_str);
        let policy = policy.unwrap_or_else(|| self.query.get("propagationPolicy"));
        if !matches!(policy, "" | "Orphan" | "Background" | "Foreground") {
            let supported = ["Background", "Foreground", "Orphan"].map(str::to_owned);
            let error = FieldError::not_supported(FieldPath::new("propagationPolicy"), policy, &supported);
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        let grace_period_seconds =
            match in_body("gracePeriodSeconds") {
                Some(value) => Some(value.as_i64().ok_or_else(|| {
                    ApiError::bad_request(format!("gracePeriodSeconds must be an integer, not {value}"))
                })?),
                None => self.query.number("gracePeriodSeconds")?,
            };
        let precondition = |name: &str| {
            let value = body.get("preconditions").and_then(|preconditions| preconditions.get(name));
            value.and_then(Value::as_str).map(str::to_owned)
        };
        let options = DeleteOptions {
            grace_period_seconds,
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
        };
        Ok((options, write))
    }
}
