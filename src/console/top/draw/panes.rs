//! The events, the log, what is in progress, and the outcome of a command.

use super::look::Look;
use super::{OUTCOME_LINES, PROGRESS_LINES};
use crate::top::app::{App, EventLine, LogLine, event_source};
use crate::top::pane::Pane;
use crate::top::runs::Run;
use crate::top::text::{clean, cut, padded, width, wrap};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use rotad::cli::layout::{BLUE, GREEN, GREY, RED};
use rotad::cli::table::{duration, pool_mark};
use rotad::cli::{events, live, logs};
use rotad::control::protocol::InProgress;
use rotad::exit_code::ExitCode;
use rotad::observe::counted::missing;
use rotad::observe::status::{PoolStatus, RollState, SlotState, Status};

/// Columns of the bar of a roll.
const BAR: u32 = 10;

/// A title in a line of its own: a heavy line and bold letters where keys go.
pub(super) fn draw_title(buffer: &mut Buffer, area: Rect, title: &str, focused: bool, look: Look) {
    if area.height == 0 {
        return;
    }
    let room = usize::from(area.width);
    let (line, style) = match focused {
        true => ("━", look.bold()),
        false => ("─", look.of(GREY)),
    };
    let title = cut(title.trim(), room.saturating_sub(4));
    let rest = room.saturating_sub(width(&title) + 4);
    let text = Line::from(vec![
        Span::styled(format!("{line}{line} "), style),
        Span::styled(title, if focused { look.bold() } else { Style::new() }),
        Span::styled(format!(" {}", line.repeat(rest)), style),
    ]);
    buffer.set_line(area.x, area.y, &text, area.width);
}

/// A line of a pane, in one or two styles; `indent`: of the lines that it is wrapped to.
struct PaneLine {
    spans: Vec<(String, Style)>,
    indent: usize,
}

impl PaneLine {
    fn plain(text: String, style: Style) -> Self {
        let (spans, indent) = (vec![(text, style)], 0);
        Self { spans, indent }
    }

    /// As lines of the screen.
    fn lines(&self, room: usize, wraps: bool) -> Vec<Line<'static>> {
        let Some((last, before)) = self.spans.split_last() else {
            return vec![Line::default()];
        };
        let used: usize = before.iter().map(|(text, _)| width(text)).sum();
        let left = room.saturating_sub(used).max(1);
        let (text, style) = last;
        let texts = match wraps {
            true => wrap(text, left.min(room.saturating_sub(self.indent)).max(1)),
            false => vec![cut(text, left)],
        };
        let mut lines = Vec::new();
        for (n, text) in texts.into_iter().enumerate() {
            let mut spans = match n {
                0 => before
                    .iter()
                    .map(|(text, style)| Span::styled(text.clone(), *style))
                    .collect(),
                _ => vec![Span::raw(" ".repeat(self.indent))],
            };
            spans.push(Span::styled(text, *style));
            lines.push(Line::from(spans));
        }
        lines
    }
}

/// Fills an area from below with the newest lines, `below` of them left out.
fn fill(
    buffer: &mut Buffer,
    area: Rect,
    newest_first: impl Iterator<Item = PaneLine>,
    below: usize,
    wraps: bool,
) {
    let mut rows: Vec<Line<'static>> = Vec::new();
    for line in newest_first.skip(below) {
        let lines = line.lines(usize::from(area.width), wraps);
        rows.extend(lines.into_iter().rev());
        if rows.len() >= usize::from(area.height) {
            break;
        }
    }
    rows.truncate(usize::from(area.height));
    for (y, line) in (area.y..).zip(rows.iter().rev()) {
        buffer.set_line(area.x, y, line, area.width);
    }
}

fn without_title(area: Rect) -> Rect {
    Rect {
        y: area.y + 1,
        height: area.height.saturating_sub(1),
        ..area
    }
}

/// What a title says of a pane's filter and of its scrolling.
fn state(filter: &str, below: usize) -> String {
    let filter = match filter {
        "" => String::new(),
        filter => format!("  /{}", clean(filter)),
    };
    match below {
        0 => filter,
        below => format!("{filter}  ({below} below, G follows)"),
    }
}

