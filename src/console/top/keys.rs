//! The keys: one table, from which the help and docs/top.md are made.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Open,
    Unfold,
    Fold,
    NextPane,
    PaneBefore,
    NextTrouble,
    Filter,
    Command,
    Roll,
    RollBack,
    More,
    Fewer,
    Stop,
    Start,
    Outcome,
    Events,
    Wrap,
    Mouse,
    Help,
    Back,
    Redraw,
    Suspend,
    Quit,
}

/// A row of the table.
#[derive(Debug)]
pub(super) struct Binding {
    /// As the help shows it.
    pub(super) shown: &'static str,
    /// What it does, for users.
    pub(super) does: &'static str,
    act: Act,
    keys: &'static [(KeyCode, KeyModifiers)],
}

const fn plain(code: KeyCode) -> (KeyCode, KeyModifiers) {
    (code, KeyModifiers::NONE)
}

const fn letter(letter: char) -> (KeyCode, KeyModifiers) {
    plain(KeyCode::Char(letter))
}

const fn ctrl(letter: char) -> (KeyCode, KeyModifiers) {
    (KeyCode::Char(letter), KeyModifiers::CONTROL)
}

macro_rules! bindings {
    ($($shown:literal $act:ident $does:literal [$($key:expr),*];)*) => {
        /// All keys.
        pub(super) const BINDINGS: &[Binding] = &[$(Binding {
            shown: $shown,
            does: $does,
            act: Act::$act,
            keys: &[$($key),*],
        },)*];
    };
}

bindings! {
    "↑ k" Up "one line up" [plain(KeyCode::Up), letter('k')];
    "↓ j" Down "one line down" [plain(KeyCode::Down), letter('j')];
    "PgUp ^B" PageUp "one page up" [plain(KeyCode::PageUp), ctrl('b')];
    "PgDn ^F" PageDown "one page down" [plain(KeyCode::PageDown), ctrl('f')];
    "g Home" First "to the first line" [letter('g'), plain(KeyCode::Home)];
    "G End" Last "to the last line; a pane follows again" [letter('G'), plain(KeyCode::End)];
    "Enter" Open "a pool: its slots; a slot: its log; a pane: the whole screen" [plain(KeyCode::Enter)];
    "→ l" Unfold "show the slots of a pool" [plain(KeyCode::Right), letter('l')];
    "← h" Fold "hide the slots of a pool" [plain(KeyCode::Left), letter('h')];
    "Tab" NextPane "next pane: pools, events, log" [plain(KeyCode::Tab)];
    "Shift-Tab" PaneBefore "pane before" [plain(KeyCode::BackTab)];
    "!" NextTrouble "to the next pool in trouble" [letter('!')];
    "/" Filter "filter the pane by a text" [letter('/')];
    ":" Command "type a command: `scale web 4`, `reload`, `cancel`" [letter(':')];
    "r" Roll "roll the pool or the slot" [letter('r')];
    "b" RollBack "roll the pool back" [letter('b')];
    "+" More "one worker more" [letter('+'), letter('=')];
    "-" Fewer "one worker fewer" [letter('-')];
    "s" Stop "stop the pool" [letter('s')];
    "S" Start "start the pool again" [letter('S')];
    "o" Outcome "what the last command did" [letter('o')];
    "e" Events "events of the row, or all" [letter('e')];
    "w" Wrap "wrap or cut long lines" [letter('w')];
    "m" Mouse "mouse, or text selection" [letter('m')];
    "?" Help "these keys" [letter('?'), plain(KeyCode::F(1))];
    "Esc" Back "close, clear the filter, back to the pools" [plain(KeyCode::Esc)];
    "^L" Redraw "draw the screen again" [ctrl('l')];
    "^Z" Suspend "suspend; `fg` goes on" [ctrl('z')];
    "q ^C" Quit "quit" [letter('q'), ctrl('c')];
}

/// What this key does outside of a prompt.
pub(super) fn act(key: &KeyEvent) -> Option<Act> {
    // Whether Shift is reported beside a letter depends on the terminal.
    let with = key.modifiers - KeyModifiers::SHIFT;
    let is_key = |wanted: &(KeyCode, KeyModifiers)| *wanted == (key.code, with);
    let binding = BINDINGS.iter().find(|one| one.keys.iter().any(is_key))?;
    Some(binding.act)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_key_has_one_meaning() {
        let keys: Vec<_> = BINDINGS.iter().flat_map(|one| one.keys).collect();
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{key:?}");
        }
        let shifted = KeyEvent::new(KeyCode::Char('G'), KeyModifiers::SHIFT);
        assert_eq!(act(&shifted), Some(Act::Last));
        let other = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::ALT);
        assert_eq!(act(&other), None);
    }

    /// The table in docs/top.md.
    #[test]
    fn the_page_has_these_keys() {
        let begin =
            "<!-- keys: made from the code; UPDATE_EXPECT=1 cargo test -p rotad-console -->";
        let end = "<!-- end of keys -->";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/top.md");
        let page = std::fs::read_to_string(&path).expect("docs/top.md");
        let (before, rest) = page.split_once(begin).expect("the mark of its beginning");
        let (_, after) = rest.split_once(end).expect("the mark of its end");
        let rows = BINDINGS.iter().map(|one| {
            let keys = one.shown.split(' ').map(|key| format!("`{key}`"));
            let keys: Vec<String> = keys.collect();
            format!("| {} | {} |\n", keys.join(" "), one.does)
        });
        let table = format!("| key | |\n|---|---|\n{}", rows.collect::<String>());
        let expected = format!("{before}{begin}\n\n{table}\n{end}{after}");
        if page != expected && std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, &expected).expect("docs/top.md");
            return;
        }
        assert!(
            page == expected,
            "docs/top.md is not what the code says: UPDATE_EXPECT=1 cargo test -p rotad-console"
        );
    }
}
