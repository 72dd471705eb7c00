//! [listen] and the addresses in pools: resolves them to listeners.

use super::accounts;
use super::paths;
use super::reader::{Located, Parser};
use super::report::{nearest, shown};
use super::section::written;
use super::sections::{BACKLOG, Listen};
use crate::plan::{Address, ListenPlan, MAX_UNIX_PATH};
use nix::unistd::Uid;
use std::net::SocketAddr;
use std::path::Path;

/// The listeners of a plan while its pools are resolved.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) plans: Vec<ListenPlan>,
    /// Names in `[listen]`, each with its listener (`None`: it has a finding) and whether a pool uses it.
    declared: Vec<Declared>,
}

struct Declared {
    name: Located<String>,
    index: Option<usize>,
    used: bool,
}

impl Listeners {
    pub(super) fn declare(parser: &mut Parser, sections: Vec<(Located<String>, Listen)>) -> Self {
        let mut all = Self::default();
        for (name, section) in sections {
            let index = all.declare_one(parser, &name, section);
            all.declared.push(Declared {
                name,
                index,
                used: false,
            });
        }
        all
    }

    fn declare_one(
        &mut self,
        parser: &mut Parser,
        name: &Located<String>,
        section: Listen,
    ) -> Option<usize> {
        let Some(written) = &section.address else {
            parser.missing(
                "listener",
                name,
                "address",
                "add address = \"127.0.0.1:8080\"",
            );
            return None;
        };
        if written.value.is_empty() {
            return None;
        }
        let address = address(parser, written)?;
        if let Some(other) = self.plans.iter().find(|plan| same(&plan.address, &address)) {
            let message = format!("`{address}` is the address of `{}` already", other.name);
            parser.error_with(
                &written.span,
                message,
                "one socket serves as many pools as name it",
            );
            return None;
        }
        let mut plan = ListenPlan {
            name: name.value.clone(),
            address,
            backlog: section.backlog.value(),
            nonblocking: section.nonblocking.value(),
            mode: None,
            uid: None,
            gid: None,
        };
        own(parser, &mut plan, &section);
        self.plans.push(plan);
        Some(self.plans.len() - 1)
    }

    /// The listener that a pool names, or whose address it gives; `None` if it has a finding.
    pub(super) fn take(&mut self, parser: &mut Parser, word: &Located<String>) -> Option<usize> {
        if let Some(declared) = self
            .declared
            .iter_mut()
            .find(|declared| declared.name.value == word.value)
        {
            declared.used = true;
            return declared.index;
        }
        if !word.value.contains(':') {
            let names = self
                .declared
                .iter()
                .map(|declared| declared.name.value.as_str());
            let hint = match nearest(&word.value, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "add [listen.{}], or write an address such as \"127.0.0.1:8000\"",
                    if paths::is_name(&word.value) {
                        &word.value
                    } else {
                        "NAME"
                    }
                ),
            };
            parser.error_with(
                &word.span,
                format!("unknown listener `{}`", shown(&word.value)),
                hint,
            );
            return None;
        }
        let address = address(parser, word)?;
        match self
            .plans
            .iter()
            .position(|plan| same(&plan.address, &address))
        {
            Some(index) if paths::is_name(&self.plans[index].name) => {
                let name = self.plans[index].name.clone();
                parser.error_with(
                    &word.span,
                    format!("`{address}` has a name"),
                    format!("write `{name}`"),
                );
                None
            }
            Some(index) => Some(index),
            None => {
                let name = word.value.clone();
                self.plans.push(ListenPlan {
                    name,
                    address,
                    backlog: BACKLOG,
                    nonblocking: false,
                    mode: None,
                    uid: None,
                    gid: None,
                });
                Some(self.plans.len() - 1)
            }
        }
    }

    /// Warns about listeners that no pool uses.
    pub(super) fn finish(self, parser: &mut Parser) -> Vec<ListenPlan> {
        for declared in self.declared.iter().filter(|declared| !declared.used) {
            let name = &declared.name;
            let message = format!("no pool listens on `{}`", shown(&name.value));
            parser.warning(
                &name.span,
                message,
                format!("add listen = [\"{}\"] to a pool", shown(&name.value)),
            );
        }
        self.plans
    }
}

/// Two listeners on port 0 get different ports.
fn same(a: &Address, b: &Address) -> bool {
    a == b && !matches!(a, Address::Tcp(address) if address.port() == 0)
}

/// Mode and owner apply to unix sockets only.
fn own(parser: &mut Parser, plan: &mut ListenPlan, section: &Listen) {
    if let Address::Tcp(_) = plan.address {
        for (key, span) in written!(section, mode, user, group) {
            parser.error_with(
                span,
                format!("`{key}` means nothing for a TCP socket"),
                "only unix sockets have an owner and a mode",
            );
        }
        return;
    }
    plan.mode = section.mode.as_ref().map(|at| at.value);
    if let Some(name) = &section.user {
        plan.uid = accounts::user(parser, name).map(|user| user.uid);
        let me = Uid::effective();
        if plan
            .uid
            .is_some_and(|uid| !me.is_root() && uid != me.as_raw())
        {
            parser.error(&name.span, "only root can give a socket to another user");
        }
    }
    if let Some(name) = &section.group {
        plan.gid = accounts::group(parser, name);
        if plan.gid.is_some_and(|gid| {
            !Uid::effective().is_root() && !accounts::own_groups().contains(&gid)
        }) {
            parser.error(
                &name.span,
                "only root can give a socket to a group that it is not in",
            );
        }
    }
}

/// Parses `"127.0.0.1:8080"`, `"[::1]:80"`, `"unix:/run/x.sock"`.
fn address(parser: &mut Parser, written: &Located<String>) -> Option<Address> {
    if let Some(path) = written.value.strip_prefix("unix:") {
        return unix(parser, written, path);
    }
    if let Ok(address) = written.value.parse::<SocketAddr>() {
        return Some(Address::Tcp(address));
    }
    let message = format!("`{}` is no address", shown(&written.value));
    parser.error_with(&written.span, message, address_hint(&written.value));
    None
}

fn address_hint(text: &str) -> String {
    if text.starts_with('/') {
        return format!("write \"unix:{}\"", shown(text));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    if port.parse::<u16>().is_err() {
        return "write \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:/run/shop.sock\"; ports go up to 65535".to_owned();
    }
    match host {
        "" | "*" => format!(
            "write \"0.0.0.0:{port}\" for every address, \"127.0.0.1:{port}\" for this machine only"
        ),
        "localhost" => format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
        host if host.contains(':') => format!(
            "write \"[{}]:{port}\"",
            shown(host.trim_matches(['[', ']']))
        ),
        _ => "write the address in numbers: names are not looked up".to_owned(),
    }
}

fn unix(parser: &mut Parser, written: &Located<String>, path: &str) -> Option<Address> {
    if path.is_empty() || path.ends_with('/') {
        parser.error_with(
            &written.span,
            "`unix:` needs the path of a socket",
            "write \"unix:/run/shop.sock\"",
        );
        return None;
    }
    if path.starts_with('@') {
        parser.unsupported(&written.span, "abstract unix sockets");
        return None;
    }
    let path = paths::under(&parser.base, Path::new(path));
    let length = path.as_os_str().len();
    if length > MAX_UNIX_PATH {
        let message =
            format!("the path of this socket has {length} bytes, {MAX_UNIX_PATH} are the most");
        parser.error_with(
            &written.span,
            message,
            "choose a shorter directory, such as one below /run",
        );
        return None;
    }
    Some(Address::Unix(path))
}
