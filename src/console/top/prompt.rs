//! A line that is typed: a filter or a command.

use super::pane::Pane;
use super::text::width;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use rotad::cli::typed;

/// The longest line that is taken, in columns.
const MAX_WIDTH: usize = 1000;
/// How many commands are remembered.
const REMEMBERED: usize = 50;

/// What is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A filter of this pane.
    Filter(Pane),
    /// A command.
    Command,
}

/// What a key has led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// The line has changed, or not.
    Goes,
    /// Enter.
    Entered,
    /// Esc.
    Left,
}

/// The line.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) kind: Kind,
    pub(super) text: String,
    /// How far back in the remembered commands.
    back: usize,
}

impl Prompt {
    pub(super) fn new(kind: Kind, text: String) -> Self {
        let back = 0;
        Self { kind, text, back }
    }

    /// `names`: of pools, to be completed. `history`: earlier commands, the oldest first.
    pub(super) fn key(&mut self, key: &KeyEvent, names: &[&str], history: &[String]) -> Typed {
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => return Typed::Entered,
            KeyCode::Esc => return Typed::Left,
            KeyCode::Char('c') if ctrl => return Typed::Left,
            KeyCode::Char('u') if ctrl => self.text.clear(),
            KeyCode::Char('w') if ctrl => {
                let kept = self.text.trim_end().rfind(' ').map_or(0, |at| at + 1);
                self.text.truncate(kept);
            }
            KeyCode::Backspace if self.text.is_empty() => return Typed::Left,
            KeyCode::Backspace => drop(self.text.pop()),
            KeyCode::Char(letter) if !ctrl && !key.modifiers.contains(KeyModifiers::ALT) => {
                self.add(letter.encode_utf8(&mut [0; 4]));
            }
            KeyCode::Tab if self.kind == Kind::Command => self.complete(names),
            KeyCode::Up if self.kind == Kind::Command => self.recall(self.back + 1, history),
            KeyCode::Down if self.kind == Kind::Command && self.back > 0 => {
                self.recall(self.back - 1, history);
            }
            _ => {}
        }
        Typed::Goes
    }

    /// Adds text, as far as it is one line and not too long.
    pub(super) fn add(&mut self, text: &str) {
        for letter in text.chars().take_while(|letter| !letter.is_control()) {
            if width(&self.text) < MAX_WIDTH {
                self.text.push(letter);
            }
        }
    }

    fn recall(&mut self, back: usize, history: &[String]) {
        let found = match back {
            0 => Some(""),
            back => history.iter().rev().nth(back - 1).map(String::as_str),
        };
        if let Some(found) = found {
            (self.text, self.back) = (found.to_owned(), back);
        }
    }

    /// What the last word may become: verbs, then pools.
    pub(super) fn candidates<'n>(&self, names: &[&'n str]) -> Vec<&'n str> {
        let (before, word) = self.last_word();
        let known = match before.trim().is_empty() {
            true => typed::VERBS
                .iter()
                .chain(&["help", "quit"])
                .copied()
                .collect(),
            false => names.to_vec(),
        };
        let fits = |name: &&str| name.starts_with(word) && *name != word;
        known.into_iter().filter(fits).collect()
    }

    fn complete(&mut self, names: &[&str]) {
        let candidates = self.candidates(names);
        let Some(first) = candidates.first() else {
            return;
        };
        let common = candidates.iter().fold(*first, |common, name| {
            let same = common.chars().zip(name.chars());
            let same = same.take_while(|(one, other)| one == other);
            let len = same.map(|(letter, _)| letter.len_utf8()).sum();
            &common[..len]
        });
        let mut text = self.last_word().0.to_owned() + common;
        if candidates.len() == 1 {
            text.push(' ');
        }
        self.text = text;
    }

    fn last_word(&self) -> (&str, &str) {
        let at = self.text.rfind(' ').map_or(0, |at| at + 1);
        self.text.split_at(at)
    }
}

/// Remembers a command.
pub(super) fn remember(history: &mut Vec<String>, command: &str) {
    history.retain(|known| known != command);
    history.push(command.to_owned());
    if history.len() > REMEMBERED {
        history.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(prompt: &mut Prompt, code: KeyCode) -> Typed {
        let history = ["reload".to_owned(), "roll web".to_owned()];
        prompt.key(
            &KeyEvent::from(code),
            &["web", "web-admin", "jobs"],
            &history,
        )
    }

    #[test]
    fn verbs_and_pools_are_completed() {
        let mut prompt = Prompt::new(Kind::Command, "ro".to_owned());
        press(&mut prompt, KeyCode::Tab);
        assert_eq!(prompt.text, "roll");
        assert_eq!(prompt.candidates(&[]), ["rollback"]);
        prompt.add(" w");
        press(&mut prompt, KeyCode::Tab);
        assert_eq!(prompt.text, "roll web");
        press(&mut prompt, KeyCode::Tab);
        assert_eq!(prompt.text, "roll web-admin ");
        press(&mut prompt, KeyCode::Tab);
        assert_eq!(prompt.text, "roll web-admin ");
    }

    #[test]
    fn earlier_commands_come_back() {
        let mut prompt = Prompt::new(Kind::Command, String::new());
        for (code, text) in [
            (KeyCode::Up, "roll web"),
            (KeyCode::Up, "reload"),
            (KeyCode::Up, "reload"),
            (KeyCode::Down, "roll web"),
            (KeyCode::Down, ""),
        ] {
            press(&mut prompt, code);
            assert_eq!(prompt.text, text);
        }
        let mut history = Vec::new();
        for command in ["a", "b", "a"] {
            remember(&mut history, command);
        }
        assert_eq!(history, ["b", "a"]);
    }

    #[test]
    fn a_line_is_edited_and_left() {
        let mut prompt = Prompt::new(Kind::Filter(Pane::Log), "a b".to_owned());
        prompt.add("c\nrm");
        assert_eq!(prompt.text, "a bc");
        let ctrl = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
        prompt.key(&ctrl('w'), &[], &[]);
        assert_eq!(prompt.text, "a ");
        prompt.key(&ctrl('u'), &[], &[]);
        assert_eq!(press(&mut prompt, KeyCode::Backspace), Typed::Left);
        assert_eq!(press(&mut prompt, KeyCode::Esc), Typed::Left);
        assert_eq!(press(&mut prompt, KeyCode::Enter), Typed::Entered);
    }
}
