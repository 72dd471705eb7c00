//! A worker with knobs: what the tests run under rotad. `testworker VERB [--knob VALUE]…`; every knob is in [`Knobs`].
//!
//! `--code FILE` stands for the program's code: the file is read once, at the start, so that a test deploys new code
//! by writing another file. Its first line says what happens, the rest is the version that requests are answered with:
//! `ok` | `exit CODE` (immediately) | `hang` (never ready) | `die MS` (that long after ready) | `slow MS` (to start).
//! For those that fail, the rest of the file is printed to stderr as last words.

#![expect(
    unsafe_code,
    reason = "one descriptor has to be taken over from the environment; see `own`"
)]
#![expect(
    clippy::zombie_processes,
    reason = "leaving children alone is what some of these workers are for"
)]
#![expect(
    clippy::exit,
    reason = "exit codes are what many of these workers are for"
)]

#[path = "testworker/facts.rs"]
mod facts;
#[path = "testworker/hostile.rs"]
mod hostile;
#[path = "testworker/http.rs"]
mod http;
#[path = "testworker/impostor.rs"]
mod impostor;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Everything that can be asked of a worker on its command line.
#[derive(Default)]
pub(crate) struct Knobs {
    /// Work a request, in milliseconds.
    pub(crate) work_ms: u64,
    /// How long the start takes before it accepts.
    pub(crate) start_ms: u64,
    /// How much processor time the start uses.
    burn_ms: u64,
    /// At the start: ask for this many milliseconds more by EXTEND_TIMEOUT_USEC.
    ask_ms: u64,
    /// After TERM, and after the last request, before it leaves.
    pub(crate) drain_ms: u64,
    /// After TERM: ask for this many milliseconds more by EXTEND_TIMEOUT_USEC.
    extend_ms: u64,
    code: Option<String>,
    /// A line is appended here at each start: milliseconds since 1970, pid, slot, generation.
    starts: Option<String>,
    /// A line is appended here when TERM arrives: pid.
    terms: Option<String>,
    /// A line is appended here when it leaves by itself: pid.
    ended: Option<String>,
    /// READY=1 once it is up.
    notify: bool,
    ignore_term: bool,
    /// At TERM it shuts the listener down, as many servers do: which is shared with all workers.
    pub(crate) shuts: bool,
    /// An address of its own to listen on, instead of the inherited socket; `/shutdown` then is for good.
    pub(crate) bind: Option<String>,
    /// The listener is descriptor 0, as inetd's `wait` hands it on.
    pub(crate) stdin: bool,
    /// WATCHDOG=1, twice as often as WATCHDOG_USEC asks for. SIGUSR2 makes the worker sick: this ends, and so do
    /// answers of `http`.
    watchdog: bool,
    /// Once this file is there, says to the manager what is in it.
    say: Option<String>,
    /// Touches so many MiB of memory at the start.
    mib: u64,
    /// Grandchildren: one in a session of its own, one orphan in a session of its own; their pids are appended here.
    escape: Option<String>,
    /// Where `facts` writes, and others their pids.
    out: Option<String>,
    /// How many lines `lines` prints, or `counts` at a time …
    pub(crate) lines: u64,
    /// … and how long each is at least, in bytes.
    width: u64,
    /// How long a `job` takes.
    pub(crate) job_ms: u64,
    pub(crate) exit_code: i32,
    /// In a session of its own, as far away from its parent as it gets.
    pub(crate) far: bool,
    /// Some number that a verb of another process passes on.
    pub(crate) number: u64,
    /// A file that is waited for.
    when: Option<String>,
    /// A file that is mapped.
    map: Option<String>,
    rest: Vec<String>,
}

impl Knobs {
    pub(crate) fn out_to(&self) -> &str {
        self.out.as_deref().expect("--out")
    }

    pub(crate) fn mapped(&self) -> &str {
        self.map.as_deref().expect("--map")
    }

    pub(crate) fn when_there(&self) -> &str {
        self.when.as_deref().expect("--when")
    }
}

/// What the code file says.
#[derive(Default)]
pub(crate) struct Code {
    hang: bool,
    pub(crate) die_after_ms: Option<u64>,
    pub(crate) version: String,
}

