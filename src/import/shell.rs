//! What a shell's command line says that the configuration can say as well: variables before the command, `cd`, steps
//! joined by `&&`, output to a file. What is left is a list of words, or a line for `sh -c`.

/// Programs that run to their end, as steps before a server; for those with subcommands, the word that says so.
const STEPS: [&str; 26] = [
    "migrate",
    "db:migrate",
    "db:prepare",
    "db:setup",
    "db:create",
    "db:seed",
    "collectstatic",
    "assets:precompile",
    "compilemessages",
    "createcachetable",
    "upgrade",
    "doctrine:migrations:migrate",
    "cache:clear",
    "config:cache",
    "route:cache",
    "view:cache",
    "optimize",
    "storage:link",
    "install",
    "build",
    "mkdir",
    "chown",
    "chmod",
    "rm",
    "wait-for-it.sh",
    "wait-for-it",
];

/// A command line, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// `NAME=VALUE` before the command; values as the shell would have them, without `$`.
    pub(super) env: Vec<(String, String)>,
    /// `cd DIR &&`.
    pub(super) dir: Option<String>,
    /// Commands that end by themselves, before the last one.
    pub(super) steps: Vec<Command>,
    pub(super) command: Command,
    /// `>> FILE` or `> FILE`.
    pub(super) stdout: Option<String>,
    /// `2> FILE`; with `2>&1` it is left out, as stderr goes where stdout goes.
    pub(super) stderr: Option<String>,
    /// What differs.
    pub(super) remarks: Vec<String>,
}

/// A command without or with a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Words(Vec<String>),
    /// For `sh -c`. `single`: one program, which replaces the shell by `exec`.
    Shell {
        line: String,
        single: bool,
    },
}

impl Default for Command {
    fn default() -> Self {
        Self::Words(Vec::new())
    }
}

impl Command {
    /// The words to execute.
    pub(super) fn words(&self, shell: &str) -> Vec<String> {
        match self {
            Self::Words(words) => words.clone(),
            Self::Shell { line, single } => {
                let exec = if *single && !line.starts_with("exec ") {
                    "exec "
                } else {
                    ""
                };
                [shell, "-c", &format!("{exec}{line}")]
                    .map(str::to_owned)
                    .to_vec()
            }
        }
    }

    /// A shell stays above what it starts: a signal has to reach the whole tree.
    pub(super) fn is_wrapped(&self) -> bool {
        match self {
            Self::Words(words) => is_wrapper(words),
            Self::Shell { single, .. } => !single,
        }
    }
}

/// A program that starts another one and stays above it.
pub(super) fn is_wrapper(words: &[String]) -> bool {
    let Some(program) = words.first() else {
        return false;
    };
    let name = program.rsplit('/').next().unwrap_or(program);
    match name {
        "npm" | "pnpm" | "yarn" | "npx" | "bunx" | "poetry" | "pipenv" | "uv" | "foreman" => true,
        "sh" | "bash" | "dash" | "zsh" => match shell_script(words) {
            Some(script) => !script.trim_start().starts_with("exec "),
            None => true,
        },
        name => name.ends_with(".sh"),
    }
}

/// The SCRIPT of `sh -c SCRIPT`.
pub(super) fn shell_script(words: &[String]) -> Option<&str> {
    let name = words.first()?.rsplit('/').next()?;
    let flag = |word: &&String| word.starts_with('-') && word.ends_with('c');
    (["sh", "bash", "dash", "zsh"].contains(&name) && words.get(1).as_ref().is_some_and(flag))
        .then(|| words.get(2).map(String::as_str))?
}

