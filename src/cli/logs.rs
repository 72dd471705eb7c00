//! `logs`: shows what workers printed.

use super::args::Target;
use super::client::{Client, ClientError, WaitLimits};
use super::layout::{GREY, RED, painted};
use super::{log_files, print, request};
use crate::control::protocol::{Line, LogPlace, LogTarget, Method, Response};
use crate::exit_code::ExitCode;
use crate::observe::counted::missing;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The colours of pools (SGR numbers); none of them means an error.
const COLOURS: [u8; 6] = [36, 33, 35, 34, 32, 96];

/// So many connections in a row may end without an answer before following ends.
const MOST_UNANSWERED: u32 = 5;

/// How many of the last lines are shown if nothing is said.
const LINES: u32 = 20;

/// What `logs` is asked for.
pub(super) struct Wanted {
    pub(super) follow: bool,
    pub(super) lines: Option<u32>,
    pub(super) since: Option<Duration>,
    pub(super) timestamps: bool,
    /// If empty, all.
    pub(super) targets: Vec<Target>,
}

impl Wanted {
    fn most(&self) -> u32 {
        let all = self.since.map_or(LINES, |_| u32::MAX);
        self.lines.unwrap_or(all)
    }
}

/// Prints the last lines of workers and, if asked, those to come, until Ctrl-C or until stdout is closed. Goes on with
/// the next master when this one is replaced. Without a master: the last lines of the log files.
pub(super) fn logs(file: Option<&Path>, wanted: &Wanted) -> ExitCode {
    let paths = match request::master_paths(file) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let limits = request::until_interrupted();
    let follow = wanted.follow;
    let mut style = Style {
        // The lines of a single worker are printed without its name.
        named: !matches!(wanted.targets.as_slice(), [Target { slot: Some(_), .. }]),
        timestamps: wanted.timestamps,
        colour: print::colour(),
        aligned: std::io::stdout().is_terminal(),
        width: 0,
    };
    let mut since = Since {
        from: wanted
            .since
            .and_then(|ago| SystemTime::now().checked_sub(ago)),
        hint: None,
    };
    let mut targets = wanted.targets.iter().map(|target| LogTarget {
        pool: target.pool.clone(),
        slot: target.slot,
    });
    let first = targets.next();
    let (pool, slot) = first.map_or((None, None), |first| (Some(first.pool), first.slot));
    let more: Vec<LogTarget> = targets.collect();
    let method = |after: Option<LogPlace>| Method::Logs {
        pool: pool.clone(),
        slot,
        more: more.clone(),
        lines: wanted.most(),
        follow,
        after,
    };
    let mut place = None;
    let mut unanswered = 0;
    let done = loop {
        let mut answered = false;
        let done = Client::connect(&paths, &limits).and_then(|mut client| {
            client.send(method(place))?;
            let shown = show(&mut client, &limits, &mut style, &mut since, &mut place);
            answered = client.has_answered();
            shown
        });
        unanswered = if answered { 0 } else { unanswered + 1 };
        match done {
            // The master was replaced by another one.
            Err(ClientError::Lost(_)) if follow && unanswered < MOST_UNANSWERED => {}
            done => break done,
        }
    };
    match done {
        // The regular end of following.
        Err(ClientError::Detached) => ExitCode::DONE,
        Err(error @ (ClientError::Unreachable(_) | ClientError::Uncertain { .. })) => {
            let code = request::failed(&error, &paths.config);
            let most = wanted.lines.unwrap_or(LINES) as usize;
            log_files::print_last(&paths, &wanted.targets, most);
            code
        }
        done => request::finish(done, &paths.config),
    }
}

/// `--since`: which lines are shown, and what is said about older ones.
struct Since {
    from: Option<SystemTime>,
    /// Where older lines are, until a line shows that there are none of the time that is asked for.
    hint: Option<String>,
}

impl Since {
    /// Whether a line is recent enough.
    fn takes(&mut self, line: &Line) -> bool {
        let Some(from) = self.from else { return true };
        let recent = humantime::parse_rfc3339(&line.time).is_ok_and(|time| time >= from);
        match recent {
            true => self.tell(),
            false => self.hint = None,
        }
        recent
    }

    fn tell(&mut self) {
        if let Some(text) = self.hint.take() {
            print::plain_error(&print::sanitize_lines(&text));
        }
    }
}

/// How lines are printed.
#[derive(Debug)]
struct Style {
    named: bool,
    timestamps: bool,
    colour: bool,
    /// Names are padded to the widest so far.
    aligned: bool,
    width: usize,
}

