//! The prober by itself: what is healthy, what is not and why, and that nothing of a command is left behind.

#[path = "support/spawn_harness.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]
mod spawn_harness;

use crossbeam_channel::Receiver;
use rotad::event_loop::clock::Clock;
use rotad::event_loop::mailbox;
use rotad::event_loop::waker::Waker;
use rotad::probe::{ProbeError, ProbeRequest, ProbeResult, Prober};
use rotad::process::SpawnerConfig;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

const GIVE_UP: Duration = Duration::from_secs(30);

/// A prober and its results.
struct TestProber {
    prober: Prober,
    results: Receiver<ProbeResult>,
}

impl Deref for TestProber {
    type Target = Prober;

    fn deref(&self) -> &Prober {
        &self.prober
    }
}

fn prober() -> TestProber {
    let (mailbox, results) = mailbox::channel(Waker::new().unwrap());
    let config = SpawnerConfig {
        clock: Clock::start(),
        original_nofile: spawn_harness::NOFILE,
        shim: env!("CARGO_BIN_EXE_rotad").into(),
    };
    TestProber {
        prober: Prober::start(config, mailbox).unwrap(),
        results,
    }
}

fn ask(prober: &TestProber, question: ProbeRequest) -> Result<(), String> {
    prober.start_probe(7, question);
    let answer = prober.results.recv_timeout(GIVE_UP).unwrap();
    assert_eq!(answer.number, 7);
    answer.result.map_err(|trouble| match trouble {
        ProbeError::Failed(reason) => reason,
        ProbeError::Indeterminate(reason) => panic!("not asked: {reason}"),
    })
}

fn connect(text: &str) -> ProbeRequest {
    ProbeRequest::connect(OsStr::new(text)).unwrap()
}

fn http(text: &str) -> ProbeRequest {
    ProbeRequest::http(OsStr::new(text), Vec::new()).unwrap()
}

fn command(argv: &[&str], dir: &Path) -> ProbeRequest {
    ProbeRequest::Command(Box::new(spawn_harness::request(argv, dir)))
}

fn shell(script: &str, dir: &Path) -> ProbeRequest {
    command(&["/bin/sh", "-c", script], dir)
}

/// Answers each connection with the next of these texts, when its request has been read, and gives the requests.
fn server(answers: &'static [&'static str]) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                text.push(byte[0]);
            }
            requests.push(String::from_utf8(text).unwrap());
            for part in answer.split('|') {
                stream.write_all(part.as_bytes()).unwrap();
            }
            drop(stream);
        }
        requests
    };
    (address, std::thread::spawn(serve))
}

/// A port on which nobody listens, and that nobody else gets.
fn taken() -> (OwnedFd, u16) {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket,
    };
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 0)).unwrap();
    let port = getsockname::<SockaddrIn>(fd.as_raw_fd()).unwrap().port();
    (fd, port)
}

#[test]
fn connection_probes_report_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let prober = prober();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(ask(&prober, connect(&address.to_string())), Ok(()));
    assert_eq!(
        ask(&prober, connect(&format!("localhost:{}", address.port()))),
        Ok(())
    );
    let (_taken, port) = taken();
    for host in ["127.0.0.1", "localhost"] {
        let result = ask(&prober, connect(&format!("{host}:{port}")));
        assert_eq!(result, Err("connection refused".to_owned()), "{host}");
    }
    if let Ok(listener) = TcpListener::bind("[::1]:0") {
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ask(&prober, connect(&format!("[::1]:{port}"))), Ok(()));
        assert_eq!(
            ask(&prober, connect(&format!("localhost:{port}"))),
            Ok(()),
            "the second address is tried as well"
        );
    }
    let path = dir.path().join("socket");
    let place = format!("unix:{}", path.display());
    assert_eq!(
        ask(&prober, connect(&place)),
        Err("no such file or directory".to_owned())
    );
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(ask(&prober, connect(&place)), Ok(()));
    drop(listener);
    // A child that another test is giving birth to has a copy of it until it runs its program.
    let until = Instant::now() + Duration::from_secs(10);
    let refused = loop {
        if let Err(why) = ask(&prober, connect(&place)) {
            break why;
        }
        assert!(Instant::now() < until, "still listening");
    };
    assert_eq!(refused, "connection refused");
}

#[test]
fn http_probes_report_the_status() {
    let prober = prober();
    let (address, server) = server(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HT|TP/1.0 3|02 Found\r|\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\n\r\n",
        "HTTP/1.1 404\r\n\r\n",
        "",
        "220 mail.example.org ESMTP\r\n",
    ]);
    let question = || http(&format!("{address}/healthz?full=1"));
    for _ in 0..3 {
        assert_eq!(ask(&prober, question()), Ok(()));
    }
    let faults = [
        "answered 503 Service Unavailable",
        "answered 404",
        "closed without an answer",
        "answered, but not in HTTP",
    ];
    for fault in faults {
        assert_eq!(ask(&prober, question()), Err(fault.to_owned()));
    }
    let request = server.join().unwrap().remove(0);
    assert!(
        request.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains(&format!("\r\nHost: {address}\r\n")),
        "{request}"
    );
    assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
}