impl App {
    pub(super) fn draw_events(&self, buffer: &mut Buffer, area: Rect, look: Look) {
        if area.height == 0 {
            return;
        }
        let of = match (&self.selected, self.own_events) {
            (Some(target), true) => format!("events of {target}"),
            _ => "events".to_owned(),
        };
        let mut title = of + &state(&self.events.filter, self.events.below);
        if let Some(why) = &self.no_events {
            title += &format!("  not followed: {}", clean(why));
        }
        draw_title(buffer, area, &title, self.focus == Pane::Events, look);
        let today = super::look::timestamp(self.now.clock);
        let shown = self.events.iter().rev();
        let shown = shown.filter(|line| self.shows_event(line));
        let lines = shown.map(|line| event_line(line, &today, look));
        fill(
            buffer,
            without_title(area),
            lines,
            self.events.below,
            self.wraps,
        );
    }

    pub(super) fn draw_log(&self, buffer: &mut Buffer, area: Rect, look: Look) {
        if area.height == 0 {
            return;
        }
        let of = match &self.selected {
            Some(target) => format!("log of {target}"),
            None => "log".to_owned(),
        };
        let mut title = of + &state(&self.log.filter, self.log.below);
        if let Some(why) = &self.no_log {
            title += &format!("  not followed: {}", clean(why));
        }
        draw_title(buffer, area, &title, self.focus == Pane::Log, look);
        let named = self.selected.as_ref().is_some_and(|of| of.slot.is_none());
        let shown = self.log.iter().rev();
        let shown = shown.filter(|line| self.shows_log(line));
        let lines = shown.map(|line| log_line(line, named, look));
        fill(
            buffer,
            without_title(area),
            lines,
            self.log.below,
            self.wraps,
        );
    }

    /// Each rolling restart, then who starts, soaks and stops. What waits is said by the rows.
    pub(super) fn progress_lines(&self, status: &Status) -> Vec<live::Line> {
        let slots = self.shown.progress.slots.iter();
        let slots = slots.filter(|slot| slot.state != SlotState::Backoff);
        let progress = InProgress {
            slots: slots.cloned().collect(),
            more: self.shown.progress.more,
            ..InProgress::default()
        };
        let rolls = status.pools.iter().filter_map(|pool| self.roll_line(pool));
        let mut lines: Vec<live::Line> = rolls.take(PROGRESS_LINES - 1).collect();
        let room = PROGRESS_LINES - lines.len();
        let now = self.now.clock;
        lines.extend(live::lines(&progress, now, now, room));
        lines
    }

