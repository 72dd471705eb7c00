//! Screens as text (`screens/*.txt`; `UPDATE_EXPECT=1 cargo test -p rotad-console` writes them), and what keys lead to.

use super::app::{Action, App, Input, LogInput, Now};
use super::target::Target;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{
    KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::style::{Color, Modifier};
use rotad::control::protocol::{InProgress, Line, Method, Response, SlotProgress};
use rotad::exit_code::ExitCode;
use rotad::observe::events::{Event, EventKind};
use rotad::observe::status::{PoolState, RollState, SlotState, Status};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The configuration of all tests.
const CONFIG: &str = "/srv/shop/rotad.toml";

fn at(seconds: f64) -> Now {
    let passed = Duration::from_secs_f64(seconds);
    // 2026-11-27T12:00:00Z
    let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_780_800) + passed;
    Now { passed, clock }
}

fn worker(slot: u32, state: &str, generation: u32) -> Value {
    json!({"slot": slot, "pid": 4700 + slot, "state": state, "generation": generation, "age_s": 90.0, "ready_in_s": 0.4,
           "restarts": 0, "rss_bytes": 20_480_000, "cpu_s": 1.0 + f64::from(slot), "last_exit": null, "retry_in_s": null,
           "tree": {"processes": 1, "rss_bytes": 20_480_000, "cpu_s": 1.0 + f64::from(slot)}})
}

fn pool(name: &str, state: &str, ready: usize, workers: Vec<Value>) -> Value {
    let wanted = workers.len();
    json!({"name": name, "kind": "worker", "state": state, "wanted": wanted, "alive": ready, "ready": ready, "generation": 2,
           "reload": {"state": "done", "generation": 2, "reason": null, "replaced": wanted, "of": wanted, "took_s": 1.9},
           "uptime_s": if ready > 0 { json!(7380.0) } else { json!(null) }, "workers": workers})
}

fn dead(slot: u32, retry: f64) -> Value {
    let mut dead = worker(slot, "backoff", 2);
    dead["pid"] = json!(null);
    (dead["rss_bytes"], dead["cpu_s"], dead["tree"]) = (json!(null), json!(null), json!(null));
    dead["restarts"] = json!(7);
    dead["retry_in_s"] = json!(retry);
    dead["last_exit"] =
        json!({"code": 3, "after_s": 0.1, "log": ["Traceback:", "Error: no database at db:5432"]});
    dead
}

fn status() -> Status {
    let web = pool(
        "web",
        "ok",
        4,
        (0..4).map(|slot| worker(slot, "ready", 2)).collect(),
    );
    let jobs = pool("jobs", "crash-loop", 0, vec![dead(0, 0.0), dead(1, 12.0)]);
    let mail = pool("mail", "ok", 1, vec![worker(0, "ready", 2)]);
    serde_json::from_value(json!({
        "master": {"pid": 812, "version": "0.1.0", "name": "shop", "config": CONFIG, "state": "running", "uptime_s": 7384.0},
        "pools": [web, jobs, mail]
    }))
    .expect("a status")
}

fn app() -> App {
    let config = Some(CONFIG.to_owned());
    let mut app = App::new(status(), config, true, at(0.0));
    let actions = app.handle(at(0.0), Input::Tick);
    assert_eq!(actions, [Action::Follow(Target::pool("jobs"))]);
    app
}

fn event(seq: u64, event: EventKind, slot: Option<u32>, text: &str) -> Input {
    Input::Event(Box::new(Event {
        seq,
        time: format!("2026-11-27T12:00:{seq:02}.500Z"),
        event,
        pool: Some("jobs".to_owned()),
        slot,
        worker: None,
        generation: None,
        pid: None,
        cause: None,
        text: text.to_owned(),
    }))
}

fn log(slot: u32, stream: &str, text: &str) -> Input {
    let line = Line {
        time: "2026-11-27T12:00:01.000Z".to_owned(),
        pool: "jobs".to_owned(),
        slot,
        pid: 1,
        stream: stream.to_owned(),
        end: 0,
        text: text.to_owned(),
    };
    Input::Log(Target::pool("jobs"), LogInput::Line(Box::new(line)))
}

fn filled() -> App {
    let mut app = app();
    let events = [
        event(1, EventKind::Spawn, Some(1), "started as pid 4711"),
        event(
            2,
            EventKind::Exit,
            Some(1),
            "exited with 3, 0.1 s after its start\n  | Error: \x1b]0;evil\x07no database",
        ),
        event(
            3,
            EventKind::CrashLoop,
            None,
            "2 workers died within 10 s: only one is tried at a time",
        ),
    ];
    let lines = [
        log(0, "stdout", "connecting to 日本語\tdb:5432"),
        log(1, "stderr", "Error: no database at db:5432"),
    ];
    for input in events.into_iter().chain(lines) {
        app.handle(at(1.0), input);
    }
    let next = Input::Status(Box::new(status()), Box::default());
    app.handle(at(1.0), next);
    app
}

