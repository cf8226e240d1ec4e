//! Tables as the server makes them (`meta.k8s.io/v1` Table), printed in columns.

use std::fmt::Write as _;

use serde_json::Value;

use crate::output;

/// What is printed of a table.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Columns of lower priority too.
    pub wide: bool,
    /// The objects' namespaces, first.
    pub namespaces: bool,
    /// A line with the columns' names.
    pub headers: bool,
}

/// The lines of a table, each field padded to its column's width; `widths` grows with what it has seen, so
/// that the rows of later tables fall into the same columns.
pub fn render(table: &Value, layout: Layout, prefix: &str, widths: &mut Vec<usize>) -> String {
    let rows = rows(table, layout, prefix);
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, field) in widths.iter_mut().zip(row) {
            *width = (*width).max(field.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let last = row.len().saturating_sub(1);
        for (index, field) in row.iter().enumerate() {
            if index == last {
                text.push_str(field);
            } else {
                let _ = write!(text, "{field:<width$}   ", width = widths[index]);
            }
        }
        text.push('\n');
    }
    text
}

fn rows(table: &Value, layout: Layout, prefix: &str) -> Vec<Vec<String>> {
    let definitions = table["columnDefinitions"].as_array().map_or(&[][..], Vec::as_slice);
    let shown: Vec<usize> = (0..definitions.len())
        .filter(|&i| layout.wide || definitions[i]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut lines = Vec::new();
    if layout.headers {
        let names = shown.iter().map(|&i| definitions[i]["name"].as_str().unwrap_or_default().to_uppercase());
        lines.push(layout.namespaces.then(|| "NAMESPACE".to_owned()).into_iter().chain(names).collect());
    }
    for row in table["rows"].as_array().into_iter().flatten() {
        let namespace = row["object"]["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let fields = shown.iter().map(|&i| {
            let field = field(&row["cells"][i]);
            if definitions[i]["format"] == "name" { format!("{prefix}{field}") } else { field }
        });
        lines.push(layout.namespaces.then_some(namespace).into_iter().chain(fields).collect());
    }
    lines
}

fn field(cell: &Value) -> String {
    match cell {
        Value::Null => "<none>".to_owned(),
        Value::String(text) if text.is_empty() => "<none>".to_owned(),
        Value::String(text) => output::one_line(text),
        Value::Array(fields) => fields.iter().map(field).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Whether the table has no rows.
pub fn is_empty(table: &Value) -> bool {
    table["rows"].as_array().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> Value {
        json!({
            "columnDefinitions": [
                {"name": "Name", "format": "name", "priority": 0},
                {"name": "Phase", "priority": 0},
                {"name": "Message", "priority": 1}],
            "rows": [
                {"cells": ["web", "Running", "fine"], "object": {"metadata": {"namespace": "a"}}},
                {"cells": ["database", null, "bad\u{1b}[2J"], "object": {"metadata": {"namespace": "b"}}}]})
    }

    #[test]
    fn columns_line_up_and_priorities_count() {
        let layout = Layout { wide: false, namespaces: false, headers: true };
        insta::assert_snapshot!(render(&table(), layout, "", &mut Vec::new()), @r"
        NAME       PHASE
        web        Running
        database   <none>
        ");
        let layout = Layout { wide: true, namespaces: true, headers: false };
        insta::assert_snapshot!(render(&table(), layout, "vm/", &mut Vec::new()), @r"
        a   vm/web        Running   fine
        b   vm/database   <none>    bad�[2J
        ");
    }
}
