//! What keys and the mouse do.

use super::{Action, App, Cover};
use crate::top::keys::{self, Act};
use crate::top::pane::{Lines, Pane};
use crate::top::prompt::{Kind, Prompt};
use crate::top::rows::badness;
use crate::top::target::Target;
use ratatui::crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::layout::{Position, Rect};

/// Lines that a turn of the wheel scrolls.
const WHEEL: isize = 3;

impl App {
    pub(super) fn key(&mut self, key: &KeyEvent) -> Vec<Action> {
        if key.kind == KeyEventKind::Release {
            return vec![];
        }
        self.notice = None;
        if self.question.is_some() {
            return self.answer(key);
        }
        if self.prompt.is_some() {
            return self.type_key(key);
        }
        match keys::act(key) {
            Some(act) => self.act(act),
            None => {
                if let KeyCode::Char(letter) = key.code {
                    self.notice = Some(format!("`{letter}` is no key: `?` shows them"));
                }
                vec![]
            }
        }
    }

    fn act(&mut self, act: Act) -> Vec<Action> {
        match (&mut self.cover, act) {
            (_, Act::Quit) => {
                if self.cover.take().is_none() {
                    return vec![Action::Quit];
                }
                return vec![];
            }
            (_, Act::Suspend) => return vec![Action::Suspend],
            (_, Act::Redraw) => return vec![Action::Redraw],
            (Some(Cover::Outcome(from)), _) => {
                let lines = self.runs.latest().map_or(0, |run| run.lines.len());
                let from = *from;
                self.cover = match act {
                    Act::Up => Some(from.saturating_sub(1)),
                    Act::Down => Some(from + 1),
                    Act::PageUp => Some(from.saturating_sub(10)),
                    Act::PageDown => Some(from + 10),
                    Act::First => Some(0),
                    Act::Last => Some(lines),
                    _ => None,
                }
                .map(|from| Cover::Outcome(from.min(lines.saturating_sub(1))));
                return vec![];
            }
            (Some(Cover::Help), _) => {
                self.cover = None;
                return vec![];
            }
            (None, _) => {}
        }
        match act {
            Act::Up => self.go(-1),
            Act::Down => self.go(1),
            Act::PageUp => self.go(-self.page()),
            Act::PageDown => self.go(self.page()),
            Act::First => self.go(isize::MIN / 2),
            Act::Last => self.go(isize::MAX / 2),
            Act::Open => self.open(),
            Act::Unfold => self.fold(true),
            Act::Fold => self.fold(false),
            Act::NextPane => self.focus_on(self.focus.next(1)),
            Act::PaneBefore => self.focus_on(self.focus.next(2)),
            Act::NextTrouble => self.next_trouble(),
            Act::Filter => {
                let kind = Kind::Filter(self.focus);
                let text = self.filter_of(self.focus).clone();
                self.prompt = Some(Prompt::new(kind, text));
            }
            Act::Command => self.prompt = Some(Prompt::new(Kind::Command, String::new())),
            Act::Roll => return self.command_for(&["roll"], true, &[]),
            Act::RollBack => return self.command_for(&["rollback"], false, &[]),
            Act::More => return self.command_for(&["scale"], false, &["+1"]),
            Act::Fewer => return self.command_for(&["scale"], false, &["-1"]),
            Act::Stop => return self.command_for(&["stop"], true, &[]),
            Act::Start => return self.command_for(&["start"], true, &[]),
            Act::Outcome => match self.runs.latest() {
                Some(_) => self.cover = Some(Cover::Outcome(0)),
                None => self.notice = Some("no command has been sent yet".to_owned()),
            },
            Act::Events => {
                self.own_events = !self.own_events;
                self.events.below = 0;
            }
            Act::Wrap => self.wraps = !self.wraps,
            Act::Mouse => {
                self.mouse = !self.mouse;
                return vec![Action::Mouse(self.mouse)];
            }
            Act::Help => self.cover = Some(Cover::Help),
            Act::Back => self.back(),
            Act::Redraw | Act::Suspend | Act::Quit => {}
        }
        vec![]
    }

    /// A command about what is selected: the slot, where `slots` says that the verb takes one, else its pool.
    fn command_for(&mut self, before: &[&str], slots: bool, after: &[&str]) -> Vec<Action> {
        let Some(selected) = &self.selected else {
            self.notice = Some("no pool is selected".to_owned());
            return vec![];
        };
        let target = match slots {
            true => selected.to_string(),
            false => selected.pool.clone(),
        };
        let words = [before, &[target.as_str()], after].concat();
        self.command(&rotad::cli::typed::line(&words))
    }

    /// How many lines a page has.
    fn page(&self) -> isize {
        let area = match self.focus {
            Pane::Pools => self.drawn.table,
            Pane::Events => self.drawn.events,
            Pane::Log => self.drawn.log,
        };
        isize::from(area.height.saturating_sub(2).max(1).cast_signed())
    }

    /// In the focused pane, by this many rows or lines.
    fn go(&mut self, by: isize) {
        self.scroll(self.focus, by);
    }

