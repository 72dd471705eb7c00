//! `logs`: shows what workers printed.

use super::args::Target;
use super::client::{Client, ClientError, WaitLimits};
use super::layout::{GREY, RED, painted};
use super::{log_files, print, request};
use crate::control::protocol::{Line, LogPlace, LogTarget, Method, Response};
use crate::exit_code::ExitCode;
use crate::observe::counted::missing;
use regex_lite::Regex;
use serde_json::json;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::IsTerminal;
use std::path::Path;
use std::time::SystemTime;

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
    pub(super) since: Option<SystemTime>,
    pub(super) until: Option<SystemTime>,
    pub(super) grep: Option<Regex>,
    pub(super) json: bool,
    pub(super) timestamps: bool,
    /// If empty, all.
    pub(super) targets: Vec<Target>,
}

impl Wanted {
    /// How many lines the master is asked for.
    fn asked(&self) -> u32 {
        match (self.since.is_some(), self.last()) {
            (_, Some(_)) => u32::MAX,
            (true, None) => self.lines.unwrap_or(u32::MAX),
            (false, None) if self.chooses() => u32::MAX,
            (false, None) => self.lines.unwrap_or(LINES),
        }
    }

    /// Whether some of the lines that the master sends are left out, beside those that are too old.
    fn chooses(&self) -> bool {
        self.until.is_some() || self.grep.is_some()
    }

    /// How many of the lines that are chosen are printed, if not all.
    fn last(&self) -> Option<usize> {
        let lines = self.lines.filter(|_| self.chooses() && !self.follow)?;
        Some(lines as usize)
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
        json: wanted.json,
        // The lines of a single worker are printed without its name.
        named: !matches!(wanted.targets.as_slice(), [Target { slot: Some(_), .. }]),
        timestamps: wanted.timestamps,
        colour: print::colour(),
        aligned: std::io::stdout().is_terminal(),
        width: 0,
    };
    let mut since = Since {
        from: wanted.since,
        hint: None,
    };
    let mut last = wanted.last().map(Last::of);
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
        lines: wanted.asked(),
        follow,
        after,
    };
    let mut place = None;
    let mut unanswered = 0;
    let done = loop {
        let mut answered = false;
        let done = Client::connect(&paths, &limits).and_then(|mut client| {
            client.send(method(place))?;
            let mut screen = Screen {
                wanted,
                style: &mut style,
                since: &mut since,
                last: last.as_mut(),
            };
            let shown = show(&mut client, &limits, &mut screen, &mut place);
            answered = client.has_answered();
            shown
        });
        unanswered = if answered { 0 } else { unanswered + 1 };
        match done {
            // The master was replaced by another one. Lines that were printed are not asked for again.
            Err(ClientError::Lost(_)) if (follow || !answered) && unanswered < MOST_UNANSWERED => {}
            done => break done,
        }
    };
    match done {
        // The regular end of following.
        Err(ClientError::Detached) => ExitCode::DONE,
        Err(error @ (ClientError::Unreachable(_) | ClientError::Uncertain { .. })) => {
            let code = request::failed(&error, &paths.config);
            // Lines of a file are no objects, and not all of them have a time.
            if !wanted.json && wanted.since.is_none() && wanted.until.is_none() {
                let most = wanted.lines.unwrap_or(LINES) as usize;
                let grep = wanted.grep.as_ref();
                log_files::print_last(&paths, &wanted.targets, most, grep);
            }
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

/// The last lines that were chosen, as they are printed.
struct Last {
    most: usize,
    lines: VecDeque<String>,
}

impl Last {
    fn of(most: usize) -> Self {
        Self {
            most,
            lines: VecDeque::new(),
        }
    }

    fn push(&mut self, line: String) {
        self.lines.push_back(line);
        if self.lines.len() > self.most {
            self.lines.pop_front();
        }
    }
}

/// What is shown, and how.
struct Screen<'a> {
    wanted: &'a Wanted,
    style: &'a mut Style,
    since: &'a mut Since,
    last: Option<&'a mut Last>,
}

impl Screen<'_> {
    /// A line as it is printed; `None`: it was not asked for.
    fn line(&mut self, line: &Line) -> Option<String> {
        let is_early = self.wanted.until.is_none_or(|until| {
            humantime::parse_rfc3339(&line.time).is_ok_and(|time| time <= until)
        });
        let matches = |grep: &Regex| grep.is_match(&line.text);
        let is_meant = self.wanted.grep.as_ref().is_none_or(matches);
        (self.since.takes(line) && is_early && is_meant).then(|| self.style.line(line))
    }
}

/// How lines are printed.
#[derive(Debug)]
struct Style {
    json: bool,
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
    screen: &mut Screen<'_>,
    place: &mut Option<LogPlace>,
) -> Result<(ExitCode, String), ClientError> {
    loop {
        let text = match client.next_response(limits)? {
            Response::Done { code, message } => {
                screen.since.tell();
                if let Some(last) = screen.last.as_mut() {
                    let lines: String = last.lines.drain(..).collect();
                    print::write(&lines).map_err(|_| ClientError::OutputClosed)?;
                }
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
                let Some(text) = screen.line(&line) else {
                    continue;
                };
                if let Some(last) = screen.last.as_mut() {
                    last.push(text);
                    continue;
                }
                text
            }
            Response::Skipped { count } if screen.wanted.json => {
                format!("{}\n", json!({ "skipped": count }))
            }
            Response::Skipped { count } => {
                format!(
                    "… {} here: they came faster than they were read\n",
                    missing(count, "line")
                )
            }
            Response::Hint { text } => {
                screen.since.hint = Some(text);
                if screen.since.from.is_none() {
                    screen.since.tell();
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
        if self.json {
            let Line {
                time,
                pool,
                slot,
                pid,
                stream,
                text,
                ..
            } = line;
            let json = json!({"time": time, "pool": pool, "slot": slot, "pid": pid, "stream": stream, "text": text});
            return format!("{}\n", print::sanitize_json(&json.to_string()));
        }
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
            json: false,
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
    fn a_line_may_be_an_object() {
        let json = Style {
            json: true,
            ..style(true, true, true)
        }
        .line(&line("stderr"));
        assert!(json.trim_end().chars().all(|c| !c.is_control()), "{json:?}");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["pool"], &json["slot"]), (&"web".into(), &0.into()));
        assert_eq!(json["text"], "hello \x1b]0;evil\x07");
        assert_eq!(json["stream"], "stderr");
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
