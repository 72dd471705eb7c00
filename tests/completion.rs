//! The completion scripts in real shells: pools, `POOL/SLOT` and signals, of the running master or of the configuration.

mod support;

use std::ffi::OsString;
use std::process::Command;
use support::site::finish;
use support::{Run, Site, need, rotad};

const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "wait"]
ready = "spawned"
count = 2
[pool.jobs]
command = ["@WORKER@", "wait"]
ready = "spawned"
"#;

/// A shell with our binary first in PATH, in the directory of a site.
fn shell(site: &Site, program: &str, arguments: &[&str]) -> Run {
    let mut path = OsString::from(rotad().parent().expect("a directory"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(site.path(""))
        .env("PATH", path)
        .env("HOME", site.path(""))
        .env("TERM", "dumb")
        .env_remove("ROTAD_CONFIG");
    finish(command, 30)
}

fn script(site: &Site, shell: &str, name: &str) {
    let mut command = Command::new(rotad());
    command.args(["completions", shell]);
    let run = finish(command, 20);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    site.write(name, &run.out);
}

/// What bash would offer for each of these lines, up to their ends.
fn bash(site: &Site, lines: &[&str]) -> Vec<String> {
    let try_it = r#"
source rotad.bash
while IFS= read -r line; do
    read -ra COMP_WORDS <<<"$line"
    [[ $line != *" " ]] || COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    function=$(complete -p rotad); function=${function#* -F }; function=${function%% *}
    "$function" rotad "${COMP_WORDS[-1]}" x
    echo "${COMPREPLY[*]}"
done <lines
"#;
    script(site, "bash", "rotad.bash");
    site.write("try.sh", try_it);
    site.write("lines", &(lines.join("\n") + "\n"));
    let run = shell(site, "bash", &["try.sh"]);
    assert_eq!(run.code, 0, "{run:?}");
    run.out.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_names() {
    let site = Site::new(POOLS);
    let lines = [
        "rotad stop ",
        "rotad roll w",
        "rotad logs -n 3 web/",
        "rotad signal web/0 US",
        "rotad scale jobs ",
        "rotad status web ",
        "rotad stat",
        "rotad -c nothere.toml stop ",
    ];
    let expected = [
        "web jobs",
        "web web/0 web/1",
        "web/0 web/1",
        "USR1 USR2",
        "",
        "jobs",
        "status",
        "",
    ];
    assert_eq!(bash(&site, &lines), expected, "without a master");
    // The file has mistakes, and the master knows: one worker more, and a pool that the file has no more.
    assert_eq!(site.rotad(&["start"]).code, 0);
    assert_eq!(site.rotad(&["scale", "web", "3"]).code, 0);
    let text = site.read("rotad.toml");
    site.write(
        "rotad.toml",
        &text.replace("[pool.jobs]\ncommand", "[pool.other]\ncomand"),
    );
    assert_eq!(
        bash(&site, &["rotad reload ", "rotad roll web/"]),
        ["web jobs", "web/0 web/1 web/2"]
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert_eq!(
        bash(&site, &["rotad reload "]),
        ["other web"],
        "a file with mistakes"
    );
    site.assert_empty();
}

/// A person waits for it: a master that does not answer takes no second.
#[test]
fn a_master_that_hangs_does_not_hold_up_the_shell() {
    let mut site = Site::new(POOLS);
    site.run();
    site.await_ready();
    site.signal(nix::sys::signal::Signal::SIGSTOP);
    let run = shell(&site, "rotad", &["__complete", "stop", ""]);
    site.signal(nix::sys::signal::Signal::SIGCONT);
    assert_eq!(
        (run.code, run.out.as_str(), run.err.as_str()),
        (0, "web\njobs\n", ""),
        "{run:?}"
    );
    assert!(run.took.as_millis() < 1500, "{run:?}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

#[test]
fn fish_completes_names() {
    if !need::program("fish") {
        return;
    }
    let site = Site::new(POOLS);
    script(&site, "fish", "rotad.fish");
    let lines = "source rotad.fish; for line in 'rotad stop ' 'rotad roll web/' 'rotad signal web US'; complete -C $line; echo; end";
    let run = shell(&site, "fish", &["--no-config", "-c", lines]);
    assert_eq!(
        run.out, "jobs\nweb\n\nweb/0\nweb/1\n\nUSR1\nUSR2\n\n",
        "{run:?}"
    );
}

#[test]
fn zsh_completes_names() {
    if !need::program("zsh") {
        return;
    }
    let site = Site::new(POOLS);
    std::fs::create_dir(site.path("functions")).expect("a directory");
    script(&site, "zsh", "functions/_rotad");
    let try_it = r#"
zmodload zsh/zpty
zpty inner zsh -f -i
zpty -w inner 'PS1="ready> "; fpath=(functions $fpath); autoload -U compinit; compinit -u -D; echo "set""up"'
zpty -r inner seen '*setup*ready> *'
try() {
    zpty -w -n inner "$1"$'\t'
    zpty -r inner seen "*$2*"
    print -r -- "$2"
    zpty -w -n inner $'\x15'
}
try 'rotad stop w' 'web '
try 'rotad roll web/' 'web/0  web/1'
try 'rotad signal web HU' 'HUP '
try 'rotad stat' 'status '
zpty -d inner
"#;
    site.write("try.zsh", try_it);
    let run = shell(&site, "zsh", &["-f", "try.zsh"]);
    assert_eq!(run.out.lines().count(), 4, "{run:?}");
}
