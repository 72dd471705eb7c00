//! `ports`: a port of its own for each worker.

use super::reader::{Located, Parser, Value, integer};
use super::report::shown;
use super::shapes::{self, Shape};
use crate::plan::Ports;

const WHAT: &str = "a range of ports such as \"3000-3004\"";

pub(super) fn shape() -> Shape {
    shapes::any(vec![
        shapes::number(1, 65535),
        shapes::pattern(r"^\s*\+?[0-9]{1,5}\s*(-\s*\+?[0-9]{1,5}\s*)?$"),
    ])
}

/// `None` inside: it has a finding.
pub(super) fn read(parser: &mut Parser, value: &Value<'_>) -> Located<Option<Ports>> {
    if let Some(port) = integer(value.get_ref()) {
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        if port.is_none() {
            parser.error_with(
                &value.span(),
                format!("{} is no port", integer(value.get_ref()).unwrap_or(0)),
                "1 to 65535",
            );
        }
        return Located::new(
            port.map(|port| Ports {
                first: port,
                last: port,
            }),
            value.span(),
        );
    }
    let ports = parser.parsed(value, WHAT, range).map(|at| at.value);
    Located::new(ports, value.span())
}

fn range(text: &str) -> Result<Ports, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| match text.trim().parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!(
            "expected {WHAT} (1 to 65535), found \"{}\"",
            shown(text)
        )),
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!(
            "the first port ({first}) is above the last ({last})"
        ));
    }
    Ok(Ports { first, last })
}

/// Reports if there are too few ports for the workers that may exist at the same time.
pub(super) fn enough(
    parser: &mut Parser,
    ports: &Located<Ports>,
    count: u32,
    surge: u32,
    max_draining: u32,
) {
    let has = ports.value.count();
    let least = u64::from(count) + u64::from(surge);
    // With surge 0 the old worker and its port are gone before the new one starts.
    let easy = if surge == 0 {
        least
    } else {
        least + u64::from(max_draining)
    };
    let up_to = |many: u64| {
        let last = u64::from(ports.value.first) + many - 1;
        if last <= 65535 {
            format!("\"{}-{last}\"", ports.value.first)
        } else {
            format!("a range of {many}")
        }
    };
    if u64::from(has) < least {
        let more = if surge == 0 {
            String::new()
        } else {
            format!(" and {surge} above them while they are rolled")
        };
        let plural = |many: bool| if many { "s" } else { "" };
        let message = format!(
            "{has} port{} for {count} worker{}{more}",
            plural(has != 1),
            plural(count != 1)
        );
        parser.error_with(
            &ports.span,
            message,
            format!("write {}: count + surge of them", up_to(least)),
        );
    } else if u64::from(has) < easy {
        let message =
            "a rolling restart may wait for a port: old workers that still finish keep theirs";
        parser.warning(
            &ports.span,
            message,
            format!("{} leaves room for `max_draining`, too", up_to(easy)),
        );
    }
}
