//! The state of the screen: inputs in, actions out. It reads no clock, file or terminal.

mod acts;
mod prompts;

use super::history::History;
use super::pane::{Lines, Pane, passes};
use super::prompt::Prompt;
use super::question::Question;
use super::rows::{self, Row};
use super::runs::Runs;
use super::target::Target;
use super::text::clean;
use ratatui::crossterm::event::{KeyEvent, MouseEvent};
use ratatui::layout::Rect;
use rotad::cli::rates::Rates;
use rotad::control::protocol::{InProgress, Line, Method, Response};
use rotad::exit_code::ExitCode;
use rotad::observe::events::Event;
use rotad::observe::status::Status;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

/// While something changes, the status is read as often as this; never more often.
const OFTEN: Duration = Duration::from_secs(1);
/// While nothing changes: each reading wakes the master up about three times.
const SELDOM: Duration = Duration::from_secs(3);
/// Times and ages on the screen go on by this.
const REDRAW: Duration = Duration::from_secs(1);

/// The present moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Since the start of the program.
    pub(super) passed: Duration,
    pub(super) clock: SystemTime,
}

/// What happens.
#[derive(Debug)]
pub(super) enum Input {
    Key(KeyEvent),
    Mouse(MouseEvent),
    Paste(String),
    /// A time has come (`App::deadline`).
    Tick,
    Status(Box<Status>, Box<InProgress>),
    /// Why there is no status.
    Gone(String),
    Event(Box<Event>),
    /// This many events are missing here.
    EventsMissing(u64),
    /// The events are not followed at the moment; why.
    NoEvents(String),
    Log(Target, LogInput),
    Progress(u64, Box<Response>),
    Outcome(u64, ExitCode, String),
}

/// About the log lines of what is selected.
#[derive(Debug)]
pub(super) enum LogInput {
    Line(Box<Line>),
    Missing(u64),
    /// They are not followed at the moment; why.
    Lost(String),
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    Quit,
    Suspend,
    /// Draw everything again.
    Redraw,
    Mouse(bool),
    /// Read the status.
    Fetch,
    /// Follow the log lines of this target.
    Follow(Target),
    /// Send these requests one after another, as one command.
    Ask(u64, Vec<Method>),
}

/// The master does not answer.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) why: String,
    pub(super) at: Duration,
    pub(super) clock: SystemTime,
}

/// What the master has answered.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) status: Status,
    pub(super) progress: InProgress,
    pub(super) at: Duration,
    pub(super) clock: SystemTime,
}

/// An entry of the event pane.
#[derive(Debug)]
pub(super) enum EventLine {
    Event(Event),
    Missing(u64),
}

/// An entry of the log pane.
#[derive(Debug)]
pub(super) enum LogLine {
    Line(Line),
    Missing(u64),
}

/// What covers the screen.
#[derive(Debug)]
pub(super) enum Cover {
    Help,
    /// The outcome of the last command, from this line on.
    Outcome(usize),
}

/// Where things were drawn: a click needs it.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    pub(super) table: Rect,
    pub(super) events: Rect,
    pub(super) log: Rect,
    /// The screen's lines that have a row.
    pub(super) rows: Vec<(u16, Target)>,
    /// The first line of the table that is on the screen.
    pub(super) first: usize,
}