fn main() {
    impostor::play();
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let knobs = knobs(arguments);
    match verb.as_str() {
        "http" => http::serve(&knobs, begin(&knobs)),
        "spin-accept" => http::spin(&knobs, begin(&knobs)),
        "wait" => wait(&knobs),
        "facts" => facts::write(knobs.out.as_deref().expect("facts needs --out")),
        "job" => job(&knobs),
        "deaf" => {
            begin(&knobs);
            deaf(&knobs)
        }
        "lines" => lines(&knobs),
        "counts" => counts(&knobs),
        "closes-fds" => closes_fds(&knobs),
        "flood" => flood(&knobs),
        "escaped" => escaped(&knobs),
        "orphaner" => orphaner(&knobs),
        "seized" => hostile::seized(&knobs),
        "seizer" => hostile::seizer(&knobs),
        "siblings" => hostile::siblings(&knobs),
        "horde" => hostile::horde(&knobs),
        "leaves-stuck" => hostile::leaves_stuck(&knobs),
        "stuck" => hostile::stuck(&knobs),
        "blocked" => blocked(&knobs),
        other => panic!("testworker: no verb {other:?}"),
    }
}

fn knobs(mut arguments: impl Iterator<Item = String>) -> Knobs {
    let mut knobs = Knobs::default();
    while let Some(name) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .unwrap_or_else(|| panic!("testworker: {name} needs a value"))
        };
        match name.as_str() {
            "--work-ms" => knobs.work_ms = number(&value()),
            "--start-ms" => knobs.start_ms = number(&value()),
            "--burn-ms" => knobs.burn_ms = number(&value()),
            "--ask-ms" => knobs.ask_ms = number(&value()),
            "--drain-ms" => knobs.drain_ms = number(&value()),
            "--extend-ms" => knobs.extend_ms = number(&value()),
            "--job-ms" => knobs.job_ms = number(&value()),
            "--lines" => knobs.lines = number(&value()),
            "--width" => knobs.width = number(&value()),
            "--number" => knobs.number = number(&value()),
            "--map" => knobs.map = Some(value()),
            "--when" => knobs.when = Some(value()),
            "--far" => knobs.far = true,
            "--exit" => knobs.exit_code = number(&value()) as i32,
            "--code" => knobs.code = Some(value()),
            "--starts" => knobs.starts = Some(value()),
            "--terms" => knobs.terms = Some(value()),
            "--ended" => knobs.ended = Some(value()),
            "--escape" => knobs.escape = Some(value()),
            "--out" => knobs.out = Some(value()),
            "--bind" => knobs.bind = Some(value()),
            "--mib" => knobs.mib = number(&value()),
            "--say" => knobs.say = Some(value()),
            "--stdin" => knobs.stdin = true,
            "--watchdog" => knobs.watchdog = true,
            "--notify" => knobs.notify = true,
            "--ignore-term" => knobs.ignore_term = true,
            "--shuts" => knobs.shuts = true,
            "--" => {
                knobs.rest = arguments.collect();
                break;
            }
            other => panic!("testworker: no knob {other:?}"),
        }
    }
    knobs
}

fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("testworker: not a number: {text:?}"))
}

/// What every worker does first: writes that it started, reads its code, takes its time, lets grandchildren go.
fn begin(knobs: &Knobs) -> Code {
    if let Some(file) = &knobs.starts {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock after 1970")
            .as_millis();
        append(
            file,
            &format!(
                "{now} {} {} {}",
                std::process::id(),
                env("ROTAD_SLOT"),
                env("ROTAD_GENERATION")
            ),
        );
    }
    let mut code = Code::default();
    if let Some(file) = &knobs.code {
        code = read_code(file);
    }
    if knobs.ask_ms > 0 {
        tell(&format!("EXTEND_TIMEOUT_USEC={}", knobs.ask_ms * 1000));
    }
    pause(knobs.start_ms);
    burn(knobs.burn_ms);
    if let Some(file) = &knobs.escape {
        let me = std::env::current_exe().expect("the path of this program");
        for verb in ["escaped", "orphaner"] {
            let mut child = Command::new(&me);
            child.args([verb, "--escape", file]).stdin(Stdio::null());
            let mut child = child.spawn().expect("a grandchild");
            if verb == "orphaner" {
                child.wait().expect("the orphaner's end");
            }
        }
    }
    if code.hang {
        wait_for_term();
        exit(0);
    }
    code
}

