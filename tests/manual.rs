//! The manual page, the completions and the reference in docs/cli.md say what can be typed, all of it.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use support::site::finish;
use support::{Run, rotad};

const BEGIN: &str =
    "<!-- reference: made from the definitions; UPDATE_EXPECT=1 cargo test --test manual -->";
const END: &str = "<!-- end of the reference -->";

fn run(arguments: &[&str]) -> Run {
    let mut command = Command::new(rotad());
    command.args(arguments);
    finish(command, 60)
}

/// Verbs and their flags, as the help of each tells them.
fn verbs() -> Vec<(String, BTreeSet<String>)> {
    let help = run(&["--help"]).out;
    let list = help.lines().skip(2).take_while(|line| !line.is_empty());
    // A verb in each line, or several that commas separate.
    let of_line = |line: &'_ str| -> Vec<String> {
        let words = line.get(11..).unwrap_or_default();
        let several = words
            .split(' ')
            .next()
            .is_some_and(|word| word.ends_with(','));
        let names = words.split(if several { ", " } else { " " });
        let names = names.take(if several { usize::MAX } else { 1 });
        names.map(str::to_owned).collect()
    };
    let names: Vec<String> = list.flat_map(of_line).collect();
    assert!(names.len() > 15, "{names:?}");
    let flags = |verb: &str| {
        let help = run(&[verb, "--help"]).out;
        let lines = help
            .lines()
            .map(str::trim_start)
            .filter(|line| line.starts_with('-'));
        let words = lines
            .flat_map(|line| line.split([' ', ',']).take(3))
            .filter(|word| word.starts_with("--"));
        words
            .map(str::to_owned)
            .filter(|word| word.len() > 2 && word != "--help")
            .collect()
    };
    names
        .iter()
        .map(|verb| (verb.clone(), flags(verb)))
        .collect()
}

/// Feeds a program; its output and whether it was content. None: it is not on this machine.
fn pipe(program: &str, arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let spawned = Command::new(program)
        .args(arguments)
        .env("MANWIDTH", "200")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.ok()?;
    let mut stdin = child.stdin.take().expect("stdin");
    let input = input.to_owned();
    let feeder = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("its end");
    feeder
        .join()
        .expect("the feeder")
        .expect("all of the input");
    let text = [output.stdout, output.stderr.clone()].concat();
    Some((
        output.status.success() && output.stderr.is_empty(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

#[test]
fn the_reference_is_made_from_the_definitions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let page = fs::read_to_string(&path).expect("docs/cli.md");
    let (before, rest) = page.split_once(BEGIN).expect("the mark of its beginning");
    let (_, after) = rest.split_once(END).expect("the mark of its end");
    let expected = format!("{before}{BEGIN}\n\n{}{END}{after}", rotad::cli::reference());
    if page != expected && std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &expected).expect("docs/cli.md");
        return;
    }
    assert!(
        page == expected,
        "docs/cli.md is not what the definitions say: UPDATE_EXPECT=1 cargo test --test manual"
    );
    for (verb, flags) in verbs() {
        let section = expected
            .split(&format!("### `rotad {verb}"))
            .nth(1)
            .unwrap_or_else(|| panic!("no {verb}"));
        let section = section.split("### ").next().expect("a section");
        for flag in flags.iter().filter(|flag| *flag != "--config-file") {
            assert!(section.contains(flag.as_str()), "{verb} {flag}");
        }
    }
}

/// The part of a page between its marks is what the code says.
fn made(page: &str, mark: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path).expect(page);
    let begin =
        format!("<!-- {mark}: made from the code; UPDATE_EXPECT=1 cargo test --test manual -->");
    let end = format!("<!-- end of {mark} -->");
    let (before, rest) = text.split_once(&begin).expect("the mark of its beginning");
    let (_, after) = rest.split_once(&end).expect("the mark of its end");
    let expected = format!("{before}{begin}\n\n{expected}\n{end}{after}");
    if text != expected && std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &expected).expect(page);
        return;
    }
    assert!(
        text == expected,
        "{page} is not what the code says: UPDATE_EXPECT=1 cargo test --test manual"
    );
}

#[test]
fn the_words_and_keys_of_other_tools_are_made_from_the_code() {
    made("docs/coming-from.md", "words", &rotad::cli::habits());
    made(
        "docs/coming-from.md",
        "keys",
        &rotad::config::foreign_keys(),
    );
}

#[test]
fn the_table_of_metrics_is_made_from_the_code() {
    made(
        "docs/metrics.md",
        "metrics",
        &rotad::observe::metrics::markdown(),
    );
}

#[test]
fn the_page_has_every_verb_and_flag_and_is_sound() {
    let man = run(&["man"]);
    assert_eq!((man.code, man.err.as_str()), (0, ""));
    let plain = man.out.replace("\\-", "-");
    for section in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "SIGNALS",
        "FILES",
        "EXAMPLES",
    ] {
        assert!(
            plain.lines().any(|line| line == format!(".SH {section}")),
            "{section}"
        );
    }
    assert!(plain.contains(".SH \"EXIT STATUS\""), "{plain}");
    for (verb, flags) in verbs() {
        let section = plain
            .split(&format!("\n.SS {verb}\n"))
            .nth(1)
            .unwrap_or_else(|| panic!("no {verb}: {plain}"));
        let section = section.split("\n.S").next().expect("a section");
        for flag in flags.iter().filter(|flag| *flag != "--config-file") {
            assert!(section.contains(flag.as_str()), "{verb} {flag}: {section}");
        }
    }
    // By whatever can read it here; its structure is checked above in any case.
    if let Some((content, text)) = pipe("mandoc", &["-T", "lint", "-W", "error"], &man.out) {
        assert!(content, "{text}");
    }
    if let Some((content, text)) = pipe("groff", &["-man", "-Tutf8", "-ww", "-P-cbou"], &man.out) {
        assert!(content, "{text}");
        assert!(
            text.contains("EXIT STATUS") && text.contains("--min-ready"),
            "{text}"
        );
    }
}

#[test]
fn completions_have_every_verb_and_flag() {
    let verbs = verbs();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert_eq!((script.code, script.err.as_str()), (0, ""), "{shell}");
        for (verb, flags) in &verbs {
            assert!(script.out.contains(verb.as_str()), "{shell} {verb}");
            for flag in flags {
                // fish writes long flags without their dashes.
                let flag = if shell == "fish" {
                    format!("-l {}", &flag[2..])
                } else {
                    flag.clone()
                };
                assert!(script.out.contains(&flag), "{shell} {verb} {flag}");
            }
        }
        let check = match shell {
            "bash" => Some(("bash", "-n")),
            "zsh" => Some(("zsh", "-n")),
            "fish" => Some(("fish", "--no-execute")),
            _ => None,
        };
        if let Some((content, text)) =
            check.and_then(|(program, flag)| pipe(program, &[flag], &script.out))
        {
            assert!(content, "{shell}: {text}");
        }
    }
}

#[test]
fn an_unknown_shell_is_a_usage_error() {
    let run = run(&["completions", "cmd"]);
    assert_eq!(run.code, 2);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run.err.contains(shell), "{}", run.err);
    }
}
