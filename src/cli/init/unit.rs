//! The systemd unit that `init` writes: the project's unit, with the paths of this directory and the current user.

use crate::config::user_of;
use nix::unistd::Uid;
use std::path::Path;

const UNIT: &str = include_str!("../../../systemd/rotad.service");

/// The text of the unit. `rotad` and `config` must be absolute paths (systemd.service(5)).
pub(super) fn text(rotad: &Path, config: &Path) -> String {
    let (rotad, config) = (quoted(rotad, false), quoted(config, true));
    let user = user_of(Uid::effective().as_raw())
        .ok()
        .flatten()
        .filter(|user| user.uid != 0);
    let mut text = String::new();
    for line in UNIT.lines() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        match key {
            _ if line.starts_with("# One master for this machine") => {
                text.push_str("# Copy it to /etc/systemd/system, as shop.service for example.");
            }
            "ExecStart" | "ExecReload" => {
                let verb = value.split(' ').nth(1).unwrap_or_default();
                text.push_str(&format!("{key}={rotad} {verb} -c {config}"));
            }
            "Type" => {
                if let Some(user) = &user {
                    text.push_str(&format!("User={}\n", user.name));
                }
                text.push_str(line);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Quotes a word as systemd reads it in a command line (systemd.service(5)). `argument`: an argument, in which systemd
/// expands variables; it does not in the program.
fn quoted(path: &Path, argument: bool) -> String {
    let path = path.to_string_lossy().replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=@:%,".contains(c);
    if path.chars().all(plain) {
        return path;
    }
    let path = path.replace('\\', "\\\\").replace('"', "\\\"");
    let path = if argument {
        path.replace('$', "$$")
    } else {
        path
    };
    format!("\"{path}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_has_the_paths_of_this_directory() {
        let text = text(
            Path::new("/opt/rotad/bin/rotad"),
            Path::new("/srv/my shop/100%/rotad.toml"),
        );
        let config = "\"/srv/my shop/100%%/rotad.toml\"";
        for line in [
            format!("ExecStart=/opt/rotad/bin/rotad run -c {config}"),
            format!("ExecReload=/opt/rotad/bin/rotad reload -c {config}"),
            "Type=notify".to_owned(),
            "KillMode=mixed".to_owned(),
            "Delegate=yes".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(
            !text.contains("/usr/bin/rotad") && !text.contains("/etc/rotad"),
            "{text}"
        );
    }
}
