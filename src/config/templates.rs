//! Texts of a pool with placeholders.

use super::reader::{Located, Parser};
use crate::plan::{Address, Context, Fault, ListenPlan, Piece, Sockets, Template};
use std::path::Path;

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
        match Template::parse(
            &text.value,
            Sockets {
                listen: self.listeners,
                passed: self.passed,
            },
        ) {
            Ok(template) => {
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
            Err(Fault {
                message,
                hint: Some(hint),
                ..
            }) => parser.error_with(&text.span, message, hint),
            Err(Fault {
                message,
                hint: None,
                ..
            }) => parser.error(&text.span, message),
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
