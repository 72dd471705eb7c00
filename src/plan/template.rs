//! Text with placeholders: parsed once, checked against the pool's listeners, expanded for each spawn.

use super::{Address, ListenPlan, Piece, Template};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;

/// Why a text is not a valid template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What is wrong, for the user.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// It names a listener that the pool does not have.
    pub unknown_listener: bool,
}

/// What a pool's placeholders may name.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The pool's listeners.
    pub listen: &'a [ListenPlan],
    /// How many of them are at descriptors 3, 4, …; the others only at 0.
    pub passed: usize,
    /// The value of a variable of the master's environment. `None`: it is not set.
    pub env: fn(&str) -> Option<OsString>,
}

/// The values of one worker's placeholders.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The pool's listeners in the order of `listen`, as bound (port 0 has become a real port).
    pub addresses: &'a [Address],
    /// The pool's name.
    pub pool: &'a str,
    /// The worker's slot, from 0.
    pub slot: u32,
    /// The worker's generation, from 1.
    pub generation: u32,
    /// The worker's own port of its pool's `ports`.
    pub port: Option<u16>,
    /// The path of the rotad binary.
    pub rotad: &'a Path,
    /// The path of the preload for Node.
    pub node_preload: &'a Path,
}

/// The descriptor of a pool's first listener.
const FIRST_FD: usize = 3;
/// The descriptor of `stdin = "listen:NAME"`.
const STDIN: usize = 0;

impl Template {
    /// Text without placeholders.
    pub fn literal(text: impl Into<String>) -> Self {
        Self(vec![Piece::Text(text.into())])
    }

    /// Parses `{env:NAME}` `{env:NAME:-default}` `{fd:NAME}` `{addr:NAME}` `{port:NAME}` `{port}` `{pool}` `{slot}`
    /// `{generation}` `{rotad}` `{preload:node}`; `{{` and `}}` are literal braces, and so is a `}` that closes nothing.
    /// NAME is a variable, or one of the pool's own listeners.
    ///
    /// # Errors
    /// A brace that is never closed, an unknown placeholder or listener, a variable that is not set, or the port of a
    /// unix socket.
    pub fn parse(text: &str, names: Names<'_>) -> Result<Self, Fault> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..];
            if brace.starts_with("{{") || brace.starts_with("}}") {
                plain.push_str(&brace[..1]);
                rest = &brace[2..];
            } else if let Some(after) = brace.strip_prefix('}') {
                plain.push('}');
                rest = after;
            } else {
                let Some(end) = brace.find('}') else {
                    return Err(fault(
                        "`{` is never closed",
                        "write `{{` for a brace".to_owned(),
                    ));
                };
                let piece = placeholder(&brace[1..end], names)?;
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(piece);
                rest = &brace[end + 1..];
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// The text for one worker. A listener missing from `context` expands to nothing: the plan has checked them all.
    pub fn expand(&self, context: &Context<'_>) -> OsString {
        let mut text = OsString::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(plain) => text.push(plain),
                Piece::Fd(number) => text.push(number.to_string()),
                Piece::Addr(index) => {
                    text.push(
                        context
                            .addresses
                            .get(*index)
                            .map_or_else(OsString::new, Address::to_os_string),
                    );
                }
                Piece::ListenerPort(index) => match context.addresses.get(*index) {
                    Some(Address::Tcp(address)) => text.push(address.port().to_string()),
                    Some(Address::Unix(_)) | None => {}
                },
                Piece::Port => {
                    if let Some(port) = context.port {
                        text.push(port.to_string());
                    }
                }
                Piece::Pool => text.push(context.pool),
                Piece::Slot => text.push(context.slot.to_string()),
                Piece::Generation => text.push(context.generation.to_string()),
                Piece::Rotad => text.push(context.rotad),
                Piece::NodePreload => text.push(context.node_preload),
                Piece::Env { value, .. } => text.push(value),
            }
        }
        text
    }

    /// The text, if it is the same for every worker. It may have values of variables, which are not to be shown.
    pub fn fixed(&self) -> Option<String> {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => Some(text.clone()),
            Piece::Env { value, .. } => Some(value.clone()),
            _ => None,
        };
        self.0.iter().map(text).collect()
    }

    /// The text for messages: as written, without the values of variables.
    pub fn shown(&self) -> String {
        self.0.iter().map(Piece::shown).collect()
    }

    /// A message that may quote this text, without the values of its variables. A value of one or two characters says
    /// nothing, and stands in many words: it stays.
    pub fn hide_values(&self, message: &str) -> String {
        let whole = self.fixed().filter(|text| text.len() > 2);
        let mut hidden = match whole {
            Some(text) if text != self.shown() => message.replace(&text, &self.shown()),
            _ => message.to_owned(),
        };
        for piece in &self.0 {
            if let Piece::Env { value, .. } = piece
                && value.len() > 2
            {
                hidden = hidden.replace(value, &piece.shown());
            }
        }
        hidden
    }

    /// The text, if it has no placeholder.
    pub fn as_literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }
}

