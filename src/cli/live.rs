//! What a command shows while it waits on a terminal: an area below its finished lines, drawn again every second and gone
//! at the end. It has what the master answers about work in progress, on a connection of its own; a master that does not
//! answer leaves the area as it is. Elsewhere (a pipe, TERM=dumb, in the background of a shell) nothing is shown. `top` shows
//! the same lines.

use super::client::{Client, WaitLimits};
use super::layout::{GREY, RED, YELLOW, cut, painted};
use super::print;
use crate::config::MasterPaths;
use crate::control::protocol::{Death, InProgress, Method, PoolProgress, Response, SlotProgress};
use crate::daemon::WhileWaiting;
use crate::event_loop::clock::Deadline;
use crate::event_loop::signal_pipe::SignalPipe;
use crate::observe::status::SlotState;
use crate::sys::terminal;
use nix::libc;
use nix::sys::signal::{Signal, raise};
use nix::unistd::{getpgrp, tcgetpgrp};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

/// What is done sooner shows nothing.
const FIRST: Duration = Duration::from_millis(500);
const INTERVAL: Duration = Duration::from_secs(1);
/// The area is drawn again this long after a finished line.
const SOON: Duration = Duration::from_millis(200);
/// How long the master may take to answer; it is asked again after [`INTERVAL`].
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// The area has at most this many lines: what was printed before stays in sight.
const MAX_LINES: usize = 12;

/// What a command shows while it waits.
pub(super) struct Live(Option<Terminal>);

struct Terminal {
    paths: MasterPaths,
    /// Of which pools; if empty, of all.
    pools: Vec<String>,
    began: SystemTime,
    next: Deadline,
    /// ^Z.
    suspend: Option<SignalPipe>,
    /// How many characters each line of the area has that is on the screen.
    drawn: Vec<usize>,
    colour: bool,
}

impl Live {
    /// For a command that waits for these pools, all if none is named.
    pub(super) fn new(paths: &MasterPaths, pools: Vec<String>) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if dumb || !io::stdout().is_terminal() {
            return Self::nothing();
        }
        Self(Some(Terminal {
            paths: paths.clone(),
            pools,
            began: SystemTime::now(),
            next: Deadline::after(FIRST),
            suspend: SignalPipe::on(&[libc::SIGTSTP]).ok(),
            drawn: Vec::new(),
            colour: print::colour(),
        }))
    }

    /// Shows nothing.
    pub(super) fn nothing() -> Self {
        Self(None)
    }
}

impl WhileWaiting for Live {
    fn next(&self) -> Option<Deadline> {
        self.0.as_ref().map(|terminal| terminal.next)
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        let suspend = self.0.as_ref()?.suspend.as_ref()?;
        Some(suspend.as_fd())
    }

    fn show(&mut self) {
        let Some(terminal) = &mut self.0 else { return };
        if terminal.suspend.as_ref().is_some_and(SignalPipe::take) {
            // The terminal belongs to the shell until we continue.
            terminal.clear();
            raise(Signal::SIGSTOP).ok();
            terminal.next = Deadline::after(SOON);
        }
        if terminal.next.has_passed() {
            terminal.refresh();
            terminal.next = Deadline::after(INTERVAL);
        }
    }

    fn clear(&mut self) {
        if let Some(terminal) = &mut self.0 {
            terminal.clear();
            terminal.next = terminal.next.min(Deadline::after(SOON));
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(terminal) = &mut self.0 {
            terminal.clear();
        }
    }
}

impl Terminal {
    fn refresh(&mut self) {
        // In the background, what is below the cursor is not ours.
        if tcgetpgrp(io::stdout()) != Ok(getpgrp()) {
            self.drawn.clear();
            return;
        }
        let Some(progress) = self.ask() else { return };
        let (rows, columns) = terminal::size(&io::stdout()).unwrap_or((24, 80));
        let max = MAX_LINES.min(usize::from(rows).saturating_sub(2));
        let mut out = self.cleared();
        for line in lines(&progress, self.began, SystemTime::now(), max) {
            let text = cut(&line.text, usize::from(columns).saturating_sub(3));
            self.drawn.push(text.chars().count() + 2);
            let mark = painted(&line.mark.to_string(), line.colour, self.colour);
            // A wide character must not wrap the line.
            out.push_str(&format!("\x1b[?7l{mark} {text}\x1b[?7h\n"));
        }
        print::raw(&out);
    }

    fn clear(&mut self) {
        if !self.drawn.is_empty() {
            let out = self.cleared();
            print::raw(&out);
        }
    }

