//! Resolves `ready` and [pool.NAME.health]: the checks that tell whether a worker is ready and alive.

use super::pool_tables::HealthText;
use super::probe::{self, CheckText};
use super::reader::{Located, Parser};
use super::report::shown;
use super::section::{Documented, written};
use super::templates::Templates;
use super::values::Headers;
use crate::plan::{Check, Health, HttpCheck, Piece, Template};
use rotad_core::Span;
use std::net::SocketAddr;

/// The shortest interval: frequent enough for any use, and still no load.
const SHORTEST: Span = Span::from_millis(100);

/// How many workers can share one address.
#[derive(Clone, Copy)]
pub(super) struct Crowd {
    pub(super) count: u32,
    pub(super) surge: u32,
}

/// Resolves a check; `None` if it has a finding.
pub(super) fn check(
    parser: &mut Parser,
    texts: &mut Templates<'_>,
    text: &CheckText,
    crowd: Crowd,
) -> Option<Check> {
    let (written, headers) = match text {
        CheckText::Command(words) => {
            return Some(Check::Command(
                words.iter().map(|word| texts.text(parser, word)).collect(),
            ));
        }
        CheckText::Connect(written) => (written, None),
        CheckText::Http(written, headers) => (written, Some(headers)),
    };
    let http = headers.is_some();
    let mut template = texts.parse(parser, written)?;
    let sample = texts.sample(&template);
    if let Err(hint) = target(&sample, http) {
        let shape = if http { "HOST:PORT/PATH" } else { "HOST:PORT" };
        parser.error_with(
            &written.span,
            format!("`{}` is no {shape}", shown(&written.value)),
            hint,
        );
        return None;
    }
    if http && !sample.contains('/') {
        template.0.push(Piece::Text("/".to_owned()));
    }
    asks_one(parser, &template, written, crowd);
    Some(match headers {
        Some(headers) => Check::Http(HttpCheck {
            url: template,
            headers: self::headers(parser, texts, headers),
        }),
        None => Check::Connect(template),
    })
}

fn headers(
    parser: &mut Parser,
    texts: &mut Templates<'_>,
    headers: &Headers,
) -> Vec<(String, Template)> {
    let mut resolved = Vec::new();
    for (name, value) in headers {
        let Some(template) = texts.parse(parser, value) else {
            continue;
        };
        let sample = texts.sample(&template);
        if sample
            .bytes()
            .any(|byte| !matches!(byte, b'\t' | b' '..=b'~'))
        {
            let message = format!("the value of `{}` is not printable ASCII", name.value);
            parser.error(&value.span, message);
        } else if sample.trim() != sample {
            let message = format!("the value of `{}` begins or ends with a space", name.value);
            parser.error(&value.span, message);
        }
        resolved.push((name.value.clone(), template));
    }
    resolved
}

/// Reports an address that all workers share: any of them would answer.
fn asks_one(parser: &mut Parser, template: &Template, written: &Located<String>, crowd: Crowd) {
    if template
        .0
        .iter()
        .any(|piece| matches!(piece, Piece::Port | Piece::Slot))
    {
        return;
    }
    let hint =
        "give each worker an address of its own: ports = \"3000-3009\" and `{port}`, or `{slot}`";
    if crowd.count > 1 {
        parser.error_with(
            &written.span,
            "any worker of this pool would answer there, not the one that is asked",
            hint,
        );
    } else if crowd.surge > 0 {
        parser.warning(
            &written.span,
            "while it is replaced, the old worker may answer there for the new one",
            hint,
        );
    }
}

/// Whether the address can be connected to without a name look-up; the error says what to write.
fn target(text: &str, http: bool) -> Result<(), String> {
    let example = if http {
        "\"127.0.0.1:{port}/healthz\""
    } else {
        "\"127.0.0.1:{port}\""
    };
    if text.contains("://") {
        return Err(format!(
            "write {example}: no scheme; only plain HTTP is spoken"
        ));
    }
    let (address, path) = match text.find('/') {
        Some(at) if http => text.split_at(at),
        _ => (text, ""),
    };
    if !is_ascii_path(path) {
        return Err(
            "a path has no spaces and no letters beyond ASCII: write them as %20".to_owned(),
        );
    }
    match port(address) {
        Some(0) => Err("ports go from 1 to 65535".to_owned()),
        Some(_) => Ok(()),
        None => Err(format!(
            "write {example}, \"[::1]:8080\" or \"localhost:8080\": names are not looked up"
        )),
    }
}