/// The server writes more than the probe reads: its answer counts, and the connection is not reset in the middle.
#[test]
fn a_long_response_is_drained() {
    let prober = prober();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        (0..10).try_for_each(|_| stream.write_all(&[b'x'; 10_000]))
    });
    assert_eq!(ask(&prober, http(&address.to_string())), Ok(()));
    assert!(server.join().unwrap().is_ok());
}

/// One that never answers holds nobody up, and is forgotten without an answer.
#[test]
fn probes_run_beside_a_hanging_one() {
    let prober = prober();
    let dir = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    prober.start_probe(1, http(&silent.local_addr().unwrap().to_string()));
    prober.start_probe(2, command(&["/bin/sleep", "1000"], dir.path()));
    for _ in 0..20 {
        assert_eq!(
            ask(&prober, connect(&silent.local_addr().unwrap().to_string())),
            Ok(())
        );
        assert_eq!(ask(&prober, command(&["/bin/true"], dir.path())), Ok(()));
    }
    prober.cancel(1);
    prober.cancel(2);
    assert_eq!(ask(&prober, command(&["/bin/true"], dir.path())), Ok(()));
    assert!(prober.results.is_empty());
}

#[test]
fn command_probes_report_exit_and_last_line() {
    let dir = tempfile::tempdir().unwrap();
    let prober = prober();
    let run = |script: &str| ask(&prober, shell(script, dir.path()));
    assert_eq!(run("exit 0"), Ok(()));
    assert_eq!(run("exit 3"), Err("exited with 3".to_owned()));
    assert_eq!(
        run("echo one; printf 'two\\033lines\\n\\n' >&2; exit 1"),
        Err("exited with 1: two\\x1blines".to_owned())
    );
    assert_eq!(
        run("kill -SEGV $$"),
        Err("was killed by SIGSEGV".to_owned())
    );
    assert_eq!(
        run("test $(pwd -P) = $(readlink -f .) && test -z \"$LISTEN_PID$NOTIFY_SOCKET\""),
        Ok(())
    );
    // More than a pipe holds, so the output must be read.
    assert_eq!(
        run("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end; exit 9"),
        Err("exited with 9: end".into())
    );
    let missing = ask(&prober, command(&["no-such-program"], dir.path()));
    assert!(
        missing
            .as_ref()
            .is_err_and(|reason| reason.contains("no-such-program")),
        "{missing:?}"
    );
}

/// As another user, through the shim: its refusals are told as well.
#[test]
fn command_probes_run_as_the_workers_user() {
    if !spawn_harness::is_root() {
        return;
    }
    let dir = tempfile::Builder::new()
        .prefix("rt.")
        .tempdir_in("/tmp")
        .unwrap();
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let prober = prober();
    let as_nobody = |argv: &[&str]| {
        let mut request = spawn_harness::request(argv, dir.path());
        request.account = Some(rotad::plan::Account {
            name: "nobody".into(),
            uid: 65534,
            gid: 65534,
            groups: vec![],
            home: "/".into(),
            shell: "/bin/sh".into(),
            group_alone: false,
        });
        ProbeRequest::Command(Box::new(request))
    };
    assert_eq!(
        ask(
            &prober,
            as_nobody(&["/bin/sh", "-c", "test $(id -u) = 65534"])
        ),
        Ok(())
    );
    let file = dir.path().join("plain");
    std::fs::write(&file, "").unwrap();
    let refused = ask(&prober, as_nobody(&[file.to_str().unwrap()]));
    assert!(
        refused
            .as_ref()
            .is_err_and(|reason| reason.starts_with("cannot be run: ")),
        "{refused:?}"
    );
}

/// The processes of its group end with it: when it ends, when it is forgotten, and when the prober ends.
#[test]
fn no_process_or_descriptor_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let pid_of = |name: &str| {
        let path = dir.path().join(name);
        let deadline = Instant::now() + GIVE_UP;
        loop {
            match std::fs::read_to_string(&path)
                .unwrap_or_default()
                .trim()
                .parse::<i32>()
            {
                Ok(pid) => return pid,
                Err(_) => assert!(Instant::now() < deadline, "no pid in {name}"),
            }
            std::thread::yield_now();
        }
    };
    let gone = |pid: i32| {
        let deadline = Instant::now() + GIVE_UP;
        let lives = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
        };
        while lives() {
            assert!(Instant::now() < deadline, "{pid} lives on");
            std::thread::yield_now();
        }
    };
    let prober = prober();
    assert_eq!(
        ask(
            &prober,
            shell("sleep 1000 & echo $! > one; exit 0", dir.path())
        ),
        Ok(())
    );
    gone(pid_of("one"));
    prober.start_probe(8, shell("sleep 1000 & echo $! > two; wait", dir.path()));
    let two = pid_of("two");
    prober.cancel(8);
    gone(two);
    prober.start_probe(
        9,
        shell(
            "trap '' TERM; sleep 1000 & echo $! > three; wait; wait",
            dir.path(),
        ),
    );
    let three = pid_of("three");
    drop(prober);
    gone(three);
}
