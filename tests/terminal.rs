//! A master in a terminal: Ctrl-C, Ctrl-Z, a closed window, nohup. A real shell on a real pseudo-terminal (pty(7)).

mod support;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use support::load::{self, burst};
use support::{Site, alone, need, number, pids, proc, until, until_some};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "10"]
count = 2
listen = "127.0.0.1:@PORT@"
"#;

/// A window with an interactive shell; whatever appears in it is kept.
struct Window {
    keys: Option<Arc<File>>,
    seen: Arc<Mutex<String>>,
    shell: Child,
    reader: Option<JoinHandle<()>>,
}

impl Window {
    fn open(site: &Site) -> Window {
        // Close-on-exec from the start: a copy in a neighbour's child would keep the window open.
        let master =
            posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a terminal");
        grantpt(&master).expect("its rights");
        unlockpt(&master).expect("its lock");
        let name = ptsname_r(&master).expect("its name");
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open(name);
        let slave = slave.expect("the other end");
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "bash", "--norc", "--noprofile", "-i"])
            .current_dir(site.path(""));
        command
            .env("PS1", "ready> ")
            .env("TERM", "dumb")
            .env("HOME", site.path(""))
            .env_remove("HISTFILE");
        let copy = || slave.try_clone().expect("a copy");
        let shell = command
            .stdin(copy())
            .stdout(copy())
            .stderr(copy())
            .spawn()
            .expect("a shell");
        let keys = Arc::new(File::from(OwnedFd::from(master)));
        let seen = Arc::new(Mutex::new(String::new()));
        let (screen, into) = (Arc::downgrade(&keys), seen.clone());
        let reader = std::thread::spawn(move || read(&screen, &into));
        let window = Window {
            keys: Some(keys),
            seen,
            shell,
            reader: Some(reader),
        };
        window.sees("ready> ");
        window
    }

    fn types(&self, text: &str) {
        let mut keys: &File = self.keys.as_ref().expect("an open window");
        keys.write_all(text.as_bytes()).expect("a key");
    }

    /// `rotad run` of a site.
    fn runs(&self, site: &Site, before: &str, after: &str) {
        let rotad = support::rotad();
        self.types(&format!(
            "{before} {} run -c {} {after}\n",
            rotad.display(),
            site.config.display()
        ));
        site.await_ready();
    }

    fn sees(&self, text: &str) {
        let found = until_some(20, || {
            self.seen
                .lock()
                .expect("the screen")
                .contains(text)
                .then_some(())
        });
        assert!(
            found.is_some(),
            "in vain: {text:?}; on the screen: {}",
            self.seen.lock().expect("the screen")
        );
    }

    /// What stands on the screen.
    fn screen(&self) -> Vec<String> {
        shown(&self.seen.lock().expect("the screen"))
    }

    /// Every line that has stood on the screen.
    fn drawn(&self) -> Vec<String> {
        let seen = self.seen.lock().expect("the screen").clone();
        // Without the sequences that erase it.
        shown(&seen.replace("\x1b[J", "").replace('A', "B"))
    }

    /// What came is forgotten, so that the same text can be waited for again.
    fn wipes(&self) {
        self.seen.lock().expect("the screen").clear();
    }
}

/// What a terminal shows after these characters: the cursor goes back (`\r`), up (`CSI n A`), and what is below it is erased
/// (`CSI J`); other sequences show nothing.
fn shown(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let (mut row, mut column) = (0, 0);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(String::new());
                }
            }
            '\x1b' => {
                let mut sequence = String::new();
                for part in letters.by_ref() {
                    sequence.push(part);
                    if part.is_ascii_alphabetic() {
                        break;
                    }
                }
                if let Some(up) = sequence
                    .strip_prefix('[')
                    .and_then(|of| of.strip_suffix('A'))
                {
                    row -= up.parse::<usize>().expect("a number of lines");
                } else if sequence == "[J" {
                    lines.truncate(row + 1);
                    lines[row] = lines[row].chars().take(column).collect();
                }
            }
            letter => {
                let line = &mut lines[row];
                let kept: String = line.chars().take(column).collect();
                let behind: String = line.chars().skip(column + 1).collect();
                *line = format!("{kept}{letter}{behind}");
                column += 1;
            }
        }
    }
    lines
}

