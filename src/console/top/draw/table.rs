//! The table of pools and slots, and the graphs of what is selected.

use super::look::Look;
use crate::top::app::App;
use crate::top::history::{Sample, Series};
use crate::top::pane::Pane;
use crate::top::rows::{COLUMNS, Row, STATE, TITLES, percent};
use crate::top::target::Target;
use crate::top::text::{cut, padded, width, wrap_to};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Sparkline, SparklineBar, Widget};
use rotad::cli::layout::{BLUE, GREY, RED, YELLOW};
use rotad::cli::table::{bytes, dash};

/// Where notes that have no room beside their row begin.
const INDENT: usize = 4;
/// The selected row's note has at most this many lines below it.
const MOST_LINES: usize = 6;
/// Other notes.
const FEW_LINES: usize = 3;
/// A name is not wider than this.
const MAX_NAME: usize = 32;

/// A line of the table on the screen: of which row, and what of it.
struct TableLine<'r> {
    row: &'r Row,
    /// None: the row itself.
    note: Option<String>,
}

struct Widths([usize; COLUMNS]);

impl Widths {
    fn of(rows: &[Row], room: usize) -> Self {
        let mut widths = TITLES.map(str::len);
        // Its cells begin with the sign that unfolds.
        widths[0] += 2;
        for row in rows {
            for (width_of, cell) in widths.iter_mut().zip(&row.cells) {
                *width_of = (*width_of).max(width(cell));
            }
        }
        widths[0] = widths[0].min(MAX_NAME);
        let mut widths = Self(widths);
        let over = widths.total().saturating_sub(room);
        widths.0[0] = widths.0[0].saturating_sub(over).max(6);
        widths
    }

    /// With the mark before them.
    fn total(&self) -> usize {
        2 + self.0.iter().map(|width| width + 2).sum::<usize>()
    }
}

fn lines<'r>(rows: &'r [Row], selected: Option<&Target>, room: usize) -> Vec<TableLine<'r>> {
    let beside = room.saturating_sub(Widths::of(rows, room).total());
    let mut lines = Vec::new();
    for row in rows {
        lines.push(TableLine { row, note: None });
        if width(&row.note) <= beside {
            continue;
        }
        let most = match Some(&row.target) == selected {
            true => MOST_LINES,
            false => FEW_LINES,
        };
        let notes = wrap_to(&row.note, room - INDENT, most).into_iter();
        lines.extend(notes.map(|note| TableLine {
            row,
            note: Some(note),
        }));
    }
    lines
}

/// How many lines the whole table has, with its title.
pub(super) fn line_count(rows: &[Row], selected: Option<&Target>, room: usize) -> usize {
    1 + lines(rows, selected, room).len().max(1)
}

impl App {
    pub(super) fn draw_table(&mut self, buffer: &mut Buffer, area: Rect, rows: &[Row], look: Look) {
        self.drawn.rows.clear();
        if area.height < 2 {
            return;
        }
        let room = usize::from(area.width);
        let widths = Widths::of(rows, room);
        let selected = self.selected.clone();
        let lines = lines(rows, selected.as_ref(), room);
        let title = self.title(&widths, room);
        buffer.set_stringn(area.x, area.y, title, room, look.bold());
        if lines.is_empty() {
            let why = match self.filter.is_empty() {
                true => "  no pools".to_owned(),
                false => format!("  no pool has \"{}\" (Esc clears the filter)", self.filter),
            };
            let below = area.y + 1;
            buffer.set_stringn(area.x, below, cut(&why, room), room, look.of(GREY));
            return;
        }
        let height = usize::from(area.height) - 1;
        self.drawn.first = first_line(&lines, selected.as_ref(), self.drawn.first, height);
        for (y, line) in (area.y + 1..area.bottom()).zip(&lines[self.drawn.first..]) {
            let is_selected = Some(&line.row.target) == selected.as_ref();
            self.drawn.rows.push((y, line.row.target.clone()));
            draw_line(
                buffer,
                Rect {
                    y,
                    height: 1,
                    ..area
                },
                line,
                &widths,
                look,
            );
            if is_selected {
                let style = look.selected(self.focus == Pane::Pools);
                let row = Rect {
                    y,
                    height: 1,
                    ..area
                };
                buffer.set_style(row, Style::new().add_modifier(style));
            }
        }
        self.draw_hidden(buffer, area, &lines, height, look);
    }

