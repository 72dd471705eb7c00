//! `status -w`: prints the status every second. A terminal gets its alternate screen, which is left at the end and
//! while ^Z has stopped the command; a pipe gets one table after another, each with its time.

use super::args::StatusArgs;
use super::client::ClientError;
use super::layout::{self, cut};
use super::table::{Rates, TableStyle};
use super::{print, request, status};
use crate::event_loop::clock::{Clock, Deadline};
use crate::event_loop::signal_pipe::SignalPipe;
use crate::exit_code::ExitCode;
use crate::observe::counted::counted;
use crate::observe::status::Status;
use crate::sys::terminal;
use nix::libc;
use nix::sys::signal::{Signal, raise};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, SystemTime};

const INTERVAL: Duration = Duration::from_secs(1);

/// Alternate screen, hidden cursor, no line wrap; and the reverse.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Shows the status until Ctrl-C or until stdout is closed. A master that cannot be reached at first is an error; one
/// that goes away later is reported and looked for again.
pub(super) fn watch(file: Option<&Path>, args: &StatusArgs) -> ExitCode {
    let paths = match request::master_paths(file) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let limits = request::until_interrupted();
    let clock = Clock::start();
    let mut last = match status::requested_status(&paths, args) {
        Ok(status) => Some((status, clock.elapsed())),
        Err((code, message)) => {
            print::error(&message);
            return code;
        }
    };
    let mut page = last
        .as_ref()
        .map(|(status, _)| render(status, None, args))
        .unwrap_or_default();
    let screen = Screen::enter(args);
    loop {
        if screen.show(&page).is_err() {
            return ExitCode::DONE;
        }
        match pause(&screen, &limits) {
            Ok(()) => {}
            Err(_) => return ExitCode::DONE,
        }
        page = match status::requested_status(&paths, args) {
            Ok(now) => {
                let before = last.replace((now, clock.elapsed()));
                last.as_ref().map(|(now, at)| {
                    let rates =
                        before.map(|(before, then)| Rates::between(&before, now, *at - then));
                    render(now, rates.as_ref(), args)
                })
            }
            .unwrap_or_default(),
            Err((_, message)) => {
                last = None;
                format!("{message}\n")
            }
        };
    }
}

/// ^Z: the terminal belongs to the shell until we continue.
fn pause(screen: &Screen, limits: &super::client::WaitLimits) -> Result<(), ClientError> {
    let until = Deadline::after(INTERVAL);
    limits.pause(until, screen.stop.as_ref())?;
    if screen.stop.as_ref().is_some_and(SignalPipe::take) {
        screen.leave();
        raise(Signal::SIGSTOP).ok();
        print::write(ENTER).map_err(|_| ClientError::OutputClosed)?;
    }
    Ok(())
}

fn render(status: &Status, rates: Option<&Rates>, args: &StatusArgs) -> String {
    status::render(
        status,
        args,
        TableStyle {
            colour: print::colour(),
            width: layout::terminal_width(),
            rates,
            user: Some(status::user_name),
        },
    )
}

/// Where the status is shown.
struct Screen {
    terminal: bool,
    json: bool,
    /// ^Z.
    stop: Option<SignalPipe>,
}

impl Screen {
    fn enter(args: &StatusArgs) -> Self {
        let terminal = std::io::stdout().is_terminal() && !args.json;
        let stop = terminal
            .then(|| SignalPipe::on(&[libc::SIGTSTP]).ok())
            .flatten();
        if terminal {
            print::raw(ENTER);
        }
        Self {
            terminal,
            json: args.json,
            stop,
        }
    }

    fn show(&self, page: &str) -> std::io::Result<()> {
        if self.json {
            return print::write(page);
        }
        if !self.terminal {
            let time = humantime::format_rfc3339_seconds(SystemTime::now());
            return print::write(&format!("{time}\n{page}\n"));
        }
        let (rows, columns) = terminal::size(&std::io::stdout()).unwrap_or((24, 80));
        print::write(&repaint(page, rows, columns))
    }

    fn leave(&self) {
        if self.terminal {
            print::raw(LEAVE);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Overwrites the previous page without flicker: clears each line's end, then everything below. What does not fit is left
/// out, and "…" says so.
fn repaint(page: &str, rows: u16, columns: u16) -> String {
    let rows = usize::from(rows.max(2));
    let lines: Vec<&str> = page.lines().collect();
    let mut shown: Vec<String> = lines
        .iter()
        .take(rows)
        .map(|line| cut(line, usize::from(columns)))
        .collect();
    if lines.len() > rows {
        shown[rows - 1] = format!("… {}", counted(lines.len() - rows + 1, "more line"));
    }
    format!("\x1b[H{}\x1b[K\x1b[J", shown.join("\x1b[K\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_never_scrolls() {
        assert_eq!(repaint("a\nb\n", 3, 80), "\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J");
        assert_eq!(
            repaint("a\nb\nc\n", 3, 80),
            "\x1b[Ha\x1b[K\r\nb\x1b[K\r\nc\x1b[K\x1b[J"
        );
        assert_eq!(
            repaint("a\nb\nc\nd\n", 3, 80),
            "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n… 2 more lines\x1b[K\x1b[J"
        );
        assert_eq!(repaint("abcd\n", 3, 3), "\x1b[Hab…\x1b[K\x1b[J");
    }
}
