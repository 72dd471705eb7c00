//! Reads a page of metrics: text/plain 0.0.4 of Prometheus and OpenMetrics 1.0, as far as what they have can be summed.
//! Timestamps, exemplars, quantiles and times of creation are passed over: no sum of them means anything.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Samples of one worker.
pub(super) const MAX_SAMPLES: usize = 20_000;

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    GaugeHistogram,
    Info,
    StateSet,
    Unknown,
}

impl Kind {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "gaugehistogram" => Self::GaugeHistogram,
            "info" => Self::Info,
            "stateset" => Self::StateSet,
            "untyped" | "unknown" => Self::Unknown,
            _ => return None,
        })
    }

    /// Whether what it counts is kept of a worker that is gone.
    pub(super) fn is_count(self) -> bool {
        matches!(self, Self::Counter | Self::Histogram | Self::Summary)
    }

    /// The endings of its samples' names. `None`: samples with this ending are passed over.
    fn endings(self) -> &'static [(&'static str, Option<Part>)] {
        match self {
            Self::Counter => &[
                ("_total", Some(Part::Total)),
                ("", Some(Part::Plain)),
                ("_created", None),
            ],
            Self::Histogram => &[
                ("_bucket", Some(Part::Bucket)),
                ("_sum", Some(Part::Sum)),
                ("_count", Some(Part::Count)),
                ("_created", None),
            ],
            Self::Summary => &[
                ("_sum", Some(Part::Sum)),
                ("_count", Some(Part::Count)),
                ("", None),
                ("_created", None),
            ],
            Self::GaugeHistogram => &[
                ("_bucket", Some(Part::Bucket)),
                ("_gsum", Some(Part::GaugeSum)),
                ("_gcount", Some(Part::GaugeCount)),
            ],
            Self::Info => &[("_info", Some(Part::Info))],
            Self::Gauge | Self::StateSet | Self::Unknown => &[("", Some(Part::Plain))],
        }
    }
}

/// Which sample of its family it is, in the order in which they are written.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(super) enum Part {
    Bucket,
    Sum,
    Count,
    Total,
    Plain,
    GaugeSum,
    GaugeCount,
    Info,
}

impl Part {
    /// The ending of the sample's name.
    pub(super) fn ending(self) -> &'static str {
        match self {
            Self::Bucket => "_bucket",
            Self::Sum => "_sum",
            Self::Count => "_count",
            Self::Total => "_total",
            Self::Plain => "",
            Self::GaugeSum => "_gsum",
            Self::GaugeCount => "_gcount",
            Self::Info => "_info",
        }
    }
}

/// The bound of a bucket.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Bound(pub(super) String);

impl Bound {
    fn number(&self) -> f64 {
        number(&self.0).unwrap_or(f64::NAN)
    }
}

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_number = self.number().total_cmp(&other.number());
        by_number.then_with(|| self.0.cmp(&other.0))
    }
}

/// What tells samples of one family apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(super) struct Series {
    /// `name="value"` with commas, sorted, without the bound of a bucket; values are escaped.
    pub(super) labels: String,
    pub(super) part: Part,
    pub(super) bound: Option<Bound>,
}

/// A family of metrics.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Family {
    pub(super) kind: Kind,
    /// Escaped as it was read.
    pub(super) help: String,
    pub(super) samples: BTreeMap<Series, f64>,
}

/// The families of a page by their names, those of counters without `_total`.
pub(super) type Families = BTreeMap<String, Family>;

/// Reads a page. `reserved`: labels that get another name, since ours have these.
///
/// # Errors
/// The first line that cannot be read, or that it is too much.
pub(super) fn read(text: &str, reserved: &[&str]) -> Result<Families, String> {
    let mut reader = Reader::default();
    for (number, line) in text.lines().enumerate() {
        reader
            .line(line.trim(), reserved)
            .map_err(|why| format!("line {}: {why}", number + 1))?;
    }
    reader
        .families
        .retain(|_, family| !family.samples.is_empty());
    Ok(reader.families)
}

#[derive(Default)]
struct Reader {
    families: Families,
    helps: BTreeMap<String, String>,
    current: String,
    samples: usize,
}