    fn roll_line(&self, pool: &PoolStatus) -> Option<live::Line> {
        let reload = &pool.reload;
        if reload.state != RollState::Running {
            return None;
        }
        let slots = || {
            let all = self.shown.progress.slots.iter();
            all.filter(|slot| slot.pool == pool.name)
        };
        let count = |of: &[SlotState]| slots().filter(|slot| of.contains(&slot.state)).count();
        let canary = count(&[SlotState::Soaking]);
        let surge = count(&[SlotState::Starting]);
        let draining = count(&[SlotState::Stopping, SlotState::Killing]);
        let parts = [
            (canary, "canary soaks"),
            (surge, "starting"),
            (draining, "draining"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: String = parts
            .map(|(count, what)| format!(", {count} {what}"))
            .collect();
        let done = BAR * reload.replaced.min(reload.of) / reload.of.max(1);
        let bar = "█".repeat(done as usize) + &"░".repeat((BAR - done) as usize);
        let (mark, colour) = pool_mark(pool.state);
        let text = format!(
            "{}  generation {} {bar} {} of {}{parts}, {}",
            clean(&pool.name),
            reload.generation,
            reload.replaced,
            reload.of,
            duration(reload.took_s)
        );
        Some(live::Line { mark, colour, text })
    }

    pub(super) fn draw_progress(
        &self,
        buffer: &mut Buffer,
        area: Rect,
        lines: &[live::Line],
        look: Look,
    ) {
        if area.height == 0 {
            return;
        }
        draw_title(buffer, area, "in progress", false, look);
        let room = usize::from(area.width);
        for (y, line) in (area.y + 1..area.bottom()).zip(lines) {
            buffer.set_stringn(area.x, y, line.mark.to_string(), 2, look.of(line.colour));
            let text = cut(&clean(&line.text), room.saturating_sub(2));
            buffer.set_stringn(area.x + 2, y, text, room, Style::new());
        }
    }

    /// With the command as their title.
    pub(super) fn outcome_lines(&self, room: usize) -> Vec<String> {
        let Some(run) = self.runs.shown(self.now.passed) else {
            return vec![];
        };
        let all = run.lines.iter().flat_map(|line| wrap(line, room));
        let all: Vec<String> = all.collect();
        let most = OUTCOME_LINES - 1;
        // While it runs, the latest lines; then the reason, which comes last as well.
        let more = all.len().saturating_sub(most);
        let mut lines = vec![run_title(run, self.now.passed)];
        if more > 0 {
            lines.push(format!("… {} more above: `o` shows all", more + 1));
        }
        let from = if more > 0 { more + 1 } else { 0 };
        lines.extend(all.into_iter().skip(from));
        lines
    }

    pub(super) fn draw_outcome(
        &self,
        buffer: &mut Buffer,
        area: Rect,
        lines: &[String],
        look: Look,
    ) {
        let Some((title, lines)) = lines.split_first() else {
            return;
        };
        draw_title(buffer, area, title, false, look);
        let end = self.runs.latest().and_then(|run| run.end.as_ref());
        let style = match end.map(|end| end.code) {
            None => look.of(BLUE),
            Some(ExitCode::DONE) => look.of(GREEN),
            Some(_) => look.of(RED),
        };
        let room = usize::from(area.width);
        for (y, line) in (area.y + 1..area.bottom()).zip(lines) {
            buffer.set_stringn(area.x, y, cut(line, room), room, style);
        }
    }
}

/// The command, and its exit code or for how long it has run.
pub(super) fn run_title(run: &Run, now: std::time::Duration) -> String {
    let command = clean(&run.command);
    match &run.end {
        Some(end) => format!("{command}: exit {}", end.code),
        None => {
            let passed = now.saturating_sub(run.began).as_secs();
            format!("{command} … {}", duration(passed as f64))
        }
    }
}

fn event_line(line: &EventLine, today: &str, look: Look) -> PaneLine {
    let event = match line {
        EventLine::Event(event) => event,
        EventLine::Missing(count) => {
            let text = format!(
                "… {} here: they came faster than they were read",
                missing(*count, "event")
            );
            return PaneLine::plain(text, look.of(GREY));
        }
    };
    let time = clean(events::moment(&event.time, today));
    // Without the milliseconds.
    let time = time.split('.').next().unwrap_or_default().to_owned();
    let source = padded(&event_source(event), 10);
    let word = padded(event.event.word(), 14);
    let paint = events::colour(event);
    let text: Vec<String> = event.text.lines().map(|line| clean(line.trim())).collect();
    let spans = vec![
        (format!("{time} "), look.of(GREY)),
        (format!("{source} "), Style::new()),
        (
            format!("{word} "),
            paint.map_or(Style::new(), |paint| look.of(paint)),
        ),
        (text.join("  "), Style::new()),
    ];
    let indent = 4;
    PaneLine { spans, indent }
}

fn log_line(line: &LogLine, named: bool, look: Look) -> PaneLine {
    let line = match line {
        LogLine::Line(line) => line,
        LogLine::Missing(count) => {
            let text = format!(
                "… {} here: they came faster than they were read",
                missing(*count, "line")
            );
            return PaneLine::plain(text, look.of(GREY));
        }
    };
    // A line of stderr, if that is separate from stdout.
    let (bar, bar_style) = match line.stream == "stderr" {
        true => ("!", look.of(RED)),
        false => ("|", look.of(GREY)),
    };
    let mut spans = Vec::new();
    if named {
        let name = format!("{}/{} ", clean(&line.pool), line.slot);
        spans.push((name, look.of(logs::colour_of(&line.pool))));
    }
    spans.push((format!("{bar} "), bar_style));
    spans.push((clean(&line.text), Style::new()));
    let indent = 2;
    PaneLine { spans, indent }
}
