//! A page of metrics in one of two text formats: OpenMetrics 1.0
//! (<https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>) and the older one of Prometheus,
//! text/plain 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::{Display, Write};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// text/plain 0.0.4.
    Text,
}

impl Format {
    /// The value of Content-Type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// It only grows, or begins again at 0. The names of its samples end in `_total`.
    Counter,
    /// It grows and falls.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family<'a> {
    /// Its name, without the `_total` of a counter.
    pub name: &'a str,
    /// Its type.
    pub kind: Type,
    /// Its unit, with which the name ends; empty: none.
    pub unit: &'a str,
    /// What it is.
    pub help: &'a str,
}

impl Family<'_> {
    /// The name of its samples (but for the parts of a histogram).
    pub fn sample_name(&self) -> String {
        let end = match self.kind {
            Type::Counter => "_total",
            Type::Gauge | Type::Histogram => "",
        };
        format!("{}{end}", self.name)
    }
}

/// A label and its value.
pub type Label<'a> = (&'a str, &'a str);

/// A page that is being written: families one after another, each followed by its samples.
#[derive(Debug)]
pub struct Page {
    format: Format,
    text: String,
}

impl Page {
    /// An empty page.
    pub fn new(format: Format) -> Self {
        let text = String::new();
        Self { format, text }
    }

    /// Begins a family. Its samples follow; each family may be begun once.
    pub fn begin(&mut self, family: &Family<'_>) {
        let Family {
            name, kind, unit, ..
        } = *family;
        let (name, word) = match (self.format, kind) {
            (Format::OpenMetrics, Type::Counter) => (name.to_owned(), "counter"),
            (Format::Text, Type::Counter) => (family.sample_name(), "counter"),
            (_, Type::Gauge) => (name.to_owned(), "gauge"),
            (_, Type::Histogram) => (name.to_owned(), "histogram"),
        };
        let help = self.escaped_help(family.help);
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {word}"));
        if self.format == Format::OpenMetrics && !unit.is_empty() {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
    }

    /// One sample of a counter or a gauge.
    pub fn sample(&mut self, family: &Family<'_>, labels: &[Label<'_>], value: impl Display) {
        let (name, labels) = (family.sample_name(), labelled(labels));
        self.line(format_args!("{name}{labels} {value}"));
    }

    /// The samples of a histogram. `counts`: as [`super::Histogram`] has them.
    pub fn histogram(
        &mut self,
        family: &Family<'_>,
        labels: &[Label<'_>],
        bounds: &[f64],
        (counts, sum): (&[u64], f64),
    ) {
        let name = family.name;
        let mut total = 0;
        for (at, bound) in bounds.iter().enumerate() {
            total += counts.get(at).copied().unwrap_or_default();
            // `1.0`, not `1`: the canonical form of OpenMetrics, so that both formats are the same series.
            self.bucket(name, labels, &format!("{bound:?}"), total);
        }
        total += counts.iter().skip(bounds.len()).sum::<u64>();
        self.bucket(name, labels, "+Inf", total);
        let labels = labelled(labels);
        self.line(format_args!("{name}_sum{labels} {sum}"));
        self.line(format_args!("{name}_count{labels} {total}"));
    }

    fn bucket(&mut self, name: &str, labels: &[Label<'_>], bound: &str, count: u64) {
        let mut labels = labels.to_vec();
        labels.push(("le", bound));
        let labels = labelled(&labels);
        self.line(format_args!("{name}_bucket{labels} {count}"));
    }

    /// Appends families that are in the format of the page already, and that it has not begun.
    pub fn append(&mut self, families: &str) {
        self.text.push_str(families);
    }

    /// The whole page.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn escaped_help(&self, help: &str) -> String {
        match self.format {
            Format::OpenMetrics => escaped(help),
            Format::Text => help.replace('\\', "\\\\").replace('\n', "\\n"),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        writeln!(self.text, "{line}").ok();
    }
}

fn labelled(labels: &[Label<'_>]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Family<'static> = Family {
        name: "a_wait_seconds",
        kind: Type::Histogram,
        unit: "seconds",
        help: "A \"wait\".\nTwo lines, a \\.",
    };
    const SEEN: Family<'static> = Family {
        name: "a_seen",
        kind: Type::Counter,
        unit: "",
        help: "Seen.",
    };

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        page.begin(&SEEN);
        page.sample(&SEEN, &[("pool", "a\"b\\c\nd")], 3);
        page.begin(&WAITS);
        page.histogram(&WAITS, &[], &[0.5, 10.0], (&[1, 2, 3], 70.25));
        page.finish()
    }

    #[test]
    fn openmetrics_has_units_and_an_end() {
        let expected = r##"# HELP a_seen Seen.
# TYPE a_seen counter
a_seen_total{pool="a\"b\\c\nd"} 3
# HELP a_wait_seconds A \"wait\".\nTwo lines, a \\.
# TYPE a_wait_seconds histogram
# UNIT a_wait_seconds seconds
a_wait_seconds_bucket{le="0.5"} 1
a_wait_seconds_bucket{le="10.0"} 3
a_wait_seconds_bucket{le="+Inf"} 6
a_wait_seconds_sum 70.25
a_wait_seconds_count 6
# EOF
"##;
        assert_eq!(page(Format::OpenMetrics), expected);
    }

    #[test]
    fn the_older_text_names_counters_in_full() {
        let text = page(Format::Text);
        assert!(text.contains("# TYPE a_seen_total counter\n"), "{text}");
        assert!(
            text.contains("HELP a_wait_seconds A \"wait\".\\nTwo lines, a \\\\.\n"),
            "{text}"
        );
        assert!(
            !text.contains("# UNIT") && !text.contains("# EOF"),
            "{text}"
        );
    }
}
