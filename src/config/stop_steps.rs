//! `stop` of a pool: one duration, or steps that say which signal is sent to what, and how long each waits.

use super::foreign_values;
use super::kinds::{Choice, Duration, Own};
use super::reader::{Located, Parser, Value, in_order};
use super::report::shown;
use super::section::{Written, section};
use super::shapes::{self, Shape};
use super::tables;
use super::units;
use super::value_shapes;
use rotad_core::{Signal, Span, StopStep, To};
use toml::de::DeValue;

section! {
    struct Step {
        signal: Written<Signal>, Own("signal", value_shapes::signal, signal),
            "the signal that is sent; without it the step only waits";
        wait: Written<Span>, Duration,
            "how long the worker has before the next step; after the last one it gets SIGKILL";
        to: Written<To>, Choice(&[("main", To::Main), ("tree", To::Tree)]),
            "who gets the signal: the worker itself (`main`, the default), or its children as well (`tree`)";
    }
}

/// The stop steps for a stop that is given as one duration.
pub(super) fn term(wait: Span) -> Vec<StopStep> {
    vec![StopStep {
        signal: Some(Signal::TERM),
        wait,
        to: To::Main,
    }]
}

pub(super) fn shape() -> Shape {
    let step = shapes::inline::<Step>(&["wait"]);
    shapes::any(vec![shapes::duration(), shapes::list(step, 1)])
}

pub(super) fn read(parser: &mut Parser, value: &Value<'_>) -> Option<Vec<StopStep>> {
    let DeValue::Array(steps) = value.get_ref() else {
        if let Some(hint) = foreign_values::stop(value.get_ref()) {
            let what = "a duration such as \"30s\", or a list of steps";
            parser.expected_with(value, what, Some(hint));
            return None;
        }
        return parser.duration(value).map(|span| term(span.value));
    };
    let steps: Vec<Option<StopStep>> = steps.iter().map(|value| step(parser, value)).collect();
    let steps: Vec<StopStep> = steps.into_iter().collect::<Option<_>>()?;
    if steps.is_empty() {
        parser.error_with(
            &value.span(),
            "a stop without steps",
            "write \"0s\" for SIGTERM and SIGKILL at once",
        );
        return None;
    }
    if steps.iter().all(|step| step.signal.is_none()) {
        parser.warning(
            &value.span(),
            "no step of this stop has a signal: workers are killed unwarned",
            "add { signal = \"TERM\", wait = \"30s\" }",
        );
    }
    Some(steps)
}

fn signal(parser: &mut Parser, value: &Value<'_>) -> Option<Located<Signal>> {
    parser.parsed(value, units::SIGNAL, |text| {
        units::signal(text).ok_or(format!("unknown signal \"{}\"", shown(text)))
    })
}

fn step(parser: &mut Parser, value: &Value<'_>) -> Option<StopStep> {
    let DeValue::Table(table) = value.get_ref() else {
        parser.expected(
            value,
            "a step such as { signal = \"QUIT\", wait = \"20s\" }",
        );
        return None;
    };
    let (step, sound) = tables::read_inline::<Step>(parser, &in_order(table), "key");
    let Step { signal, wait, to } = step;
    if wait.is_none() && sound {
        parser.error_with(
            &value.span(),
            "a step without `wait`",
            "write how long: wait = \"5s\" (or \"0s\")",
        );
        return None;
    }
    if let (Some(to), None, true) = (&to, &signal, sound) {
        parser.error_with(
            &to.span,
            "`to` without `signal` does nothing",
            "add signal = \"TERM\", or leave `to` out",
        );
        return None;
    }
    Some(StopStep {
        signal: signal.map(|at| at.value),
        wait: wait?.value,
        to: to.map_or(To::Main, |at| at.value),
    })
}
