//! An object that is to be there.

use serde_json::Value;

use crate::{
    failure,
    resource::Resource,
    server::Server,
    watch::{self, Followed},
};

/// The object of this name; it is made if it is not there. One that `is_leaving` is waited for until it is gone, and made
/// anew.
pub async fn ensure(
    server: &Server,
    kind: &Resource,
    name: &str,
    object: &Value,
    is_leaving: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    loop {
        match server.find(kind, &server.namespace, name).await? {
            Some(found) if is_leaving(&found) => {
                failure::note(&format!("{}: waiting until the one that is being deleted is gone", kind.display(name)));
                let followed = Followed::object(server, kind, &server.namespace, name);
                watch::until(&followed, |found| found.is_none_or(|found| !is_leaving(found)).then_some(())).await?;
            }
            Some(found) => return Ok(found),
            None => match server.create(kind, &server.namespace, object).await {
                // somebody else was faster
                Err(error) if failure::is_conflict(&error) => {}
                made => return made,
            },
        }
    }
}