/// What an input leads to, beside the reading of the status, which is answered.
fn handle(app: &mut App, now: f64, input: Input) -> Vec<Action> {
    let mut actions = app.handle(at(now), input);
    let before = actions.len();
    actions.retain(|action| *action != Action::Fetch);
    if actions.len() < before {
        app.handle(at(now), Input::Status(Box::new(status()), Box::default()));
    }
    actions
}

fn key(app: &mut App, now: f64, code: KeyCode) -> Vec<Action> {
    handle(app, now, Input::Key(KeyEvent::from(code)))
}

/// Presses these letters.
fn keys(app: &mut App, now: f64, letters: &str) -> Vec<Action> {
    let pressed = letters.chars().map(KeyCode::Char);
    let actions = pressed.flat_map(|code| key(app, now, code));
    actions.collect()
}

fn draw(app: &mut App, width: u16, height: u16) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| app.draw(frame)).expect("a screen");
    terminal.backend().clone()
}

fn text(screen: &TestBackend) -> String {
    let buffer = screen.buffer();
    let rows = buffer.area.height;
    let row = |y: u16| {
        let mut row = String::new();
        let mut x = 0;
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            row.push_str(symbol);
            // The cell after a wide character is empty.
            x += super::text::width(symbol).max(1) as u16;
        }
        row.trim_end().to_owned() + "\n"
    };
    (0..rows).map(row).collect()
}

/// Compares with a file.
fn looks(app: &mut App, size: (u16, u16), name: &str) {
    let found = text(&draw(app, size.0, size.1));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("top/screens/{name}.txt"));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &found).expect("a screen");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} is not what is expected (UPDATE_EXPECT=1 writes it):\n{found}"
    );
}

#[test]
fn the_first_screen_says_what_is_down_and_why() {
    let mut app = filled();
    looks(&mut app, (80, 24), "first");
    looks(&mut app, (160, 44), "wide");
    let screen = text(&draw(&mut app, 80, 24));
    assert!(!screen.contains(['\x1b', '\x07']), "{screen:?}");
}

#[test]
fn a_terminal_that_is_too_small_is_told_so() {
    let mut app = filled();
    looks(&mut app, (60, 12), "small");
    // Any size at all, with everything open.
    for open in ["", "?", "r", "/x"] {
        let mut app = filled();
        keys(&mut app, 1.0, open);
        for size in [(1, 1), (80, 24), (81, 25), (300, 100), (5, 200), (200, 2)] {
            draw(&mut app, size.0, size.1);
        }
    }
}

#[test]
fn pools_unfold_and_the_selection_moves() {
    let mut app = filled();
    keys(&mut app, 2.0, "gl");
    looks(&mut app, (80, 24), "unfolded");
    keys(&mut app, 2.0, "jj");
    assert_eq!(app.selected, Some(Target::slot("web", 1)));
    let actions = key(&mut app, 2.0, KeyCode::Down);
    assert_eq!(actions, [Action::Follow(Target::slot("web", 2))]);
    keys(&mut app, 2.0, "h");
    assert_eq!(app.selected, Some(Target::pool("web")));
    keys(&mut app, 2.0, "G");
    assert_eq!(app.selected, Some(Target::pool("mail")));
    keys(&mut app, 2.0, "!");
    assert_eq!(app.selected, Some(Target::pool("jobs")));
    key(&mut app, 2.0, KeyCode::Enter);
    key(&mut app, 2.0, KeyCode::Down);
    key(&mut app, 2.0, KeyCode::Enter);
    looks(&mut app, (80, 24), "log_of_slot");
    key(&mut app, 2.0, KeyCode::Esc);
    assert!(text(&draw(&mut app, 80, 24)).contains("POOL"));
}