/// Takes a line of a shell apart.
pub(super) fn parse(line: &str) -> Line {
    let mut result = Line::default();
    let parts = split(line.trim());
    let Some(mut parts) = parts else {
        // Anything but a chain by `&&`.
        result.command = Command::Shell {
            line: line.trim().to_owned(),
            single: false,
        };
        return result;
    };
    while parts.len() > 1 {
        let words = plain(&parts[0]);
        match words.as_deref() {
            Some([cd, dir]) if cd == "cd" && result.steps.is_empty() => {
                let under = result.dir.take();
                result.dir = Some(match under {
                    Some(under) if !dir.starts_with('/') => format!("{under}/{dir}"),
                    _ => dir.clone(),
                });
            }
            // The rest needs what the file sets.
            Some([source, _]) if ["source", "."].contains(&source.as_str()) => break,
            Some([sleep, time]) if sleep == "sleep" => {
                result.remarks.push(format!(
                    "`sleep {time}` is left out: `after` and `ready` of the pools order the start"
                ));
            }
            Some(words) if is_step(words) => {
                result.steps.push(Command::Words(words.to_vec()));
            }
            _ if is_step(&rough(&parts[0])) => result.steps.push(Command::Shell {
                line: parts[0].clone(),
                single: true,
            }),
            _ => break,
        }
        parts.remove(0);
    }
    if parts.len() > 1 {
        // The shell has to keep the order of what is left.
        result.command = Command::Shell {
            line: parts.join(" && "),
            single: false,
        };
        return result;
    }
    let mut last = parts.pop().unwrap_or_default();
    redirect(&mut last, &mut result);
    last = last
        .strip_prefix("exec ")
        .map_or(last.clone(), |rest| rest.trim_start().to_owned());
    while let Some((name, value, rest)) = assignment(&last) {
        result.env.push((name, value));
        last = rest;
    }
    result.command = match plain(&last) {
        Some(words) => Command::Words(words),
        None => Command::Shell {
            single: true,
            line: last,
        },
    };
    result
}

/// Whether these words are a command that ends by itself: by its program or one of its words.
pub(super) fn is_step(words: &[String]) -> bool {
    words
        .iter()
        .take(5)
        .map(|word| word.rsplit('/').next().unwrap_or(word))
        .any(|word| STEPS.contains(&word))
}

/// The words by blanks alone.
fn rough(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The parts of a chain by `&&`; `None` if the line has another operator.
fn split(line: &str) -> Option<Vec<String>> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let mut letters = line.chars().peekable();
    let mut quote = None;
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => {
                part.push(letter);
                part.extend(letters.next());
                continue;
            }
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            (_, Some(_)) => {}
            ('&', None) if letters.peek() == Some(&'&') => {
                letters.next();
                parts.push(std::mem::take(&mut part));
                continue;
            }
            // `2>&1`
            ('&', None) if part.ends_with('>') => {}
            ('&' | '|' | ';' | '\n' | '(' | ')' | '`', None) => return None,
            ('#', None) if part.is_empty() || part.ends_with(' ') => return None,
            _ => {}
        }
        part.push(letter);
    }
    parts.push(part);
    let parts: Vec<String> = parts.iter().map(|part| part.trim().to_owned()).collect();
    (quote.is_none() && parts.iter().all(|part| !part.is_empty())).then_some(parts)
}

/// The words of a command that needs no shell: nothing is expanded or redirected in it.
pub(super) fn plain(text: &str) -> Option<Vec<String>> {
    let mut quote = None;
    let mut escaped = false;
    let mut start = true;
    for letter in text.chars() {
        let first = std::mem::replace(&mut start, letter.is_whitespace());
        if std::mem::take(&mut escaped) {
            continue;
        }
        match (letter, quote) {
            ('\\', None | Some('"')) => escaped = true,
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            ('$' | '`', None | Some('"')) => return None,
            ('<' | '>' | '*' | '?' | '[' | '{' | '!' | '(' | ')' | '|' | '&' | ';', None) => {
                return None;
            }
            ('~' | '#', None) if first => return None,
            _ => {}
        }
    }
    let words = shell_words::split(text).ok()?;
    let assigns = words.first().is_none_or(|word| is_assignment(word));
    (!assigns).then_some(words)
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name);
    name.is_some_and(is_variable)
}