/// Until the window is closed: the last one who lets go of it hangs up (pty(7)), so nothing is held while it waits.
fn read(screen: &Weak<File>, into: &Mutex<String>) {
    let mut some = [0; 4096];
    while let Some(screen) = screen.upgrade() {
        let mut look = [PollFd::new(screen.as_fd(), PollFlags::POLLIN)];
        if poll(&mut look, PollTimeout::from(20_u8)) != Ok(1) {
            continue;
        }
        // A terminal that nobody has open any more is EIO.
        let Ok(count @ 1..) = (&*screen).read(&mut some) else {
            return;
        };
        into.lock()
            .expect("the screen")
            .push_str(&String::from_utf8_lossy(&some[..count]));
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        drop(self.keys.take());
        let _ = self.reader.take().map(JoinHandle::join);
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Logs to the terminal, as a person who tries it out has it.
fn site() -> Site {
    let site = Site::new(WEB);
    let text = site
        .read("rotad.toml")
        .lines()
        .filter(|line| !line.starts_with("log_"))
        .collect::<Vec<_>>()
        .join("\n");
    site.write("rotad.toml", &text);
    site
}

fn answers(site: &Site) {
    load::get(&site.address(), "/").expect("an answer");
}

/// Nobody of the site is left but the shell.
fn gone(site: &Site, window: &Window) {
    let others = || {
        site.processes()
            .into_iter()
            .filter(|pid| *pid != window.shell.id() as i32)
            .collect::<Vec<_>>()
    };
    let left = until_some(5, || others().is_empty().then_some(()));
    let names: Vec<_> = others().into_iter().map(proc::command_line).collect();
    assert!(left.is_some(), "still running: {names:?}");
}

/// Whether a line belongs to the area below the finished ones.
fn in_area(line: &str) -> bool {
    line.starts_with(['◐', '○', '×', '…'])
}

/// A verb in a terminal that can move its cursor.
fn asks(window: &Window, site: &Site, verb: &str) {
    let (rotad, config) = (support::rotad(), site.config.display());
    window.wipes();
    window.types(&format!(
        "TERM=xterm {} {verb} -c {config}; echo code $?\n",
        rotad.display()
    ));
}

/// As a click on its cross does: the shell and what runs in its foreground get HUP from the kernel.
fn close(mut window: Window) {
    drop(window.keys.take());
    let _ = window.reader.take().map(JoinHandle::join);
    until("the shell has ended", 10, || {
        window.shell.try_wait().expect("a child")
    });
}

#[test]
fn ctrl_c_stops_the_master() {
    let _alone = alone();
    let site = site();
    let window = Window::open(&site);
    window.runs(&site, "", "");
    let flying = burst(&site.address(), "/work/500", 8);
    until("8 accepted connections", 10, || {
        (site.accepted("web") >= 8).then_some(())
    });
    window.types("\x03");
    for request in flying {
        request
            .join()
            .expect("a client")
            .expect("an answer to what was in flight");
    }
    window.sees("stopped");
    window.wipes();
    window.types("echo code $?\n");
    window.sees("code 0");
    gone(&site, &window);
}

/// A worker that does not leave: the second one kills.
#[test]
fn a_second_ctrl_c_kills() {
    let _alone = alone();
    let site = Site::new(
        "[pool.deaf]\ncommand = [\"@WORKER@\", \"wait\", \"--ignore-term\"]\nready = \"spawned\"\n",
    );
    let window = Window::open(&site);
    window.runs(&site, "", "");
    window.types("\x03");
    site.await_log("stopping", 10);
    window.types("\x03");
    site.await_log("killing what is left", 10);
    until("the master has left", 5, || {
        site.status().is_none().then_some(())
    });
    gone(&site, &window);
}

/// `stty tostop` stops background processes that write to the terminal, which `rotad run` is not: also not when the master
/// itself says why it cannot start.
#[test]
fn a_terminal_that_stops_background_writers_shows_everything() {
    let _alone = alone();
    let site = site();
    let window = Window::open(&site);
    window.runs(&site, "stty tostop;", "");
    window.sees("rotad 0.");
    window.types("\x03");
    window.sees("stopped");
    gone(&site, &window);
    let _taken = std::net::TcpListener::bind(site.address()).expect("the port");
    window.wipes();
    let (rotad, config) = (support::rotad(), site.config.display());
    window.types(&format!(
        "stty tostop; {} run -c {config}; echo code $?\n",
        rotad.display()
    ));
    window.sees("code 1");
    window.sees("address in use");
    gone(&site, &window);
}

/// The master pauses, its workers do not; brought back, it goes on and has killed nobody.
#[test]
fn ctrl_z_suspends_and_continues() {
    let _alone = alone();
    let site = site();
    let window = Window::open(&site);
    window.runs(&site, "", "");
    let before = site.await_ready();
    let pid = site.pid();
    window.types("\x1a");
    window.sees("Stopped");
    assert_eq!(proc::stat(pid).expect("the master")[0], "T");
    answers(&site);
    window.types("fg\n");
    assert_eq!(pids(&site.await_ready(), "web"), pids(&before, "web"));
    window.types("\x1a");
    until("it is stopped again", 10, || {
        (proc::stat(pid)?[0] == "T").then_some(())
    });
    window.types("bg\n");
    assert_eq!(pids(&site.await_ready(), "web"), pids(&before, "web"));
    answers(&site);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    gone(&site, &window);
}

/// Ctrl-C at the prompt is not for what runs in the background.
#[test]
fn a_master_in_the_background_keeps_running() {
    let _alone = alone();
    let site = site();
    let window = Window::open(&site);
    window.runs(&site, "", "&");
    window.wipes();
    window.types("\x03\necho still here\n");
    window.sees("still here");
    answers(&site);
    window.types("kill %1\n");
    until("the master has left", 10, || {
        site.status().is_none().then_some(())
    });
    gone(&site, &window);
}

/// HUP means the configuration (docs/signals.md), so a master whose window is closed serves on, without its screen.
#[test]
fn a_closed_terminal_stops_the_master() {
    let _alone = alone();
    let site = site();
    let window = Window::open(&site);
    window.runs(&site, "", "");
    let before = site.await_ready();
    let pid = site.pid();
    close(window);
    // What is printed now has nowhere to go, and disturbs nobody.
    // The kernel's HUP, or the shell's to its jobs, or both as one.
    site.await_status("the window's end is known", 10, |_| {
        site.rotad(&["events"]).out.contains("HUP")
    });
    answers(&site);
    assert_eq!(pids(&site.await_ready(), "web"), pids(&before, "web"));
    let before = proc::cpu(pid);
    support::spaced(Duration::from_secs(2));
    let used = proc::cpu(pid) - before;
    assert!(
        used < Duration::from_millis(200),
        "{used:?} of processor time in two seconds without a terminal"
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// nohup(1): HUP stays ignored, the log goes to nohup.out, the window may go.
#[test]
fn a_closed_terminal_is_survived_under_nohup() {
    let _alone = alone();
    if !need::program("nohup") {
        return;
    }
    let site = site();
    let window = Window::open(&site);
    window.runs(&site, "nohup", "&");
    close(window);
    answers(&site);
    let log = site.read("nohup.out");
    assert!(
        log.contains("HUP was ignored when we were started (nohup), and stays so"),
        "{log}"
    );
    let status = site.status().expect("a status");
    assert!(number(&status["master"]["uptime_s"]) > 0.0);
    kill(Pid::from_raw(site.pid()), Signal::SIGTERM).expect("the master");
    until("the master has left", 10, || {
        site.status().is_none().then_some(())
    });
    site.assert_empty();
    assert!(site.read("nohup.out").contains("stopped"));
}

/// A start and a rolling restart that take a while.
const SLOW: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--code", "@DIR@/code"]
count = 2
listen = "127.0.0.1:@PORT@"
reload = { soak = "1s" }
max_starting = 1

[pool.bad]
command = ["sh", "-c", "sleep 0.3; echo RuntimeError: kaboom; exit 3"]
ready = "notify"
restart = { delay = "30s", max_delay = "30s" }
"#;

/// Five seconds: starts that are long enough to be seen. What is in progress stands below the finished lines, in lines
/// that fit, and is gone in the end, also after Ctrl-C and while ^Z has given the terminal to the shell.
#[test]
fn a_command_that_waits_shows_what_it_waits_for() {
    let site = Site::new(SLOW);
    site.write("code", "slow 900\nfirst");
    let window = Window::open(&site);
    window.types("stty cols 50\n");
    asks(&window, &site, "start");
    window.sees("web  0 of 2 ready, 1 waits for its turn");
    window.sees("web/0  starting, 0 s of 60 s");
    window.sees("bad/0  died ");
    window.sees("  | RuntimeError: kaboom");
    window.sees("bad/0  started again in ");
    window.sees("code 1");
    let screen = window.screen();
    let after = |line: &str| screen.iter().position(|shown| shown.starts_with(line));
    assert!(
        after("rotad: bad: exited with 3") < after("web: 2 workers ready"),
        "{screen:?}"
    );
    assert!(!screen.iter().any(|line| in_area(line)), "{screen:?}");

    asks(&window, &site, "roll web");
    window.sees("web/0  starting, ");
    window.types("\x1a");
    window.sees("Stopped");
    let screen = window.screen();
    assert!(!screen.iter().any(|line| in_area(line)), "{screen:?}");
    window.types("fg\n");
    window.sees("web/0  soaking, 0 s of 1 s");
    window.sees("generation 2, 2 workers replaced");
    let screen = window.screen();
    assert!(!screen.iter().any(|line| in_area(line)), "{screen:?}");
    let steps = screen.iter().filter(|line| line.contains(" of 2)"));
    assert_eq!(steps.count(), 2, "{screen:?}");

    asks(&window, &site, "roll web");
    window.sees("web/0  starting, ");
    window.types("\x03");
    window.sees("code 130");
    let screen = window.screen();
    assert!(!screen.iter().any(|line| in_area(line)), "{screen:?}");
    assert!(
        screen.iter().any(|line| line.contains("detached; ")),
        "{screen:?}"
    );
    let area = window.drawn().into_iter().filter(|line| in_area(line));
    let area: Vec<String> = area.collect();
    assert!(
        !area.is_empty() && area.iter().all(|line| line.chars().count() < 50),
        "{area:?}"
    );
    assert_eq!(site.rotad(&["stop", "--now"]).code, 0);
}

/// Neither a pipe nor a terminal that cannot move its cursor gets any of it.
#[test]
fn a_pipe_and_a_dumb_terminal_get_no_escape_sequence() {
    let site = Site::new(
        &SLOW
            .replace("[pool.bad]", "[pool.good]")
            .replace("exit 3", "exec sleep 9000")
            .replace("ready = \"notify\"", "ready = { after = \"1s\" }"),
    );
    site.write("code", "slow 700\nfirst");
    let window = Window::open(&site);
    let (rotad, config) = (support::rotad(), site.config.display());
    window.types(&format!(
        "{} start -c {config}; echo code $?\n",
        rotad.display()
    ));
    window.sees("code 0");
    let start = window.seen.lock().expect("the screen").clone();
    window.wipes();
    window.types(&format!(
        "TERM=xterm {} stop -c {config} | cat; echo code ${{PIPESTATUS[0]}}\n",
        rotad.display()
    ));
    window.sees("code 0");
    let stop = window.seen.lock().expect("the screen").clone();
    assert!(
        start.contains("web: 2 workers ready") && stop.contains("stopped"),
        "{start}{stop}"
    );
    assert!(
        !start.contains('\x1b') && !stop.contains('\x1b'),
        "{start:?}{stop:?}"
    );
}

/// As rustc's: the level and the place in colours on a terminal, unless NO_COLOR forbids it; and the level of each line that
/// `run` logs to a terminal.
#[test]
fn findings_and_levels_have_colours_on_a_terminal() {
    let site = site();
    let log = site.read("rotad.toml");
    site.write("rotad.toml", &log.replace("count = 2", "cuont = 2"));
    let window = Window::open(&site);
    asks(&window, &site, "check");
    window.sees("code 78");
    window.sees("\x1b[91merror\x1b[0m");
    window.sees("\x1b[94m--> \x1b[0m");
    window.types("export NO_COLOR=1\n");
    asks(&window, &site, "check");
    window.sees("code 78");
    let seen = window.seen.lock().expect("the screen").clone();
    assert!(
        seen.contains("error: unknown key `cuont`") && !seen.contains("\x1b["),
        "{seen:?}"
    );
    site.write("rotad.toml", &log);
    window.types("unset NO_COLOR\n");
    window.runs(&site, "TERM=xterm", "");
    window.sees(" \x1b[32mINFO\x1b[0m rotad ");
    window.sees("every worker is ready at 127.0.0.1:");
    window.types("\x03");
    window.sees("\x1b[32mINFO\x1b[0m stopped");
    gone(&site, &window);
}
