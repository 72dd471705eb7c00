//! Texts of a pool with placeholders.

use super::reader::{Located, Parser};
use crate::plan::{Address, Context, Fault, ListenPlan, Piece, Sockets, Template};
use std::path::Path;

/// What the placeholders of one pool may name.
pub(super) struct Templates<'a> {
    pub(super) listeners: &'a [ListenPlan],
    /// So many of them lie at 3, 4, …
    pub(super) passed: usize,
    /// No listener of the pool has been refused, so a name that is not there is news.
    pub(super) complete: bool,
    /// The pool has `ports`.
    pub(super) ports: bool,
    /// `{port}` has been met.
    pub(super) uses_port: bool,
}

impl Templates<'_> {
    /// A checked template; `None` after a finding.
    pub(super) fn parse(&mut self, cx: &mut Parser, text: &Located<String>) -> Option<Template> {
        match Template::parse(&text.value, Sockets { listen: self.listeners, passed: self.passed }) {
            Ok(template) => {
                let port = template.0.contains(&Piece::Port);
                self.uses_port |= port;
                if !port || self.ports {
                    return Some(template);
                }
                let hint = "add ports = \"3000-3009\", or write `{port:NAME}` for the port of a listener";
                cx.error_with(&text.span, "`{port}` without `ports`", hint);
            }
            Err(fault) if !self.complete && fault.unknown_listener => {}
            Err(Fault { message, hint: Some(hint), .. }) => cx.error_with(&text.span, message, hint),
            Err(Fault { message, hint: None, .. }) => cx.error(&text.span, message),
        }
        None
    }

    /// The same; after a finding the text as it is, for a plan that is refused anyway.
    pub(super) fn text(&mut self, cx: &mut Parser, text: &Located<String>) -> Template {
        self.parse(cx, text).unwrap_or_else(|| Template::literal(text.value.clone()))
    }

    /// What a template may become, for a look at its shape.
    pub(super) fn sample(&self, template: &Template) -> String {
        // Port 0 is a port that the kernel will choose.
        let bound = |address: &Address| match address {
            Address::Tcp(address) if address.port() == 0 => Address::Tcp((address.ip(), 1).into()),
            other => other.clone(),
        };
        let addresses: Vec<Address> = self.listeners.iter().map(|plan| bound(&plan.address)).collect();
        let rotad = Path::new("/rotad");
        let context = Context { addresses: &addresses, pool: "pool", slot: 0, generation: 1, port: Some(3000), rotad };
        template.expand(&context).to_string_lossy().into_owned()
    }
}
