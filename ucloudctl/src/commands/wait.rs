//! `ucloudctl wait`: waits until objects are as they should be, showing what they wait for.

use std::{str::FromStr, time::Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{
    cli::Wait,
    failure::Failure,
    output,
    progress::{self, Progress},
    resource::Resource,
    server::Server,
    watch::{self, Followed, within},
};

/// What is waited for.
#[derive(Debug, PartialEq, Eq)]
enum Goal {
    Condition { type_: String, status: String },
    Field { path: Vec<String>, value: String },
    Gone,
}

impl FromStr for Goal {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text == "delete" {
            return Ok(Self::Gone);
        }
        if let Some(condition) = text.strip_prefix("condition=").filter(|c| !c.is_empty()) {
            let (type_, status) = condition.split_once('=').unwrap_or((condition, "True"));
            return Ok(Self::Condition { type_: type_.to_owned(), status: status.to_owned() });
        }
        if let Some((path, value)) = text.strip_prefix("jsonpath=").and_then(|rest| rest.split_once('=')) {
            let inner = path.trim_matches('\'').strip_prefix('{').and_then(|p| p.strip_suffix('}')).unwrap_or(path);
            let keys: Vec<_> = inner.trim_start_matches('.').split('.').map(str::to_owned).collect();
            if keys.iter().any(|key| key.is_empty() || key.contains(['[', ']', '*'])) {
                bail!("--for={text}: a path is a row of names here, such as {{.status.phase}}");
            }
            return Ok(Self::Field { path: keys, value: value.trim_matches('\'').to_owned() });
        }
        bail!("--for={text}: write condition=TYPE, condition=TYPE=STATUS, jsonpath={{.path}}=VALUE or delete")
    }
}

impl Goal {
    /// Whether the object is as it should be. A condition that was reported on an older spec does not count.
    fn holds(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Gone, object) => object.is_none(),
            (_, None) => false,
            (Self::Condition { type_, status }, Some(object)) => {
                let generation = object["metadata"]["generation"].as_i64();
                object["status"]["conditions"].as_array().into_iter().flatten().any(|c| {
                    let current =
                        c["observedGeneration"].as_i64().is_none_or(|seen| generation.is_none_or(|g| seen >= g));
                    let word =
                        |key: &str, wanted: &str| c[key].as_str().is_some_and(|word| word.eq_ignore_ascii_case(wanted));
                    word("type", type_) && word("status", status) && current
                })
            }
            (Self::Field { path, value }, Some(object)) => {
                let found = path.iter().fold(object, |at, key| &at[key]);
                match found {
                    Value::Null => false,
                    Value::String(text) => text == value,
                    other => value.parse().is_ok_and(|wanted: Value| wanted == *other),
                }
            }
        }
    }
}

/// Waits for each object in turn; the time counts for all of them together.
pub async fn run(server: &Server, options: &Wait) -> anyhow::Result<()> {
    let goal: Goal = options.for_.parse()?;
    let catalog = server.catalog().await?;
    let started = Instant::now();
    for target in catalog.named_targets(&options.what)? {
        for name in &target.names {
            let shown = target.resource.display(name);
            let left = options.timeout.saturating_sub(started.elapsed());
            let mut progress = Progress::new(shown.clone());
            let waiting = reach(server, &target.resource, name, &goal, &mut progress);
            if within(Some(left), waiting).await?.is_none() {
                let last = progress.last().to_owned();
                drop(progress);
                return Err(
                    Failure::TimedOut(format!("{shown} is not there after {:?}: {last}", options.timeout)).into()
                );
            }
            drop(progress);
            output::line(&format!("{shown} {}", if goal == Goal::Gone { "deleted" } else { "condition met" }))?;
        }
    }
    Ok(())
}

async fn reach(
    server: &Server,
    resource: &Resource,
    name: &str,
    goal: &Goal,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let followed = Followed::object(server, resource, &server.namespace, name);
    let missing = watch::until(&followed, |object| {
        if goal.holds(object) {
            return Some(None);
        }
        match object {
            Some(object) => {
                progress.show(object);
                None
            }
            None => Some(Some(format!("{} does not exist", resource.display(name)))),
        }
    })
    .await
    .with_context(|| format!("cannot follow {}", resource.display(name)))?;
    match missing {
        None => Ok(()),
        Some(message) => Err(Failure::NotFound(message).into()),
    }
}

/// Waits until the object with this UID is gone.
pub async fn until_gone(followed: &Followed<'_>, uid: &str, progress: &mut Progress) -> anyhow::Result<()> {
    watch::until(followed, |object| match object.filter(|object| object["metadata"]["uid"] == uid) {
        None => Some(()),
        Some(object) => {
            if progress::state(object) != progress.last() {
                progress.show(object);
            }
            None
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn goal(text: &str) -> Goal {
        text.parse().unwrap()
    }

    #[test]
    fn goals_are_kubectls() {
        let vm = json!({"metadata": {"generation": 2}, "status": {"phase": "Running", "restarts": 3, "conditions": [
            {"type": "Ready", "status": "True", "observedGeneration": 2},
            {"type": "Old", "status": "True", "observedGeneration": 1},
            {"type": "Scheduled", "status": "False"}]}});
        for (text, holds) in [
            ("condition=Ready", true),
            ("condition=ready=true", true),
            ("condition=Ready=False", false),
            ("condition=Old", false),
            ("condition=Scheduled=False", true),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath='{.status.phase}'=Stopped", false),
            ("jsonpath={.status.restarts}=3", true),
            ("jsonpath={.status.nothing}=null", false),
            ("delete", false),
        ] {
            assert_eq!(goal(text).holds(Some(&vm)), holds, "{text}");
        }
        assert!(goal("delete").holds(None) && !goal("condition=Ready").holds(None));
        for text in ["", "Ready", "condition=", "jsonpath={.a[0]}=1", "jsonpath={.a}"] {
            assert!(text.parse::<Goal>().is_err(), "{text:?} was accepted");
        }
    }
}
