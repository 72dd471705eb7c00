//! Colours and shapes. The sixteen colours of every terminal, none with NO_COLOR; each only repeats what a shape or a
//! word says.

use ratatui::style::{Color, Modifier, Style};
use rotad::cli::layout::{BLUE, GREEN, GREY, RED, YELLOW};
use std::time::SystemTime;

#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    colour: bool,
}

impl Look {
    pub(super) fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// In this colour (SGR number).
    pub(super) fn of(self, sgr: u8) -> Style {
        match self.colour {
            true => Style::new().fg(named(sgr)),
            false => Style::new(),
        }
    }

    /// What must be seen.
    pub(super) fn loud(self, sgr: u8) -> Style {
        self.of(sgr).add_modifier(Modifier::BOLD)
    }

    pub(super) fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn key(self) -> Style {
        self.bold()
    }

    /// The selected row.
    pub(super) fn selected(self, focused: bool) -> Modifier {
        match focused {
            true => Modifier::REVERSED,
            false => Modifier::BOLD,
        }
    }
}

fn named(sgr: u8) -> Color {
    match sgr {
        RED => Color::Red,
        GREEN => Color::Green,
        YELLOW => Color::Yellow,
        BLUE => Color::Blue,
        GREY => Color::DarkGray,
        35 => Color::Magenta,
        36 => Color::Cyan,
        96 => Color::LightCyan,
        _ => Color::Reset,
    }
}

/// RFC 3339 in UTC, with seconds.
pub(super) fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