    fn scroll(&mut self, pane: Pane, by: isize) {
        match pane {
            Pane::Pools => {
                let rows = self.rows();
                let selected = self.selected.as_ref();
                let at = rows.iter().position(|row| Some(&row.target) == selected);
                let to = at.unwrap_or(0).saturating_add_signed(by);
                let to = to.min(rows.len().saturating_sub(1));
                self.selected = rows.get(to).map(|row| row.target.clone());
            }
            Pane::Events => {
                let lines = self.events.iter().filter(|line| self.shows_event(line));
                let count = lines.count();
                self.events.scroll(by, count);
            }
            Pane::Log => {
                let lines = self.log.iter().filter(|line| self.shows_log(line));
                let count = lines.count();
                self.log.scroll(by, count);
            }
        }
    }

    fn open(&mut self) {
        match (self.focus, self.selected.clone()) {
            (Pane::Pools, Some(Target { pool, slot: None })) => {
                let is_unfolded = self.unfolded.contains(&pool);
                self.fold(!is_unfolded);
            }
            (Pane::Pools, Some(Target { slot: Some(_), .. })) => {
                self.focus_on(Pane::Log);
                self.zoomed = true;
            }
            (Pane::Pools, None) => {}
            (Pane::Events | Pane::Log, _) => self.zoomed = !self.zoomed,
        }
    }

    fn fold(&mut self, open: bool) {
        let Some(selected) = self.selected.clone().filter(|_| self.focus == Pane::Pools) else {
            return;
        };
        if open {
            self.unfolded.insert(selected.pool);
        } else {
            self.unfolded.remove(&selected.pool);
            self.selected = Some(Target::pool(&selected.pool));
        }
    }

    fn focus_on(&mut self, pane: Pane) {
        self.focus = pane;
        self.zoomed &= pane != Pane::Pools;
    }

    fn next_trouble(&mut self) {
        let pools = &self.shown.status.pools;
        let selected = self.selected.as_ref().map(|target| &target.pool);
        let at = pools.iter().position(|pool| Some(&pool.name) == selected);
        let from = at.map_or(0, |at| at + 1);
        let mut after = pools.iter().cycle().skip(from).take(pools.len());
        match after.find(|pool| badness(pool) > 0) {
            Some(pool) => {
                self.selected = Some(Target::pool(&pool.name));
                self.focus = Pane::Pools;
                self.zoomed = false;
                self.filter.clear();
            }
            None => self.notice = Some("every pool is well".to_owned()),
        }
    }

    /// Esc, one step: what covers the rest goes first.
    fn back(&mut self) {
        if self.zoomed {
            self.zoomed = false;
        } else if !self.filter_of(self.focus).is_empty() {
            self.filter_of_mut(self.focus).clear();
        } else if self
            .runs
            .shown(self.now.passed)
            .is_some_and(|run| run.end.is_some())
        {
            self.runs.dismissed = true;
        } else {
            self.focus = Pane::Pools;
        }
    }

    pub(super) fn filter_of(&self, pane: Pane) -> &String {
        match pane {
            Pane::Pools => &self.filter,
            Pane::Events => &self.events.filter,
            Pane::Log => &self.log.filter,
        }
    }

    pub(super) fn filter_of_mut(&mut self, pane: Pane) -> &mut String {
        fn of<T>(lines: &mut Lines<T>) -> &mut String {
            lines.below = 0;
            &mut lines.filter
        }
        match pane {
            Pane::Pools => &mut self.filter,
            Pane::Events => of(&mut self.events),
            Pane::Log => of(&mut self.log),
        }
    }

    pub(super) fn mouse(&mut self, mouse: MouseEvent) -> Vec<Action> {
        if self.question.is_some() || self.prompt.is_some() || self.cover.is_some() {
            return vec![];
        }
        let at = Position::new(mouse.column, mouse.row);
        let is_in = |area: Rect| area.contains(at);
        let pane = match () {
            () if is_in(self.drawn.table) => Pane::Pools,
            () if is_in(self.drawn.events) => Pane::Events,
            () if is_in(self.drawn.log) => Pane::Log,
            () => return vec![],
        };
        match mouse.kind {
            MouseEventKind::ScrollUp if pane == Pane::Pools => self.scroll(pane, -1),
            MouseEventKind::ScrollDown if pane == Pane::Pools => self.scroll(pane, 1),
            MouseEventKind::ScrollUp => self.scroll(pane, -WHEEL),
            MouseEventKind::ScrollDown => self.scroll(pane, WHEEL),
            MouseEventKind::Down(MouseButton::Left) => {
                self.focus_on(pane);
                let mut rows = self.drawn.rows.iter();
                let clicked = rows.find(|(row, _)| *row == mouse.row && pane == Pane::Pools);
                match clicked.map(|(_, target)| target.clone()) {
                    // A second click on a pool.
                    Some(target)
                        if self.selected.as_ref() == Some(&target) && target.slot.is_none() =>
                    {
                        self.open();
                    }
                    Some(target) => self.selected = Some(target),
                    None => {}
                }
            }
            _ => {}
        }
        vec![]
    }
}
