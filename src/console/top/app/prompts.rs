//! Lines that are typed, commands, and the questions before them.

use super::{Action, App, Cover};
use crate::top::prompt::{Kind, Prompt, Typed, remember};
use crate::top::question::{self, Question};
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use rotad::cli::typed;
use rotad::control::protocol::Method;

impl App {
    pub(super) fn type_key(&mut self, key: &KeyEvent) -> Vec<Action> {
        let Some(mut prompt) = self.prompt.take() else {
            return vec![];
        };
        let names: Vec<&str> = self.pool_names();
        match (prompt.key(key, &names, &self.commands), prompt.kind) {
            (Typed::Goes, kind) => {
                if let Kind::Filter(pane) = kind {
                    *self.filter_of_mut(pane) = prompt.text.clone();
                    self.keep_selection();
                }
                self.prompt = Some(prompt);
            }
            (Typed::Left, Kind::Filter(pane)) => {
                self.filter_of_mut(pane).clear();
                self.keep_selection();
            }
            (Typed::Left, Kind::Command) | (Typed::Entered, Kind::Filter(_)) => {}
            (Typed::Entered, Kind::Command) => return self.entered(prompt.text.trim()),
        }
        vec![]
    }

    pub(in crate::top) fn pool_names(&self) -> Vec<&str> {
        let pools = self.shown.status.pools.iter();
        pools.map(|pool| pool.name.as_str()).collect()
    }

    fn entered(&mut self, line: &str) -> Vec<Action> {
        // A command that was copied from a shell.
        let line = line.strip_prefix("rotad ").unwrap_or(line).trim();
        match line {
            "" => vec![],
            "q" | "quit" | "exit" => vec![Action::Quit],
            "h" | "help" | "?" => {
                self.cover = Some(Cover::Help);
                vec![]
            }
            line => {
                remember(&mut self.commands, line);
                self.command(line)
            }
        }
    }

    /// A command line, without `rotad`.
    pub(super) fn command(&mut self, line: &str) -> Vec<Action> {
        let methods = match typed::requests(line) {
            Ok(methods) => methods,
            Err(error) => {
                self.notice = Some(error);
                return vec![];
            }
        };
        let mut command = format!("rotad {line}");
        if let Some(config) = &self.config {
            command += &format!(" {}", typed::line(&["-c", config]));
        }
        match question::text(&methods, &self.shown.status) {
            Some(text) => {
                self.question = Some(Question {
                    command,
                    text,
                    methods,
                });
                vec![]
            }
            None => self.ask(command, methods),
        }
    }

    pub(super) fn answer(&mut self, key: &KeyEvent) -> Vec<Action> {
        let Some(question) = self.question.take() else {
            return vec![];
        };
        match key.code {
            KeyCode::Char('y' | 'Y') => return self.ask(question.command, question.methods),
            KeyCode::Char('n' | 'N' | 'q' | 'c') | KeyCode::Esc => {
                self.notice = Some(format!("not sent: {}", question.command));
            }
            _ => self.question = Some(question),
        }
        vec![]
    }

    fn ask(&mut self, command: String, methods: Vec<Method>) -> Vec<Action> {
        match self.runs.begin(command, self.now.passed) {
            Some(id) => vec![Action::Ask(id, methods)],
            None => {
                self.notice =
                    Some("too many commands are under way: wait until one is done".to_owned());
                vec![]
            }
        }
    }

    /// Only a prompt takes text: pasted lines are no keys.
    pub(super) fn paste(&mut self, text: &str) -> Vec<Action> {
        if let Some(prompt) = &mut self.prompt {
            prompt.add(text);
            let Prompt { kind, text, .. } = prompt;
            if let Kind::Filter(pane) = *kind {
                let text = text.clone();
                *self.filter_of_mut(pane) = text;
                self.keep_selection();
            }
        }
        vec![]
    }
}