    /// At the right of the title: how many lines are above and below.
    fn draw_hidden(
        &self,
        buffer: &mut Buffer,
        area: Rect,
        lines: &[TableLine<'_>],
        height: usize,
        look: Look,
    ) {
        let (above, below) = (
            self.drawn.first,
            lines.len().saturating_sub(self.drawn.first + height),
        );
        if above + below > 0 {
            let text = format!(" ↑{above} ↓{below}");
            let x = area.right().saturating_sub(width(&text) as u16);
            buffer.set_stringn(x, area.y, &text, width(&text), look.of(GREY));
        }
    }

    fn title(&self, widths: &Widths, room: usize) -> String {
        let mut title = "  ".to_owned();
        for (at, text) in TITLES.iter().enumerate() {
            let text = match at {
                0 => format!("  {text}"),
                _ => (*text).to_owned(),
            };
            title += &padded(&text, widths.0[at]);
            title += "  ";
        }
        title += "NOTE";
        if !self.filter.is_empty() {
            title += &format!("   /{}", self.filter);
        }
        cut(&title, room)
    }

    pub(super) fn draw_graphs(&self, buffer: &mut Buffer, area: Rect, look: Look) {
        let Some(target) = self.selected.as_ref().filter(|_| area.height > 0) else {
            return;
        };
        let title = format!("{target} ");
        let mut x = area.x;
        if area.height > 1 {
            super::panes::draw_title(buffer, Rect { height: 1, ..area }, &title, false, look);
        } else {
            let room = usize::from(area.width) / 4;
            let title = cut(&title, room);
            buffer.set_stringn(x, area.y, &title, room, look.bold());
            x += width(&title) as u16 + 1;
        }
        let below_title = area.height.min(2) - 1;
        let room = Rect {
            x,
            y: area.y + below_title,
            width: area.right() - x,
            height: area.height - below_title,
        };
        let third = room.width / 3;
        let part = |n: u16| Rect {
            x: room.x + n * third,
            width: third.saturating_sub(2),
            ..room
        };
        let series = self.history.of(target);
        let last = series.and_then(|series| series.last(1).next());
        let cpu = last.and_then(|sample| sample.cpu);
        let memory = last.and_then(|sample| sample.memory);
        let restarts = series.map(|series| {
            let restarts = series.last(usize::MAX).map(|one| one.restarts);
            restarts.sum::<u32>().to_string()
        });
        let graphs = [
            Graph {
                name: "CPU",
                value: cpu.map_or_else(dash, percent),
                paint: BLUE,
                bar: |sample| sample.cpu.map(|share| (share * 1000.0) as u64),
                // Below a tenth of a processor nothing stands out.
                least: 100,
            },
            Graph {
                name: "MEM",
                value: memory.map_or_else(dash, bytes),
                paint: YELLOW,
                bar: |sample| sample.memory.map(|bytes| bytes as u64 >> 10),
                least: 1,
            },
            Graph {
                name: "RESTARTS",
                value: restarts.unwrap_or_else(dash),
                paint: RED,
                bar: |sample| Some(u64::from(sample.restarts)).filter(|count| *count > 0),
                least: 1,
            },
        ];
        for (n, graph) in (0..).zip(graphs) {
            graph.draw(buffer, part(n), series, look);
        }
    }
}

/// A row of bars, with a name and the last value before it.
struct Graph {
    name: &'static str,
    value: String,
    /// The colour (SGR number).
    paint: u8,
    bar: fn(&Sample) -> Option<u64>,
    /// The highest bar stands for this at least.
    least: u64,
}

impl Graph {
    fn draw(&self, buffer: &mut Buffer, area: Rect, series: Option<&Series>, look: Look) {
        let label = format!("{} {:>4} ", self.name, self.value);
        let taken = (width(&label) as u16).min(area.width);
        buffer.set_stringn(area.x, area.y, &label, usize::from(taken), Style::new());
        let place = Rect {
            x: area.x + taken,
            width: area.width - taken,
            ..area
        };
        let count = usize::from(place.width);
        let numbers: Vec<Option<u64>> = series
            .map(|series| series.last(count).map(self.bar).collect())
            .unwrap_or_default();
        let highest = numbers.iter().flatten().copied().max().unwrap_or(0);
        let missing = count.saturating_sub(numbers.len());
        let bars = std::iter::repeat_n(None, missing).chain(numbers);
        Sparkline::default()
            .data(bars.map(SparklineBar::from))
            .max((highest + highest / 4).max(self.least))
            .absent_value_symbol(" ")
            .style(look.of(self.paint))
            .render(place, buffer);
    }
}

/// Keeps the selected row on the screen, and the screen where it is as far as that allows.
fn first_line(
    lines: &[TableLine<'_>],
    selected: Option<&Target>,
    first: usize,
    height: usize,
) -> usize {
    let of = |line: &TableLine<'_>| Some(&line.row.target) == selected;
    let first = first.min(lines.len().saturating_sub(height));
    let Some(begin) = lines.iter().position(of) else {
        return first;
    };
    let end = begin + lines[begin..].iter().take_while(|line| of(line)).count();
    first.max(end.saturating_sub(height)).min(begin)
}

fn draw_line(buffer: &mut Buffer, area: Rect, line: &TableLine<'_>, widths: &Widths, look: Look) {
    let room = usize::from(area.width);
    let row = line.row;
    let (mark, paint) = row.mark;
    if let Some(note) = &line.note {
        let x = area.x + INDENT as u16;
        buffer.set_stringn(x, area.y, note, room - INDENT, look.of(paint));
        return;
    }
    buffer.set_stringn(area.x, area.y, mark.to_string(), 1, look.of(paint));
    let mut x = area.x + 2;
    for (at, cell) in row.cells.iter().enumerate() {
        let style = match at {
            STATE => look.of(paint),
            _ => Style::new(),
        };
        let wide = widths.0[at];
        buffer.set_stringn(x, area.y, padded(cell, wide), room, style);
        x += wide as u16 + 2;
    }
    let left = usize::from(area.right().saturating_sub(x));
    if width(&row.note) <= left {
        buffer.set_stringn(x, area.y, &row.note, left, Style::new());
    }
}