fn read_code(file: &str) -> Code {
    let text = fs::read_to_string(file).unwrap_or_else(|error| {
        complain(&format!("testworker: no code in {file}: {error}"));
        exit(66)
    });
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let (what, number_of) = first.split_once(' ').unwrap_or((first, "0"));
    let mut code = Code {
        version: rest.trim().to_string(),
        ..Code::default()
    };
    if what != "ok" && what != "slow" {
        complain(rest.trim());
    }
    match what {
        "ok" => {}
        "exit" => exit(number(number_of) as i32),
        "hang" => code.hang = true,
        "die" => code.die_after_ms = Some(number(number_of)),
        "slow" => pause(number(number_of)),
        other => panic!("testworker: no such code: {other:?}"),
    }
    code
}

/// What every worker does once it is up: says so, and dies of its code if that is what the code does.
pub(crate) fn up(knobs: &Knobs, code: &Code) {
    fatten(knobs.mib);
    if knobs.notify {
        tell("READY=1");
    }
    if knobs.watchdog {
        bark();
    }
    if let Some(file) = knobs.say.clone() {
        std::thread::spawn(move || {
            while fs::metadata(&file).is_err() {
                pause(10);
            }
            let text = fs::read_to_string(&file).expect("a message");
            // Its successor is not meant.
            fs::remove_file(&file).expect("a message");
            tell(text.trim());
        });
    }
    if let Some(after) = code.die_after_ms {
        std::thread::spawn(move || {
            pause(after);
            exit(1)
        });
    }
}

/// What every worker does when TERM has come.
pub(crate) fn termed(knobs: &Knobs) {
    if let Some(file) = &knobs.terms {
        append(file, &std::process::id().to_string());
    }
    if knobs.extend_ms > 0 {
        tell(&format!("EXTEND_TIMEOUT_USEC={}", knobs.extend_ms * 1000));
    }
    if knobs.ignore_term {
        forever();
    }
}

/// A worker without a socket: waits for TERM.
fn wait(knobs: &Knobs) {
    let term = term_stream();
    let code = begin(knobs);
    up(knobs, &code);
    block_until(term);
    termed(knobs);
    pause(knobs.drain_ms);
    if let Some(file) = &knobs.ended {
        append(file, &std::process::id().to_string());
    }
    exit(knobs.exit_code)
}

/// Says that it lives, until it is sick.
fn bark() {
    let sick = sick();
    assert_eq!(
        env("WATCHDOG_PID"),
        std::process::id().to_string(),
        "the watchdog is another process's"
    );
    let interval = number(&env("WATCHDOG_USEC"));
    std::thread::spawn(move || {
        while !sick.load(std::sync::atomic::Ordering::SeqCst) {
            tell("WATCHDOG=1");
            std::thread::sleep(Duration::from_micros(interval / 2));
        }
    });
}

/// Set by SIGUSR2.
pub(crate) fn sick() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGUSR2, flag.clone()).expect("a handler");
    flag
}

fn fatten(mib: u64) {
    let mut fat = vec![0_u8; (mib << 20) as usize];
    fat.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let _kept: &mut [u8] = fat.leak();
}

fn job(knobs: &Knobs) {
    let _term = term_stream();
    begin(knobs);
    pause(knobs.job_ms);
    exit(knobs.exit_code)
}

/// Ignores TERM, INT and QUIT.
fn deaf(knobs: &Knobs) -> ! {
    for signal in [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGQUIT,
    ] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).expect("a handler");
    }
    up(knobs, &Code::default());
    forever()
}

/// Prints numbered lines as fast as it can, then exits immediately.
fn lines(knobs: &Knobs) {
    begin(knobs);
    let mut text = String::new();
    for number in 0..knobs.lines {
        text += &format!(
            "{:<width$}\n",
            format!("line {number}"),
            width = (knobs.width as usize).saturating_sub(1)
        );
    }
    std::io::stdout()
        .write_all(text.as_bytes())
        .expect("stdout");
    exit(knobs.exit_code)
}

