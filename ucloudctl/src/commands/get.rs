//! `ucloudctl get`: shows objects.

use serde_json::{Value, json};

use crate::{
    cli::{Get, Output},
    failure, output,
    resource::{Resource, Target},
    server::{Form, Query, Server},
    table::{self, Layout},
    watch::{Followed, Seen},
};

/// Shows what was asked for, and then its changes if that was asked for too.
pub async fn run(server: &Server, options: &Get) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let targets = catalog.targets(&options.what)?;
    let get = Request { server, options };
    if options.watch {
        let [target] = targets.as_slice() else {
            anyhow::bail!("watch one kind at a time");
        };
        return get.watch(target).await;
    }
    match options.output {
        Some(Output::Yaml | Output::Json) => get.print_structured(&targets).await,
        _ => get.print_tables(&targets).await,
    }
}

struct Request<'a> {
    server: &'a Server,
    options: &'a Get,
}

impl Request<'_> {
    fn query(&self) -> Query {
        let selection = &self.options.selection;
        Query { labels: selection.selector.clone(), fields: selection.field_selector.clone() }
    }

    fn namespace(&self) -> Option<&str> {
        (!self.options.selection.all_namespaces).then_some(self.server.namespace.as_str())
    }

    fn layout(&self, resource: &Resource, headers: bool) -> Layout {
        Layout {
            wide: self.options.output == Some(Output::Wide),
            namespaces: self.options.selection.all_namespaces && resource.namespaced,
            headers: headers && !self.options.no_headers,
        }
    }

    /// What the server has of a target: one list, or each named object, or the error for it.
    async fn fetch(&self, target: &Target, form: Form) -> anyhow::Result<Vec<anyhow::Result<Value>>> {
        let resource = &target.resource;
        if target.names.is_empty() {
            return Ok(vec![self.server.list(resource, self.namespace(), &self.query(), form).await]);
        }
        anyhow::ensure!(!self.options.selection.all_namespaces, "an object cannot be named across all namespaces");
        let mut found = Vec::new();
        for name in &target.names {
            found.push(self.server.get(resource, &self.server.namespace, name, form).await);
        }
        Ok(found)
    }

    async fn print_structured(&self, targets: &[Target]) -> anyhow::Result<()> {
        let mut objects = Vec::new();
        for target in targets {
            for found in self.fetch(target, Form::Object).await? {
                let found = found?;
                if target.names.is_empty() {
                    objects.extend(items(&target.resource, &found));
                } else {
                    objects.push(found);
                }
            }
        }
        let one = targets.len() == 1 && targets[0].names.len() == 1;
        let document = match objects.pop() {
            Some(object) if one && objects.is_empty() => object,
            last => {
                objects.extend(last);
                json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": objects })
            }
        };
        print_document(&document, self.options.output)
    }

    async fn print_tables(&self, targets: &[Target]) -> anyhow::Result<()> {
        let mut printed = false;
        let mut failed: Option<anyhow::Error> = None;
        for target in targets {
            let mut widths = Vec::new();
            let mut headers = true;
            let prefix = if targets.len() > 1 { target.resource.display("") } else { String::new() };
            for found in self.fetch(target, Form::Table).await? {
                let found = match found {
                    Ok(found) if table::is_empty(&found) => continue,
                    Ok(found) => found,
                    Err(error) => {
                        // one that is missing does not hide the others; the last error is the command's
                        failed.replace(error).iter().for_each(failure::print);
                        continue;
                    }
                };
                if self.options.output == Some(Output::Name) {
                    print_names(&target.resource, &found)?;
                } else {
                    if headers && printed {
                        output::line("")?;
                    }
                    let layout = self.layout(&target.resource, headers);
                    output::text(&table::render(&found, layout, &prefix, &mut widths))?;
                    headers = false;
                }
                printed = true;
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if !printed {
            match self.namespace() {
                Some(namespace) if targets.iter().any(|t| t.resource.namespaced) => {
                    eprintln!("No objects in namespace {namespace}.");
                }
                _ => eprintln!("No objects."),
            }
        }
        Ok(())
    }

    async fn watch(&self, target: &Target) -> anyhow::Result<()> {
        let resource = &target.resource;
        let query = match target.names.as_slice() {
            [] => self.query(),
            [name] => Query::named(name),
            _ => anyhow::bail!("watch one object, or all"),
        };
        let form = match self.options.output {
            Some(Output::Yaml | Output::Json) => Form::Object,
            _ => Form::Table,
        };
        let mut widths = Vec::new();
        let mut headers = true;
        let followed = Followed { server: self.server, resource, namespace: self.namespace(), query, form };
        followed
            .until(|seen| {
                let (Seen::All(found) | Seen::Present(found) | Seen::Gone(found)) = &seen;
                self.print_change(resource, found, form, &mut headers, &mut widths)?;
                Ok(None)
            })
            .await
    }

    fn print_change(
        &self,
        resource: &Resource,
        found: &Value,
        form: Form,
        headers: &mut bool,
        widths: &mut Vec<usize>,
    ) -> anyhow::Result<()> {
        if form == Form::Object {
            let objects = if found["items"].is_array() { items(resource, found) } else { vec![found.clone()] };
            for object in objects {
                if self.options.output == Some(Output::Yaml) {
                    output::line("---")?;
                }
                print_document(&object, self.options.output)?;
            }
        } else if self.options.output == Some(Output::Name) {
            print_names(resource, found)?;
        } else if !table::is_empty(found) {
            let layout = self.layout(resource, std::mem::take(headers));
            output::text(&table::render(found, layout, "", widths))?;
        }
        Ok(())
    }
}

/// The objects of a list, each with its kind.
fn items(resource: &Resource, list: &Value) -> Vec<Value> {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    items
        .iter()
        .map(|item| {
            let mut item = item.clone();
            item["apiVersion"] = Value::String(resource.api_version());
            item["kind"] = Value::String(resource.kind.clone());
            item
        })
        .collect()
}

fn print_names(resource: &Resource, table: &Value) -> anyhow::Result<()> {
    for row in table["rows"].as_array().into_iter().flatten() {
        if let Some(name) = row["object"]["metadata"]["name"].as_str() {
            output::line(&resource.display(name))?;
        }
    }
    Ok(())
}

fn print_document(document: &Value, output: Option<Output>) -> anyhow::Result<()> {
    let mut document = document.clone();
    forget_managers(&mut document);
    match output {
        Some(Output::Json) => output::document(&format!("{}\n", serde_json::to_string_pretty(&document)?)),
        _ => output::document(&serde_saphyr::to_string(&document)?),
    }
}

/// Who owns which field is longer than most objects, and nothing that people read or put into files.
fn forget_managers(document: &mut Value) {
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for item in document.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        forget_managers(item);
    }
}
