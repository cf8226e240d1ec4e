//! Writes that the server makes in its own name.

use crate::auth::{Attributes, Authorizer, Decision, UserInfo};
use crate::registry::{FieldValidation, Resource, Store, Write};
use crate::selector::{FieldSelector, LabelSelector};
use crate::strategy::Lister;

/// The user in whose name the server itself writes.
const SELF: &str = "system:apiserver";

/// The server as a user, who may do everything.
pub(crate) struct AsServer {
    user: UserInfo,
    fields: FieldSelector,
    labels: LabelSelector,
}

impl Default for AsServer {
    fn default() -> Self {
        Self { user: UserInfo::new(SELF, []), fields: FieldSelector::default(), labels: LabelSelector::default() }
    }
}

impl AsServer {
    /// A write of an object of this kind.
    pub(crate) fn write<'a>(
        &'a self,
        store: &'a Store,
        resource: &'a Resource,
        verb: &'a str,
        subresource: &'a str,
        namespace: &'a str,
    ) -> Write<'a> {
        let description = resource.description();
        Write {
            store,
            authorizer: &Unlimited,
            resource,
            attributes: Attributes {
                user: &self.user,
                verb,
                group: &description.group,
                version: &description.version,
                resource: &description.plural,
                subresource,
                namespace,
                name: "",
                field_selector: &self.fields,
                label_selector: &self.labels,
                path: "",
            },
            dry_run: false,
            // what was stored by another version of this server is no reason to stop
            validation: FieldValidation::Ignore,
            manager: SELF,
        }
    }
}

struct Unlimited;

impl Authorizer for Unlimited {
    fn authorize(&self, _: &Attributes<'_>, _: &dyn Lister) -> Decision {
        Decision::Allow
    }
}