impl Reader {
    fn line(&mut self, line: &str, reserved: &[&str]) -> Result<(), String> {
        match line.strip_prefix('#') {
            Some(comment) => {
                self.comment(comment.trim_start());
                Ok(())
            }
            None if line.is_empty() => Ok(()),
            None => self.sample(line, reserved),
        }
    }

    fn comment(&mut self, comment: &str) {
        if let Some(rest) = comment.strip_prefix("HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            self.helps.insert(name.to_owned(), help.to_owned());
        } else if let Some(rest) = comment.strip_prefix("TYPE ") {
            let (name, word) = rest.split_once(' ').unwrap_or((rest, ""));
            if let Some(kind) = Kind::parse(word.trim()) {
                self.begin(name, kind);
            }
        }
    }

    fn begin(&mut self, name: &str, kind: Kind) {
        let plain = match kind {
            Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let help = self.helps.remove(name).unwrap_or_default();
        let family = Family {
            kind,
            help,
            samples: BTreeMap::new(),
        };
        self.families.entry(plain.to_owned()).or_insert(family);
        self.current = plain.to_owned();
    }

    fn sample(&mut self, line: &str, reserved: &[&str]) -> Result<(), String> {
        let name_end = line
            .find(|letter: char| letter == '{' || letter.is_ascii_whitespace())
            .ok_or("a sample without a value")?;
        let (name, rest) = line.split_at(name_end);
        if !is_name(name) {
            return Err(format!("`{}` is no name", cut(name)));
        }
        let (mut labels, rest) = match rest.strip_prefix('{') {
            Some(inner) => labels(inner)?,
            None => (Vec::new(), rest),
        };
        let value = rest.split_ascii_whitespace().next().unwrap_or_default();
        let value = number(value).ok_or_else(|| format!("`{}` is no number", cut(value)))?;
        let Some((family, part)) = self.family_of(name) else {
            return Ok(());
        };
        let bound = match part {
            Part::Bucket => {
                let at = labels.iter().position(|(name, _)| *name == "le");
                let at = at.ok_or("a bucket without `le`")?;
                Some(Bound(labels.swap_remove(at).1.to_owned()))
            }
            _ => None,
        };
        labels.sort_unstable();
        let label = |(name, value): (&str, &str)| {
            let taken = if reserved.contains(&name) {
                "exported_"
            } else {
                ""
            };
            format!("{taken}{name}=\"{value}\"")
        };
        let labels: Vec<String> = labels.into_iter().map(label).collect();
        let series = Series {
            labels: labels.join(","),
            part,
            bound,
        };
        self.samples += 1;
        if self.samples > MAX_SAMPLES {
            return Err(format!("more than {MAX_SAMPLES} samples"));
        }
        if let Some(family) = self.families.get_mut(&family) {
            family.samples.insert(series, value);
        }
        Ok(())
    }

    /// The family of a sample, and which of its samples it is. None: it is passed over.
    fn family_of(&mut self, name: &str) -> Option<(String, Part)> {
        let of = |base: &str, families: &Families| -> Option<Option<Part>> {
            let ending = name.strip_prefix(base)?;
            let endings = families.get(base)?.kind.endings();
            let (_, part) = endings.iter().find(|(known, _)| *known == ending)?;
            Some(*part)
        };
        if let Some(part) = of(&self.current, &self.families) {
            return Some((self.current.clone(), part?));
        }
        let ends = [
            "", "_total", "_bucket", "_sum", "_count", "_created", "_gsum", "_gcount", "_info",
        ];
        for base in ends.iter().filter_map(|end| name.strip_suffix(end)) {
            if let Some(part) = of(base, &self.families) {
                return Some((base.to_owned(), part?));
            }
        }
        self.begin(name, Kind::Unknown);
        Some((name.to_owned(), Part::Plain))
    }
}

/// Labels, each with its value as it is written.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// The labels up to the closing brace, and what follows.
fn labels(text: &str) -> Result<(Labels<'_>, &str), String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((found, after));
        }
        let (name, after) = rest.split_once('=').ok_or("a label without a value")?;
        let name = name.trim();
        if !is_name(name) || name.contains(':') {
            return Err(format!("`{}` is no label", cut(name)));
        }
        let value = after
            .trim_start()
            .strip_prefix('"')
            .ok_or("a label's value without quotes")?;
        let end = closing_quote(value).ok_or("a label's value that does not end")?;
        found.push((name, &value[..end]));
        rest = value[end + 1..].trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn is_name(name: &str) -> bool {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    !name.is_empty() && name.bytes().all(part) && !name.as_bytes()[0].is_ascii_digit()
}

fn number(text: &str) -> Option<f64> {
    match text.to_ascii_lowercase().as_str() {
        "+inf" | "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        "nan" => Some(f64::NAN),
        _ => text.parse().ok(),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(families: &Families, family: &str, labels: &str, part: Part) -> f64 {
        let series = Series {
            labels: labels.into(),
            part,
            bound: None,
        };
        families[family].samples[&series]
    }

    #[test]
    fn the_older_text_is_read() {
        let text = r#"
# HELP http_requests_total Requests \\ "all".
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{ code = "400" , method="post", } 3
# TYPE http_requests_created gauge
http_requests_created{method="post",code="200"} 1.7e9
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.5"} 1
wait_seconds_bucket{le="10"} 3
wait_seconds_bucket{le="+Inf"} 4
wait_seconds_sum 70.25
wait_seconds_count 4
# TYPE rpc summary
rpc{quantile="0.5"} 4
rpc_sum 8
rpc_count 2
# a comment
weird{path="C:\\DIR\\FILE.TXT",error="no \"file\"\n",pool="x"} -Inf
"#;
        let families = read(text, &["pool"]).unwrap();
        let requests = &families["http_requests"];
        assert_eq!(
            (requests.kind, requests.help.as_str()),
            (Kind::Counter, r#"Requests \\ "all"."#)
        );
        let labels = r#"code="200",method="post""#;
        assert_eq!(
            sample(&families, "http_requests", labels, Part::Total),
            1027.0
        );
        let buckets: Vec<&str> = families["wait_seconds"]
            .samples
            .keys()
            .filter_map(|series| Some(series.bound.as_ref()?.0.as_str()))
            .collect();
        assert_eq!(buckets, ["0.5", "10", "+Inf"]);
        assert_eq!(families["rpc"].samples.len(), 2, "no quantiles");
        assert!(families.contains_key("http_requests_created"));
        let labels = r#"error="no \"file\"\n",path="C:\\DIR\\FILE.TXT",exported_pool="x""#;
        let weird = sample(&families, "weird", labels, Part::Plain);
        assert_eq!(weird, f64::NEG_INFINITY);
    }

    #[test]
    fn openmetrics_is_read() {
        let text = r#"# TYPE acme counter
# UNIT acme seconds
# HELP acme Total.
acme_total{a="b"} 17 1520879607.789 # {trace_id="x"} 0.67
acme_created{a="b"} 1520872607.123
# TYPE build info
build_info{version="1"} 1
# TYPE heat gaugehistogram
heat_bucket{le="1.0"} 2
heat_bucket{le="+Inf"} 3
heat_gcount 3
heat_gsum 4.5
# EOF
"#;
        let families = read(text, &[]).unwrap();
        assert_eq!(sample(&families, "acme", "a=\"b\"", Part::Total), 17.0);
        assert_eq!(families["acme"].samples.len(), 1);
        assert_eq!(sample(&families, "build", "version=\"1\"", Part::Info), 1.0);
        assert_eq!(families["heat"].samples.len(), 4);
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for (text, why) in [
            ("<html>", "line 1"),
            ("a\n", "without a value"),
            ("a{b=\"c} 1", "does not end"),
            ("a{b=c} 1", "without quotes"),
            ("a{b} 1", "without a value"),
            ("ok 1\n9a 1", "line 2: `9a`"),
            ("a x", "`x` is no number"),
            ("# TYPE h histogram\nh_bucket 1", "without `le`"),
        ] {
            let error = read(text, &[]).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let many = "a{b=\"c\"} 1\n".repeat(MAX_SAMPLES + 1);
        assert!(read(&many, &[]).is_err());
    }
}
