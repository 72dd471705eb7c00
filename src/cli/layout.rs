//! How a table is laid out: columns as wide as their widest cells, and below a row what does not fit beside it.

use crate::sys::terminal;
use std::iter::once;

/// Below a row, text is indented by this many columns.
const INDENT: usize = 5;
/// Text below a row is never made narrower than this.
const LEAST_WIDTH: usize = 30;

/// A shape, and the colour (SGR number) that repeats its meaning.
pub type Mark = (char, u8);

/// The colour of what has failed (SGR number, as those below).
pub const RED: u8 = 31;
/// The colour of what is well.
pub const GREEN: u8 = 32;
/// The colour of what is not complete.
pub const YELLOW: u8 = 33;
/// The colour of a rolling restart.
pub const BLUE: u8 = 34;
/// The colour of what is not there, and of what is said beside.
pub const GREY: u8 = 90;
const BOLD: u8 = 1;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// What is written before a cell where the column has no room beside the others: then its cells go below the rows. None:
    /// it always stays.
    pub(super) below: Option<&'static str>,
}

impl Column {
    pub(super) const fn new(title: &'static str) -> Self {
        let below = None;
        Self { title, below }
    }
}

/// A row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) mark: Mark,
    pub(super) cells: Vec<String>,
    /// The cell that gets the mark's colour.
    pub(super) painted: usize,
    /// A cell that is left out where its column has no room beside the others.
    pub(super) beside_only: Option<usize>,
    /// What is said of it: in the last column, or below.
    pub(super) note: String,
}

/// `width`: of the terminal; None: lines may be of any length.
pub(super) fn render(
    columns: &[Column],
    rows: &[Row],
    width: Option<usize>,
    colour: bool,
) -> String {
    let limit = width.unwrap_or(usize::MAX);
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| {
            let cells = rows.iter().map(|row| length(&row.cells[at]));
            cells.chain([columns[at].title.len()]).max().unwrap_or(0)
        })
        .collect();
    let mut beside: Vec<usize> = (0..columns.len()).collect();
    let total = |beside: &[usize]| 1 + beside.iter().map(|at| widths[*at] + 2).sum::<usize>();
    for at in (0..columns.len()).rev() {
        if total(&beside) > limit && columns[at].below.is_some() {
            beside.retain(|other| *other != at);
        }
    }
    let note_at = total(&beside) + 2;
    let fits = |note: &str| note_at.saturating_add(length(note)) <= limit;
    let line = |cells: &mut dyn FnMut(usize) -> (String, usize), note: &str| {
        let padded = beside.iter().map(|at| {
            let (cell, length) = cells(*at);
            cell + &" ".repeat(widths[*at] - length)
        });
        let all: Vec<String> = padded.chain(once(note.to_owned())).collect();
        all.join("  ").trim_end().to_owned()
    };
    let has_notes = rows
        .iter()
        .any(|row| !row.note.is_empty() && fits(&row.note));
    let title = |at: usize| (columns[at].title.to_owned(), columns[at].title.len());
    let head = line(&mut { title }, if has_notes { "NOTE" } else { "" });
    let mut out = format!("   {}\n", painted(&head, BOLD, colour));
    for row in rows {
        let (shape, paint) = row.mark;
        let note = if fits(&row.note) { &row.note } else { "" };
        let mut cell = |at: usize| {
            let text = &row.cells[at];
            let is_painted = colour && at == row.painted;
            (painted(text, paint, is_painted), length(text))
        };
        let text = line(&mut cell, note);
        let shape = painted(&shape.to_string(), paint, colour);
        out += &format!(" {shape} {text}\n");
        if note.is_empty() {
            out += &below(&row.note, INDENT, width);
        }
        let folded = (0..columns.len()).filter(|at| !beside.contains(at));
        let folded = folded.filter(|at| !row.cells[*at].is_empty() && row.beside_only != Some(*at));
        let folded = folded
            .map(|at| columns[at].below.unwrap_or_default().to_owned() + &row.cells[at])
            .collect::<Vec<_>>();
        out += &painted_lines(&below(&folded.join("; "), INDENT, width), GREY, colour);
    }
    out
}

/// Text on lines of its own, indented.
pub(super) fn below(text: &str, indent: usize, width: Option<usize>) -> String {
    if text.is_empty() {
        return String::new();
    }
    let width = width.map_or(usize::MAX, |width| room(width, indent));
    let indent = " ".repeat(indent);
    let lines = wrap(text, width).into_iter();
    lines.map(|line| format!("{indent}{line}\n")).collect()
}

/// How wide text is that begins at this column.
pub(super) fn room(width: usize, indent: usize) -> usize {
    width.saturating_sub(indent).max(LEAST_WIDTH)
}

