//! `ucloudctl events`: what happened, to all objects or to one.

use std::collections::HashSet;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    cli::Events,
    output,
    resource::Resource,
    server::{Form, Query, Server},
    watch::{Followed, Seen},
};

/// Shows the events, the oldest first, and goes on with new ones if that was asked for.
pub async fn run(server: &Server, options: &Events) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let events = catalog.one("events")?;
    let mut fields = Vec::new();
    let mut namespace = (!options.all_namespaces).then_some(server.namespace.as_str());
    if !options.what.is_empty() {
        let targets = catalog.named_targets(&options.what)?;
        let [target] = targets.as_slice() else { anyhow::bail!("name one object") };
        let [name] = target.names.as_slice() else { anyhow::bail!("name one object") };
        // an object that is gone has left its events behind: they are found by name
        fields = vec![format!("involvedObject.kind={}", target.resource.kind), format!("involvedObject.name={name}")];
        if !target.resource.namespaced {
            namespace = None;
        }
    }
    let query = Query { labels: None, fields: (!fields.is_empty()).then(|| fields.join(",")) };
    if options.watch {
        return follow(server, &events, namespace, query, options.all_namespaces).await;
    }
    let list = server.list(&events, namespace, &query, Form::Object).await?;
    for line in lines(&list, options.all_namespaces) {
        output::line(&line)?;
    }
    if list["items"].as_array().is_none_or(Vec::is_empty) {
        eprintln!("No events (they are kept for an hour).");
    }
    Ok(())
}

async fn follow(
    server: &Server,
    events: &Resource,
    namespace: Option<&str>,
    query: Query,
    namespaces: bool,
) -> anyhow::Result<()> {
    let followed = Followed { server, resource: events, namespace, query, form: Form::Object };
    // after a gap, what was printed already is not printed again
    let mut printed = HashSet::new();
    let mut print = |event: &Value| {
        let version = event.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
        if printed.insert(version.to_owned()) { output::line(&line(event, namespaces)) } else { Ok(()) }
    };
    followed
        .until(|seen| {
            match &seen {
                Seen::All(list) => in_order(list).into_iter().try_for_each(&mut print)?,
                Seen::Present(event) => print(event)?,
                Seen::Gone(_) => {}
            }
            Ok(None)
        })
        .await
}

/// The events of a list as lines, the oldest first.
pub fn lines(list: &Value, namespaces: bool) -> Vec<String> {
    in_order(list).into_iter().map(|event| line(event, namespaces)).collect()
}

fn in_order(list: &Value) -> Vec<&Value> {
    let mut events: Vec<_> = list["items"].as_array().into_iter().flatten().collect();
    events.sort_by_key(|event| last_time(event));
    events
}

fn line(event: &Value, namespaces: bool) -> String {
    let word = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let age = last_time(event).map_or_else(|| "?".to_owned(), |at| age(Timestamp::now().duration_since(at)));
    let count = event["count"].as_i64().or_else(|| event.pointer("/series/count").and_then(Value::as_i64));
    let times = count.filter(|&n| n > 1).map_or(String::new(), |n| format!(" (x{n})"));
    let namespace = if namespaces { format!("{:<16} ", word("/metadata/namespace")) } else { String::new() };
    let object = format!("{}/{}", word("/involvedObject/kind").to_lowercase(), word("/involvedObject/name"));
    let message = word("/message");
    output::one_line(&format!(
        "{namespace}{age:>4}  {:<7}  {:<18}  {object}  {message}{times}",
        word("/type"),
        word("/reason")
    ))
}

fn last_time(event: &Value) -> Option<Timestamp> {
    ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp", "/metadata/creationTimestamp"]
        .iter()
        .find_map(|pointer| event.pointer(pointer)?.as_str()?.parse().ok())
}

/// An age in its largest unit, as tables show it.
pub fn age(duration: SignedDuration) -> String {
    match duration.as_secs() {
        seconds if seconds < 120 => format!("{}s", seconds.max(0)),
        seconds if seconds < 2 * 3600 => format!("{}m", seconds / 60),
        seconds if seconds < 48 * 3600 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_come_in_the_order_of_time() {
        let event = |name: &str, time: &str| {
            json!({"type": "Normal", "reason": "Started", "message": "a\nb", "count": 2, "eventTime": time,
                   "involvedObject": {"kind": "VM", "name": name}})
        };
        let list = json!({"items": [event("late", "2026-01-02T00:00:00.000000Z"), event("early", "2026-01-01T00:00:00.000000Z")]});
        let lines = lines(&list, false);
        assert!(lines[0].ends_with("Normal   Started             vm/early  a b (x2)"), "{}", lines[0]);
        assert!(lines[1].contains("vm/late"));
    }

    #[test]
    fn ages() {
        for (seconds, text) in [(-3, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(age(SignedDuration::from_secs(seconds)), text);
        }
    }
}
