//! Values as other tools write them: what to write here. Called where a value has another type than its key.

use super::report::shown;
use super::units::{self, integer};
use toml::de::DeValue;

/// What to write for a table that is something else. `table`: its title.
pub(super) fn table(table: &str, value: &DeValue<'_>) -> Option<String> {
    let text = value.as_str();
    match table {
        "[pool.NAME.restart]" => Some(restart(value)),
        "[pool.NAME.log]" => match (text, value.as_bool()) {
            (Some("/dev/stdout" | "/dev/stderr" | "-" | "inherit"), _) => {
                Some("write log = { stdout = \"inherit\" }".to_owned())
            }
            (Some("/dev/null" | "none" | "null"), _) | (None, Some(false)) => {
                Some("write log = { stdout = \"null\" }".to_owned())
            }
            (Some(path), _) => Some(format!("write log = {{ stdout = \"{}\" }}", shown(path))),
            _ => Some("write log = { stdout = \"web.log\" }".to_owned()),
        },
        "[pool.NAME.health]" => Some(health(text)),
        "[pool.NAME.reload]" => Some(reload(value)),
        "[pool.NAME.recycle]" => match text {
            Some(age) if units::duration(age).is_ok() => {
                Some(format!("write recycle = {{ max_age = \"{}\" }}", shown(age)))
            }
            Some(size) if units::size(size).is_ok() => {
                Some(format!("write recycle = {{ max_rss = \"{}\" }}", shown(size)))
            }
            _ => Some("write recycle = { max_age = \"6h\" } or { max_rss = \"512MiB\" }; requests are counted by the program alone".to_owned()),
        },
        "[master]" => text.map(|name| format!("write name = \"{}\" below [master]", shown(name))),
        "[control]" => Some("write mode = \"0660\" below [control]".to_owned()),
        "[signals]" => Some("write USR1 = \"roll-all\" below [signals]".to_owned()),
        _ => None,
    }
}

fn restart(value: &DeValue<'_>) -> String {
    let word = match (value.as_str(), value.as_bool()) {
        (Some(text), _) => text.trim(),
        (None, Some(true)) => "always",
        (None, Some(false)) => "never",
        _ => "",
    };
    let policy = match word.split(':').next().unwrap_or_default() {
        "no" | "never" | "none" | "false" | "off" | "temporary" => "never",
        "on-failure" | "on_failure" | "unexpected" | "on-abnormal" | "on-abort" | "on-watchdog"
        | "transient" | "failure" => "on-failure",
        delay if units::duration(delay).is_ok() => {
            return format!("write restart = {{ delay = \"{}\" }}", shown(delay));
        }
        _ => "always",
    };
    format!("write restart = {{ policy = \"{policy}\" }}")
}

fn health(text: Option<&str>) -> String {
    let check = match text {
        Some(url) if url.starts_with("http://") => {
            format!("http = \"{}\"", shown(url.trim_start_matches("http://")))
        }
        Some(age) if units::duration(age).is_ok() => format!("watchdog = \"{}\"", shown(age)),
        Some(address) if address.parse::<std::net::SocketAddr>().is_ok() => {
            format!("connect = \"{}\"", shown(address))
        }
        Some(path) if path.starts_with('/') && !path.contains(' ') => {
            format!("http = \"127.0.0.1:{{port}}{}\"", shown(path))
        }
        _ => "http = \"127.0.0.1:3000/healthz\"".to_owned(),
    };
    format!("write health = {{ {check} }}, or one of connect, command and watchdog")
}

fn reload(value: &DeValue<'_>) -> String {
    match (value.as_str(), value.as_bool()) {
        (_, Some(_)) => "leave it out: `rotad reload` rolls every pool; reload = { watch = [\"src/**\"] } does it when files change".to_owned(),
        (Some(text), _) if units::signal(text).is_some() => {
            "leave it out: `rotad reload` replaces the workers, `rotad signal POOL HUP` only sends a signal".to_owned()
        }
        (Some(text), _) if units::percent(text).is_some() => format!("write reload = {{ surge = \"{}\" }}", shown(text)),
        _ => "write reload = { surge = 1 } or another key of [pool.NAME.reload]".to_owned(),
    }
}

/// What to write for limits that are no table.
pub(super) fn limits(value: &DeValue<'_>) -> Option<String> {
    let number = integer(value)?;
    Some(format!("write limits = {{ nofile = {number} }}"))
}

/// What to write for a string that is another type.
pub(super) fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Integer(number) => Some(format!("write it in quotes: \"{number}\"")),
        DeValue::Float(number) => Some(format!("write it in quotes: \"{number}\"")),
        DeValue::Boolean(flag) => Some(format!("write it in quotes: \"{flag}\"")),
        _ => None,
    }
}

/// What to write for a number that is another type.
pub(super) fn number(value: &DeValue<'_>) -> Option<String> {
    let number: i64 = value.as_str()?.trim().parse().ok()?;
    Some(format!("write it without quotes: {number}"))
}

/// What to write for true or false that is another type.
pub(super) fn flag(value: &DeValue<'_>) -> Option<String> {
    let word = value.as_str().map(str::to_lowercase);
    let flag = match (word.as_deref(), integer(value)) {
        (Some("true" | "yes" | "on" | "1"), _) | (None, Some(1)) => true,
        (Some("false" | "no" | "off" | "0"), _) | (None, Some(0)) => false,
        _ => return None,
    };
    Some(format!("write {flag}, without quotes"))
}

/// What to write for an octal number that is none.
pub(super) fn octal(value: &DeValue<'_>) -> Option<String> {
    let number = integer(value)?;
    Some(format!(
        "write it in quotes, as octal digits: \"0{number}\""
    ))
}

/// What to write for a duration without its unit.
pub(super) fn duration(text: &str) -> Option<String> {
    let number: u64 = text.trim().parse().ok()?;
    Some(format!("write the unit: \"{number}s\""))
}

/// What to write for a stop that is neither a duration nor a list of steps.
pub(super) fn stop(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => units::signal(text).map(|_| {
            let name = text.trim().to_uppercase();
            let name = name.strip_prefix("SIG").unwrap_or(&name);
            format!(
                "write stop = [{{ signal = \"{}\", wait = \"30s\" }}]",
                shown(name)
            )
        }),
        DeValue::Table(_) => {
            Some("steps are a list: write stop = [{ signal = \"INT\", wait = \"30s\" }]".to_owned())
        }
        _ => None,
    }
}

/// What to write for a port in the place of an address.
pub(super) fn address(value: &DeValue<'_>) -> Option<String> {
    let port =
        integer(value).or_else(|| value.as_str()?.trim_start_matches([':', '*']).parse().ok())?;
    let port = u16::try_from(port).ok()?;
    Some(format!(
        "write the address, too: \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for all interfaces"
    ))
}

/// What to write for a way to be ready that is a URL.
pub(super) fn ready(value: &DeValue<'_>) -> Option<String> {
    let url = value.as_str()?.strip_prefix("http://")?;
    Some(format!("write ready = {{ http = \"{}\" }}", shown(url)))
}
