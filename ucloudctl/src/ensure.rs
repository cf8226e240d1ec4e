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
        if let Some(found) = staying(server, kind, name, &is_leaving).await? {
            return Ok(found);
        }
        match server.create(kind, &server.namespace, object).await {
            // somebody else was faster
            Err(error) if failure::is_conflict(&error) => {}
            made => return made,
        }
    }
}

/// The object of this name, if it is there. One that `is_leaving` is waited for until it is gone.
pub async fn staying(
    server: &Server,
    kind: &Resource,
    name: &str,
    is_leaving: impl Fn(&Value) -> bool,
) -> anyhow::Result<Option<Value>> {
    match server.find(kind, &server.namespace, name).await? {
        Some(found) if is_leaving(&found) => {
            failure::note(&format!("{}: waiting until the one that is being deleted is gone", kind.display(name)));
            let followed = Followed::object(server, kind, &server.namespace, name);
            let stays = |found: Option<&Value>| match found {
                Some(found) if is_leaving(found) => None,
                other => Some(other.cloned()),
            };
            watch::until(&followed, stays).await
        }
        found => Ok(found),
    }
}