#[test]
fn a_roll_is_seen_with_its_surge_canary_and_drainers() {
    let mut app = filled();
    let mut rolling = status();
    let web = &mut rolling.pools[0];
    web.state = PoolState::Reloading;
    web.alive = 7;
    (web.reload.state, web.reload.generation) = (RollState::Running, 3);
    (web.reload.replaced, web.reload.of) = (1, 4);
    let slot = |slot, state, since_s, of_s| SlotProgress {
        pool: "web".to_owned(),
        slot,
        pid: Some(4800),
        state,
        since_s: Some(since_s),
        of_s,
        oneshot: false,
        says: None,
    };
    let progress = InProgress {
        slots: vec![
            slot(1, SlotState::Starting, 4.0, Some(60.0)),
            slot(0, SlotState::Soaking, 3.0, Some(10.0)),
            slot(0, SlotState::Stopping, 61.0, Some(300.0)),
            SlotProgress {
                pool: "jobs".to_owned(),
                pid: None,
                since_s: None,
                ..slot(1, SlotState::Backoff, 0.0, Some(3.0))
            },
        ],
        ..InProgress::default()
    };
    app.handle(
        at(2.0),
        Input::Status(Box::new(rolling), Box::new(progress)),
    );
    looks(&mut app, (80, 24), "roll");
}

#[test]
fn what_replaces_or_stops_asks_first_and_shows_the_command() {
    let mut app = filled();
    assert_eq!(keys(&mut app, 2.0, "gr").len(), 1, "the log of web");
    looks(&mut app, (80, 24), "question");
    // Other keys do not answer.
    assert_eq!(keys(&mut app, 2.0, "xrj"), []);
    assert_eq!(keys(&mut app, 2.0, "n"), []);
    assert_eq!(
        app.notice.as_deref(),
        Some("not sent: rotad roll web -c /srv/shop/rotad.toml")
    );
    keys(&mut app, 2.0, "r");
    let actions = keys(&mut app, 2.0, "y");
    assert!(
        matches!(&actions[..], [Action::Ask(1, methods)] if matches!(methods[..], [Method::Roll { .. }])),
        "{actions:?}"
    );
    let text = "web/0: pid 7 serves".to_owned();
    app.handle(
        at(3.0),
        Input::Progress(1, Box::new(Response::Progress { text })),
    );
    let end = "rotad: web: aborted: web/0 exited with 3\n  | Error: no\n  the 4 old workers serve";
    app.handle(
        at(4.0),
        Input::Outcome(1, ExitCode::OLD_SERVE, end.to_owned()),
    );
    looks(&mut app, (80, 24), "outcome");
    keys(&mut app, 5.0, "o");
    looks(&mut app, (80, 24), "whole_outcome");
    key(&mut app, 5.0, KeyCode::Esc);
    key(&mut app, 5.0, KeyCode::Esc);
    assert!(!self::text(&draw(&mut app, 80, 24)).contains("exit 10"));
}

#[test]
fn each_key_asks_what_its_verb_asks() {
    let asked = |pressed: &str| -> Option<Method> {
        let mut app = filled();
        keys(&mut app, 2.0, "g");
        let actions = keys(&mut app, 2.0, pressed);
        actions.into_iter().find_map(|action| match action {
            Action::Ask(_, mut methods) => methods.pop(),
            _ => None,
        })
    };
    for (pressed, is) in [
        ("ry", "Roll { which: Selector { pools: [\"web\"]"),
        ("ljjry", "Replace { pool: \"web\", slot: 1"),
        ("by", "Rollback { pools: [\"web\"], to: None"),
        ("+", "Scale { pool: \"web\", to: By(1) }"),
        ("-y", "Scale { pool: \"web\", to: By(-1) }"),
        ("sy", "Stop { pools: [\"web\"], now: false }"),
        ("S", "Start { pools: [\"web\"]"),
    ] {
        let method = format!("{:?}", asked(pressed).expect(pressed));
        assert!(method.starts_with(is), "{pressed}: {method}");
    }
    for pressed in ["r", "rn", "b", "-", "s", "sq", "ljs"] {
        assert_eq!(asked(pressed), None, "{pressed}");
    }
}

#[test]
fn commands_are_typed_and_faults_of_theirs_are_said() {
    let mut app = filled();
    keys(&mut app, 2.0, ":rel");
    looks(&mut app, (80, 24), "command");
    key(&mut app, 2.0, KeyCode::Tab);
    key(&mut app, 2.0, KeyCode::Enter);
    assert!(text(&draw(&mut app, 80, 24)).contains("y: rotad reload -c /srv/shop/rotad.toml"));
    keys(&mut app, 2.0, "n");
    for (line, said) in [
        ("scale web", "`rotad scale` needs"),
        ("logs -f", "typed in a shell"),
        ("stop web/0", "takes whole pools"),
    ] {
        keys(&mut app, 2.0, &format!(":{line}"));
        assert_eq!(key(&mut app, 2.0, KeyCode::Enter), []);
        let notice = app.notice.clone().expect(line);
        assert!(notice.contains(said), "{line}: {notice}");
    }
    keys(&mut app, 2.0, ":scale web 9");
    let actions = key(&mut app, 2.0, KeyCode::Enter);
    assert!(
        matches!(actions[..], [Action::Ask(..)]),
        "more stops nothing: {actions:?}"
    );
    keys(&mut app, 2.0, ":stop");
    key(&mut app, 2.0, KeyCode::Enter);
    assert!(text(&draw(&mut app, 80, 24)).contains("Stop every worker, and the master?"));
    keys(&mut app, 2.0, "n:quit");
    assert_eq!(key(&mut app, 2.0, KeyCode::Enter), [Action::Quit]);
}

