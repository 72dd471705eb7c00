//! A command line without a shell: what a line that is typed into another program (`top`) asks of the master.

use super::args::{self, Args, Verb};
use super::habits::Typed;
use super::{refused, roll, usage};
use crate::control::pool_names::{ALL, is_pattern};
use crate::control::protocol::{Method, ReloadScope, Wait};
use clap::Parser;

/// The verbs that ask something of a running master and are done once it has answered.
pub const VERBS: [&str; 9] = [
    "cancel", "reload", "roll", "rollback", "scale", "signal", "start", "stop", "upgrade",
];

/// Options about what a command prints, and how long it waits: nothing waits for these lines, nor reads their output.
const OF_A_SHELL: [&str; 2] = ["--timeout", "--json"];

/// The requests of a line such as `roll web`, to be sent one after another as long as each is done. The line is what
/// would follow `rotad` in a shell, quoted in the same way.
///
/// # Errors
/// What the verb would print: the line is not understood, or means something that needs a shell.
pub fn requests(line: &str) -> Result<Vec<Method>, String> {
    let words = shell_words::split(line).map_err(|_| "a quotation mark has no end".to_owned())?;
    let words: Vec<String> = std::iter::once("rotad".to_owned()).chain(words).collect();
    let parsed = Args::try_parse_from(&words);
    let args = parsed.map_err(|error| usage::said(&error, &Typed::new(&words)))?;
    if args.config.is_some() {
        return Err("`-c` has no place here: this is the master that is shown".to_owned());
    }
    let is_option = |word: &String, option: &str| {
        let value = word.strip_prefix(option);
        value.is_some_and(|value| value.is_empty() || value.starts_with('='))
    };
    for option in OF_A_SHELL {
        if words.iter().any(|word| is_option(word, option)) {
            return Err(format!("`{option}` has no place here, but in a shell"));
        }
    }
    if let Some(text) = refused(&args.verb) {
        return Err(text);
    }
    method_of(args.verb).unwrap_or_else(|| {
        let verb = words.get(1).map_or("", String::as_str);
        Err(format!("`rotad {verb}` is typed in a shell"))
    })
}

/// None: not a request to a running master, or one that waits in a way of its own.
fn method_of(verb: Verb) -> Option<Result<Vec<Method>, String>> {
    let one = |method| Some(Ok(vec![method]));
    match verb {
        Verb::Start { pools, .. } if pools.is_empty() => None,
        Verb::Start { pools, no_wait, .. } => {
            let wait = if no_wait { Wait::No } else { Wait::Done };
            one(Method::Start { pools, wait })
        }
        Verb::Stop { pools, now, .. } => one(Method::Stop { pools, now }),
        Verb::Reload {
            which,
            config_only,
            dry_run,
            wait,
            ..
        } => {
            let extent = match (config_only, dry_run) {
                (true, _) => ReloadScope::ConfigOnly,
                (_, true) => ReloadScope::DryRun,
                _ => ReloadScope::Everything,
            };
            one(Method::Reload {
                which: which.into(),
                extent,
                wait: roll::until(&wait),
            })
        }
        Verb::Roll {
            pools,
            workers,
            tasks,
            wait,
        } => {
            let which = args::Selector {
                pools,
                workers,
                tasks,
            };
            Some(rolls(which, roll::until(&wait)))
        }
        Verb::Rollback {
            pools,
            to,
            dry_run,
            wait,
        } => one(Method::Rollback {
            pools,
            to,
            dry_run,
            wait: roll::until(&wait),
        }),
        Verb::Cancel { pools } => one(Method::Cancel { pools }),
        Verb::Scale { pool, count } => one(Method::Scale { pool, to: count }),
        Verb::Signal { target, signal } => one(Method::Signal {
            pool: target.pool,
            slot: target.slot,
            signal,
        }),
        Verb::Upgrade { to, .. } => {
            // The master has another working directory.
            let to = to.map(|path| std::path::absolute(&path).unwrap_or(path));
            one(Method::Upgrade { to })
        }
        _ => None,
    }
}

/// A roll of pools, or the replacement of single workers.
fn rolls(which: args::Selector, wait: Wait) -> Result<Vec<Method>, String> {
    let Some(targets) = roll::slots(&which)? else {
        let which = which.into();
        return Ok(vec![Method::Roll { which, wait }]);
    };
    let replace = |(pool, slot): (String, u32)| match pool == ALL || is_pattern(&pool) {
        true => Err(format!(
            "`{pool}/{slot}` may be several workers: name each by its pool"
        )),
        false => Ok(Method::Replace { pool, slot, wait }),
    };
    targets.into_iter().map(replace).collect()
}

/// A command line as it is typed in a shell.
pub fn line(words: &[&str]) -> String {
    shell_words::join(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{ScaleTo, Selector};

    #[test]
    fn a_line_asks_what_the_verb_asks() {
        let one = |line| requests(line).unwrap().pop().unwrap();
        let web = || Selector {
            pools: vec!["web".to_owned()],
            ..Selector::default()
        };
        let (which, wait) = (web(), Wait::Done);
        assert_eq!(one("roll web"), Method::Roll { which, wait });
        let (pool, slot) = ("web".to_owned(), 1);
        assert_eq!(one("roll web/1"), Method::Replace { pool, slot, wait });
        assert_eq!(requests("roll web/1 web/2").unwrap().len(), 2);
        let (pool, to) = ("a b".to_owned(), ScaleTo::By(-1));
        assert_eq!(one("scale 'a b' -1"), Method::Scale { pool, to });
        let (pools, now) = (vec![], false);
        assert_eq!(one("stop"), Method::Stop { pools, now });
        let (which, extent) = (Selector::default(), ReloadScope::Everything);
        let wait = Wait::No;
        assert_eq!(
            one("reload --no-wait"),
            Method::Reload {
                which,
                extent,
                wait
            }
        );
        for verb in VERBS {
            assert!(!requests(&format!("{verb} 'a")).unwrap_err().is_empty());
        }
    }

    #[test]
    fn what_is_not_understood_is_answered_as_on_the_command_line() {
        for (line, answer) in [
            ("scale web", "`rotad scale` needs"),
            ("logs -f", "`rotad logs` is typed in a shell"),
            ("start", "`rotad start` is typed in a shell"),
            ("stop web/0", "takes whole pools"),
            ("roll web web/0", "not both"),
            ("roll 'w*/0'", "name each by its pool"),
            ("roll -c other.toml", "has no place here"),
            ("roll web --timeout=5s", "`--timeout` has no place here"),
            ("start web --timeout 5s", "`--timeout` has no place here"),
            ("reload --dry-run --json", "`--json` has no place here"),
            ("roll 'web", "no end"),
            ("nosuch", "nosuch"),
            ("", "a verb is missing"),
        ] {
            let said = requests(line).unwrap_err();
            assert!(said.contains(answer), "{line}: {said}");
            assert_eq!(said.lines().count(), 1, "{line}: {said}");
        }
        assert_eq!(line(&["rotad", "roll", "a b"]), "rotad roll 'a b'");
    }
}