/// Whether a path can stand in a request as it is.
pub(super) fn is_ascii_path(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether it is an address and a port that can be connected to without a name look-up.
pub(super) fn is_numeric(address: &str) -> bool {
    port(address).is_some_and(|port| port != 0)
}

/// The port of an address; 0: none that can be. `None`: it is no address.
fn port(address: &str) -> Option<u16> {
    match address.parse::<SocketAddr>() {
        Ok(address) => Some(address.port()),
        Err(_) => match address.rsplit_once(':') {
            Some(("localhost", port)) => Some(port.parse().unwrap_or(0)),
            _ => None,
        },
    }
}

/// Resolves [pool.NAME.health]; `None` if it has a finding.
pub(super) fn health(
    parser: &mut Parser,
    texts: &mut Templates<'_>,
    health: &Located<HealthText>,
    crowd: Crowd,
) -> Option<Health> {
    let HealthText {
        watchdog,
        connect,
        http,
        command,
        headers,
        every,
        timeout,
        failures,
    } = &health.value;
    let mut ways: Vec<_> = [connect, http, command].into_iter().flatten().collect();
    ways.sort_by_key(|way| way.span.start);
    let refused = ways.iter().any(|way| way.value.is_none())
        || watchdog.as_ref().is_some_and(|way| way.value.is_none());
    let checks: Vec<(&std::ops::Range<usize>, &CheckText)> = ways
        .iter()
        .filter_map(|way| Some((&way.span, way.value.as_ref()?)))
        .collect();
    let watchdog = watchdog
        .as_ref()
        .and_then(|way| Some(Located::new(way.value?, way.span.clone())));
    let watchdog = watchdog.as_ref();
    for at in [&every.written, &timeout.written]
        .into_iter()
        .flatten()
        .chain(watchdog)
        .filter(|at| at.value < SHORTEST)
    {
        parser.error_with(
            &at.span,
            "too short for a liveness check",
            "\"100ms\" is the least",
        );
    }
    let ways = usize::from(watchdog.is_some()) + checks.len();
    if ways > 1 {
        let second = checks.last().map_or(&health.span, |(name, _)| *name);
        parser.error_with(
            second,
            "two liveness checks",
            format!("choose one of {}", HealthText::alternatives().join(", ")),
        );
        return None;
    }
    if let Some(watchdog) = watchdog {
        for (key, span) in written!(health.value, headers, every, timeout, failures) {
            parser.unused_key(
                span,
                format!("`{key}` means nothing for a watchdog"),
                "the worker reports by itself",
            );
        }
        return Some(Health::Watchdog(watchdog.value.into()));
    }
    let first = checks
        .first()
        .map(|(span, text)| Located::new((*text).clone(), (*span).clone()));
    let first = probe::with_headers(parser, first, headers.as_ref());
    let Some(Located { value: text, .. }) = first else {
        if !refused {
            let hint = "add watchdog = \"30s\", or a connect, http or command";
            parser.error_with(&health.span, "a liveness check without a question", hint);
        }
        return None;
    };
    let every_span = every.value();
    let patience = match &timeout.written {
        Some(at) => at.value,
        None => timeout.value().min(every_span),
    };
    if let Some(at) = timeout.written.as_ref().filter(|_| patience > every_span) {
        let place = every.written.as_ref().map_or(at.span.clone(), |every| {
            parser.more_specific(&at.span, &every.span).clone()
        });
        let message = format!("`timeout` ({patience}) is longer than `every` ({every_span})");
        parser.error_with(
            &place,
            message,
            "the next check is due before the last one has failed",
        );
    }
    Some(Health::Probe {
        check: check(parser, texts, &text, crowd)?,
        every: every_span.into(),
        timeout: patience.into(),
        failures: failures.value(),
    })
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn targets_are_addresses_that_need_no_look_up() {
        for good in ["127.0.0.1:80", "[::1]:80", "localhost:65535"] {
            assert_eq!(target(good, false), Ok(()), "{good}");
            assert_eq!(target(&format!("{good}/a?b=%20"), true), Ok(()), "{good}");
            assert_eq!(target(good, true), Ok(()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "127.0.0.1",
            "127.0.0.1:0",
            "localhost:x",
            "db:80",
            "unix:/x",
            "127.0.0.1:99999",
        ] {
            assert!(target(bad, false).is_err(), "{bad}");
            assert!(target(&format!("{bad}/"), true).is_err(), "{bad}");
        }
        for bad in [
            "http://127.0.0.1:80/",
            "127.0.0.1:80/a b",
            "127.0.0.1:80/a\r\nb",
            "127.0.0.1:80/ü",
        ] {
            assert!(target(bad, true).is_err(), "{bad}");
        }
    }
}