/// The state.
#[derive(Debug)]
pub(super) struct App {
    pub(super) colour: bool,
    /// `-c`, as it was given.
    config: Option<String>,
    pub(super) now: Now,
    pub(super) shown: Shown,
    pub(super) gone: Option<Gone>,
    /// Since when the status is being read.
    pub(super) asked: Option<Duration>,
    /// When reading was last begun.
    last_asked: Duration,
    /// An event has come since.
    stirred: bool,
    pub(super) rates: Option<Rates>,
    pub(super) history: History,
    unfolded: BTreeSet<String>,
    pub(super) selected: Option<Target>,
    followed: Option<Target>,
    pub(super) focus: Pane,
    /// The focused pane has the whole screen.
    pub(super) zoomed: bool,
    pub(super) filter: String,
    pub(super) events: Lines<EventLine>,
    pub(super) no_events: Option<String>,
    /// Only events of what is selected.
    pub(super) own_events: bool,
    pub(super) log: Lines<LogLine>,
    pub(super) no_log: Option<String>,
    pub(super) wraps: bool,
    pub(super) mouse: bool,
    pub(super) prompt: Option<Prompt>,
    commands: Vec<String>,
    pub(super) question: Option<Question>,
    pub(super) cover: Option<Cover>,
    pub(super) runs: Runs,
    /// Said in the last line until the next key.
    pub(super) notice: Option<String>,
    pub(super) drawn: Drawn,
}

impl App {
    /// `config`: as given by `-c`, for the commands that are shown.
    pub(super) fn new(status: Status, config: Option<String>, colour: bool, now: Now) -> Self {
        let worst = status
            .pools
            .iter()
            .rev()
            .max_by_key(|pool| rows::badness(pool));
        let selected = worst.map(|pool| Target::pool(&pool.name));
        let mut history = History::default();
        history.add(&status, None, now.passed);
        Self {
            colour,
            config,
            now,
            shown: Shown {
                status,
                progress: InProgress::default(),
                at: now.passed,
                clock: now.clock,
            },
            gone: None,
            asked: None,
            last_asked: now.passed,
            stirred: true,
            rates: None,
            history,
            unfolded: BTreeSet::new(),
            selected,
            followed: None,
            focus: Pane::Pools,
            zoomed: false,
            filter: String::new(),
            events: Lines::default(),
            no_events: None,
            own_events: false,
            log: Lines::default(),
            no_log: None,
            wraps: false,
            mouse: true,
            prompt: None,
            commands: Vec::new(),
            question: None,
            cover: None,
            runs: Runs::default(),
            notice: None,
            drawn: Drawn::default(),
        }
    }

    /// When `Tick` is due.
    pub(super) fn deadline(&self) -> Duration {
        let redraw = self.now.passed + REDRAW;
        match self.asked {
            Some(_) => redraw,
            None => self.next_fetch().min(redraw),
        }
    }

    fn next_fetch(&self) -> Duration {
        let moving = self.stirred
            || self.gone.is_some()
            || self.runs.any_under_way()
            || rows::is_moving(&self.shown.status);
        self.last_asked + if moving { OFTEN } else { SELDOM }
    }

    pub(super) fn handle(&mut self, now: Now, input: Input) -> Vec<Action> {
        self.now = now;
        let mut actions = match input {
            Input::Key(key) => self.key(&key),
            Input::Mouse(mouse) => self.mouse(mouse),
            Input::Paste(text) => self.paste(&text),
            Input::Progress(id, response) => {
                self.runs.progress(id, &response);
                vec![]
            }
            Input::Outcome(id, code, text) => {
                self.runs.end(id, code, &text, now.passed);
                vec![]
            }
            other => {
                self.news(other);
                vec![]
            }
        };
        if self.asked.is_none() && now.passed >= self.next_fetch() {
            self.asked = Some(now.passed);
            self.last_asked = now.passed;
            self.stirred = false;
            actions.push(Action::Fetch);
        }
        if self.followed != self.selected
            && let Some(target) = self.selected.clone()
        {
            self.followed = Some(target.clone());
            self.log.clear();
            self.no_log = None;
            actions.push(Action::Follow(target));
        }
        actions
    }

