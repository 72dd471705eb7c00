//! `rotad init`: writes a configuration for the current directory that can be run as it is, and a systemd unit. `detect`
//! finds the workers (`python`, `node`, `php` and `ruby` know their programs, `project` reads the files), `pool` writes
//! each as TOML, `unit` writes the unit; this module writes the files, checks the configuration, and prints what to do next.

mod detect;
mod node;
mod php;
mod pool;
mod project;
mod python;
mod ruby;
mod unit;

use super::{print, schema};
use crate::config::{self, Loaded};
use crate::daemon;
use crate::exit_code::ExitCode;
use detect::Found;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const CONFIG: &str = "rotad.toml";
const UNIT: &str = "rotad.service";

/// Every key with its default, commented, and an example pool at the end.
const SAMPLE: &str = include_str!("../../../config/rotad.toml");

/// How the file begins where it has only what differs from the defaults.
const HEAD: &str = "\
# The configuration of a rotad master: only what differs from the defaults. `rotad init --full` writes every key;
# docs/config.md explains them. Relative paths are relative to this file's directory, or, if that is named `config`, to
# the one above it.

[master]
pid_file = \"master.pid\"            # locked while the master runs
";

/// Writes the files into the current directory, or none. Existing files are never overwritten. With `full` the configuration
/// has every key, commented. Returns the exit code.
pub(super) fn init(file: Option<&Path>, full: bool, command: &[String]) -> ExitCode {
    if file.is_some() {
        print::error("`init` writes ./rotad.toml: leave out -c, and move the file afterwards");
        return ExitCode::USAGE;
    }
    match write(full, command) {
        Ok(code) => code,
        Err(message) => {
            print::error(&message);
            ExitCode::FAILED
        }
    }
}

fn write(full: bool, command: &[String]) -> Result<ExitCode, String> {
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
    let rotad = daemon::started_program().ok_or("the rotad binary cannot be found")?;
    let rotad = unit::program(rotad);
    let found = detect::find(&here, command);
    let text = schema::headed(&here, &text(&found, full));
    create(&config, &text)?;
    // By its rules, which are those of a file that is there.
    let name = config::peek(&config).name;
    let mut files = vec![(unit.clone(), unit::text(&rotad, &config, &name))];
    let more = found.files.iter();
    files.extend(more.map(|(name, text)| (here.join(name), text.clone())));
    for (at, (path, text)) in files.iter().enumerate() {
        create(path, text).inspect_err(|_| {
            fs::remove_file(&config).ok();
            for (written, _) in &files[..at] {
                fs::remove_file(written).ok();
            }
        })?;
    }
    if let Some((_, imported)) = &found.imported {
        let account = imported.account.to_string();
        if !account.is_empty() {
            print::plain_error(&account);
        }
    }
    let valid = check(&config);
    print_summary(&found, &config, &unit, &name);
    if rotad.may_go {
        print::line(&format!("  ExecStart in it: {}", unit::MAY_GO));
    }
    Ok(if valid {
        ExitCode::DONE
    } else {
        ExitCode::CONFIG
    })
}

/// The configuration with these pools, or with the sample's example if there are none. What was imported has a `[master]`
/// of its own and stays as it is.
fn text(found: &Found, full: bool) -> String {
    if let Some((_, imported)) = &found.imported {
        return imported.text.clone();
    }
    let (keys, example) = SAMPLE.split_at(example_at());
    let mut text = if full { keys } else { HEAD }.trim_end().to_owned();
    text.push('\n');
    for note in &found.notes {
        let note = note.replace('\n', "\n# ");
        text.push_str(&format!("\n# {note}\n"));
    }
    for pool in &found.pools {
        text.push('\n');
        text.push_str(&pool.toml());
    }
    if found.pools.is_empty() {
        text.push('\n');
        text.push_str(example);
    }
    text
}

/// Where the sample's example pool begins, with the comment above it.
fn example_at() -> usize {
    let pool = SAMPLE.find("\n[pool.").map_or(SAMPLE.len(), |at| at + 1);
    SAMPLE[..pool].rfind("\n\n").map_or(pool, |at| at + 2)
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

fn print_summary(found: &Found, config: &Path, unit: &Path, master: &str) {
    let mut text = format!("wrote {}\n", config.display());
    if let Some((name, imported)) = &found.imported {
        text.push_str(&format!(
            "  made from {name}, as `rotad import {name}` does: {}\n",
            imported.account.counts()
        ));
        for (pool, command) in pools_of(&imported.text) {
            text.push_str(&format!("  pool {pool}: {command}\n"));
        }
    } else if found.pools.is_empty() {
        text.push_str(
            "  pool hello: an example, to be replaced (`rotad init -- COMMAND` writes yours)\n",
        );
    }
    for pool in &found.pools {
        let command = print::sanitize(shell_words::join(&pool.command));
        text.push_str(&format!("  pool {}: {command}", pool.name));
        if !pool.origin.is_empty() {
            text.push_str(&format!(" ({})", print::sanitize(pool.origin.clone())));
        }
        text.push('\n');
        if let Some(address) = pool.address() {
            text.push_str(&format!("    serves at {address}\n"));
        }
        for remark in pool.remarks() {
            text.push_str(&format!("    {}\n", print::sanitize(remark)));
        }
    }
    for note in &found.notes {
        text.push_str(&format!("  {note}\n"));
    }
    for (name, _) in &found.files {
        text.push_str(&format!("wrote {name}\n"));
    }
    let name = unit::service(master);
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

/// The pools of a configuration and their commands, as they are written.
fn pools_of(text: &str) -> Vec<(String, String)> {
    let table: toml::Table = toml::from_str(text).unwrap_or_default();
    let pools = table.get("pool").and_then(toml::Value::as_table);
    pools
        .into_iter()
        .flatten()
        .map(|(name, pool)| {
            let command = match pool.get("command") {
                Some(toml::Value::Array(words)) => {
                    shell_words::join(words.iter().filter_map(toml::Value::as_str))
                }
                Some(toml::Value::String(line)) => line.clone(),
                _ => String::new(),
            };
            (name.clone(), print::sanitize(command).to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        let words = ["php", "worker.php"].map(str::to_owned);
        detect::find(Path::new("/nonexistent"), &words)
    }

    #[test]
    fn the_short_file_has_only_what_differs_from_the_defaults() {
        let text = text(&found(), false);
        assert!(
            text.contains("\ncommand = [\"php\", \"worker.php\"]\n"),
            "{text}"
        );
        assert!(text.lines().count() < 30, "{text}");
        assert!(!text.contains("[pool.hello]"), "{text}");
    }

    #[test]
    fn detected_pools_replace_the_example_and_every_key_stays() {
        let text = text(&found(), true);
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

    #[test]
    fn without_a_program_the_example_is_written() {
        assert_eq!(text(&Found::default(), true), SAMPLE);
        let short = text(&Found::default(), false);
        assert!(short.contains("# An example: two workers") && short.contains("[pool.hello]"));
    }
}
