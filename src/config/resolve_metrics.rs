//! Resolves [pool.NAME.metrics]: where the metrics of each worker are.

use super::pool_tables::MetricsText;
use super::reader::{Located, Parser};
use super::report::shown;
use super::resolve_probe::{Crowd, is_ascii_path, is_numeric};
use super::templates::Templates;
use crate::plan::{MetricsPlan, Piece, Template};

/// Resolves the table; `None` if it has a finding.
pub(super) fn metrics(
    parser: &mut Parser,
    texts: &mut Templates<'_>,
    metrics: &Located<MetricsText>,
    crowd: Crowd,
) -> Option<MetricsPlan> {
    let Some(written) = &metrics.value.scrape else {
        let hint = "add scrape = \"http://127.0.0.1:{port}/metrics\", or leave the table out";
        parser.error_with(&metrics.span, "metrics without `scrape`", hint);
        return None;
    };
    let mut scrape = texts.parse(parser, written)?;
    let possible = |piece: &Piece| {
        matches!(
            piece,
            Piece::Text(_) | Piece::Port | Piece::Slot | Piece::Pool | Piece::Generation
        )
    };
    if !scrape.0.iter().all(possible) {
        let hint = "possible here: `{port}`, `{slot}`, `{generation}` and `{pool}`";
        parser.error_with(
            &written.span,
            "this placeholder cannot stand in the address of metrics",
            hint,
        );
        return None;
    }
    let sample = texts.sample(&scrape);
    if let Err(hint) = target(&sample) {
        let message = format!("`{}` is no address of metrics", shown(&written.value));
        parser.error_with(&written.span, message, hint);
        return None;
    }
    if sample.starts_with(HTTP) && !sample[HTTP.len()..].contains('/') {
        scrape.0.push(Piece::Text("/metrics".to_owned()));
    }
    has_own(parser, &scrape, written, crowd);
    Some(MetricsPlan {
        scrape,
        gauges: metrics.value.gauges.value(),
    })
}

const HTTP: &str = "http://";

/// Reports an address that workers share.
fn has_own(parser: &mut Parser, scrape: &Template, written: &Located<String>, crowd: Crowd) {
    let has = |piece: &Piece| scrape.0.contains(piece);
    if has(&Piece::Port) {
        return;
    }
    if crowd.count > 1 && !has(&Piece::Slot) {
        parser.error_with(
            &written.span,
            "any worker of this pool would answer there, not the one that is asked",
            "give each worker an address of its own: ports = \"3000-3009\" and `{port}`, or `{slot}`",
        );
    } else if crowd.surge > 0 && !has(&Piece::Generation) {
        parser.warning(
            &written.span,
            "while a worker finishes, its successor has this address: what it counts meanwhile is lost",
            "give each worker an address of its own: ports = \"3000-3009\" and `{port}`, or `{slot}` with `{generation}`",
        );
    }
}

/// Whether it can be asked without a name look-up; the error says what to write.
fn target(text: &str) -> Result<(), String> {
    let example = "\"http://127.0.0.1:{port}/metrics\" or \"unix:/run/shop/metrics-{slot}.sock\"";
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.starts_with('/') {
            true => Ok(()),
            false => Err("the path of a unix socket begins with `/` here".to_owned()),
        };
    }
    let Some(rest) = text.strip_prefix(HTTP) else {
        return Err(format!("write {example}: plain HTTP"));
    };
    let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !is_ascii_path(path) {
        return Err(
            "a path has no spaces and no letters beyond ASCII: write them as %20".to_owned(),
        );
    }
    match is_numeric(address) {
        true => Ok(()),
        false => Err(format!("write {example}: names are not looked up")),
    }
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn addresses_of_metrics() {
        for good in [
            "http://127.0.0.1:80/metrics",
            "http://127.0.0.1:80",
            "http://[::1]:80/a?b",
            "http://localhost:80/",
            "unix:/run/x.sock",
        ] {
            assert_eq!(target(good), Ok(()), "{good}");
        }
        for bad in [
            "127.0.0.1:80/metrics",
            "https://127.0.0.1:80/",
            "http://127.0.0.1/",
            "http://127.0.0.1:0/",
            "http://example.com:80/",
            "http://127.0.0.1:80/a b",
            "unix:x.sock",
            "unix:",
            "",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