    /// What removes the area. A terminal that was made narrower has wrapped its lines.
    fn cleared(&mut self) -> String {
        let columns = terminal::size(&io::stdout()).map_or(80, |(_, columns)| usize::from(columns));
        let drawn = std::mem::take(&mut self.drawn);
        let rows = drawn
            .iter()
            .map(|width| width.div_ceil(columns).max(1))
            .sum::<usize>();
        match rows {
            0 => String::new(),
            rows => format!("\r\x1b[{rows}A\x1b[J"),
        }
    }

    fn ask(&self) -> Option<InProgress> {
        let limits = WaitLimits {
            until: Some(Deadline::after(ANSWER_TIMEOUT)),
            ..WaitLimits::default()
        };
        let mut client = Client::connect(&self.paths, &limits).ok()?;
        let pools = self.pools.clone();
        client.send(Method::InProgress { pools }).ok()?;
        match client.next_response(&limits).ok()? {
            Response::InProgress(progress) => Some(*progress),
            // An older master.
            _ => None,
        }
    }
}

/// A line of the area: a shape, the colour (SGR number) that repeats its meaning, and what it is about.
#[derive(Debug, PartialEq)]
pub struct Line {
    /// The shape.
    pub mark: char,
    /// The colour.
    pub colour: u8,
    /// The text, sanitized.
    pub text: String,
}

/// The lines for what is in progress, `max` at most. The last death is shown if it was after `began`.
pub fn lines(progress: &InProgress, began: SystemTime, now: SystemTime, max: usize) -> Vec<Line> {
    let death = progress
        .death
        .as_ref()
        .map(|death| death_lines(death, began, now))
        .unwrap_or_default();
    let pools = progress.pools.iter().map(pool_line);
    let slots = progress.slots.iter().map(slot_line);
    let mut lines: Vec<Line> = pools.chain(slots).collect();
    let room = max.saturating_sub(death.len());
    let more = progress.more as usize + lines.len();
    if progress.more > 0 || lines.len() > room {
        lines.truncate(room.saturating_sub(1));
        let text = format!("{} more", more - lines.len());
        lines.push(Line {
            mark: '…',
            colour: GREY,
            text,
        });
    }
    lines.extend(death);
    lines.truncate(max);
    lines
}

fn pool_line(pool: &PoolProgress) -> Line {
    let name = print::sanitize(&pool.pool);
    let mut text = match pool.waits_for.is_empty() {
        true => format!("{name}  {} of {} ready", pool.ready, pool.wanted),
        false => format!(
            "{name}  waits for {}",
            print::sanitize(pool.waits_for.join(", "))
        ),
    };
    match pool.waiting {
        0 => {}
        1 => text.push_str(", 1 waits for its turn"),
        many => text.push_str(&format!(", {many} wait for their turn")),
    }
    Line {
        mark: '◐',
        colour: YELLOW,
        text,
    }
}

fn slot_line(slot: &SlotProgress) -> Line {
    let (mark, colour, what) = match slot.state {
        SlotState::Starting if slot.oneshot => ('◐', YELLOW, "running"),
        SlotState::Starting => ('◐', YELLOW, "starting"),
        SlotState::Soaking => ('◐', YELLOW, "soaking"),
        SlotState::Ready => ('◐', YELLOW, "alive, watched"),
        SlotState::Backoff => ('×', RED, "started again"),
        SlotState::Killing => ('○', GREY, "killing"),
        SlotState::Stopping => ('○', GREY, "stopping"),
        SlotState::Stopped => ('○', GREY, "stopped"),
        SlotState::Done => ('○', GREY, "done"),
        SlotState::Failed => ('×', RED, "failed"),
    };
    let mut text = format!("{}/{}  {what}", print::sanitize(&slot.pool), slot.slot);
    if let (SlotState::Stopping | SlotState::Killing, Some(pid)) = (slot.state, slot.pid) {
        text.push_str(&format!(" pid {pid}"));
    }
    match (slot.since_s, slot.of_s) {
        (Some(since), Some(of)) => {
            text.push_str(&format!(", {} of {}", elapsed(since), span(of)));
        }
        (Some(since), None) => text.push_str(&format!(", {}", elapsed(since))),
        (None, Some(of)) => text.push_str(&format!(" in {}", span(of))),
        (None, None) => {}
    }
    if let Some(says) = &slot.says {
        text.push_str(&format!(": {}", print::sanitize(says)));
    }
    Line { mark, colour, text }
}

fn death_lines(death: &Death, began: SystemTime, now: SystemTime) -> Vec<Line> {
    let Ok(time) = humantime::parse_rfc3339(&death.time) else {
        return Vec::new();
    };
    // It is written with milliseconds.
    if time + Duration::from_millis(1) <= began {
        return Vec::new();
    }
    let ago = now.duration_since(time).unwrap_or_default().as_secs_f64();
    let text = format!(
        "{}/{}  died {} ago: {}",
        print::sanitize(&death.pool),
        death.slot,
        elapsed(ago),
        print::sanitize(&death.text)
    );
    let said = death.line.as_ref().map(|line| Line {
        mark: ' ',
        colour: GREY,
        text: format!("  | {}", print::sanitize(line)),
    });
    let died = Line {
        mark: '×',
        colour: RED,
        text,
    };
    std::iter::once(died).chain(said).collect()
}

/// Whole seconds that have passed: `4 s`, `2 min 5 s`.
fn elapsed(seconds: f64) -> String {
    span(seconds.floor())
}

/// `4 s`, `0.5 s`, `2 min 5 s`, `5 min`.
fn span(seconds: f64) -> String {
    if seconds < 10.0 && seconds.fract() > 0.05 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    match (seconds / 60, seconds % 60) {
        _ if seconds <= 120 => format!("{seconds} s"),
        (minutes, 0) => format!("{minutes} min"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(slot: u32, state: SlotState, since_s: Option<f64>, of_s: Option<f64>) -> SlotProgress {
        SlotProgress {
            pool: "web".into(),
            slot,
            pid: Some(7),
            state,
            since_s,
            of_s,
            oneshot: false,
            says: None,
        }
    }

    fn texts(progress: &InProgress, max: usize) -> Vec<String> {
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let lines = lines(progress, began, began + Duration::from_secs(9), max);
        lines
            .into_iter()
            .map(|line| format!("{} {}", line.mark, line.text))
            .collect()
    }

    #[test]
    fn each_line_says_what_is_waited_for_and_how_long() {
        let progress = InProgress {
            pools: vec![
                PoolProgress {
                    pool: "web".into(),
                    ready: 1,
                    wanted: 4,
                    waits_for: vec![],
                    waiting: 2,
                },
                PoolProgress {
                    pool: "jobs".into(),
                    ready: 0,
                    wanted: 1,
                    waits_for: vec!["migrate".into()],
                    waiting: 0,
                },
            ],
            slots: vec![
                SlotProgress {
                    says: Some("loading\x1b[2J".into()),
                    ..slot(1, SlotState::Starting, Some(4.9), Some(60.0))
                },
                slot(0, SlotState::Soaking, Some(3.0), Some(10.0)),
                slot(2, SlotState::Ready, Some(3.0), Some(10.0)),
                slot(3, SlotState::Backoff, None, Some(0.3)),
                slot(0, SlotState::Stopping, Some(61.0), Some(300.0)),
                slot(4, SlotState::Killing, None, None),
                SlotProgress {
                    oneshot: true,
                    ..slot(5, SlotState::Starting, Some(12.0), None)
                },
            ],
            more: 0,
            death: Some(Death {
                time: "1970-01-01T00:01:42.000Z".into(),
                pool: "web".into(),
                slot: 3,
                text: "exited with 3".into(),
                line: Some("Error: no".into()),
            }),
        };
        assert_eq!(
            texts(&progress, 12),
            [
                "◐ web  1 of 4 ready, 2 wait for their turn",
                "◐ jobs  waits for migrate",
                "◐ web/1  starting, 4 s of 60 s: loading\\x1b[2J",
                "◐ web/0  soaking, 3 s of 10 s",
                "◐ web/2  alive, watched, 3 s of 10 s",
                "× web/3  started again in 0.3 s",
                "○ web/0  stopping pid 7, 61 s of 5 min",
                "○ web/4  killing pid 7",
                "◐ web/5  running, 12 s",
                "× web/3  died 7 s ago: exited with 3",
                "    | Error: no",
            ]
        );
        let few = texts(&progress, 4);
        assert_eq!(
            few[1..],
            [
                "… 8 more",
                "× web/3  died 7 s ago: exited with 3",
                "    | Error: no"
            ]
        );
        assert_eq!(few.len(), 4);
    }

    #[test]
    fn a_death_from_before_is_not_shown() {
        let death = Death {
            time: "1970-01-01T00:01:39.000Z".into(),
            pool: "web".into(),
            slot: 3,
            text: "exited with 3".into(),
            line: None,
        };
        let progress = InProgress {
            death: Some(death),
            ..InProgress::default()
        };
        assert_eq!(texts(&progress, 12), Vec::<String>::new());
    }

    #[test]
    fn lines_are_cut_with_a_mark() {
        assert_eq!(cut("äbc", 3), "äbc");
        assert_eq!(cut("äbcd", 3), "äb…");
        assert_eq!(
            (span(60.0), span(125.0)),
            ("60 s".into(), "2 min 5 s".into())
        );
    }
}