#[test]
fn what_is_pasted_is_no_command() {
    let mut app = filled();
    let pasted = Input::Paste("sy\n:stop\ny".to_owned());
    assert_eq!(handle(&mut app, 2.0, pasted), []);
    assert!(app.question.is_none() && app.prompt.is_none());
    keys(&mut app, 2.0, "/");
    app.handle(at(2.0), Input::Paste("mail\n".to_owned()));
    let screen = text(&draw(&mut app, 80, 24));
    assert!(
        screen.contains("▸ mail") && !screen.contains("▸ web"),
        "{screen}"
    );
}

#[test]
fn filters_are_of_the_focused_pane() {
    let mut app = filled();
    keys(&mut app, 2.0, "/DATABASE");
    key(&mut app, 2.0, KeyCode::Enter);
    looks(&mut app, (80, 24), "filter");
    key(&mut app, 2.0, KeyCode::Esc);
    key(&mut app, 2.0, KeyCode::Tab);
    keys(&mut app, 2.0, "/spawn");
    let screen = text(&draw(&mut app, 80, 24));
    assert!(
        screen.contains("started as pid") && !screen.contains("exited with 3,"),
        "{screen}"
    );
    key(&mut app, 2.0, KeyCode::Esc);
    keys(&mut app, 2.0, "/nosuch");
    key(&mut app, 2.0, KeyCode::Enter);
    assert!(!text(&draw(&mut app, 80, 24)).contains("started as pid"));
}

#[test]
fn panes_scroll_and_follow_again() {
    let mut app = filled();
    for n in 0..100 {
        app.handle(at(2.0), log(0, "stdout", &format!("line {n}.")));
    }
    key(&mut app, 2.0, KeyCode::BackTab);
    keys(&mut app, 2.0, "kkk");
    let screen = text(&draw(&mut app, 80, 24));
    assert!(
        screen.contains("line 96.") && !screen.contains("line 97."),
        "{screen}"
    );
    app.handle(at(2.0), log(0, "stdout", "one more"));
    let screen = text(&draw(&mut app, 80, 24));
    assert!(
        screen.contains("line 96.") && screen.contains("(4 below, G follows)"),
        "{screen}"
    );
    keys(&mut app, 2.0, "G");
    assert!(text(&draw(&mut app, 80, 24)).contains("one more"));
    let long = "word ".repeat(40) + "end";
    app.handle(at(2.0), log(0, "stdout", &long));
    assert!(!text(&draw(&mut app, 80, 24)).contains("word end"));
    keys(&mut app, 2.0, "w");
    assert!(text(&draw(&mut app, 80, 24)).contains("word end"));
}

#[test]
fn a_master_that_is_gone_is_named_with_the_time_and_looked_for() {
    let mut app = filled();
    let actions = app.handle(at(3.0), Input::Tick);
    assert_eq!(actions, [Action::Fetch]);
    assert_eq!(app.handle(at(4.6), Input::Tick), [], "one at a time");
    app.handle(
        at(5.0),
        Input::NoEvents("the master closed the connection".to_owned()),
    );
    assert!(text(&draw(&mut app, 80, 24)).contains("no answer for 2.0s"));
    let actions = app.handle(
        at(6.0),
        Input::Gone("nothing is running for /srv/shop/rotad.toml".to_owned()),
    );
    assert_eq!(actions, [Action::Fetch], "it is looked for");
    app.handle(at(9.0), Input::Tick);
    looks(&mut app, (80, 24), "gone");
    let next = Input::Status(Box::new(status()), Box::default());
    app.handle(at(9.5), next);
    assert!(!text(&draw(&mut app, 80, 24)).contains("no master"));
}

