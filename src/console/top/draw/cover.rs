//! What lies over the rest: the help, a question, a whole outcome.

use super::look::Look;
use super::panes::run_title;
use crate::top::app::{App, Cover};
use crate::top::keys::BINDINGS;
use crate::top::text::{clean, cut, padded, width, wrap};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Widget};

/// A question is not wider than this.
const MAX_QUESTION: usize = 76;

impl App {
    pub(super) fn draw_cover(&self, buffer: &mut Buffer, area: Rect, look: Look) {
        if let Some(question) = &self.question {
            let room = MAX_QUESTION.min(usize::from(area.width) - 8);
            let mut lines = wrap(&clean(&question.text), room);
            lines.push(String::new());
            lines.extend(wrap(&format!("y: {}", clean(&question.command)), room));
            lines.push("n: no".to_owned());
            draw_box(buffer, area, "", &lines, look);
            return;
        }
        match &self.cover {
            Some(Cover::Help) => draw_box(buffer, area, "keys", &help(), look),
            Some(Cover::Outcome(from)) => {
                let Some(run) = self.runs.latest() else {
                    return;
                };
                let title = run_title(run, self.now.passed);
                let room = usize::from(area.width) - 4;
                let height = usize::from(area.height) - 2;
                let lines = run.lines.iter().skip(*from);
                let mut lines: Vec<String> = lines.flat_map(|line| wrap(line, room)).collect();
                lines.truncate(height);
                if lines.is_empty() {
                    lines.push("no output".to_owned());
                }
                draw_box(buffer, area, &title, &lines, look);
            }
            None => {}
        }
    }
}

/// The keys, in one column.
fn help() -> Vec<String> {
    // The most used ones fit two to a line at 80 columns; longer ones take a line of their own.
    let column = 36;
    let text = |key: &str, does: &str| format!("{} {does}", padded(key, 9));
    let mut lines: Vec<String> = Vec::new();
    let mut half: Option<String> = None;
    for binding in BINDINGS {
        let entry = text(binding.shown, binding.does);
        if width(&entry) > column {
            lines.extend(half.take());
            lines.push(entry);
            continue;
        }
        match half.take() {
            Some(left) => lines.push(padded(&left, column + 2) + &entry),
            None => half = Some(entry),
        }
    }
    lines.extend(half);
    lines
}

/// A box in the middle.
fn draw_box(buffer: &mut Buffer, area: Rect, title: &str, lines: &[String], look: Look) {
    let wide = lines.iter().map(|line| width(line)).max().unwrap_or(0);
    let wide = (wide.max(width(title) + 2) as u16 + 4).min(area.width);
    let high = (lines.len() as u16 + 2).min(area.height);
    let place = Rect {
        x: area.x + (area.width - wide) / 2,
        y: area.y + (area.height - high) / 2,
        width: wide,
        height: high,
    };
    Clear.render(place, buffer);
    let mut block = Block::bordered();
    if !title.is_empty() {
        let title = format!(" {} ", cut(title, usize::from(wide) - 6));
        block = block.title(Line::styled(title, look.bold()));
    }
    block.render(place, buffer);
    let room = usize::from(wide) - 4;
    for (y, line) in (place.y + 1..place.bottom() - 1).zip(lines) {
        let line = cut(line, room);
        buffer.set_stringn(place.x + 2, y, line, room, ratatui::style::Style::new());
    }
}
