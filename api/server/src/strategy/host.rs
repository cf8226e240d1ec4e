//! Host: it stays while VMs are bound to it. Who may write which part of it is a matter of authorization.

use serde_json::Value;
use ucloud_machinery::{
    status::FieldError,
    strategy::{Context, Strategy},
};
use ucloud_types::Host;

use super::status_errors;
use crate::protection;

/// The rules of Hosts.
pub struct HostStrategy;

impl Strategy for HostStrategy {
    fn validate_delete(&self, ctx: &Context<'_>, _: &Value) -> Result<(), String> {
        protection::check_host(ctx.name, ctx.lister)
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<Host>(new)
    }
}
