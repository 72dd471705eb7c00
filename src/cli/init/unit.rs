//! The systemd unit that `init` writes: the project's unit, with the paths of this directory and the current user.

use crate::config::user_of;
use crate::observe::sanitize::sanitize;
use nix::unistd::Uid;
use std::path::{Path, PathBuf};

const UNIT: &str = include_str!("../../../systemd/rotad.service");

/// Where a program is installed for all users.
const INSTALLED: [&str; 2] = ["/usr/local/bin/rotad", "/usr/bin/rotad"];

/// The program that the unit runs.
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// It lies where programs do not stay.
    pub(super) may_go: bool,
}

/// `started`: the path by which rotad was started, with its links: a link that is turned at an update stays one. Below a home
/// directory, in a temporary or a build directory, it gives way to one that is installed.
pub(super) fn program(started: PathBuf) -> Program {
    let installed = INSTALLED.map(PathBuf::from).into_iter();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    choose(
        started,
        home.as_deref(),
        installed.filter(|path| path.is_file()),
    )
}

fn choose(
    started: PathBuf,
    home: Option<&Path>,
    mut installed: impl Iterator<Item = PathBuf>,
) -> Program {
    let places = ["/home", "/root", "/tmp", "/var/tmp", "/dev/shm"].map(Path::new);
    let home = home.filter(|home| *home != Path::new("/"));
    let parts: Vec<_> = started.iter().collect();
    let is_built = parts
        .windows(2)
        .any(|pair| pair[0] == "target" && (pair[1] == "debug" || pair[1] == "release"));
    let is_in = |place: &Path| started.starts_with(place);
    if !is_built && !places.into_iter().chain(home).any(is_in) {
        let (path, may_go) = (started, false);
        return Program { path, may_go };
    }
    match installed.next() {
        Some(path) => Program {
            path,
            may_go: false,
        },
        None => Program {
            path: started,
            may_go: true,
        },
    }
}

/// The name of the service, without `.service`. It begins with `rotad-`: a master is often called as its directory is, and
/// `node.service` or `php.service` would take the name of a program's own unit.
pub(super) fn service(master: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":_.-".contains(c);
    let name: String = master
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .collect();
    format!("rotad-{name}")
}

/// The text of the unit. `rotad` and `config` must be absolute paths (systemd.service(5)). `master`: its name.
pub(super) fn text(rotad: &Program, config: &Path, master: &str) -> String {
    let (program, config) = (quoted(&rotad.path, false), quoted(config, true));
    let user = user_of(Uid::effective().as_raw())
        .ok()
        .flatten()
        .filter(|user| user.uid != 0);
    let mut text = String::new();
    for line in UNIT.lines() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        match key {
            _ if line.starts_with("# One master for this machine") => {
                let name = service(master);
                text.push_str(&format!("# Copy it to /etc/systemd/system/{name}.service."));
            }
            "Description" => {
                let master = sanitize(master).replace('%', "%%");
                text.push_str(&format!("{key}={master}: pools of workers under rotad"));
            }
            "ExecStart" | "ExecReload" => {
                let verb = value.split(' ').nth(1).unwrap_or_default();
                if rotad.may_go && key == "ExecStart" {
                    text.push_str(&format!("# {MAY_GO}\n"));
                }
                text.push_str(&format!("{key}={program} {verb} -c {config}"));
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

/// What is said of a program that lies where programs do not stay.
pub(super) const MAY_GO: &str = "rotad is not installed where programs stay: install it, for example as /usr/local/bin/rotad, and write that path here";

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
        let path = PathBuf::from("/opt/rotad/bin/rotad");
        let mut rotad = Program {
            path,
            may_go: false,
        };
        let config = Path::new("/srv/my shop/100%/rotad.toml");
        let of = |rotad: &Program| text(rotad, config, "100% php");
        let unit = of(&rotad);
        let config = "\"/srv/my shop/100%%/rotad.toml\"";
        for line in [
            format!("ExecStart=/opt/rotad/bin/rotad run -c {config}"),
            format!("ExecReload=/opt/rotad/bin/rotad reload -c {config}"),
            "# Copy it to /etc/systemd/system/rotad-100--php.service.".to_owned(),
            "Description=100%% php: pools of workers under rotad".to_owned(),
            "Type=notify".to_owned(),
            "KillMode=mixed".to_owned(),
            "Delegate=yes".to_owned(),
        ] {
            assert!(unit.lines().any(|found| found == line), "{line}\n{unit}");
        }
        assert!(
            !unit.contains("/usr/bin/rotad") && !unit.contains("/etc/rotad"),
            "{unit}"
        );
        assert!(!unit.contains(MAY_GO), "{unit}");
        rotad.may_go = true;
        assert!(of(&rotad).contains(&format!("# {MAY_GO}\nExecStart=")));
    }

    #[test]
    fn an_installed_program_is_better_than_one_of_a_home_directory() {
        let home = Path::new("/srv/people/ux");
        let installed = || std::iter::once(PathBuf::from("/usr/bin/rotad"));
        for (started, with, without) in [
            ("/usr/local/bin/rotad", "/usr/local/bin/rotad", false),
            (
                "/srv/app/.venv/bin/rotad",
                "/srv/app/.venv/bin/rotad",
                false,
            ),
            ("/srv/people/ux/bin/rotad", "/usr/bin/rotad", true),
            ("/home/uy/.cargo/bin/rotad", "/usr/bin/rotad", true),
            ("/work/target/release/rotad", "/usr/bin/rotad", true),
        ] {
            let chosen = choose(started.into(), Some(home), installed());
            assert_eq!((chosen.path, chosen.may_go), (with.into(), false));
            let chosen = choose(started.into(), Some(home), std::iter::empty());
            assert_eq!((chosen.path, chosen.may_go), (started.into(), without));
        }
    }
}
