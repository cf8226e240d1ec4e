//! Requests and objects for the tests of the rules.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;
use ucloud_machinery::{
    auth::{Attributes, Authorizer as _, Decision, UserInfo},
    meta,
    selector::{FieldSelector, LabelSelector},
    strategy::Lister,
};
use ucloud_types::{GROUP, VERSION};

use super::RoleAuthorizer;

static NO_FIELDS: LazyLock<FieldSelector> = LazyLock::new(FieldSelector::default);
static NO_LABELS: LazyLock<LabelSelector> = LazyLock::new(LabelSelector::default);

/// A user with these groups.
pub fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo::new(name, groups.iter().map(|group| (*group).to_owned()))
}

/// Objects by their plural.
#[derive(Default)]
pub struct Objects(BTreeMap<&'static str, Vec<Value>>);

impl Objects {
    pub fn with(mut self, plural: &'static str, object: Value) -> Self {
        self.0.entry(plural).or_default().push(object);
        self
    }
}

impl Lister for Objects {
    fn get(&self, group: &str, resource: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        self.list(group, resource, namespace).into_iter().find(|object| meta::text(object, "name") == name)
    }

    fn list(&self, _: &str, resource: &str, namespace: Option<&str>) -> Vec<Value> {
        let all = self.0.get(resource).into_iter().flatten();
        all.filter(|object| namespace.is_none_or(|own| meta::text(object, "namespace") == own)).cloned().collect()
    }
}

/// A request, of ucloud's group unless told otherwise.
#[derive(Clone, Copy)]
pub struct Request<'a>(Attributes<'a>);

impl<'a> Request<'a> {
    pub fn new(user: &'a UserInfo, verb: &'a str, resource: &'a str) -> Self {
        Self(Attributes {
            user,
            verb,
            group: GROUP,
            version: VERSION,
            resource,
            subresource: "",
            namespace: "",
            name: "",
            field_selector: &NO_FIELDS,
            label_selector: &NO_LABELS,
            path: "",
        })
    }

    pub fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        let mut request = Self::new(user, verb, "");
        request.0.path = path;
        request
    }

    pub fn group(mut self, group: &'a str) -> Self {
        self.0.group = group;
        self
    }

    pub fn subresource(mut self, subresource: &'a str) -> Self {
        self.0.subresource = subresource;
        self
    }

    pub fn namespace(mut self, namespace: &'a str) -> Self {
        self.0.namespace = namespace;
        self
    }

    pub fn name(mut self, name: &'a str) -> Self {
        self.0.name = name;
        self
    }

    pub fn selector(mut self, selector: &'a FieldSelector) -> Self {
        self.0.field_selector = selector;
        self
    }

    pub fn attributes(&self) -> Attributes<'a> {
        self.0
    }

    /// The first judgement, with no objects in the cache.
    pub fn decide(&self) -> Decision {
        self.decide_with(&Objects::default())
    }

    /// The first judgement.
    pub fn decide_with(&self, objects: &Objects) -> Decision {
        RoleAuthorizer.authorize(&self.0, objects)
    }

    /// The second judgement.
    pub fn judge(&self, old: Option<&Value>, new: Option<&Value>, objects: &Objects) -> Decision {
        RoleAuthorizer.authorize_object(&self.0, old, new, objects)
    }

    /// Whether both judgements allow it.
    pub fn allowed(&self, old: Option<&Value>, new: Option<&Value>, objects: &Objects) -> bool {
        self.decide_with(objects) == Decision::Allow && self.judge(old, new, objects) == Decision::Allow
    }
}
