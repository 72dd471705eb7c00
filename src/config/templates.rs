//! Texts of a pool with placeholders.

use super::reader::{Located, Parser};
use super::values;
use crate::plan::{Address, Context, Fault, ListenPlan, Names, Piece, Template};
use std::ffi::OsString;
use std::path::Path;

/// A variable of the environment that the configuration is read in: the master's own.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// What the placeholders of one pool may name.
pub(super) struct Templates<'a> {
    pub(super) listeners: &'a [ListenPlan],
    /// How many of them are at descriptors 3, 4, …
    pub(super) passed: usize,
    /// No listener of the pool has a finding, so an unknown name is worth reporting.
    pub(super) complete: bool,
    /// The pool has `ports`.
    pub(super) ports: bool,
    /// `{port}` was used.
    pub(super) uses_port: bool,
}

impl Templates<'_> {
    /// A parsed template; `None` if it has a finding.
    pub(super) fn parse(
        &mut self,
        parser: &mut Parser,
        text: &Located<String>,
    ) -> Option<Template> {
        let names = Names {
            listen: self.listeners,
            passed: self.passed,
            env: variable,
        };
        match Template::parse(&text.value, names) {
            Ok(template) => {
                passes_on(parser, &template, text)?;
                let port = template.0.contains(&Piece::Port);
                self.uses_port |= port;
                if !port || self.ports {
                    return Some(template);
                }
                let hint =
                    "add ports = \"3000-3009\", or write `{port:NAME}` for the port of a listener";
                parser.error_with(&text.span, "`{port}` without `ports`", hint);
            }
            Err(fault) if !self.complete && fault.unknown_listener => {}
            Err(fault) => report(parser, text, fault),
        }
        None
    }

    /// As above, but with a finding the text stands for itself, in a plan that is refused anyway.
    pub(super) fn text(&mut self, parser: &mut Parser, text: &Located<String>) -> Template {
        self.parse(parser, text)
            .unwrap_or_else(|| Template::literal(text.value.clone()))
    }

    /// A sample expansion, to check its form.
    pub(super) fn sample(&self, template: &Template) -> String {
        // Port 0 is a port that the kernel will choose.
        let bound = |address: &Address| match address {
            Address::Tcp(address) if address.port() == 0 => Address::Tcp((address.ip(), 1).into()),
            other => other.clone(),
        };
        let addresses: Vec<Address> = self
            .listeners
            .iter()
            .map(|plan| bound(&plan.address))
            .collect();
        let rotad = Path::new("/rotad");
        let context = Context {
            addresses: &addresses,
            pool: "pool",
            slot: 0,
            generation: 1,
            port: Some(3000),
            rotad,
            node_preload: rotad,
        };
        template.expand(&context).to_string_lossy().into_owned()
    }
}

fn report(parser: &mut Parser, text: &Located<String>, fault: Fault) {
    match fault.hint {
        Some(hint) => parser.error_with(&text.span, fault.message, hint),
        None => parser.error(&text.span, fault.message),
    }
}

/// `None`, with a finding, if a variable of the template is the master's alone.
fn passes_on(parser: &mut Parser, template: &Template, text: &Located<String>) -> Option<()> {
    let own = template.0.iter().find_map(|piece| match piece {
        Piece::Env { name, .. } => values::is_masters(name).then_some(name),
        _ => None,
    });
    let Some(name) = own else { return Some(()) };
    let message = format!("the master's own `{name}` is never passed on");
    parser.error(&text.span, message);
    None
}

/// A word of a hook's command: `{env:NAME}` and `{rotad}` are possible. With a finding the text stands for itself, in a plan
/// that is refused anyway.
pub(super) fn of_hook(parser: &mut Parser, text: &Located<String>) -> Template {
    let names = Names {
        listen: &[],
        passed: 0,
        env: variable,
    };
    let possible =
        |piece: &Piece| matches!(piece, Piece::Text(_) | Piece::Env { .. } | Piece::Rotad);
    match Template::parse(&text.value, names) {
        Ok(template) if template.0.iter().all(possible) => {
            if passes_on(parser, &template, text).is_some() {
                return template;
            }
        }
        Err(fault) if !fault.unknown_listener => report(parser, text, fault),
        Ok(_) | Err(_) => {
            let hint = "possible here: `{env:NAME}` and `{rotad}`; `{{` is a brace. What the event concerns is in its \
                        JSON";
            parser.error_with(
                &text.span,
                "a hook belongs to no pool: this placeholder has no value",
                hint,
            );
        }
    }
    Template::literal(text.value.clone())
}

/// The text of a path, which is read with the configuration: `{pool}`, `{env:NAME}`, and with `per_slot` `{slot}`. `None` if
/// it has a finding. `what`: what a message calls it.
pub(super) fn path(
    parser: &mut Parser,
    text: &Located<String>,
    pool: &str,
    per_slot: bool,
    what: &str,
) -> Option<Template> {
    if parser.refuses_path(text) {
        return None;
    }
    let names = Names {
        listen: &[],
        passed: 0,
        env: variable,
    };
    let possible = |piece: &Piece| match piece {
        Piece::Text(_) | Piece::Env { .. } | Piece::Pool => true,
        Piece::Slot => per_slot,
        _ => false,
    };
    let parsed = Template::parse(&text.value, names);
    match parsed {
        Ok(mut template) if template.0.iter().all(possible) => {
            passes_on(parser, &template, text)?;
            for piece in &mut template.0 {
                if *piece == Piece::Pool {
                    *piece = Piece::Text(pool.to_owned());
                }
            }
            return Some(template);
        }
        Err(fault) if !fault.unknown_listener => report(parser, text, fault),
        Ok(_) | Err(_) => {
            let slot = if per_slot { ", `{slot}`" } else { "" };
            let hint =
                format!("possible here: `{{pool}}`{slot} and `{{env:NAME}}`; `{{{{` is a brace");
            parser.error_with(
                &text.span,
                format!("this placeholder cannot stand in the path of {what}"),
                hint,
            );
        }
    }
    None
}
