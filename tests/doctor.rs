//! `rotad doctor` on the real binary: what it finds on this machine, and below limits and a filter of a test's own.

use std::os::unix::process::CommandExt;
use std::process::Command;

struct Answer {
    code: Option<i32>,
    text: String,
}

impl Answer {
    /// The line about one thing, and the indented line below it if there is one.
    fn about(&self, name: &str) -> String {
        let mut lines = self.text.lines().skip_while(|line| !line.contains(name));
        let first = lines
            .next()
            .unwrap_or_else(|| panic!("nothing about {name}:\n{}", self.text));
        let second = lines.next().filter(|line| line.starts_with("     "));
        format!("{first}\n{}", second.unwrap_or_default())
    }
}

fn doctor(mut command: Command) -> Answer {
    let out = command.arg("doctor").output().unwrap();
    assert!(
        out.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Answer {
        code: out.status.code(),
        text: String::from_utf8(out.stdout).unwrap(),
    }
}

fn rotad() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rotad"));
    command.env_remove("ROTAD_CONFIG");
    command
}

#[test]
fn every_part_is_examined_and_the_kernel_of_the_tests_suffices() {
    let answer = doctor(rotad());
    assert_eq!(answer.code, Some(0), "{}", answer.text);
    let titles: Vec<&str> = answer
        .text
        .lines()
        .filter(|line| !line.starts_with(' '))
        .collect();
    assert_eq!(
        titles[..4],
        ["kernel", "limits", "rights", "cgroups and systemd"]
    );
    assert!(titles[4].starts_with("rotad runs here") || titles[4].starts_with("everything"));
    assert_eq!(titles.len(), 5, "{}", answer.text);
    for name in [
        "Linux",
        "/proc",
        "pidfd_open(2)",
        "pidfd_getfd(2)",
        "close_range(2)",
        "memfd_create(2)",
    ] {
        assert!(answer.about(name).contains('●'), "{}", answer.text);
    }
    // No colour in a pipe.
    assert!(!answer.text.contains('\x1b'));
}

#[test]
fn a_small_limit_of_open_files_is_named_with_what_it_is_enough_for() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 256; ulimit -Hn 450; exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_rotad"));
    let answer = doctor(command);
    assert_eq!(answer.code, Some(0), "{}", answer.text);
    let about = answer.about("open files");
    assert!(
        about.contains('◐') && about.contains("256 for a worker, 450 for the master"),
        "{about}"
    );
    assert!(about.contains("room for about 39 workers"), "{about}");
}

#[test]
fn a_user_without_rights_learns_what_needs_them() {
    let mut command = rotad();
    if nix::unistd::Uid::effective().is_root() {
        command.uid(65534).gid(65534);
    }
    command.env("XDG_STATE_HOME", "/proc/nothing");
    let answer = doctor(command);
    assert_eq!(answer.code, Some(0), "{}", answer.text);
    assert!(
        answer
            .about("`user` of a pool")
            .contains("another one needs root"),
        "{}",
        answer.text
    );
    assert!(
        answer.about("`limits` and `nice`").contains('◐'),
        "{}",
        answer.text
    );
    let about = answer.about("runtime directory");
    assert!(
        about.contains("/proc/nothing/rotad cannot be written by this user"),
        "{about}"
    );
    assert!(about.contains("`[master] runtime_dir`"), "{about}");
}

#[test]
fn nothing_is_made() {
    let home = tempfile::tempdir().unwrap();
    let mut command = rotad();
    command
        .current_dir(home.path())
        .env("XDG_STATE_HOME", home.path())
        .env("HOME", home.path());
    assert_eq!(doctor(command).code, Some(0));
    assert_eq!(home.path().read_dir().unwrap().count(), 0);
}