impl Piece {
    /// The piece as it is written.
    pub fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Fd(number) => format!("{{fd:{number}}}"),
            Self::Addr(_) => "{addr}".to_owned(),
            Self::ListenerPort(_) | Self::Port => "{port}".to_owned(),
            Self::Pool => "{pool}".to_owned(),
            Self::Slot => "{slot}".to_owned(),
            Self::Generation => "{generation}".to_owned(),
            Self::Rotad => "{rotad}".to_owned(),
            Self::NodePreload => "{preload:node}".to_owned(),
            Self::Env { name, .. } => format!("{{env:{name}}}"),
        }
    }
}

impl Address {
    /// `127.0.0.1:80`, or `unix:/path`, exactly.
    pub fn to_os_string(&self) -> OsString {
        match self {
            Self::Tcp(address) => address.to_string().into(),
            Self::Unix(path) => {
                let mut text = OsStr::new("unix:").to_owned();
                text.push(path);
                text
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_os_string().to_string_lossy())
    }
}

fn placeholder(word: &str, names: Names<'_>) -> Result<Piece, Fault> {
    let listen = names.listen;
    if let Some(text) = word.strip_prefix("env:") {
        return variable(text, names.env);
    }
    if let Some((kind @ ("fd" | "addr" | "port"), name)) = word.split_once(':') {
        let index = listen
            .iter()
            .position(|plan| plan.name == name)
            .ok_or_else(|| unknown(kind, name, listen))?;
        return match (kind, &listen[index].address) {
            ("fd", _) if index < names.passed => Ok(Piece::Fd(FIRST_FD + index)),
            ("fd", _) => Ok(Piece::Fd(STDIN)),
            ("addr", _) => Ok(Piece::Addr(index)),
            (_, Address::Tcp(_)) => Ok(Piece::ListenerPort(index)),
            (_, Address::Unix(_)) => Err(fault(
                &format!("`{{{word}}}`: a unix socket has no port"),
                format!("write `{{addr:{name}}}` or `{{fd:{name}}}`"),
            )),
        };
    }
    match word {
        "pool" => Ok(Piece::Pool),
        "slot" => Ok(Piece::Slot),
        "generation" => Ok(Piece::Generation),
        "rotad" => Ok(Piece::Rotad),
        "preload:node" => Ok(Piece::NodePreload),
        "port" => Ok(Piece::Port),
        "fd" | "addr" => Err(fault(&format!("`{{{word}}}` of which listener?"), format!("write `{{{word}:NAME}}`"))),
        "env" => Err(fault("`{env}` of which variable?", ENV.to_owned())),
        other => Err(fault(
            &format!("unknown placeholder `{{{}}}`", short(other)),
            "write `{{` for a brace; known are {env:NAME} {fd:NAME} {addr:NAME} {port:NAME} {port} {pool} {slot} \
             {generation} {rotad} {preload:node}"
                .to_owned(),
        )),
    }
}

/// How a variable is written.
const ENV: &str = "write `{env:NAME}`, or `{env:NAME:-DEFAULT}`";

/// NAME, or NAME:-DEFAULT, which also stands for an empty variable, as in a shell.
fn variable(text: &str, env: fn(&str) -> Option<OsString>) -> Result<Piece, Fault> {
    let (name, default) = match text.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (text, None),
    };
    if name.is_empty()
        || !name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c))
    {
        let message = format!("`{}` cannot be the name of a variable", short(name));
        return Err(fault(&message, ENV.to_owned()));
    }
    let found = env(name).filter(|value| default.is_none() || !value.is_empty());
    let value = match (found.map(OsString::into_string), default) {
        (Some(Ok(value)), _) => value,
        (Some(Err(_)), _) => {
            let hint = "a configuration is text: give the worker this variable by its environment"
                .to_owned();
            return Err(fault(
                &format!("the variable `{name}` is not valid UTF-8"),
                hint,
            ));
        }
        (None, Some(default)) => default.to_owned(),
        (None, None) => {
            let hint = format!(
                "set it where rotad is started, and where `rotad check` is; or write `{{env:{name}:-DEFAULT}}`"
            );
            return Err(fault(
                &format!("there is no variable `{name}` in the environment"),
                hint,
            ));
        }
    };
    Ok(Piece::Env {
        name: name.to_owned(),
        value,
    })
}