#[test]
fn the_status_is_read_at_most_once_a_second_and_seldom_when_nothing_moves() {
    let calm = || {
        let mut calm = status();
        calm.pools.remove(1);
        calm
    };
    let fetches = |status: &dyn Fn() -> Status, with_events: bool| {
        let mut app = App::new(status(), None, false, at(0.0));
        let mut times = Vec::new();
        for tenth in 1..=200_u32 {
            let now = at(f64::from(tenth) / 10.0);
            let input = match with_events {
                true => event(u64::from(tenth), EventKind::Spawn, None, ""),
                false => Input::Tick,
            };
            if app.handle(now, input).contains(&Action::Fetch) {
                times.push(tenth);
                app.handle(now, Input::Status(Box::new(status()), Box::default()));
            }
        }
        times
    };
    // The first reading follows the events that are there at the start.
    assert_eq!(fetches(&calm, false), [10, 40, 70, 100, 130, 160, 190]);
    assert_eq!(fetches(&calm, true).len(), 20);
    assert_eq!(fetches(&status, false).len(), 20, "a crash loop moves");
}

#[test]
fn events_that_come_again_are_shown_once_and_a_new_master_counts_from_one() {
    let mut app = app();
    for _ in 0..2 {
        for seq in 1..4 {
            app.handle(at(1.0), event(seq, EventKind::Spawn, Some(1), "started"));
        }
    }
    assert_eq!(app.events.iter().count(), 3);
    let Input::Event(mut of_next) = event(1, EventKind::MasterStarted, None, "started") else {
        unreachable!()
    };
    of_next.time = "2026-11-27T12:30:00.000Z".to_owned();
    app.handle(at(1.0), Input::Event(of_next));
    assert_eq!(app.events.iter().count(), 4);
}

#[test]
fn colours_are_sixteen_and_none_where_they_are_not_wanted() {
    let screen = |colour| {
        let mut app = App::new(status(), None, colour, at(0.0));
        app.handle(at(0.0), Input::Tick);
        draw(&mut app, 80, 24)
    };
    let colours = |screen: &TestBackend| {
        let mut colours: Vec<Color> = Vec::new();
        for cell in screen.buffer().content() {
            for colour in [cell.fg, cell.bg] {
                if !colours.contains(&colour) {
                    colours.push(colour);
                }
            }
        }
        colours
    };
    assert_eq!(colours(&screen(false)), [Color::Reset]);
    let painted = colours(&screen(true));
    assert!(painted.contains(&Color::Red) && painted.contains(&Color::Green));
    let is_wide = |colour: &&Color| matches!(colour, Color::Rgb(..) | Color::Indexed(_));
    assert_eq!(painted.iter().find(is_wide), None);
    // What is selected is seen without colours.
    let plain = screen(false);
    let mut cells = plain.buffer().content().iter();
    assert!(cells.any(|cell| cell.modifier.contains(Modifier::REVERSED)));
}

#[test]
fn the_mouse_selects_unfolds_and_scrolls() {
    let mut app = filled();
    let row = |app: &mut App, name: &str| {
        let screen = text(&draw(app, 80, 24));
        let row = screen.lines().position(|line| line.contains(name));
        row.expect(name) as u16
    };
    let mouse = |app: &mut App, kind, row| {
        let (column, modifiers) = (5, KeyModifiers::NONE);
        let mouse = MouseEvent {
            kind,
            column,
            row,
            modifiers,
        };
        app.handle(at(2.0), Input::Mouse(mouse))
    };
    let click = MouseEventKind::Down(MouseButton::Left);
    let web = row(&mut app, "▸ web");
    mouse(&mut app, click, web);
    assert_eq!(app.selected, Some(Target::pool("web")));
    mouse(&mut app, click, web);
    let web = row(&mut app, "▾ web");
    mouse(&mut app, MouseEventKind::ScrollDown, web);
    assert_eq!(app.selected, Some(Target::slot("web", 0)));
    let events = row(&mut app, "── events");
    mouse(&mut app, click, events);
    assert!(text(&draw(&mut app, 80, 24)).contains("━━ events"));
}

#[test]
fn keys_that_are_none_are_told_and_q_closes_before_it_quits() {
    let mut app = filled();
    keys(&mut app, 2.0, "x");
    assert!(text(&draw(&mut app, 80, 24)).contains("`x` is no key: `?` shows them"));
    keys(&mut app, 2.0, "?");
    looks(&mut app, (80, 24), "help");
    assert_eq!(keys(&mut app, 2.0, "q"), []);
    assert_eq!(keys(&mut app, 2.0, "q"), [Action::Quit]);
    let ctrl = |letter| Input::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL));
    assert_eq!(handle(&mut app, 2.0, ctrl('z')), [Action::Suspend]);
    assert_eq!(handle(&mut app, 2.0, ctrl('l')), [Action::Redraw]);
    assert_eq!(keys(&mut app, 2.0, "m"), [Action::Mouse(false)]);
}
