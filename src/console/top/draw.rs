//! The screen: its parts, and the lines above and below them.

mod cover;
mod look;
mod panes;
mod table;

use super::app::App;
use super::pane::Pane;
use super::prompt::{Kind, Prompt};
use super::rows::badness;
use super::text::{clean, cut, width, wrap_to};
use look::Look;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use rotad::cli::layout::{GREEN, GREY, RED};
use rotad::cli::table::{duration, pool_mark};
use rotad::observe::status::Status;
use std::time::SystemTime;

/// The smallest screen.
const LEAST: (u16, u16) = (80, 24);
/// From this width on the events and the log lie beside each other.
const WIDE: u16 = 140;
/// From this height on the graphs have several lines.
const TALL: u16 = 36;
/// The outcome of a command has at most this many lines.
const OUTCOME_LINES: usize = 5;
/// What is in progress has at most this many lines.
const PROGRESS_LINES: usize = 6;

/// The parts of the screen; one without room has the height 0.
#[derive(Debug, Default)]
struct Parts {
    table: Rect,
    graphs: Rect,
    progress: Rect,
    events: Rect,
    log: Rect,
    outcome: Rect,
}

impl App {
    /// Draws the whole screen.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let look = Look::new(self.colour);
        let buffer = frame.buffer_mut();
        if area.width < LEAST.0 || area.height < LEAST.1 {
            let (width, height) = LEAST;
            let lines = [
                format!("rotad top needs {width}×{height};"),
                format!("this is {}×{}", area.width, area.height),
            ];
            for (y, line) in (area.y..area.bottom()).zip(lines) {
                buffer.set_stringn(area.x, y, line, usize::from(area.width), Style::new());
            }
            self.drawn = super::app::Drawn::default();
            return;
        }
        let status = self.status_now();
        let head = self.head(&status, look, area.width);
        let head_rows = head.len() as u16;
        for (y, line) in (area.y..).zip(&head) {
            buffer.set_line(area.x, y, line, area.width);
        }
        let body = Rect {
            y: area.y + head_rows,
            height: area.height - head_rows - 1,
            ..area
        };
        let rows = self.rows();
        let progress = self.progress_lines(&status);
        let outcome = self.outcome_lines(usize::from(area.width));
        let lines = table::line_count(&rows, self.selected.as_ref(), usize::from(area.width));
        let parts = self.parts(body, lines, progress.len(), outcome.len());
        self.draw_table(buffer, parts.table, &rows, look);
        self.draw_graphs(buffer, parts.graphs, look);
        self.draw_progress(buffer, parts.progress, &progress, look);
        self.draw_events(buffer, parts.events, look);
        self.draw_log(buffer, parts.log, look);
        self.draw_outcome(buffer, parts.outcome, &outcome, look);
        self.drawn.table = parts.table;
        self.drawn.events = parts.events;
        self.drawn.log = parts.log;
        let foot = Rect {
            y: area.bottom() - 1,
            height: 1,
            ..area
        };
        let cursor = self.draw_foot(buffer, foot, look);
        self.draw_cover(buffer, area, look);
        if let Some(x) = cursor {
            frame.set_cursor_position((x, foot.y));
        }
    }

    /// How the body is divided. `lines`: of the table with its title.
    fn parts(&self, body: Rect, lines: usize, progress: usize, outcome: usize) -> Parts {
        let part = |y: u16, height: u16| Rect { y, height, ..body };
        let outcome = outcome as u16;
        if self.zoomed {
            let height = body.height - outcome;
            let whole = part(body.y, height);
            let outcome = part(body.y + height, outcome);
            let (events, log) = match self.focus {
                Pane::Events => (whole, Rect::default()),
                _ => (Rect::default(), whole),
            };
            return Parts {
                events,
                log,
                outcome,
                ..Parts::default()
            };
        }
        let graphs = if body.height >= TALL { 4 } else { 1 };
        let progress = match progress {
            0 => 0,
            lines => lines as u16 + 1,
        };
        let left = body.height - graphs - outcome - progress;
        let wide = body.width >= WIDE;
        // A title and two lines for each pane.
        let least_panes = if wide { 3 } else { 6 };
        let table = (lines as u16).clamp(4, left.saturating_sub(least_panes).max(4));
        let panes = left.saturating_sub(table);
        let mut y = body.y;
        let mut next = |height: u16| {
            let area = part(y, height);
            y += height;
            area
        };
        let (table, graphs, progress) = (next(table), next(graphs), next(progress));
        let (events, log) = match (wide, self.focus) {
            (true, _) => {
                let both = next(panes);
                let half = both.width / 2;
                let left = Rect {
                    width: half - 1,
                    ..both
                };
                let right = Rect {
                    x: both.x + half,
                    width: both.width - half,
                    ..both
                };
                (left, right)
            }
            (false, focus) => {
                let events = match focus {
                    Pane::Pools => panes / 2,
                    Pane::Events => panes * 2 / 3,
                    Pane::Log => panes - panes * 2 / 3,
                };
                (next(events), next(panes - events))
            }
        };
        Parts {
            table,
            graphs,
            progress,
            events,
            log,
            outcome: next(outcome),
        }
    }

    /// The lines on top: the master, then what is wrong.
    fn head(&self, status: &Status, look: Look, columns: u16) -> Vec<Line<'static>> {
        let room = usize::from(columns);
        let master = &status.master;
        let about = format!(
            "rotad {}  {}  pid {}  up {}  {}",
            clean(&master.version),
            clean(&master.config.to_string_lossy()),
            master.pid,
            duration(master.uptime_s),
            clean(&master.state)
        );
        if let Some(gone) = &self.gone {
            let passed = self.now.passed.saturating_sub(gone.at);
            let why: Vec<String> = gone.why.lines().map(clean).collect();
            let mut lines: Vec<Line<'static>> =
                wrap_to(&format!("× no master: {}", why.join(" ")), room, 3)
                    .into_iter()
                    .map(|line| Line::styled(line, look.loud(RED)))
                    .collect();
            let since = format!(
                "  since {}, {}; what is shown is from {}",
                clock(gone.clock),
                duration(passed.as_secs().max(1) as f64),
                clock(self.shown.clock)
            );
            lines.push(Line::styled(cut(&since, room), look.of(RED)));
            return lines;
        }
        let mut spans = vec![Span::styled(cut(&about, room), look.bold())];
        let waited = self.asked.map(|at| self.now.passed.saturating_sub(at));
        if let Some(waited) = waited.filter(|waited| waited.as_secs() >= 2) {
            let text = format!("  no answer for {}", duration(waited.as_secs() as f64));
            spans = vec![
                Span::styled(cut(&about, room.saturating_sub(width(&text))), look.bold()),
                Span::styled(text, look.loud(RED)),
            ];
        }
        vec![Line::from(spans), summary(status, look)]
    }

    /// The last line: what is typed, what was said, or the most used keys. Returns where the cursor is.
    fn draw_foot(&self, buffer: &mut Buffer, area: Rect, look: Look) -> Option<u16> {
        let room = usize::from(area.width);
        if let Some(prompt) = &self.prompt {
            return Some(self.draw_prompt(buffer, area, prompt, look));
        }
        let line = match &self.notice {
            Some(notice) => Line::styled(cut(&clean(notice), room), look.loud(RED)),
            None => {
                let mut spans = Vec::new();
                for (key, word) in HINTS {
                    spans.push(Span::styled(key, look.key()));
                    spans.push(Span::styled(format!(" {word}  "), look.of(GREY)));
                }
                Line::from(spans)
            }
        };
        buffer.set_line(area.x, area.y, &line, area.width);
        None
    }

    fn draw_prompt(&self, buffer: &mut Buffer, area: Rect, prompt: &Prompt, look: Look) -> u16 {
        let sign = match prompt.kind {
            Kind::Filter(_) => '/',
            Kind::Command => ':',
        };
        let text = clean(&prompt.text);
        let room = usize::from(area.width) - 2;
        // Of a long line its end.
        let mut shown = text.as_str();
        while width(shown) > room {
            let mut letters = shown.chars();
            letters.next();
            shown = letters.as_str();
        }
        let mut spans = vec![
            Span::styled(sign.to_string(), look.bold()),
            Span::raw(shown.to_owned()),
        ];
        if prompt.kind == Kind::Command {
            let candidates = prompt.candidates(&self.pool_names()).join("  ");
            let left = room.saturating_sub(width(shown) + 3);
            spans.push(Span::styled(
                format!("   {}", cut(&clean(&candidates), left)),
                look.of(GREY),
            ));
        }
        buffer.set_line(area.x, area.y, &Line::from(spans), area.width);
        area.x + 1 + width(shown) as u16
    }
}

