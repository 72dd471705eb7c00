//! `rotad top`: shows live what runs, and sends commands by a key. The screen's state (`app`) is apart from the terminal
//! (`screen`) and from the connections to the master (`link`): inputs in, actions out.

mod app;
mod bell;
mod draw;
mod history;
mod keys;
mod link;
mod pane;
mod prompt;
mod question;
mod rows;
mod runs;
mod screen;
mod target;
#[cfg(test)]
mod tests;
mod text;

use app::{Action, App, Input, Now};
use link::{Inbox, Link};
use rotad::cli::{request, status};
use rotad::config::MasterPaths;
use rotad::event_loop::clock::Clock;
use rotad::exit_code::ExitCode;
use rotad::observe::print;
use screen::Screen;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The screen is drawn at most this often, however fast a log grows.
const FRAME: Duration = Duration::from_millis(40);

/// Shows the master of this configuration until `q`, a signal, or the end of the terminal. No master at the start: exit 4.
pub(crate) fn top(file: Option<&Path>) -> ExitCode {
    if let Some(why) = no_terminal() {
        print::error(&format!(
            "`rotad top` needs a terminal, and {why}; `rotad status` is for scripts, `rotad status -w` for pipes"
        ));
        return ExitCode::USAGE;
    }
    let paths = match request::master_paths(file) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let clock = Clock::start();
    let status = match status::fetch(&paths) {
        Ok(Ok(status)) => status,
        Ok(Err((code, message))) => {
            print::error(&message);
            return code;
        }
        Err(error) => {
            print::error(&error.to_string());
            return error.code();
        }
    };
    let config = file.map(|file| file.to_string_lossy().into_owned());
    let mut app = App::new(status, config, print::colour(), now(&clock));
    match show(&mut app, &paths, &clock) {
        Ok(()) => ExitCode::DONE,
        Err(error) => {
            print::error(&format!("the terminal cannot be used: {error}"));
            ExitCode::FAILED
        }
    }
}

fn no_terminal() -> Option<&'static str> {
    if !io::stdin().is_terminal() {
        return Some("stdin is none");
    }
    if !io::stdout().is_terminal() {
        return Some("stdout is none");
    }
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    dumb.then_some("TERM says that this one cannot move its cursor")
}

fn now(clock: &Clock) -> Now {
    Now {
        passed: clock.elapsed(),
        clock: SystemTime::now(),
    }
}

fn show(app: &mut App, paths: &MasterPaths, clock: &Clock) -> io::Result<()> {
    let (link, inbox) = Link::open(paths)?;
    let mut screen = Screen::enter()?;
    let ended = run(app, &link, &inbox, &mut screen, clock);
    // A terminal that has gone is no failure: nothing is left that could be told of it.
    match ended {
        Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => Ok(()),
        ended => ended,
    }
}

fn run(
    app: &mut App,
    link: &Link,
    inbox: &Inbox,
    screen: &mut Screen,
    clock: &Clock,
) -> io::Result<()> {
    let mut inputs = vec![Input::Tick];
    let mut drawn = Duration::ZERO;
    let mut changed = false;
    loop {
        for input in inputs.drain(..) {
            changed = true;
            for action in app.handle(now(clock), input) {
                match action {
                    Action::Quit => return Ok(()),
                    Action::Suspend => screen.suspend()?,
                    Action::Redraw => screen.redraw()?,
                    Action::Mouse(mouse) => screen.set_mouse(mouse)?,
                    Action::Fetch => link.fetch(),
                    Action::Follow(target) => link.follow(target),
                    Action::Ask(id, methods) => link.ask(id, methods),
                }
            }
        }
        let at = clock.elapsed();
        let next_frame = drawn + FRAME;
        if changed && at >= next_frame {
            screen.draw(app)?;
            (changed, drawn) = (false, at);
        }
        let until = match changed {
            true => next_frame.min(app.deadline()),
            false => app.deadline(),
        };
        let woken = screen.wait(inbox.as_fd(), until.saturating_sub(at))?;
        if woken.leaves {
            return Ok(());
        }
        if woken.suspends {
            screen.suspend()?;
        }
        inputs = inbox.take();
        inputs.extend(woken.inputs);
        if inputs.is_empty() && clock.elapsed() >= app.deadline() {
            inputs.push(Input::Tick);
        }
    }
}