fn unknown(kind: &str, name: &str, listen: &[ListenPlan]) -> Fault {
    let known: Vec<String> = listen
        .iter()
        .map(|plan| format!("`{{{kind}:{}}}`", plan.name))
        .collect();
    let hint = if known.is_empty() {
        "this pool has no `listen`".to_owned()
    } else {
        format!("known here: {}", known.join(", "))
    };
    let message = format!(
        "`{{{kind}:{}}}` names no listener of this pool",
        short(name)
    );
    Fault {
        unknown_listener: true,
        ..fault(&message, hint)
    }
}

fn fault(message: &str, hint: String) -> Fault {
    Fault {
        message: message.to_owned(),
        hint: Some(hint),
        unknown_listener: false,
    }
}

/// A user's text on one line, cut to a bounded length.
fn short(text: &str) -> String {
    text.chars()
        .take(40)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, address: Address) -> ListenPlan {
        ListenPlan {
            name: name.to_owned(),
            address,
            backlog: 1,
            nonblocking: false,
            mode: None,
            uid: None,
            gid: None,
        }
    }

    fn expand(text: &str) -> Result<String, String> {
        let http = Address::Tcp(([127, 0, 0, 1], 80).into());
        let local = Address::Unix("/run/x.sock".into());
        let plans = [
            listener("http", http.clone()),
            listener("local", local.clone()),
        ];
        let template = Template::parse(
            text,
            Names {
                listen: &plans,
                passed: 2,
                env: |name| match name {
                    "DB" => Some("pg://x".into()),
                    "EMPTY" => Some("".into()),
                    "RAW" => Some(std::os::unix::ffi::OsStringExt::from_vec(vec![0xff])),
                    _ => None,
                },
            },
        )
        .map_err(|fault| fault.message)?;
        let context = Context {
            addresses: &[http, local],
            pool: "web",
            slot: 2,
            generation: 7,
            port: Some(3002),
            rotad: Path::new("/bin/rotad"),
            node_preload: Path::new("/run/node.cjs"),
        };
        Ok(template.expand(&context).to_string_lossy().into_owned())
    }

    #[test]
    fn placeholders_expand() {
        let text = "{fd:http} {fd:local} {addr:http} {addr:local} {port:http} {port} {pool}/{slot}@{generation} {rotad} \
                    {preload:node}";
        assert_eq!(
            expand(text).as_deref(),
            Ok("3 4 127.0.0.1:80 unix:/run/x.sock 80 3002 web/2@7 /bin/rotad /run/node.cjs")
        );
        assert_eq!(expand("").as_deref(), Ok(""));
    }

    #[test]
    fn braces_stand_for_themselves_when_doubled() {
        assert_eq!(
            expand("{{slot}} ${{HOME} }").as_deref(),
            Ok("{slot} ${HOME} }")
        );
    }

    #[test]
    fn variables_of_the_master_have_defaults_as_in_a_shell() {
        assert_eq!(
            expand(
                "{env:DB}|{env:EMPTY}|{env:DB:-no}|{env:EMPTY:-e}|{env:NONE:-n:-m}|{env:NONE:-}"
            )
            .as_deref(),
            Ok("pg://x||pg://x|e|n:-m|")
        );
    }

    #[test]
    fn messages_have_names_in_place_of_values() {
        let piece = |name: &str, value: &str| Piece::Env {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let template = Template(vec![
            piece("VENV", "/opt/secret"),
            Piece::Text("/bin/x".to_owned()),
            piece("N", "1"),
        ]);
        assert_eq!(template.shown(), "{env:VENV}/bin/x{env:N}");
        assert_eq!(
            template.hide_values("no /opt/secret/bin/x1, and no /opt/secret in 1"),
            "no {env:VENV}/bin/x{env:N}, and no {env:VENV} in 1"
        );
    }

    #[test]
    fn faults_are_told() {
        for bad in [
            "{",
            "{slot",
            "{nosuch}",
            "{preload}",
            "{preload:python}",
            "{}",
            "{fd}",
            "{fd:nosuch}",
            "{port:local}",
            "a{{{",
            "{env}",
            "{env:}",
            "{env:A B}",
            "{env:NONE}",
            "{env:RAW}",
            "{env:RAW:-x}",
        ] {
            assert!(expand(bad).is_err(), "{bad}");
        }
    }
}
