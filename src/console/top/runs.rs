//! Commands that were sent to the master, and what came of them.

use rotad::cli::progress::Progress;
use rotad::control::protocol::Response;
use rotad::exit_code::ExitCode;
use std::time::Duration;

/// How many lines of progress one keeps.
const MAX_LINES: usize = 2000;
/// So many are under way at most: each has a connection to the master.
const MAX_UNDER_WAY: usize = 8;
/// A success is shown this long.
const SHOWN: Duration = Duration::from_secs(10);

/// One command.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: u64,
    /// As it would be typed in a shell.
    pub(super) command: String,
    /// What it has printed.
    pub(super) lines: Vec<String>,
    pub(super) began: Duration,
    pub(super) end: Option<End>,
}

#[derive(Debug)]
pub(super) struct End {
    pub(super) code: ExitCode,
    pub(super) at: Duration,
}

/// The latest command, and how many are under way.
#[derive(Debug, Default)]
pub(super) struct Runs {
    last: u64,
    under_way: Vec<u64>,
    shown: Option<Run>,
    pub(super) dismissed: bool,
}

impl Runs {
    /// None: too many are under way.
    pub(super) fn begin(&mut self, command: String, now: Duration) -> Option<u64> {
        if self.under_way.len() >= MAX_UNDER_WAY {
            return None;
        }
        self.last += 1;
        self.under_way.push(self.last);
        self.dismissed = false;
        self.shown = Some(Run {
            id: self.last,
            command,
            lines: Vec::new(),
            began: now,
            end: None,
        });
        Some(self.last)
    }

    /// Progress of a command, in the words of the command line.
    pub(super) fn progress(&mut self, id: u64, response: &Response) {
        let (terminal, colour) = (true, false);
        let text = Progress { terminal, colour }.line(response);
        if let Some(run) = self.shown.as_mut().filter(|run| run.id == id)
            && run.lines.len() < MAX_LINES
        {
            run.lines.extend(text.lines().map(super::text::clean));
        }
    }

    /// `text`: what the command line prints at the end.
    pub(super) fn end(&mut self, id: u64, code: ExitCode, text: &str, at: Duration) {
        self.under_way.retain(|other| *other != id);
        if let Some(run) = self.shown.as_mut().filter(|run| run.id == id) {
            run.lines.extend(text.lines().map(super::text::clean));
            run.end = Some(End { code, at });
            self.dismissed = false;
        }
    }

    pub(super) fn any_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    pub(super) fn latest(&self) -> Option<&Run> {
        self.shown.as_ref()
    }

    /// The latest, until it was dismissed or has been shown long enough.
    pub(super) fn shown(&self, now: Duration) -> Option<&Run> {
        let run = self.shown.as_ref().filter(|_| !self.dismissed)?;
        let old = run
            .end
            .as_ref()
            .is_some_and(|end| end.code == ExitCode::DONE && now.saturating_sub(end.at) > SHOWN);
        (!old).then_some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_goes_and_a_failure_stays() {
        let mut runs = Runs::default();
        let seconds = Duration::from_secs;
        let id = runs.begin("rotad roll web".to_owned(), seconds(1)).unwrap();
        let text = "web: new workers start\n".to_owned();
        runs.progress(id, &Response::Progress { text });
        runs.end(id, ExitCode::DONE, "web: done", seconds(2));
        assert_eq!(
            runs.shown(seconds(3)).unwrap().lines,
            ["web: new workers start", "web: done"]
        );
        assert!(runs.shown(seconds(13)).is_none() && runs.latest().is_some());
        let id = runs
            .begin("rotad roll web".to_owned(), seconds(20))
            .unwrap();
        runs.end(id, ExitCode::OLD_SERVE, "rotad: aborted", seconds(21));
        assert!(runs.shown(seconds(1000)).is_some() && !runs.any_under_way());
        runs.dismissed = true;
        assert!(runs.shown(seconds(1000)).is_none());
    }

    #[test]
    fn the_number_under_way_is_bounded() {
        let mut runs = Runs::default();
        let ids: Vec<_> = (0..20)
            .filter_map(|_| runs.begin(String::new(), Duration::ZERO))
            .collect();
        assert_eq!(ids.len(), MAX_UNDER_WAY);
        runs.end(ids[0], ExitCode::DONE, "", Duration::ZERO);
        assert!(runs.begin(String::new(), Duration::ZERO).is_some());
    }
}
