//! The subresource `scale` (autoscaling/v1): how many replicas an object asks for and has, at the paths that its definition
//! names. `kubectl scale` and autoscalers write it without knowing the kind.

use async_trait::async_trait;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceSubresourceScale;
use serde_json::{Map, Value, json};

use crate::meta;
use crate::standard::simple_path;
use crate::status::{ApiError, FieldError, FieldPath};
use crate::strategy::{Context, Method, SubresourceHandler, SubresourceRequest, SubresourceResponse};

/// Where a kind keeps what a Scale shows.
pub(super) struct Scale {
    spec_replicas: Vec<String>,
    status_replicas: Vec<String>,
    selector: Option<Vec<String>>,
}

impl Scale {
    pub(super) fn new(paths: &CustomResourceSubresourceScale) -> Self {
        // validation lets simple paths pass alone
        let fields =
            |path: &str| simple_path(path).unwrap_or_default().into_iter().map(str::to_owned).collect::<Vec<_>>();
        Self {
            spec_replicas: fields(&paths.spec_replicas_path),
            status_replicas: fields(&paths.status_replicas_path),
            selector: paths.label_selector_path.as_deref().filter(|path| !path.is_empty()).map(fields),
        }
    }

    /// The Scale of an object.
    fn of(&self, object: &Value) -> Result<Value, ApiError> {
        let Some(replicas) = at(object, &self.spec_replicas) else {
            let path = self.spec_replicas.join(".");
            return Err(ApiError::internal(format!("the spec replicas field \".{path}\" does not exist")));
        };
        let mut metadata = Map::new();
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = meta::get(object, field) {
                metadata.insert(field.to_owned(), value.clone());
            }
        }
        let mut status = json!({"replicas": at(object, &self.status_replicas).cloned().unwrap_or_else(|| 0.into())});
        if let Some(selector) = self.selector.as_ref().and_then(|path| at(object, path)) {
            status["selector"] = selector.clone();
        }
        Ok(json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": {"replicas": replicas}, "status": status,
        }))
    }
}

fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |at, field| at.get(field))
}

/// Sets the value at a path, whose parents are made where they are missing.
fn set(object: &mut Value, path: &[String], value: Value) {
    let mut place = object;
    for field in path {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[field.as_str()];
    }
    *place = value;
}

/// The replicas that a Scale asks for.
fn wanted(scale: &Value, name: &str) -> Result<i64, ApiError> {
    for (field, expected) in [("kind", "Scale"), ("apiVersion", "autoscaling/v1")] {
        if let Some(given) = scale.get(field).and_then(Value::as_str)
            && given != expected
        {
            return Err(ApiError::bad_request(format!("{field} must be {expected}, not {given}")));
        }
    }
    let path = FieldPath::new("spec.replicas");
    let replicas = scale.pointer("/spec/replicas").cloned().unwrap_or_else(|| 0.into());
    let problem = match replicas.as_i64() {
        Some(replicas) if (0..=i64::from(i32::MAX)).contains(&replicas) => return Ok(replicas),
        Some(_) => FieldError::invalid(path, replicas, "should be a non-negative integer of 32 bits"),
        None => FieldError::type_invalid(path, replicas, "must be of type integer"),
    };
    Err(ApiError::invalid("autoscaling", "Scale", name, &[problem]))
}

fn check_preconditions(context: &Context<'_>, scale: &Value, object: &Value) -> Result<(), ApiError> {
    for field in ["uid", "resourceVersion"] {
        let given = meta::text(scale, field);
        if !given.is_empty() && given != meta::text(object, field) {
            return Err(ApiError::modified(&context.resource.group, &context.resource.plural, context.name));
        }
    }
    Ok(())
}

#[async_trait]
impl SubresourceHandler for Scale {
    fn methods(&self) -> &'static [Method] {
        &[Method::Get, Method::Patch, Method::Update]
    }

    fn kind(&self) -> &'static str {
        "Scale"
    }

    fn group_version(&self) -> Option<(&'static str, &'static str)> {
        Some(("autoscaling", "v1"))
    }

    async fn handle(&self, request: SubresourceRequest<'_>) -> Result<SubresourceResponse, ApiError> {
        let context = request.context;
        let object = match (request.method, request.body) {
            (Method::Get, _) => request.target.get().await?,
            (_, None) => return Err(ApiError::bad_request("a Scale is needed as the body")),
            (_, Some(scale)) => {
                let replicas = wanted(&scale, context.name)?;
                request
                    .target
                    .update(&mut |object| {
                        check_preconditions(&context, &scale, object)?;
                        set(object, &self.spec_replicas, replicas.into());
                        Ok(())
                    })
                    .await?
            }
        };
        Ok(SubresourceResponse::ok(self.of(&object)?))
    }
}
