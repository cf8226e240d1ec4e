//! The two text forms of metrics: OpenMetrics, and Prometheus' own of before (0.0.4), for those who do not ask for the former.

use http::HeaderMap;
use http::header::ACCEPT;

/// A form of the metrics' text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposition {
    OpenMetrics,
    Prometheus,
}

/// The form that the client reads.
pub(crate) fn exposition(headers: &HeaderMap) -> Exposition {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepted.into_iter().any(|text| text.contains("application/openmetrics-text")) {
        Exposition::OpenMetrics
    } else {
        Exposition::Prometheus
    }
}

impl Exposition {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Writes what is given as OpenMetrics in this form.
    pub(crate) fn write(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => prometheus(&open_metrics),
        }
    }
}

/// In the older form a counter's name ends with `_total` in its head lines too, and nothing marks the end.
fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 512);
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                text.extend(["# HELP ", name, suffix, " ", words, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_their_samples() {
        let open = "# HELP a_request Requests.\n# TYPE a_request counter\na_request_total{code=\"200\"} 1\n# HELP b Seats.\n\
            # TYPE b gauge\nb 2\n# EOF\n";
        let expected = "# HELP a_request_total Requests.\n# TYPE a_request_total counter\n\
            a_request_total{code=\"200\"} 1\n# HELP b Seats.\n# TYPE b gauge\nb 2\n";
        assert_eq!(Exposition::Prometheus.write(open.to_owned()), expected);
        assert_eq!(Exposition::OpenMetrics.write(open.to_owned()), open);
    }

    #[test]
    fn the_older_form_is_for_those_who_do_not_ask() {
        let accept = |text: &str| HeaderMap::from_iter([(ACCEPT, text.parse().unwrap())]);
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(exposition(&accept(prometheus)), Exposition::OpenMetrics);
        assert_eq!(exposition(&accept("text/plain")), Exposition::Prometheus);
        assert_eq!(exposition(&HeaderMap::new()), Exposition::Prometheus);
    }
}
