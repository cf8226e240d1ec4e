//! `ucloudctl describe`: all there is to know of an object.

use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::events;
use crate::{
    cli::Describe,
    output,
    resource::Resource,
    server::{Form, Query, Server},
};

/// Describes each object in turn.
pub async fn run(server: &Server, options: &Describe) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let event_kind = catalog.one("events")?;
    let mut first = true;
    for target in catalog.named_targets(&options.what)? {
        for name in &target.names {
            let object = server.get(&target.resource, &server.namespace, name, Form::Object).await?;
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            let query = Query { labels: None, fields: Some(format!("involvedObject.uid={uid}")) };
            let events = server.list(&event_kind, None, &query, Form::Object).await?;
            if !std::mem::take(&mut first) {
                output::line("")?;
            }
            output::text(&describe(&target.resource, &object, &events::lines(&events, false))?)?;
        }
    }
    Ok(())
}

fn describe(resource: &Resource, object: &Value, events: &[String]) -> anyhow::Result<String> {
    let metadata = &object["metadata"];
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{:<13} {}", format!("{label}:"), if value.is_empty() { "<none>" } else { value });
    };
    let word = |key: &str| metadata[key].as_str().unwrap_or_default();
    line("Name", word("name"));
    if resource.namespaced {
        line("Namespace", word("namespace"));
    }
    line("Kind", &format!("{} ({})", resource.kind, resource.api_version()));
    line("UID", word("uid"));
    line("Labels", &pairs(&metadata["labels"]));
    line("Annotations", &pairs(&metadata["annotations"]));
    line("Created", &since(word("creationTimestamp")));
    if metadata["deletionTimestamp"].is_string() {
        line("Deleted", &since(word("deletionTimestamp")));
        let finalizers: Vec<_> =
            metadata["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        line("Held by", &finalizers.join(", "));
    }
    let mut status = object["status"].clone();
    let conditions = status.as_object_mut().and_then(|s| s.remove("conditions"));
    for (label, part) in [("Spec", &object["spec"]), ("Status", &status)] {
        if part.as_object().is_some_and(|p| !p.is_empty()) {
            let _ = writeln!(text, "{label}:");
            for line in serde_saphyr::to_string(part)?.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    if let Some(conditions) = conditions.as_ref().and_then(Value::as_array) {
        text.push_str("Conditions:\n");
        for condition in conditions {
            let word = |key: &str| condition[key].as_str().unwrap_or_default();
            let age = since(word("lastTransitionTime"));
            let _ = writeln!(text, "  {:<16} {:<8} {:<20} {}", word("type"), word("status"), word("reason"), age);
            if !word("message").is_empty() {
                let _ = writeln!(text, "    {}", word("message"));
            }
        }
    }
    if events.is_empty() {
        text.push_str("Events:       <none>\n");
    } else {
        text.push_str("Events:\n");
        for event in events {
            let _ = writeln!(text, "  {event}");
        }
    }
    Ok(text)
}

fn pairs(map: &Value) -> String {
    let Some(map) = map.as_object() else { return String::new() };
    let hidden = "kubectl.kubernetes.io/last-applied-configuration";
    let shown = map
        .iter()
        .filter(|(key, _)| *key != hidden)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    shown.collect::<Vec<_>>().join(", ")
}

fn since(time: &str) -> String {
    time.parse::<Timestamp>().map_or_else(
        |_| time.to_owned(),
        |at| format!("{time} ({} ago)", events::age(Timestamp::now().duration_since(at))),
    )
}