/// Prints numbered lines that begin with its own `ROTAD_WORKER`, some of them each `--work-ms`. After TERM it prints how
/// many there were, and leaves.
fn counts(knobs: &Knobs) {
    let mut term = term_stream();
    begin(knobs);
    let pause = Duration::from_millis(knobs.work_ms);
    term.set_read_timeout(Some(pause)).expect("a timeout");
    let worker = env("ROTAD_WORKER");
    let print = |text: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).expect("stdout");
        out.flush().expect("stdout");
    };
    let mut count = 0;
    loop {
        let burst = (count + 1)..=(count + knobs.lines);
        print(burst.map(|number| format!("{worker} {number}\n")).collect());
        count += knobs.lines;
        if std::io::Read::read(&mut term, &mut [0]).is_ok() {
            print(format!("{worker} ends after {count}\n"));
            exit(0)
        }
    }
}

/// Closes everything that it was given, stdio too, and waits.
fn closes_fds(knobs: &Knobs) {
    let term = term_stream();
    begin(knobs);
    for fd in [0, 1, 2, 3] {
        let _ = nix::unistd::close(fd);
    }
    up(knobs, &Code::default());
    block_until(term);
    exit(0)
}

/// Sends messages, good ones and nonsense, as fast as the socket takes them.
fn flood(knobs: &Knobs) {
    begin(knobs);
    tell("READY=1");
    let socket = UnixDatagram::unbound().expect("a datagram socket");
    let path = env("NOTIFY_SOCKET");
    let nonsense = "x".repeat(60_000);
    loop {
        for text in ["STATUS=busy", "", "=\n=\n", "WATCHDOG=1", nonsense.as_str()] {
            let _ = socket.send_to(text.as_bytes(), &path);
        }
    }
}

/// A grandchild that went away: a session of its own, deaf.
fn escaped(knobs: &Knobs) {
    nix::unistd::setsid().expect("a session of its own");
    append(
        knobs.escape.as_deref().expect("--escape"),
        &std::process::id().to_string(),
    );
    deaf(&Knobs::default())
}

/// Leaves a child without a parent.
fn orphaner(knobs: &Knobs) {
    let me = std::env::current_exe().expect("the path of this program");
    let file = knobs.escape.as_deref().expect("--escape");
    Command::new(me)
        .args(["escaped", "--escape", file])
        .stdin(Stdio::null())
        .spawn()
        .expect("an orphan");
}

/// Runs the rest of the command line with every signal blocked.
fn blocked(knobs: &Knobs) {
    nix::sys::signal::SigSet::all()
        .thread_block()
        .expect("a mask");
    let error = Command::new(&knobs.rest[0]).args(&knobs.rest[1..]).exec();
    panic!("testworker: exec {:?}: {error}", knobs.rest);
}

/// A stream that becomes readable when TERM has come.
pub(crate) fn term_stream() -> UnixStream {
    let (reader, writer) = UnixStream::pair().expect("a pair");
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, writer)
        .expect("a handler");
    reader
}

fn wait_for_term() {
    block_until(term_stream());
}

pub(crate) fn block_until(mut stream: UnixStream) {
    let mut byte = [0];
    let _ = std::io::Read::read(&mut stream, &mut byte);
}

pub(crate) fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

/// Takes over a descriptor by number.
pub(crate) fn own(fd: i32) -> OwnedFd {
    // SAFETY: 3 comes from LISTEN_FDS and is taken once; the others come from accept(2) a moment before.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A datagram to the manager, as sd_notify(3).
pub(crate) fn tell(text: &str) {
    let path = env("NOTIFY_SOCKET");
    let socket = UnixDatagram::unbound().expect("a datagram socket");
    let sent = match path.strip_prefix('@') {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a name");
            socket.send_to_addr(text.as_bytes(), &address)
        }
        None => socket.send_to(text.as_bytes(), &path),
    };
    if let Err(error) = sent {
        complain(&format!("testworker: {text} to {path:?}: {error}"));
    }
}

pub(crate) fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

pub(crate) fn append(file: &str, line: &str) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .expect("a file to append to");
    file.write_all(format!("{line}\n").as_bytes())
        .expect("a line appended");
}

pub(crate) fn complain(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Uses so much time of a processor, however long that takes.
fn burn(ms: u64) {
    let used = || {
        let used = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)
            .expect("our own clock");
        used.tv_sec() as u64 * 1000 + used.tv_nsec() as u64 / 1_000_000
    };
    let end = used() + ms;
    while ms > 0 && used() < end {
        std::hint::spin_loop();
    }
}

pub(crate) fn pause(ms: u64) {
    if ms > 0 {
        std::thread::sleep(Duration::from_millis(ms));
    }
}
