//! Namespaces. A new one is held by the finalizer `kubernetes` in its spec until a namespace controller has emptied it;
//! the controller then takes it out through the subresource `finalize`.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::{Names, StandardKindError, describe, selectable};
use crate::meta;
use crate::protobuf::{Message, OBJECT_META, Shape};
use crate::registry::{Cell, Column, Resource, Scope};
use crate::status::{ApiError, FieldError, FieldPath};
use crate::strategy::{Context, Method, Strategy, SubresourceHandler, SubresourceRequest, SubresourceResponse};

const FINALIZER: &str = "kubernetes";
/// The label that lets selectors find a namespace by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

const MESSAGE: Message =
    &[(1, "metadata", Shape::Message(OBJECT_META)), (2, "spec", Shape::Message(&[(1, "finalizers", Shape::Texts)]))];

pub(super) fn resource() -> Result<Resource, StandardKindError> {
    let mut description = describe::<Namespace>(&Names {
        group: "",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short: &["ns"],
        scope: Scope::Cluster,
        status_subresource: true,
    })?;
    let status = Column {
        name: "Status".to_owned(),
        type_: "string".to_owned(),
        format: String::new(),
        description: "Active, or Terminating while its contents are deleted.".to_owned(),
        priority: 0,
        cell: Cell::Computed(|object| object.pointer("/status/phase").cloned().unwrap_or_default()),
    };
    description.columns.insert(1, status);
    description.selectable_fields = selectable(&["status.phase"])?;
    Ok(Resource::new(description).strategy(NamespaceStrategy).subresource("finalize", Finalize).protobuf(MESSAGE))
}

/// A namespace as a client would send it.
pub(crate) fn new_namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

struct NamespaceStrategy;

fn spec_finalizers(object: &Value) -> Option<&Vec<Value>> {
    object.pointer("/spec/finalizers").and_then(Value::as_array)
}

fn set_name_label(object: &mut Value, name: &str) {
    if let Some(labels) = meta::metadata_mut(object)
        .and_then(|metadata| metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut())
    {
        labels.insert(NAME_LABEL.to_owned(), name.into());
    }
}

fn set_phase(object: &mut Value) {
    let phase = if meta::is_terminating(object) { "Terminating" } else { "Active" };
    if !object.get("status").is_some_and(Value::is_object) {
        object["status"] = json!({});
    }
    object["status"]["phase"] = phase.into();
}

impl Strategy for NamespaceStrategy {
    fn prepare_for_create(&self, ctx: &Context<'_>, object: &mut Value) {
        object["spec"] = json!({"finalizers": [FINALIZER]});
        set_name_label(object, ctx.name);
        set_phase(object);
    }

    fn prepare_for_update(&self, ctx: &Context<'_>, new: &mut Value, old: &Value) {
        // the finalizers in the spec are written through the subresource `finalize` alone
        new["spec"] = old.get("spec").cloned().unwrap_or_else(|| json!({}));
        set_name_label(new, ctx.name);
    }

    fn prepare_for_status_update(&self, _: &Context<'_>, new: &mut Value, _: &Value) {
        set_phase(new);
    }

    fn validate_name(&self, name: &str) -> Result<(), String> {
        meta::names::dns1123_label(name)
    }

    fn allows_unconditional_update(&self) -> bool {
        true
    }

    fn holds_deletion(&self, object: &Value) -> bool {
        spec_finalizers(object).is_some_and(|finalizers| !finalizers.is_empty())
    }

    fn prepare_for_deletion(&self, object: &mut Value) {
        set_phase(object);
    }
}

/// PUT `.../namespaces/NAME/finalize`: the namespace with the finalizers that are left in its spec.
struct Finalize;

#[async_trait]
impl SubresourceHandler for Finalize {
    fn methods(&self) -> &'static [Method] {
        &[Method::Update]
    }

    fn kind(&self) -> &'static str {
        "Namespace"
    }

    async fn handle(&self, request: SubresourceRequest<'_>) -> Result<SubresourceResponse, ApiError> {
        let name = request.context.name;
        let Some(body) = request.body else {
            return Err(ApiError::bad_request("finalize needs a Namespace as its body"));
        };
        let finalizers = match body.pointer("/spec/finalizers") {
            None | Some(Value::Null) => json!([]),
            Some(list @ Value::Array(_)) => list.clone(),
            Some(other) => {
                let error =
                    FieldError::type_invalid(FieldPath::new("spec.finalizers"), other.clone(), "must be of type array");
                return Err(ApiError::invalid("", "Namespace", name, &[error]));
            }
        };
        let namespace = request
            .target
            .update(&mut |namespace| {
                for field in ["uid", "resourceVersion"] {
                    let given = meta::text(&body, field);
                    if !given.is_empty() && given != meta::text(namespace, field) {
                        return Err(ApiError::modified("", "namespaces", name));
                    }
                }
                namespace["spec"] = json!({"finalizers": finalizers});
                Ok(())
            })
            .await?;
        Ok(SubresourceResponse::ok(namespace))
    }
}