/// The last line of the screen.
const HINTS: [(&str, &str); 9] = [
    ("r", "roll"),
    ("b", "back"),
    ("+ -", "scale"),
    ("s", "stop"),
    ("S", "start"),
    ("/", "filter"),
    (":", "command"),
    ("?", "keys"),
    ("q", "quit"),
];

/// How many pools and workers are well, and which pools are not.
fn summary(status: &Status, look: Look) -> Line<'static> {
    let pools = status.pools.len();
    let ready: u32 = status.pools.iter().map(|pool| pool.ready).sum();
    let wanted: u32 = status.pools.iter().map(|pool| pool.wanted).sum();
    let word = if pools == 1 { "pool" } else { "pools" };
    let mut spans = vec![Span::raw(format!(
        "{pools} {word}, {ready} of {wanted} workers ready"
    ))];
    let mut bad: Vec<_> = status
        .pools
        .iter()
        .filter(|pool| badness(pool) > 0)
        .collect();
    bad.sort_by_key(|pool| std::cmp::Reverse(badness(pool)));
    if bad.is_empty() && pools > 0 {
        spans.push(Span::styled("  ● all is well", look.of(GREEN)));
    }
    for pool in bad {
        let (mark, paint) = pool_mark(pool.state);
        let text = format!("  {mark} {} {}", clean(&pool.name), pool.state.name());
        spans.push(Span::styled(text, look.of(paint)));
    }
    Line::from(spans)
}

/// A time of day: UTC, as in the log.
fn clock(time: SystemTime) -> String {
    let text = look::timestamp(time);
    format!("{} UTC", &text[11..19])
}
