//! [hooks.NAME]: commands that are run for events.

use super::kinds::{Duration, Kept};
use super::preflight::{self, Needs};
use super::reader::{Located, Parser, Value};
use super::report::shown;
use super::section::{Setting, section};
use super::shapes::{self, Shape};
use super::{templates, values};
use crate::plan::{EventKind, HookPlan};
use rotad_core::Span;

/// How long a run of a hook may take by default.
const TIMEOUT: Span = Span::from_secs(10);

section! {
    pub(super) struct Hook = "[hooks.NAME]" {
        on: Option<Vec<Located<String>>>, Kept("event or list", on_shape, on), default "required",
            "the events that it is run for: docs/events.md, and `roll-done`, `rolled-back`, `roll-aborted`";
        command: Option<Located<Vec<Located<String>>>>, Kept("command", shapes::command, values::command),
            default "required",
            "the program and its arguments; an event is a line of JSON on its stdin";
        timeout: Setting<Span> = TIMEOUT, Duration,
            "a run that takes longer is killed, with all that it has started";
    }
}

fn on_shape() -> Shape {
    shapes::one_or_list(shapes::words(HookPlan::event_names()), 1)
}

/// Names of events; those that are none have a finding each.
fn on(parser: &mut Parser, value: &Value<'_>) -> Vec<Located<String>> {
    const WHAT: &str = "names of events such as [\"rolled-back\", \"crash-loop\"]";
    let Some(names) = parser.texts(value, WHAT) else {
        return Vec::new();
    };
    if names.value.is_empty() {
        let hint = "name those that it is for, such as \"rolled-back\"";
        parser.error_with(&names.span, "a hook for no event", hint);
    }
    for (index, name) in names.value.iter().enumerate() {
        let before = &names.value[..index];
        if before.iter().any(|other| other.value == name.value) {
            let message = format!("`{}` is named twice", shown(&name.value));
            parser.error(&name.span, message);
        } else {
            known(parser, name);
        }
    }
    names.value
}

fn known(parser: &mut Parser, name: &Located<String>) {
    if name.value.contains('*') || name.value == "all" {
        let hint = "write the names: a rolling restart alone has dozens of events (`rotad events` shows them)";
        let message = format!(
            "`{}`: the events of a hook are named one by one",
            shown(&name.value)
        );
        parser.error_with(&name.span, message, hint);
    } else if name.value == EventKind::HookFailed.word() {
        let hint = "leave it out: `rotad events` and the log have it";
        parser.error_with(
            &name.span,
            "no hook is run for a failed hook: it could fail again",
            hint,
        );
    } else if !HookPlan::event_names().any(|known| known == name.value) {
        let known: Vec<&str> = HookPlan::event_names().collect();
        parser.unknown(&name.span, "event", &name.value, &known);
    }
}

/// Makes the hooks of the plan.
pub(super) fn make(parser: &mut Parser, hooks: Vec<(Located<String>, Hook)>) -> Vec<HookPlan> {
    hooks
        .into_iter()
        .map(|(name, hook)| one(parser, &name, hook))
        .collect()
}

fn one(parser: &mut Parser, name: &Located<String>, hook: Hook) -> HookPlan {
    if let Some(at) = hook
        .timeout
        .written
        .as_ref()
        .filter(|at| at.value == Span::ZERO)
    {
        let hint = "leave it out for the default";
        parser.error_with(&at.span, "no hook ends in no time", hint);
    }
    let words = hook.command.as_ref().map_or(&[][..], |at| &at.value[..]);
    let command: Vec<_> = words
        .iter()
        .map(|word| templates::of_hook(parser, word))
        .collect();
    if hook.command.is_none() {
        let hint = "add command = [\"PROGRAM\", \"ARGUMENT\"]";
        parser.missing("hook", name, "command", hint);
    } else if let (Some(at), Some(first)) = (&hook.command, command.first()) {
        let directory = parser.base.clone();
        let needs = Needs {
            directory: &directory,
            path: std::env::var_os("PATH"),
            without: "the hook fails without it",
            set_path: "write its whole path",
        };
        preflight::program(parser, first, &needs, &at.span);
    }
    if hook.on.is_none() {
        parser.missing(
            "hook",
            name,
            "on",
            "add on = [\"rolled-back\", \"crash-loop\"]",
        );
    }
    HookPlan {
        name: name.value.clone(),
        on: hook
            .on
            .into_iter()
            .flatten()
            .map(|name| name.value)
            .collect(),
        command,
        timeout: hook.timeout.value().into(),
        directory: parser.base.clone(),
    }
}
