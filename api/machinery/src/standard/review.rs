//! Reviews: questions that are asked by creating an object. None is stored; the answer is the object with a status.
//!
//! `authorization.k8s.io`: what may I do (`kubectl auth can-i`), what may somebody else do; `authentication.k8s.io`: who am I
//! (`kubectl auth whoami`). The server's [`Authorizer`](crate::auth::Authorizer) answers, as it does for each request.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::{Names, StandardKindError, describe};
use crate::auth::{Attributes, Decision, Rule, UserInfo};
use crate::protobuf::{Message, OBJECT_META, Shape};
use crate::registry::{Resource, Scope};
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, FieldError, FieldPath};
use crate::strategy::{Review, ReviewRequest};

const AUTHORIZATION: &str = "authorization.k8s.io";

const RESOURCE_ATTRIBUTES: Message = &[
    (1, "namespace", Shape::Text),
    (2, "verb", Shape::Text),
    (3, "group", Shape::Text),
    (4, "version", Shape::Text),
    (5, "resource", Shape::Text),
    (6, "subresource", Shape::Text),
    (7, "name", Shape::Text),
    (8, "fieldSelector", Shape::Message(&[(1, "rawSelector", Shape::Text)])),
    (9, "labelSelector", Shape::Message(&[(1, "rawSelector", Shape::Text)])),
];

const NON_RESOURCE_ATTRIBUTES: Message = &[(1, "path", Shape::Text), (2, "verb", Shape::Text)];

const SELF_ACCESS: Message = &[
    (1, "metadata", Shape::Message(OBJECT_META)),
    (
        2,
        "spec",
        Shape::Message(&[
            (1, "resourceAttributes", Shape::Message(RESOURCE_ATTRIBUTES)),
            (2, "nonResourceAttributes", Shape::Message(NON_RESOURCE_ATTRIBUTES)),
        ]),
    ),
];

const ACCESS: Message = &[
    (1, "metadata", Shape::Message(OBJECT_META)),
    (
        2,
        "spec",
        Shape::Message(&[
            (1, "resourceAttributes", Shape::Message(RESOURCE_ATTRIBUTES)),
            (2, "nonResourceAttributes", Shape::Message(NON_RESOURCE_ATTRIBUTES)),
            (3, "user", Shape::Text),
            (4, "groups", Shape::Texts),
            (6, "uid", Shape::Text),
        ]),
    ),
];

const SELF_RULES: Message =
    &[(1, "metadata", Shape::Message(OBJECT_META)), (2, "spec", Shape::Message(&[(1, "namespace", Shape::Text)]))];

const SELF: Message = &[(1, "metadata", Shape::Message(OBJECT_META))];

pub(super) fn resources() -> Result<Vec<Resource>, StandardKindError> {
    Ok(vec![
        review::<SelfSubjectAccessReview>(AUTHORIZATION, "SelfSubjectAccessReview", Scope::Cluster)?
            .review(SelfAccess)
            .protobuf(SELF_ACCESS),
        review::<SubjectAccessReview>(AUTHORIZATION, "SubjectAccessReview", Scope::Cluster)?
            .review(Access)
            .protobuf(ACCESS),
        review::<LocalSubjectAccessReview>(AUTHORIZATION, "LocalSubjectAccessReview", Scope::Namespaced)?
            .review(Access)
            .protobuf(ACCESS),
        review::<SelfSubjectRulesReview>(AUTHORIZATION, "SelfSubjectRulesReview", Scope::Cluster)?
            .review(SelfRules)
            .protobuf(SELF_RULES),
        review::<SelfSubjectReview>("authentication.k8s.io", "SelfSubjectReview", Scope::Cluster)?
            .review(WhoAmI)
            .protobuf(SELF),
    ])
}

fn review<K: JsonSchema>(group: &'static str, kind: &'static str, scope: Scope) -> Result<Resource, StandardKindError> {
    let mut description =
        describe::<K>(&Names { group, kind, plural: "", singular: "", short: &[], scope, status_subresource: false })?;
    description.singular = kind.to_lowercase();
    description.plural = format!("{}s", description.singular);
    Ok(Resource::new(description))
}

/// What the caller may do.
struct SelfAccess;

impl Review for SelfAccess {
    fn answer(&self, request: &ReviewRequest<'_>, object: &mut Value) -> Result<(), ApiError> {
        decide(request, request.user, object)
    }
}

/// What somebody may do.
struct Access;