/// Lines of at most `width` characters, broken between words; a longer word is broken where it must be.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    let mut room = width;
    for word in text.split(' ') {
        let len = length(word);
        if lines.last().is_some_and(|line| !line.is_empty()) {
            if len < room {
                room -= len + 1;
                if let Some(line) = lines.last_mut() {
                    *line += " ";
                    *line += word;
                }
                continue;
            }
            lines.push(String::new());
            room = width;
        }
        for letter in word.chars() {
            if room == 0 {
                lines.push(String::new());
                room = width;
            }
            room -= 1;
            if let Some(line) = lines.last_mut() {
                line.push(letter);
            }
        }
    }
    lines
}

/// The text in this colour (SGR number), if there is to be colour.
pub(super) fn painted(text: &str, paint: u8, colour: bool) -> String {
    if colour && !text.is_empty() {
        format!("\x1b[{paint}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn painted_lines(text: &str, paint: u8, colour: bool) -> String {
    let lines = text.lines();
    lines
        .map(|line| painted(line, paint, colour) + "\n")
        .collect()
}

pub(super) fn bold(text: &str, colour: bool) -> String {
    painted(text, BOLD, colour)
}

/// The line as it fits into this many columns: what is cut ends with "…". Escape sequences of colours take no room.
pub(super) fn cut(line: &str, width: usize) -> String {
    let (mut room, mut in_escape) = (width, false);
    let takes_room = |letter: char, in_escape: &mut bool| {
        let takes_room = !*in_escape && letter != '\x1b';
        *in_escape = !takes_room && letter != 'm';
        takes_room
    };
    let visible = line.chars();
    let visible = visible
        .filter(|letter| takes_room(*letter, &mut in_escape))
        .count();
    if visible <= width {
        return line.to_owned();
    }
    let mut out = String::new();
    in_escape = false;
    for letter in line.chars() {
        if takes_room(letter, &mut in_escape) {
            if room <= 1 {
                break;
            }
            room -= 1;
        }
        out.push(letter);
    }
    let coloured = if line.contains('\x1b') { "\x1b[0m" } else { "" };
    out + "…" + coloured
}

/// How many columns the terminal on stdout has. None: it is no terminal, or does not know.
pub(super) fn terminal_width() -> Option<usize> {
    let (_, columns) = terminal::size(&std::io::stdout())?;
    Some(usize::from(columns))
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::new("POOL"),
        Column::new("STATE"),
        Column {
            title: "LISTEN",
            below: Some("listens on "),
        },
    ];

    fn row(name: &str, listen: &str, note: &str) -> Row {
        Row {
            mark: ('●', 32),
            cells: vec![name.to_owned(), "ok".to_owned(), listen.to_owned()],
            painted: 1,
            beside_only: None,
            note: note.to_owned(),
        }
    }

    #[test]
    fn what_does_not_fit_is_below_its_row() {
        let rows = [
            row("web", "0.0.0.0:8000", "short"),
            row(
                "api",
                "",
                "a reason that is longer than what the terminal has left beside the row",
            ),
        ];
        let wide = "   POOL  STATE  LISTEN        NOTE
 ● web   ok     0.0.0.0:8000  short
 ● api   ok                   a reason that is longer than what the terminal has left beside the row
";
        assert_eq!(render(&COLUMNS, &rows, None, false), wide);
        assert_eq!(render(&COLUMNS, &rows, Some(200), false), wide);
        let narrow = "   POOL  STATE  LISTEN        NOTE
 ● web   ok     0.0.0.0:8000  short
 ● api   ok
     a reason that is longer than what
     the terminal has left beside the
     row
";
        assert_eq!(render(&COLUMNS, &rows, Some(40), false), narrow);
        let narrower = "   POOL  STATE  NOTE
 ● web   ok     short
     listens on 0.0.0.0:8000
 ● api   ok
     a reason that is longer than
     what the terminal has left
     beside the row
";
        assert_eq!(render(&COLUMNS, &rows, Some(24), false), narrower);
    }

    #[test]
    fn what_is_worth_no_line_is_left_out_below() {
        let mut plain = row("web", "0.0.0.0:8000", "");
        plain.beside_only = Some(2);
        let rows = [plain, row("api", "0.0.0.0:8001", "")];
        let narrow = render(&COLUMNS, &rows, Some(24), false);
        assert!(
            !narrow.contains("8000") && narrow.contains("8001"),
            "{narrow}"
        );
        assert!(render(&COLUMNS, &rows, None, false).contains("8000"));
    }

    #[test]
    fn lines_are_broken_between_words_where_there_are_any() {
        assert_eq!(wrap("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("", 3), [""]);
        assert_eq!(below("", 2, Some(80)), "");
    }

    #[test]
    fn a_line_that_is_cut_says_so() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("äbcd", 3), "äb…");
        let coloured = "\x1b[32m●\x1b[0m web";
        assert_eq!(cut(coloured, 5), coloured);
        assert_eq!(cut(coloured, 4), "\x1b[32m●\x1b[0m w…\x1b[0m");
    }
}
