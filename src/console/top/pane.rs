//! The panes, and a list of lines that follows its end until it is scrolled.

use std::collections::VecDeque;

/// Where keys go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pane {
    #[default]
    Pools,
    Events,
    Log,
}

impl Pane {
    pub(super) const ALL: [Self; 3] = [Self::Pools, Self::Events, Self::Log];

    /// The one after it, in a circle.
    pub(super) fn next(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|one| *one == self).unwrap_or(0);
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

/// How many lines a list keeps.
const KEPT: usize = 2000;

/// Lines of one kind, the newest last.
#[derive(Debug)]
pub(super) struct Lines<T> {
    kept: VecDeque<T>,
    /// How many of the lines that are shown lie below the last one on the screen; 0: it follows.
    pub(super) below: usize,
    /// Only lines with this text are shown.
    pub(super) filter: String,
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            below: 0,
            filter: String::new(),
        }
    }
}

impl<T> Lines<T> {
    /// `is_shown`: it passes the filter. What is looked at stays where it is.
    pub(super) fn push(&mut self, line: T, is_shown: bool) {
        self.kept.push_back(line);
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        if self.below > 0 && is_shown {
            self.below += 1;
        }
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.below = 0;
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.kept.iter()
    }

    /// Scrolls by this many lines, down if positive, among `shown` lines in all.
    pub(super) fn scroll(&mut self, lines: isize, shown: usize) {
        let below = self.below.saturating_add_signed(-lines);
        self.below = below.min(shown.saturating_sub(1));
    }
}

/// Whether a text has the filter's, in any case.
pub(super) fn passes(filter: &str, text: &str) -> bool {
    filter.is_empty() || text.to_lowercase().contains(&filter.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_stays() {
        let mut lines = Lines::default();
        for n in 0..10 {
            lines.push(n, true);
        }
        assert_eq!(lines.below, 0);
        lines.scroll(-3, 10);
        lines.push(10, true);
        lines.push(11, false);
        assert_eq!(lines.below, 4);
        lines.scroll(100, 12);
        assert_eq!(lines.below, 0);
        lines.scroll(-100, 12);
        assert_eq!(lines.below, 11);
        for n in 0..2 * KEPT {
            lines.push(n, true);
        }
        assert_eq!(lines.iter().count(), KEPT);
    }

    #[test]
    fn panes_go_round() {
        assert_eq!(Pane::Log.next(1), Pane::Pools);
        assert_eq!(Pane::Pools.next(2), Pane::Log);
        assert!(passes("EXIT", "web: exit 3") && !passes("x", "a"));
    }
}