impl Review for Access {
    fn answer(&self, request: &ReviewRequest<'_>, object: &mut Value) -> Result<(), ApiError> {
        let name = text(&object["spec"], "user").to_owned();
        let groups = object["spec"]["groups"].as_array().into_iter().flatten();
        let groups: Vec<String> = groups.filter_map(|group| group.as_str().map(str::to_owned)).collect();
        if name.is_empty() && groups.is_empty() {
            let detail = "at least one of user or group must be specified";
            let error = FieldError::invalid(FieldPath::new("spec.user"), "", detail);
            return Err(invalid(request, &[error]));
        }
        if let Some(namespace) = request.namespace {
            let asked = text(&object["spec"]["resourceAttributes"], "namespace");
            if asked != namespace {
                let path = FieldPath::new("spec.resourceAttributes.namespace");
                let detail = "must match metadata.namespace";
                return Err(invalid(request, &[FieldError::invalid(path, asked, detail)]));
            }
        }
        // who they are is what the question says, and no more
        decide(request, &UserInfo { name, groups }, object)
    }
}

/// The rules that hold for the caller in a namespace.
struct SelfRules;

impl Review for SelfRules {
    fn answer(&self, request: &ReviewRequest<'_>, object: &mut Value) -> Result<(), ApiError> {
        let namespace = text(&object["spec"], "namespace");
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        let rules = request.authorizer.rules(request.user, namespace);
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in rules.rules {
            match rule {
                Rule::Resources { verbs, groups, resources: names, names: objects } => resources.push(json!({
                    "verbs": verbs, "apiGroups": groups, "resources": names, "resourceNames": objects,
                })),
                Rule::Paths { verbs, paths: urls } => paths.push(json!({"verbs": verbs, "nonResourceURLs": urls})),
            }
        }
        object["status"] = json!({
            "resourceRules": resources, "nonResourceRules": paths, "incomplete": rules.incomplete,
        });
        Ok(())
    }
}

/// Who the caller is.
struct WhoAmI;

impl Review for WhoAmI {
    fn answer(&self, request: &ReviewRequest<'_>, object: &mut Value) -> Result<(), ApiError> {
        object["status"] = json!({"userInfo": {"username": request.user.name, "groups": request.user.groups}});
        Ok(())
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn invalid(request: &ReviewRequest<'_>, errors: &[FieldError]) -> ApiError {
    ApiError::invalid(&request.resource.group, &request.resource.kind, "", errors)
}

/// Has the authorizer decide about what the spec asks, and writes the answer into the status.
fn decide(request: &ReviewRequest<'_>, user: &UserInfo, object: &mut Value) -> Result<(), ApiError> {
    let given = |field: &str| object["spec"].get(field).filter(|value| !value.is_null());
    let decision = match (given("resourceAttributes"), given("nonResourceAttributes")) {
        (Some(asked), None) => decide_resource(request, user, asked)?,
        (None, Some(asked)) => {
            let verb = text(asked, "verb").to_lowercase();
            let none = (FieldSelector::default(), LabelSelector::default());
            request.authorizer.authorize(
                &Attributes {
                    user,
                    verb: &verb,
                    group: "",
                    version: "",
                    resource: "",
                    subresource: "",
                    namespace: "",
                    name: "",
                    field_selector: &none.0,
                    label_selector: &none.1,
                    path: text(asked, "path"),
                },
                request.lister,
            )
        }
        _ => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(invalid(
                request,
                &[FieldError::invalid(FieldPath::new("spec.resourceAttributes"), "", detail)],
            ));
        }
    };
    object["status"] = match decision {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(reason) if reason.is_empty() => json!({"allowed": false}),
        Decision::Deny(reason) => json!({"allowed": false, "reason": reason}),
    };
    Ok(())
}

fn decide_resource(request: &ReviewRequest<'_>, user: &UserInfo, asked: &Value) -> Result<Decision, ApiError> {
    let raw = |field: &str| text(asked.get(field).unwrap_or(&Value::Null), "rawSelector");
    let path = |field: &str| FieldPath::new("spec.resourceAttributes").child(field).child("rawSelector");
    let refused =
        |field: &str, error: String| invalid(request, &[FieldError::invalid(path(field), raw(field), &error)]);
    let fields =
        FieldSelector::parse(raw("fieldSelector")).map_err(|error| refused("fieldSelector", error.to_string()))?;
    let labels =
        LabelSelector::parse(raw("labelSelector")).map_err(|error| refused("labelSelector", error.to_string()))?;
    Ok(request.authorizer.authorize(
        &Attributes {
            user,
            verb: text(asked, "verb"),
            group: text(asked, "group"),
            version: text(asked, "version"),
            resource: text(asked, "resource"),
            subresource: text(asked, "subresource"),
            namespace: text(asked, "namespace"),
            name: text(asked, "name"),
            field_selector: &fields,
            label_selector: &labels,
            path: "",
        },
        request.lister,
    ))
}
