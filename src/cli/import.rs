//! `rotad import`: writes a configuration made from that of another process manager, and says what became of each key.

use super::args::ImportArgs;
use super::{print, schema};
use crate::config::{self, Loaded};
use crate::exit_code::ExitCode;
use crate::import::{self, Account, Imported, Kind, Options};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where the drop-in for the unit of rotad goes, beside the configuration.
const DROP_IN: &str = "rotad.service.d/imported.conf";

/// 0: written and valid. 1: with `--strict` something is lost, the file is there already, or what was written is not
/// valid on this machine. 78: the source cannot be read. Nothing is written with 78 or `--strict`.
pub(super) fn import(config: Option<&Path>, args: &ImportArgs) -> ExitCode {
    if config.is_some() {
        print::error("`import` writes ./rotad.toml, or the file that -o names: leave out -c");
        return ExitCode::USAGE;
    }
    let to_stdout = args.output == Path::new("-");
    let target = if to_stdout {
        PathBuf::from("rotad.toml")
    } else {
        args.output.clone()
    };
    if !to_stdout && is_there(&target) {
        return ExitCode::FAILED;
    }
    let options = Options {
        kind: args.kind.as_deref().and_then(Kind::named),
        profile: args.profile.clone(),
        command: args.command.clone(),
        base: config::base_of(&target),
    };
    let imported = match import::import(&args.files, &options) {
        Ok(imported) if to_stdout => imported,
        Ok(imported) => {
            let dir = target.parent().unwrap_or(Path::new(""));
            let text = schema::headed(dir, &imported.text);
            Imported { text, ..imported }
        }
        Err(error) => {
            print::error(&error.to_string());
            return ExitCode::CONFIG;
        }
    };
    let drop_in = drop_in_of(&target);
    if imported.drop_in.is_some() && !to_stdout && is_there(&drop_in) {
        return ExitCode::FAILED;
    }
    print_account(&imported.account);
    let counts = format!("{}: {}", imported.kind.name(), imported.account.counts());
    if args.strict && imported.account.counts().lost > 0 {
        print::error(&format!(
            "{counts}; nothing was written, because of --strict"
        ));
        return ExitCode::FAILED;
    }
    let wrote = if to_stdout {
        print::raw(&imported.text);
        if let Some(text) = &imported.drop_in {
            // In one output with the configuration, it can only be a comment.
            print::raw(&format!("\n# {DROP_IN}:\n#\n"));
            for line in text.lines() {
                print::raw(format!("# {line}").trim_end());
                print::raw("\n");
            }
        }
        "printed".to_owned()
    } else {
        match write(&target, &imported) {
            Ok(wrote) => wrote,
            Err(message) => {
                print::error(&message);
                return ExitCode::FAILED;
            }
        }
    };
    let valid = check(&target, &imported);
    let state = if valid {
        "valid"
    } else {
        "not valid on this machine: see above"
    };
    print::plain_error(&format!("{counts}; {wrote} ({state})"));
    if valid {
        ExitCode::DONE
    } else {
        ExitCode::FAILED
    }
}

/// Where the drop-in for the unit of rotad goes.
fn drop_in_of(target: &Path) -> PathBuf {
    target.parent().unwrap_or(Path::new("")).join(DROP_IN)
}

/// Whether there is a file of this name, and says so.
fn is_there(path: &Path) -> bool {
    let found = path.symlink_metadata().is_ok();
    if found {
        print::error(&format!(
            "{} already exists and was not changed; nothing was written\n  `-o FILE` names another file, `-o -` prints \
             the result",
            path.display()
        ));
    }
    found
}

fn print_account(account: &Account) {
    let text = account.to_string();
    if !text.is_empty() {
        print::plain_error(&text);
    }
}

/// Whether the result is valid; prints its errors, and how many warnings `check` would show.
fn check(target: &Path, imported: &Imported) -> bool {
    let content = imported.text.clone().into_bytes();
    match config::check(target, content) {
        Ok(Loaded { warnings, .. }) => {
            match warnings.findings().len() {
                0 => {}
                1 => print::plain_error("`rotad check` has a warning about the result"),
                many => {
                    print::plain_error(&format!(
                        "`rotad check` has {many} warnings about the result"
                    ));
                }
            }
            true
        }
        Err(findings) => {
            print::plain_error(&findings.to_string());
            false
        }
    }
}

/// Writes the configuration, and the drop-in if there is one. Returns what to say.
fn write(target: &Path, imported: &Imported) -> Result<String, String> {
    create(target, &imported.text)?;
    let mut wrote = format!("wrote {}", target.display());
    if let Some(text) = &imported.drop_in {
        let path = drop_in_of(target);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)
                .map_err(|error| format!("{} cannot be made: {error}", dir.display()))?;
        }
        create(&path, text)?;
        wrote.push_str(&format!(" and {}", path.display()));
    }
    Ok(wrote)
}

/// Writes a new file where the file system has no hard links; half a file is removed again.
fn in_place(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes()).inspect_err(|_| {
        fs::remove_file(path).ok();
    })
}

/// The file appears with all of its content, or not at all, and never in place of another.
fn create(path: &Path, text: &str) -> Result<(), String> {
    let error = |error: std::io::Error| {
        if error.kind() == ErrorKind::AlreadyExists {
            return format!(
                "{} already exists and was not changed; `-o FILE` names another file",
                path.display()
            );
        }
        format!("{} cannot be written: {error}", path.display())
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // Writable by its owner only: rotad refuses other configurations of root.
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644);
    let written = options.open(&draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // A link is refused where there is a file of the name; a rename would replace it.
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => in_place(path, text),
            linked => linked,
        }
    });
    fs::remove_file(&draft).ok();
    written.map_err(error)
}