fn is_variable(name: &str) -> bool {
    let fit = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    !name.is_empty() && name.bytes().all(fit) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// `NAME=VALUE` at the beginning, and the rest.
fn assignment(text: &str) -> Option<(String, String, String)> {
    let (name, after) = text.split_once('=')?;
    if !is_variable(name) {
        return None;
    }
    let mut quote = None;
    let mut end = after.len();
    for (at, letter) in after.char_indices() {
        match (letter, quote) {
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            (letter, None) if letter.is_whitespace() => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    let (value, rest) = (&after[..end], after[end..].trim_start());
    if rest.is_empty() || value.contains(['$', '`']) {
        return None;
    }
    let value = match value {
        "" => String::new(),
        value => shell_words::split(value).ok()?.join(" "),
    };
    Some((name.to_owned(), value, rest.to_owned()))
}

/// Takes `>> FILE`, `> FILE`, `2>> FILE`, `2>&1` from the end of a command.
fn redirect(text: &mut String, result: &mut Line) {
    let plain_file = |file: &str| {
        !file.is_empty()
            && !file.contains([
                ' ', '$', '`', '"', '\'', '*', '?', '<', '>', '&', '|', '(', ')',
            ])
    };
    let (mut stdout, mut stderr) = (None, None);
    let mut rest = text.clone();
    loop {
        let trimmed = rest.trim_end().to_owned();
        if let Some(before) = trimmed.strip_suffix(" 2>&1") {
            rest = before.to_owned();
            continue;
        }
        let Some(at) = trimmed.rfind('>') else { break };
        let file = trimmed[at + 1..].trim().to_owned();
        if !plain_file(&file) {
            break;
        }
        let before = trimmed[..at].strip_suffix('>').unwrap_or(&trimmed[..at]);
        let (before, to) = match before.strip_suffix('2') {
            Some(before) if before.ends_with(' ') => (before, &mut stderr),
            _ => (before.strip_suffix('1').unwrap_or(before), &mut stdout),
        };
        if !before.ends_with(' ') || to.is_some() {
            break;
        }
        *to = Some(file);
        rest = before.trim_end().to_owned();
    }
    if !rest.contains(['<', '>']) && (stdout.is_some() || stderr.is_some()) {
        (result.stdout, result.stderr) = (stdout, stderr);
        *text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        parse(line).command.words("sh")
    }

    #[test]
    fn what_needs_no_shell_becomes_words() {
        assert_eq!(
            words("gunicorn 'a b' app:app"),
            ["gunicorn", "a b", "app:app"]
        );
        assert_eq!(words("exec node server.js"), ["node", "server.js"]);
        assert_eq!(words("serve -p $PORT"), ["sh", "-c", "exec serve -p $PORT"]);
        assert_eq!(words("a | b"), ["sh", "-c", "a | b"]);
        assert_eq!(words("a; b"), ["sh", "-c", "a; b"]);
        assert_eq!(words("a || b"), ["sh", "-c", "a || b"]);
        assert_eq!(words("echo ';' x"), ["echo", ";", "x"]);
    }

    #[test]
    fn assignments_directories_steps_and_files_are_taken_apart() {
        let line = parse(
            "cd web && python manage.py migrate && A=1 B='x y' gunicorn app >> logs/web.log 2>&1",
        );
        assert_eq!(line.dir.as_deref(), Some("web"));
        assert_eq!(
            line.steps,
            [Command::Words(
                ["python", "manage.py", "migrate"]
                    .map(str::to_owned)
                    .to_vec()
            )]
        );
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(line.env, [pair("A", "1"), pair("B", "x y")]);
        assert_eq!(line.stdout.as_deref(), Some("logs/web.log"));
        assert_eq!(line.stderr, None);
        assert_eq!(line.command.words("sh"), ["gunicorn", "app"]);
        let line = parse("serve > out.log 2> err.log");
        assert_eq!(line.stdout.as_deref(), Some("out.log"));
        assert_eq!(line.stderr.as_deref(), Some("err.log"));
    }

    #[test]
    fn an_unknown_chain_stays_in_the_shell() {
        let line = parse("first && second --serve");
        assert_eq!(
            line.command,
            Command::Shell {
                line: "first && second --serve".to_owned(),
                single: false
            }
        );
        assert!(line.command.is_wrapped());
        assert!(line.steps.is_empty());
        // A file that is sourced changes what comes after it.
        assert!(
            parse(". venv/bin/activate && gunicorn a")
                .command
                .is_wrapped()
        );
    }

    #[test]
    fn assignments_with_variables_stay_in_the_shell() {
        assert_eq!(
            words("PATH=/opt/bin:$PATH serve"),
            ["sh", "-c", "exec PATH=/opt/bin:$PATH serve"]
        );
    }
}
