//! The terminal: raw mode, the alternate screen, keys and the mouse. It is given back at the end, when the program panics,
//! and while ^Z has stopped it.

use super::app::{App, Input};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, raise};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{
    self, DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
    Event,
};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{ExecutableCommand, QueueableCommand};
use rotad::event_loop::signal_pipe::SignalPipe;
use rotad::sys::poll::poll;
use std::io::{self, Stdout, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Why a wait has ended.
#[derive(Debug, Default)]
pub(super) struct Woken {
    /// TERM, INT or HUP.
    pub(super) leaves: bool,
    /// TSTP.
    pub(super) suspends: bool,
    /// Keys and the mouse.
    pub(super) inputs: Vec<Input>,
}

/// The terminal, taken.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    leave: SignalPipe,
    suspend: SignalPipe,
    /// WINCH.
    resized: SignalPipe,
    mouse: bool,
}

impl Screen {
    /// Takes it.
    ///
    /// # Errors
    /// The terminal's; no descriptor is left.
    pub(super) fn enter() -> io::Result<Self> {
        let screen = Self {
            leave: SignalPipe::on(&[
                Signal::SIGTERM as i32,
                Signal::SIGINT as i32,
                Signal::SIGHUP as i32,
            ])?,
            suspend: SignalPipe::on(&[Signal::SIGTSTP as i32])?,
            resized: SignalPipe::on(&[Signal::SIGWINCH as i32])?,
            terminal: Terminal::new(CrosstermBackend::new(io::stdout()))?,
            mouse: true,
        };
        give_back_on_panic();
        screen.take()?;
        Ok(screen)
    }

    fn take(&self) -> io::Result<()> {
        enable_raw_mode()?;
        let mut out = io::stdout();
        out.queue(EnterAlternateScreen)?
            .queue(EnableBracketedPaste)?
            .queue(Hide)?;
        if self.mouse {
            out.queue(EnableMouseCapture)?;
        }
        out.flush()
    }

    /// Draws what has changed.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(super) fn draw(&mut self, app: &mut App) -> io::Result<()> {
        self.terminal.draw(|frame| app.draw(frame)).map(drop)
    }

    /// Draws everything the next time.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(super) fn redraw(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }

    /// Whether the mouse is ours; else the terminal selects text by it.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(super) fn set_mouse(&mut self, mouse: bool) -> io::Result<()> {
        self.mouse = mouse;
        let mut out = io::stdout();
        match mouse {
            true => out.execute(EnableMouseCapture)?,
            false => out.execute(DisableMouseCapture)?,
        };
        Ok(())
    }

    /// The terminal belongs to the shell until the program is continued.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        give_back(&mut io::stdout());
        raise(Signal::SIGSTOP).map_err(io::Error::from)?;
        self.take()?;
        self.redraw()
    }

    /// Waits for keys, signals, `other`, or this long.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(super) fn wait(&self, other: BorrowedFd<'_>, patience: Duration) -> io::Result<Woken> {
        let stdin = io::stdin();
        let fds = [
            stdin.as_fd(),
            other,
            self.leave.as_fd(),
            self.suspend.as_fd(),
            self.resized.as_fd(),
        ];
        let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds, Some(patience)).map_err(io::Error::from)?;
        let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        let of_stdin = fds[0].revents().unwrap_or(PollFlags::empty());
        let mut woken = Woken {
            leaves: self.leave.take() || of_stdin.intersects(hung_up),
            suspends: self.suspend.take(),
            inputs: Vec::new(),
        };
        if self.resized.take() {
            woken.inputs.push(Input::Tick);
        }
        if woken.leaves {
            return Ok(woken);
        }
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) => woken.inputs.push(Input::Key(key)),
                Event::Mouse(mouse) => woken.inputs.push(Input::Mouse(mouse)),
                Event::Paste(text) => woken.inputs.push(Input::Paste(text)),
                Event::Resize(..) | Event::FocusGained | Event::FocusLost => {
                    woken.inputs.push(Input::Tick);
                }
            }
        }
        Ok(woken)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back(&mut io::stdout());
    }
}

/// As it was before. Errors have nowhere to go: the terminal has gone, or takes nothing.
fn give_back(out: &mut impl Write) {
    sequences(out).ok();
    disable_raw_mode().ok();
}

fn sequences(out: &mut impl Write) -> io::Result<()> {
    out.queue(DisableMouseCapture)?
        .queue(DisableBracketedPaste)?
        .queue(LeaveAlternateScreen)?
        .queue(Show)?
        .flush()
}

/// The message of a panic is printed on the ordinary screen.
fn give_back_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        give_back(&mut io::stdout());
        before(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run by the test below, in a process of its own.
    #[test]
    #[ignore = "panics"]
    fn panics() {
        give_back_on_panic();
        panic!("the reason");
    }

    #[test]
    fn a_panic_gives_the_terminal_back() {
        let program = std::env::current_exe().unwrap();
        let run = std::process::Command::new(program)
            .args(["--exact", "top::screen::tests::panics", "--ignored"])
            .arg("--nocapture")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(text.contains("\x1b[?1049l"), "{text:?}");
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(
            !run.status.success() && text.contains("the reason"),
            "{text}"
        );
    }

    #[test]
    fn what_was_taken_is_given_back() {
        let mut out = Vec::new();
        sequences(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for sequence in ["\x1b[?1000l", "\x1b[?2004l", "\x1b[?1049l", "\x1b[?25h"] {
            assert!(text.contains(sequence), "{sequence:?} in {text:?}");
        }
    }
}
