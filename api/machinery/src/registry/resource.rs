//! A kind that is served: its description with its strategy, its subresources and its place in storage.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::definitions::Definition;
use super::description::{DescriptionError, ResourceDescription};
use crate::apply::Type;
use crate::cache::Normaliser;
use crate::meta::names::NO_NAMESPACE;
use crate::protobuf::Message;
use crate::strategy::{Conversion, NoStrategy, Review, Strategy, StreamHandler, SubresourceHandler};

/// A kind as it is served.
#[derive(Clone)]
pub struct Resource {
    pub(crate) description: ResourceDescription,
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) subresources: BTreeMap<String, Arc<dyn SubresourceHandler>>,
    pub(crate) streams: BTreeMap<String, Arc<dyn StreamHandler>>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) conversion: Option<Arc<dyn Conversion>>,
    /// The kind's message, for clients that send protobuf.
    pub(crate) protobuf: Option<Message>,
    /// The definition that the kind comes from, unless it is built in.
    pub(crate) definition: Option<Definition>,
    /// Brings what is in storage into the form that is stored now.
    pub(crate) normaliser: Option<Normaliser>,
    /// How the kind's fields merge.
    pub(crate) type_: Arc<Type>,
    /// The kind is a question: objects are answered, and not stored.
    pub(crate) review: Option<Arc<dyn Review>>,
    prefix: String,
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resource")
            .field("prefix", &self.prefix)
            .field("version", &self.description.version)
            .field("kind", &self.description.kind)
            .finish_non_exhaustive()
    }
}

impl Resource {
    /// A kind with a description of one's own.
    pub fn new(description: ResourceDescription) -> Self {
        let prefix = storage_prefix(&description.group, &description.plural);
        let type_ = Arc::new(Type::of_kind(&description.openapi));
        Self {
            description,
            strategy: Arc::new(NoStrategy),
            subresources: BTreeMap::new(),
            streams: BTreeMap::new(),
            ttl: None,
            conversion: None,
            protobuf: None,
            definition: None,
            normaliser: None,
            type_,
            review: None,
            prefix,
        }
    }

    /// A kind that a CRD describes.
    pub fn from_crd(crd: &CustomResourceDefinition) -> Result<Self, DescriptionError> {
        ResourceDescription::from_crd(crd).map(Self::new)
    }

    /// Gives the kind rules beyond its schema.
    #[must_use]
    pub fn strategy(mut self, strategy: impl Strategy) -> Self {
        self.strategy = Arc::new(strategy);
        self
    }

    /// Adds an action at `.../NAME/<name>`.
    #[must_use]
    pub fn subresource(mut self, name: &str, handler: impl SubresourceHandler) -> Self {
        self.subresources.insert(name.to_owned(), Arc::new(handler));
        self
    }

    /// Adds bytes at `.../NAME/<name>`.
    #[must_use]
    pub fn stream(mut self, name: &str, handler: impl StreamHandler) -> Self {
        self.streams.insert(name.to_owned(), Arc::new(handler));
        self
    }

    /// Lets storage delete objects that were not written for `ttl`.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Makes the kind a question: an object of it can be created and nothing else, and is not stored.
    #[must_use]
    pub fn review(mut self, review: impl Review) -> Self {
        self.review = Some(Arc::new(review));
        self
    }

    /// Reads the kind from protobuf too.
    #[must_use]
    pub(crate) fn protobuf(mut self, message: Message) -> Self {
        self.protobuf = Some(message);
        self
    }

    /// Serves objects that another resource stores, in another form. Both see the same objects.
    #[must_use]
    pub fn stored_as(mut self, group: &str, plural: &str, conversion: impl Conversion) -> Self {
        self.prefix = storage_prefix(group, plural);
        self.conversion = Some(Arc::new(conversion));
        self
    }

    /// Says that a CustomResourceDefinition defines the kind, and what is done to its objects when they are read from storage.
    #[must_use]
    pub(crate) fn defined_by(mut self, definition: Definition, normaliser: Normaliser) -> Self {
        (self.definition, self.normaliser) = (Some(definition), Some(normaliser));
        self
    }

    /// Serves a version of the kind that is not the one in which its objects are stored.
    #[must_use]
    pub(crate) fn converted(mut self, conversion: impl Conversion) -> Self {
        self.conversion = Some(Arc::new(conversion));
        self
    }

    /// The kind's description.
    pub fn description(&self) -> &ResourceDescription {
        &self.description
    }

    /// The prefix of the kind's keys in storage: `/registry/<group or core>/<plural>/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The storage key of an object.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        if namespace == NO_NAMESPACE {
            format!("{}{name}", self.prefix)
        } else {
            format!("{}{namespace}/{name}", self.prefix)
        }
    }

    /// The verbs of the kind's objects.
    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        match self.review {
            Some(_) => &["create"],
            None => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        }
    }

    /// Whether the kind has a subresource of this name.
    pub(crate) fn has_subresource(&self, name: &str) -> bool {
        self.subresources.contains_key(name)
            || self.streams.contains_key(name)
            || (name == "status" && self.description.status_subresource)
    }

    /// What was found in storage, in the form that the cache holds.
    pub(crate) fn normalise(&self, stored: &mut Value) {
        if let Some(normaliser) = &self.normaliser {
            normaliser(stored);
        }
    }

    /// The stored form as this resource serves it.
    pub(crate) fn to_served(&self, stored: Value) -> Value {
        match &self.conversion {
            Some(conversion) => conversion.to_served(stored),
            None => stored,
        }
    }

    /// The same, of an object that stays where it is.
    pub(crate) fn served<'v>(&self, stored: &'v Value) -> Cow<'v, Value> {
        match &self.conversion {
            Some(conversion) => Cow::Owned(conversion.to_served(stored.clone())),
            None => Cow::Borrowed(stored),
        }
    }

    /// What a client sent, in the stored form.
    pub(crate) fn to_stored(&self, served: Value) -> Value {
        match &self.conversion {
            Some(conversion) => conversion.to_stored(served),
            None => served,
        }
    }
}

/// `/registry/<group or core>/<plural>/`.
pub(crate) fn storage_prefix(group: &str, plural: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("/registry/{group}/{plural}/")
}
