//! Follows a collection, whatever happens to the connection meanwhile: a watch that ends is begun again where it
//! ended, after a pause if it brought nothing, and where the server no longer knows that point, it lists again.

use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use serde_json::Value;

use crate::{
    failure,
    resource::Resource,
    server::{Change, Form, Query, Server},
};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The objects that are followed.
pub struct Followed<'a> {
    pub server: &'a Server,
    pub resource: &'a Resource,
    /// Nothing for all namespaces.
    pub namespace: Option<&'a str>,
    pub query: Query,
    pub form: Form,
}

/// What is seen of them.
pub enum Seen {
    /// All that there are: at first, and whenever the server no longer knows what happened since.
    All(Value),
    /// This one is there, and is so.
    Present(Value),
    /// This one is gone; this is what it last was.
    Gone(Value),
}

impl<'a> Followed<'a> {
    /// The one object with this name.
    pub fn object(server: &'a Server, resource: &'a Resource, namespace: &'a str, name: &str) -> Self {
        Self { server, resource, namespace: Some(namespace), query: Query::named(name), form: Form::Object }
    }

    /// Shows `look` what there is, then each change, until it gives an answer or fails. What keeps the first list
    /// from being made is an error; what comes later and may pass is waited for.
    pub async fn until<T>(&self, mut look: impl FnMut(Seen) -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
        let list = async || self.server.list(self.resource, self.namespace, &self.query, self.form).await;
        let mut listed = list().await?;
        let mut patience = Patience::new();
        loop {
            let mut revision = listed["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
            if let Some(answer) = look(Seen::All(listed))? {
                return Ok(answer);
            }
            if let Some(answer) = self.changes(&mut revision, &mut patience, &mut look).await? {
                return Ok(answer);
            }
            listed = loop {
                match list().await {
                    Err(error) => patience.bear(error).await?,
                    Ok(listed) => break listed,
                }
            };
        }
    }

    /// Shows the changes after `revision` until there is an answer; nothing where a new list is needed.
    async fn changes<T>(
        &self,
        revision: &mut String,
        patience: &mut Patience,
        look: &mut impl FnMut(Seen) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        loop {
            let changes = match self.server.watch(self.resource, self.namespace, &self.query, revision, self.form).await
            {
                Err(error) if failure::is_expired(&error) => return Ok(None),
                Err(error) => {
                    patience.bear(error).await?;
                    continue;
                }
                Ok(changes) => changes,
            };
            pin_mut!(changes);
            let mut failed = None;
            while let Some(change) = changes.next().await {
                let seen = match change {
                    Err(error) if failure::is_expired(&error) => return Ok(None),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                    Ok(change) => change,
                };
                patience.renew();
                let seen = match seen {
                    Change::Until(seen) => {
                        *revision = seen;
                        continue;
                    }
                    Change::Present(object) => Seen::Present(object),
                    Change::Gone(object) => Seen::Gone(object),
                };
                if let Seen::Present(object) | Seen::Gone(object) = &seen
                    && let Some(version) = revision_of(object)
                {
                    version.clone_into(revision);
                }
                if let Some(answer) = look(seen)? {
                    return Ok(Some(answer));
                }
            }
            match failed {
                Some(error) => patience.bear(error).await?,
                None => patience.pause().await,
            }
        }
    }
}

/// Follows one object: `look` is shown each of its states, and nothing when it does not exist.
pub async fn until<T>(followed: &Followed<'_>, mut look: impl FnMut(Option<&Value>) -> Option<T>) -> anyhow::Result<T> {
    followed
        .until(|seen| {
            Ok(match &seen {
                Seen::All(list) => look(list.pointer("/items/0")),
                Seen::Present(object) => look(Some(object)),
                Seen::Gone(_) => look(None),
            })
        })
        .await
}

/// The same as `answer`, but not longer than `limit`; nothing when the time is over.
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

/// The resource version up to which an event of a watch tells, be it of an object or of a table's row.
fn revision_of(found: &Value) -> Option<&str> {
    let version =
        found.pointer("/rows/0/object/metadata/resourceVersion").or_else(|| found.pointer("/metadata/resourceVersion"));
    version?.as_str().filter(|v| !v.is_empty())
}

/// How long to pause before the next try: ever longer, until something comes.
struct Patience {
    pause: Duration,
    told: bool,
}

impl Patience {
    fn new() -> Self {
        Self { pause: FIRST_PAUSE, told: false }
    }

    fn renew(&mut self) {
        *self = Self::new();
    }

    /// Pauses after an error that may pass, and tells of the first of a row; gives back any other.
    async fn bear(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        if !failure::is_transient(&error) {
            return Err(error);
        }
        if !self.told {
            failure::note(&format!("{error:#}; trying again"));
            self.told = true;
        }
        self.pause().await;
        Ok(())
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::failure::Failure;

    #[test]
    fn objects_and_rows_tell_how_far_a_watch_is() {
        assert_eq!(revision_of(&json!({"metadata": {"resourceVersion": "7"}})), Some("7"));
        let row =
            json!({"rows": [{"object": {"metadata": {"resourceVersion": "8"}}}], "metadata": {"resourceVersion": ""}});
        assert_eq!(revision_of(&row), Some("8"));
        assert_eq!(revision_of(&json!({"metadata": {"resourceVersion": ""}})), None);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_with_what_does_not_pass() {
        let mut patience = Patience::new();
        let away = || anyhow::Error::from(Failure::Unavailable("away".into()));
        let start = tokio::time::Instant::now();
        for _ in 0..8 {
            patience.bear(away()).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::from_millis(200 + 400 + 800 + 1600 + 3200 + 3 * 5000));
        patience.bear(Failure::NotFound("gone".into()).into()).await.unwrap_err();
    }
}