    /// What the master says.
    fn news(&mut self, input: Input) {
        match input {
            Input::Status(status, progress) => self.answered(*status, *progress),
            Input::Gone(why) => {
                self.asked = None;
                let (at, clock) = (self.now.passed, self.now.clock);
                let since = self.gone.take();
                let (at, clock) = since.map_or((at, clock), |gone| (gone.at, gone.clock));
                self.gone = Some(Gone { why, at, clock });
            }
            Input::Event(event) => self.event(*event),
            Input::EventsMissing(count) => {
                self.stirred = true;
                self.events.push(EventLine::Missing(count), true);
            }
            Input::NoEvents(why) => {
                self.stirred = true;
                self.no_events = Some(why);
            }
            Input::Log(target, input) if self.followed.as_ref() == Some(&target) => {
                self.log_input(input);
            }
            _ => {}
        }
    }

    fn answered(&mut self, status: Status, progress: InProgress) {
        let at = self.now.passed;
        let before = &self.shown;
        let same_master = before.status.master.config == status.master.config;
        let rates = same_master.then(|| Rates::between(&before.status, &status, at - before.at));
        self.history.add(&status, rates.as_ref(), at);
        self.rates = rates;
        self.shown = Shown {
            status,
            progress,
            at,
            clock: self.now.clock,
        };
        (self.asked, self.gone) = (None, None);
        self.keep_selection();
    }

    /// What is selected may have gone.
    fn keep_selection(&mut self) {
        let rows = self.rows();
        let is_there = |target: &Target| rows.iter().any(|row| row.target == *target);
        if self.selected.as_ref().is_some_and(is_there) {
            return;
        }
        let pool = self
            .selected
            .take()
            .map(|target| Target::pool(&target.pool));
        let first = rows.first().map(|row| row.target.clone());
        self.selected = pool.filter(is_there).or(first);
    }

    fn event(&mut self, event: Event) {
        self.no_events = None;
        // After a connection was lost, the latest events come again.
        let is_same = |line: &EventLine| matches!(line, EventLine::Event(known) if known.seq == event.seq && known.time == event.time);
        if self.events.iter().rev().any(is_same) {
            return;
        }
        self.stirred = true;
        let line = EventLine::Event(event);
        let is_shown = self.shows_event(&line);
        self.events.push(line, is_shown);
    }

    pub(super) fn shows_event(&self, line: &EventLine) -> bool {
        let EventLine::Event(event) = line else {
            return true;
        };
        let is_own = !self.own_events
            || self.selected.as_ref().is_none_or(|target| {
                event.pool.as_ref() == Some(&target.pool)
                    && (target.slot.is_none() || event.slot == target.slot)
            });
        is_own
            && (passes(&self.events.filter, &event.text)
                || passes(&self.events.filter, event.event.word())
                || passes(&self.events.filter, &event_source(event)))
    }

    fn log_input(&mut self, input: LogInput) {
        match input {
            LogInput::Line(line) => {
                self.no_log = None;
                let line = LogLine::Line(*line);
                let is_shown = self.shows_log(&line);
                self.log.push(line, is_shown);
            }
            LogInput::Missing(count) => self.log.push(LogLine::Missing(count), true),
            LogInput::Lost(why) => self.no_log = Some(why),
        }
    }

    pub(super) fn shows_log(&self, line: &LogLine) -> bool {
        match line {
            LogLine::Line(line) => passes(&self.log.filter, &line.text),
            LogLine::Missing(_) => true,
        }
    }

    /// The status at this moment.
    pub(super) fn status_now(&self) -> Status {
        match self.gone {
            Some(_) => self.shown.status.clone(),
            None => {
                let passed = self.now.passed.saturating_sub(self.shown.at);
                rows::aged(&self.shown.status, passed.as_secs_f64())
            }
        }
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        rows::rows(
            &self.status_now(),
            self.rates.as_ref(),
            &self.unfolded,
            &self.filter,
        )
    }
}

/// `web/0`, `web` or `master`.
pub(super) fn event_source(event: &Event) -> String {
    match (&event.pool, event.slot) {
        (Some(pool), Some(slot)) => format!("{}/{slot}", clean(pool)),
        (Some(pool), None) => clean(pool),
        (None, _) => "master".to_owned(),
    }
}
