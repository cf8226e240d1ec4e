//! The figures as a picture (SVG): speed, latency and CPU time of each workload, a bar for each number of clients with
//! the spread over the rounds. Scales are logarithmic, since figures lie orders of magnitude apart.

use std::fmt::Write as _;

use crate::load::number;
use crate::results::{Context, Metric, Results, Series};
use crate::steps::{Step, Transport, Workload};
use crate::targets::figure;

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 84.0;
const PANEL: f64 = 230.0;
const GAP: f64 = 70.0;
/// For one, two, three numbers of clients, and more.
const COLOURS: [&str; 4] = ["#9ecae1", "#4292c6", "#084594", "#08306b"];

struct Panel {
    title: &'static str,
    metric: Metric,
}

const PANELS: [Panel; 3] = [
    Panel { title: "operations per second", metric: Metric::Rate },
    Panel { title: "p99 latency, ms", metric: Metric::P99 },
    Panel { title: "CPU time of the server per operation, µs", metric: Metric::ServerCpu },
];

/// Draws what was measured in closed loops, with a connection per client.
pub fn draw(context: &Context, results: &Results) -> String {
    let steps: Vec<Step> = results
        .steps()
        .iter()
        .copied()
        .filter(|step| step.transport == Transport::Http2 && results.median(*step, Metric::Rate).is_some())
        .filter(|step| !matches!(step.workload, Workload::Watch | Workload::List | Workload::ListCached))
        .collect();
    let mut workloads: Vec<Workload> = Vec::new();
    let mut clients: Vec<usize> = Vec::new();
    for step in &steps {
        if !workloads.contains(&step.workload) {
            workloads.push(step.workload);
        }
        if !clients.contains(&step.clients) {
            clients.push(step.clients);
        }
    }
    let height = TOP + number(PANELS.len()) * (PANEL + GAP);
    let mut svg = String::new();
    // writing to a string cannot fail
    let _ = write!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<text x="{LEFT}" y="24" font-size="16">{}</text>
"#,
        escape(&format!(
            "{}, etcd {}: {} objects of {} bytes, {} cores",
            context.server, context.etcd, context.objects, context.object_bytes, context.machine.cores
        ))
    );
    for (index, count) in clients.iter().enumerate() {
        let x = LEFT + 110.0 * number(index);
        let _ = writeln!(
            svg,
            r#"<rect x="{x}" y="36" width="12" height="12" fill="{}"/><text x="{}" y="46">{count} client{}</text>"#,
            colour(index),
            x + 18.0,
            if *count == 1 { "" } else { "s" }
        );
    }
    for (index, panel) in PANELS.iter().enumerate() {
        let top = TOP + number(index) * (PANEL + GAP);
        draw_panel(&mut svg, panel, top, &workloads, &clients, results);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, panel: &Panel, top: f64, workloads: &[Workload], clients: &[usize], results: &Results) {
    let series = |workload: Workload, count: usize| results.series(Step::new(workload, count), panel.metric);
    let all = workloads.iter().flat_map(|workload| clients.iter().filter_map(|count| series(*workload, *count)));
    let Some(scale) = Scale::of(all, top) else { return };
    let _ = writeln!(svg, r#"<text x="{LEFT}" y="{}" font-weight="bold">{}</text>"#, top - 8.0, panel.title);
    let mut tick = scale.low;
    while tick <= scale.high * 1.001 {
        let y = scale.y(tick);
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" y1="{y:.1}" x2="{}" y2="{y:.1}" stroke="#ddd"/><text x="{}" y="{:.1}" text-anchor="end">{}</text>"##,
            WIDTH - 20.0,
            LEFT - 6.0,
            y + 4.0,
            figure(tick)
        );
        tick *= 10.0;
    }
    let group = (WIDTH - 20.0 - LEFT) / number(workloads.len());
    let bar = group * 0.8 / number(clients.len());
    for (place, workload) in workloads.iter().enumerate() {
        let left = LEFT + group * (number(place) + 0.1);
        for (index, count) in clients.iter().enumerate() {
            let Some(Series { median, min, max, .. }) = series(*workload, *count) else { continue };
            let (x, y) = (left + bar * number(index), scale.y(median));
            let middle = x + bar / 2.0;
            let _ = writeln!(
                svg,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" fill="{}"/><line x1="{middle:.1}" y1="{:.1}" x2="{middle:.1}" y2="{:.1}" stroke="black"/><text x="{middle:.1}" y="{:.1}" font-size="9" text-anchor="middle">{}</text>"#,
                bar - 2.0,
                top + PANEL - y,
                colour(index),
                scale.y(min),
                scale.y(max),
                scale.y(max) - 3.0,
                figure(median)
            );
        }
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{}" text-anchor="middle">{}</text>"#,
            left + group * 0.4,
            top + PANEL + 16.0,
            workload.name()
        );
    }
}

/// From figures to heights in a panel: whole powers of ten at its ends.
struct Scale {
    low: f64,
    high: f64,
    top: f64,
}

impl Scale {
    /// Nothing where there is nothing to draw.
    fn of(series: impl Iterator<Item = Series>, top: f64) -> Option<Self> {
        let positive = series.flat_map(|series| [series.min, series.max]).filter(|value| *value > 0.0);
        let (low, high) =
            positive.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        (high > 0.0).then(|| {
            let low = 10_f64.powf(low.log10().floor());
            Self { low, high: 10_f64.powf(high.log10().ceil()).max(low * 10.0), top }
        })
    }

    fn y(&self, value: f64) -> f64 {
        let part = (value.max(self.low) / self.low).log10() / (self.high / self.low).log10();
        self.top + PANEL * (1.0 - part)
    }
}

fn colour(index: usize) -> &'static str {
    COLOURS[index.min(COLOURS.len() - 1)]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
