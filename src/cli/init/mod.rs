//! `rotad init`: writes a configuration for the current directory that can be run as it is, and a systemd unit. `detect`
//! finds the workers, `unit` writes the unit; this module writes both files, checks the configuration, and prints what to
//! do next.

mod detect;
mod unit;

use super::print;
use crate::config::{self, Loaded};
use crate::exit_code::ExitCode;
use detect::Pool;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const CONFIG: &str = "rotad.toml";
const UNIT: &str = "rotad.service";

/// Every key with its default, commented, and an example pool at the end.
const SAMPLE: &str = include_str!("../../../config/rotad.toml");

/// Writes both files into the current directory, or neither. Existing files are never overwritten. Returns the exit code.
pub(super) fn init(file: Option<&Path>, command: &[String]) -> ExitCode {
    if file.is_some() {
        print::error("`init` writes ./rotad.toml: leave out -c, and move the file afterwards");
        return ExitCode::USAGE;
    }
    match write(command) {
        Ok(code) => code,
        Err(message) => {
            print::error(&message);
            ExitCode::FAILED
        }
    }
}

fn write(command: &[String]) -> Result<ExitCode, String> {
    let here = std::env::current_dir()
        .map_err(|error| format!("the current directory cannot be found: {error}"))?;
    let (config, unit) = (here.join(CONFIG), here.join(UNIT));
    for path in [&config, &here.join("config").join(CONFIG), &unit] {
        if path.symlink_metadata().is_ok() {
            return Err(format!(
                "{} already exists and was not changed; nothing was written\n  move it away first, or use it: \
                 `rotad check`",
                path.display()
            ));
        }
    }
    let rotad = std::env::current_exe()
        .map_err(|error| format!("the rotad binary cannot be found: {error}"))?;
    let pools = detect::pools(&here, command);
    create(&config, &text(&pools))?;
    create(&unit, &unit::text(&rotad, &config)).inspect_err(|_| {
        fs::remove_file(&config).ok();
    })?;
    let valid = check(&config);
    print_summary(&pools, &config, &unit);
    Ok(if valid {
        ExitCode::DONE
    } else {
        ExitCode::CONFIG
    })
}

/// The sample with these pools in place of its example; unchanged if there are none.
fn text(pools: &[Pool]) -> String {
    if pools.is_empty() {
        return SAMPLE.to_owned();
    }
    let lines: Vec<&str> = SAMPLE.lines().collect();
    let example = lines
        .iter()
        .position(|line| line.starts_with("[pool."))
        .unwrap_or(lines.len());
    let comment = lines[..example]
        .iter()
        .rev()
        .take_while(|line| line.starts_with('#'))
        .count();
    let mut text = lines[..example - comment].join("\n");
    for pool in pools {
        text.push('\n');
        text.push_str(&pool.toml());
    }
    text
}

fn create(path: &Path, text: &str) -> Result<(), String> {
    // O_EXCL never follows a link, and never replaces a file that has appeared meanwhile. Writable by its owner only:
    // rotad refuses other configurations of root.
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes()).inspect_err(|_| {
            fs::remove_file(path).ok();
        })
    });
    written.map_err(|error: io::Error| {
        format!(
            "{} cannot be written: {error}; nothing was written",
            path.display()
        )
    })
}

/// Whether the configuration is valid; prints its findings.
fn check(config: &Path) -> bool {
    let (valid, report) = match config::load(config) {
        Ok(Loaded { warnings, .. }) => (true, warnings),
        Err(findings) => (false, findings),
    };
    if !report.is_empty() {
        print::plain_error(&report.to_string());
    }
    valid
}

fn print_summary(pools: &[Pool], config: &Path, unit: &Path) {
    let mut text = format!("wrote {}\n", config.display());
    if pools.is_empty() {
        text.push_str(
            "  pool hello: an example, to be replaced (`rotad init -- COMMAND` writes yours)\n",
        );
    }
    for pool in pools {
        let command = print::sanitize(shell_words::join(&pool.command));
        text.push_str(&format!("  pool {}: {command}{}\n", pool.name, pool.origin));
    }
    let name = service(config);
    text.push_str(&format!(
        "wrote {unit}\n\nnext:\n  rotad run        in the foreground; Ctrl-C stops it\n  rotad start      in the \
         background\n  rotad status     what runs\n  rotad reload     after a deploy\nat boot, as root:\n  cp {from} \
         {to}\n  systemctl daemon-reload\n  systemctl enable --now {name}",
        unit = unit.display(),
        from = shell_words::quote(&unit.to_string_lossy()),
        to = shell_words::quote(&format!("/etc/systemd/system/{name}.service")),
    ));
    print::line(&text);
}

/// The name of the service: the master's name.
fn service(config: &Path) -> String {
    config::peek(config).name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detected_pools_replace_the_example_and_every_key_stays() {
        let pool = Pool::of_command(&["php".to_owned(), "worker.php".to_owned()]);
        let text = text(&[pool]);
        assert!(
            text.starts_with("# The configuration of a rotad master"),
            "{text}"
        );
        assert!(
            !text.contains("[pool.hello]") && !text.contains("An example: two workers"),
            "{text}"
        );
        assert!(
            text.contains("# [pool.web.reload]"),
            "every key is still there, commented: {text}"
        );
        assert!(
            text.contains("command = [\"php\", \"worker.php\"]\n"),
            "{text}"
        );
    }
}
