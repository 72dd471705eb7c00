//! The picture in the README shows what a terminal shows.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use support::site::finish;
use support::{free_port, need, rotad};

/// What is the same each time: numbers with their units and the widths of columns are not.
fn same_each_time(line: &str) -> String {
    let mut out = String::new();
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_ascii_digit() {
            while letters
                .next_if(|next| next.is_ascii_digit() || ".msM".contains(*next))
                .is_some()
            {}
            out.push('#');
        } else if letter != ' ' || !out.ends_with(' ') {
            out.push(letter);
        }
    }
    out.trim().to_owned()
}

/// The text of a line of the picture.
fn text(line: &str) -> String {
    let mut out = String::new();
    for part in line.split('<') {
        out += part.split_once('>').map_or("", |(_, text)| text);
    }
    out.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

/// The picture of `rotad top` has the columns and the keys that its screens have now.
#[test]
fn the_picture_of_top_has_its_columns_and_keys() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let picture = fs::read_to_string(root.join("docs/images/top.svg")).expect("a picture");
    let drawn: Vec<String> = picture
        .lines()
        .filter(|line| line.starts_with("<text"))
        .map(|line| same_each_time(&text(line)))
        .collect();
    let screen = root.join("src/console/top/screens/wide.txt");
    let screen = fs::read_to_string(screen).expect("a screen");
    for begin in ["POOL ", "r roll "] {
        let mut lines = screen.lines().map(same_each_time);
        let line = lines
            .find(|line| line.starts_with(begin))
            .expect("a line of the screen");
        assert!(
            drawn.contains(&line),
            "{line}: `docs/images/record target/debug/rotad --top` draws it again"
        );
    }
}

#[test]
fn the_session_of_the_picture_is_a_real_one() {
    if !["python3", "curl"].iter().all(|name| need::program(name)) {
        return;
    }
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    let picture = fs::read_to_string(images.join("session.svg")).expect("a picture");
    let shown = picture.lines().filter(|line| line.starts_with("<text"));
    let shown: Vec<String> = shown.map(|line| same_each_time(&text(line))).collect();
    let mut command = Command::new(images.join("record"));
    let port = free_port().to_string();
    command.arg(rotad()).args(["--text", "--port", &port]);
    let run = finish(command, 120);
    assert_eq!(run.code, 0, "{run:?}");
    let lines = run.out.lines().map(same_each_time);
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    assert_eq!(
        lines, shown,
        "what is printed has changed: `docs/images/record target/debug/rotad` draws it again"
    );
}
