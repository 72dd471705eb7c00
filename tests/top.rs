//! `rotad top` in a terminal of tmux: keys in, screens out.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::site::finish;
use support::{
    Run, Site, alone, console, need, pids, pool, proc, rotad, spaced, until, until_some,
};

/// A pool that serves, and one that cannot.
const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = "127.0.0.1:@PORT@"
[pool.jobs]
kind = "task"
command = ["sh", "-c", "echo 'Error: no database at db:5432' >&2; exit 3"]
ready = "notify"
count = 1
"#;

/// Only the one that serves.
const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = "127.0.0.1:@PORT@"
"#;

/// A tmux server of its own, in which a shell runs.
struct Window {
    dir: PathBuf,
    config: PathBuf,
}

impl Window {
    fn open(site: &Site) -> Self {
        console();
        let window = Self {
            dir: site.path(""),
            config: site.config.clone(),
        };
        let shell = "env PS1='ready> ' bash --norc --noprofile -i";
        let begun = window.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            shell,
        ]);
        assert_eq!((begun.code, begun.err.as_str()), (0, ""));
        window.sees("ready>");
        window
    }

    fn tmux(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new("tmux");
        command
            .arg("-u")
            .arg("-S")
            .arg(self.dir.join("tmux.sock"))
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .env_remove("NO_COLOR")
            .current_dir(&self.dir);
        finish(command, 10)
    }

    /// Each as tmux names it: `Enter`, `C-z`, or text.
    fn press(&self, keys: &[&str]) {
        let pressed = self.tmux(&[&["send-keys"], keys].concat());
        assert_eq!((pressed.code, pressed.err.as_str()), (0, ""), "{keys:?}");
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"]).out
    }

    /// Waits until the screen has all of these.
    #[track_caller]
    fn has(&self, texts: &[&str]) -> String {
        let found = until_some(10, || {
            let screen = self.screen();
            texts
                .iter()
                .all(|text| screen.contains(text))
                .then_some(screen)
        });
        found.unwrap_or_else(|| panic!("in vain: {texts:?}; on the screen:\n{}", self.screen()))
    }

    #[track_caller]
    fn sees(&self, text: &str) -> String {
        self.has(&[text])
    }

    /// Waits until the screen has it no more.
    #[track_caller]
    fn loses(&self, text: &str) {
        let gone = until_some(10, || (!self.screen().contains(text)).then_some(()));
        assert!(gone.is_some(), "still there: {text:?}:\n{}", self.screen());
    }

    /// Of the terminal: whether the alternate screen is on, a program has the mouse, the cursor is shown.
    fn modes(&self) -> String {
        let format = "#{alternate_on} #{mouse_any_flag} #{cursor_flag}";
        self.tmux(&["display-message", "-p", format])
            .out
            .trim()
            .to_owned()
    }

    /// Opens top.
    fn top(&self) {
        let (rotad, config) = (rotad(), self.config.display());
        let line = format!("clear; {} top -c {config}; echo code $?", rotad.display());
        self.press(&[&line, "Enter"]);
        self.sees("q quit");
        assert_eq!(self.modes(), "1 1 0");
    }

    /// The shell has its terminal back, with this exit code.
    #[track_caller]
    fn is_clean(&self, code: i32) {
        self.has(&[&format!("code {code}\nready>")]);
        assert_eq!(self.modes(), "0 0 1");
        // Line by line, and shown as it is typed.
        self.press(&[
            "clear; stty -a | grep -ow -e -icanon -e -echo; echo modes",
            "Enter",
        ]);
        let screen = self.sees("\nready>");
        assert!(screen.starts_with("modes\nready>"), "{screen}");
    }

    /// The process of top.
    fn process(&self) -> i32 {
        let is_console = |pid: &i32| {
            let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
            exe.is_ok_and(|exe| exe == console())
        };
        until("the process", 5, || {
            proc::of_directory(&self.dir).into_iter().find(is_console)
        })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn keys_show_what_runs_and_roll_scale_and_stop_it() {
    if !need::program("tmux") {
        return;
    }
    let mut site = Site::new(POOLS);
    site.run();
    site.await_status("a crash loop beside a pool that serves", 20, |status| {
        pool(status, "jobs")["state"] == "crash-loop" && pool(status, "web")["ready"] == 2
    });
    let window = Window::open(&site);
    window.top();
    // What is down, and why, without a key.
    window.has(&[
        "× jobs crash-loop",
        "jobs/0: exit 3",
        "Error: no database at db:5432",
        "── log of jobs",
    ]);
    // Up to web, which unfolds; down to a slot; the log is that of what is selected.
    window.press(&["k", "Enter"]);
    window.has(&["▾ web", "└ 0", "└ 1", "── log of web "]);
    window.press(&["j"]);
    window.sees("── log of web/0");
    window.press(&["h"]);
    window.has(&["▸ web", "── log of web "]);
    // A click on the second pool, in the fifth line; and back.
    window.press(&["-l", "\x1b[<0;6;5M"]);
    window.sees("── log of jobs");
    window.press(&["k"]);
    window.sees("── log of web ");
    // A filter.
    window.press(&["/", "crash"]);
    window.loses("▸ web");
    window.press(&["Escape"]);
    window.sees("▸ web");
    window.press(&["g"]);
    window.sees("── log of web ");
    // What stops or replaces something asks.
    let config = site.config.display();
    window.press(&["s"]);
    window.sees(&format!("y: rotad stop web -c {config}"));
    window.press(&["n"]);
    window.sees("not sent: rotad stop web");
    window.press(&["r"]);
    window.sees("Replace the 2 workers of web, one after another?");
    let before = pids(&site.status().expect("a status"), "web");
    window.press(&["y"]);
    window.has(&["web: done: generation 2, 2 workers replaced", "exit 0"]);
    let after = pids(&site.status().expect("a status"), "web");
    assert!(before.len() == 2 && after.len() == 2 && before.iter().all(|pid| !after.contains(pid)));
    window.press(&["+"]);
    window.has(&["3/3", "scaled by hand"]);
    // By the palette, with an answer as on the command line.
    window.press(&[":", "roll nosuch", "Enter", "y"]);
    window.has(&["rotad roll nosuch", "exit 4", "rotad: ", "nosuch"]);
    // Escape at once followed by a letter would be Alt and that letter.
    window.press(&["Escape"]);
    window.loses("exit 4");
    window.press(&["q"]);
    window.is_clean(0);
}

#[test]
fn a_master_may_be_killed_and_started_again() {
    if !need::program("tmux") {
        return;
    }
    let mut site = Site::up(WEB);
    let first = site.pid();
    // Its guardian starts the next one.
    let window = Window::open(&site);
    window.top();
    window.sees(&format!("pid {first} "));
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("the master");
    let second = until("the next master", 10, || {
        let pid = site.status()?["master"]["pid"].as_i64()?;
        (pid != i64::from(first)).then_some(pid)
    });
    window.sees(&format!("pid {second} "));
    // Both at once: no master is left.
    site.kill();
    window.has(&["× no master: ", "what is shown is from", "web"]);
    // The next start goes on with the workers.
    let started = site.rotad(&["start"]);
    assert_eq!(started.code, 0, "{}", started.text());
    let third = site.status().expect("a status")["master"]["pid"].clone();
    window.has(&[&format!("pid {third} "), "all is well"]);
    window.loses("no master");
    window.press(&["q"]);
    window.is_clean(0);
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// A master at rest wakes up less than once a second for it.
#[test]
fn it_costs_an_idle_master_little() {
    if !need::program("tmux") {
        return;
    }
    let _alone = alone();
    let site = Site::up(WEB);
    let window = Window::open(&site);
    window.top();
    window.sees("all is well");
    let woken = || proc::switches(site.pid())[&site.pid()];
    until("six wake-ups or less in six seconds", 60, || {
        let before = woken();
        spaced(Duration::from_secs(6));
        (woken() - before <= 6).then_some(())
    });
    window.press(&["q"]);
    window.is_clean(0);
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

#[test]
fn the_terminal_is_given_back_whatever_ends_it() {
    if !need::program("tmux") {
        return;
    }
    let site = Site::up(WEB);
    let window = Window::open(&site);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        window.top();
        kill(Pid::from_raw(window.process()), signal).expect("top");
        window.is_clean(0);
    }
    window.top();
    window.press(&["C-z"]);
    window.sees("Stopped");
    assert_eq!(window.modes(), "0 0 1");
    window.press(&["fg", "Enter"]);
    window.has(&["q quit", "▸ web"]);
    assert_eq!(window.modes(), "1 1 0");
    // A size that is too small, and back.
    window.tmux(&["resize-window", "-x", "60", "-y", "20"]);
    window.sees("rotad top needs 80×24;");
    window.tmux(&["resize-window", "-x", "100", "-y", "30"]);
    window.sees("▸ web");
    window.press(&["C-c"]);
    window.sees("ready>");
    assert_eq!(window.modes(), "0 0 1");
    // A window that is closed ends it.
    window.top();
    let process = window.process();
    window.tmux(&["kill-server"]);
    until("its end", 5, || proc::gone(process).then_some(()));
}

#[test]
fn it_needs_a_terminal_and_a_master() {
    if !need::program("tmux") {
        return;
    }
    console();
    let site = Site::new(WEB);
    let run = site.rotad(&["top"]);
    assert_eq!(run.code, 2, "{}", run.text());
    assert!(
        run.err.contains("`rotad status` is for scripts"),
        "{}",
        run.err
    );
    let window = Window::open(&site);
    let (rotad, config) = (rotad(), site.config.display());
    let line = format!("{} top -c {config}; echo code $?", rotad.display());
    window.press(&[&line, "Enter"]);
    window.has(&["code 4", "rotad: "]);
    window.press(&[&format!("clear; TERM=dumb {line}"), "Enter"]);
    window.has(&["code 2", "rotad status"]);
}
