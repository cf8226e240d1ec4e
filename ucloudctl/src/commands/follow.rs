//! Follows one object until something holds of it, whatever happens to the connection's watches meanwhile.

use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use serde_json::Value;

use crate::{
    resource::Resource,
    server::{Change, Form, Query, Server},
};

/// Which object is followed.
pub struct Followed<'a> {
    pub server: &'a Server,
    pub resource: &'a Resource,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Followed<'_> {
    /// Shows `until` each state of the object (nothing when it does not exist) until it gives an answer.
    pub async fn until<T>(&self, mut until: impl FnMut(Option<&Value>) -> Option<T>) -> anyhow::Result<T> {
        let query = Query::named(self.name);
        let namespace = Some(self.namespace);
        'list: loop {
            let list = self.server.list(self.resource, namespace, &query, Form::Object).await?;
            if let Some(answer) = until(list.pointer("/items/0")) {
                return Ok(answer);
            }
            let mut revision = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
            loop {
                let changes = self.server.watch(self.resource, namespace, &query, &revision, Form::Object).await?;
                pin_mut!(changes);
                while let Some(change) = changes.next().await {
                    let answer = match change? {
                        Change::Present(object) => {
                            if let Some(seen) = object["metadata"]["resourceVersion"].as_str() {
                                seen.clone_into(&mut revision);
                            }
                            until(Some(&object))
                        }
                        Change::Gone(_) => until(None),
                        Change::Nothing => None,
                        Change::Expired => continue 'list,
                    };
                    if let Some(answer) = answer {
                        return Ok(answer);
                    }
                }
            }
        }
    }
}

/// The same, but not longer than `limit`; nothing when the time is over.
pub async fn within<T>(
    limit: Option<Duration>,
    answer: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    match limit {
        None => answer.await.map(Some),
        Some(limit) => match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map(Some),
            Err(_) => Ok(None),
        },
    }
}