fn show(
    client: &mut Client,
    limits: &WaitLimits,
    style: &mut Style,
    since: &mut Since,
    place: &mut Option<LogPlace>,
) -> Result<(ExitCode, String), ClientError> {
    loop {
        let text = match client.next_response(limits)? {
            Response::Done { code, message } => {
                since.tell();
                return Ok((code, message));
            }
            Response::LogFrom(from) => {
                *place = Some(from);
                continue;
            }
            Response::Line(line) => {
                if let Some(place) = place {
                    place.end = line.end;
                }
                if !since.takes(&line) {
                    continue;
                }
                style.line(&line)
            }
            Response::Skipped { count } => {
                format!(
                    "… {} here: they came faster than they were read\n",
                    missing(count, "line")
                )
            }
            Response::Hint { text } => {
                since.hint = Some(text);
                if since.from.is_none() {
                    since.tell();
                }
                continue;
            }
            _ => continue,
        };
        print::write(&text).map_err(|_| ClientError::OutputClosed)?;
    }
}

impl Style {
    fn line(&mut self, line: &Line) -> String {
        let text = print::sanitize(&line.text);
        let time = match self.timestamps {
            true => painted(&print::sanitize(&line.time), GREY, self.colour) + " ",
            false => String::new(),
        };
        if !self.named {
            return format!("{time}{text}\n");
        }
        let name = format!("{}/{}", print::sanitize(&line.pool), line.slot);
        if self.aligned {
            self.width = self.width.max(name.chars().count());
        }
        let width = self.width;
        // A line of stderr, if stderr is separate from stdout.
        let is_error = line.stream == "stderr";
        let colour = colour_of(&line.pool);
        let (bar, bar_colour) = if is_error { ("!", RED) } else { ("|", colour) };
        let name = painted(&format!("{name:width$}"), colour, self.colour);
        let bar = painted(bar, bar_colour, self.colour);
        format!("{time}{name} {bar} {text}\n")
    }
}

/// A colour (SGR number) that is always the same for a name: this hasher has no random seed.
pub fn colour_of(pool: &str) -> u8 {
    let mut hasher = DefaultHasher::new();
    pool.hash(&mut hasher);
    COLOURS[(hasher.finish() % COLOURS.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stream: &str) -> Line {
        let (pool, text) = ("web".to_owned(), "hello \x1b]0;evil\x07".to_owned());
        Line {
            time: String::new(),
            pool,
            slot: 0,
            pid: 7,
            stream: stream.to_owned(),
            end: 0,
            text,
        }
    }

    fn style(named: bool, colour: bool, aligned: bool) -> Style {
        Style {
            named,
            timestamps: false,
            colour,
            aligned,
            width: 0,
        }
    }

    #[test]
    fn lines_begin_with_the_worker_name() {
        assert_eq!(
            style(true, false, false).line(&line("both")),
            "web/0 | hello \\x1b]0;evil\\x07\n"
        );
        assert_eq!(
            style(true, false, false).line(&line("stderr")),
            "web/0 ! hello \\x1b]0;evil\\x07\n"
        );
        assert_eq!(
            style(false, true, true).line(&line("stdout")),
            "hello \\x1b]0;evil\\x07\n"
        );
        let mut aligned = style(true, false, true);
        aligned.line(&Line {
            pool: "longer".into(),
            ..line("both")
        });
        assert!(aligned.line(&line("both")).starts_with("web/0    | hello"));
    }

    #[test]
    fn a_time_may_stand_before_each_line() {
        let mut timed = Style {
            timestamps: true,
            ..style(true, false, false)
        };
        let line = Line {
            time: "2026-11-27T18:19:53.111Z".into(),
            ..line("both")
        };
        let text = timed.line(&line);
        assert!(
            text.starts_with("2026-11-27T18:19:53.111Z web/0 | hello"),
            "{text}"
        );
        timed.named = false;
        assert!(
            timed
                .line(&line)
                .starts_with("2026-11-27T18:19:53.111Z hello")
        );
    }

    #[test]
    fn a_pool_keeps_its_colour() {
        assert_eq!(colour_of("web"), colour_of("web"));
        let used: std::collections::BTreeSet<u8> =
            ["web", "api", "task", "mail", "cron", "queue", "db"]
                .into_iter()
                .map(colour_of)
                .collect();
        assert!(used.len() > 2, "{used:?}");
        let coloured = style(true, true, false).line(&line("stderr"));
        assert!(
            coloured.contains("\x1b[31m!\x1b[0m") && !coloured.contains("\x1b]0;"),
            "{coloured:?}"
        );
    }
}
