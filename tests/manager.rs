//! What the service manager is told (sd_notify(3)), by a socket of the test's own; tests/systemd*.rs ask a real systemd.

mod support;

use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use support::{Site, never};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--code", "@DIR@/code"]
count = 2
listen = "127.0.0.1:@PORT@"
[pool.web.reload]
soak = "100ms"
"#;

struct Manager(UnixDatagram);

impl Manager {
    /// Starts a master that has this manager, with more variables.
    fn of(site: &mut Site, variables: &[(&str, &str)]) -> Manager {
        let path = site.path("manager.sock");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        site.write("code", "ok\nv1\n");
        let mut run = site.run_command();
        run.env("NOTIFY_SOCKET", path)
            .envs(variables.iter().copied());
        site.spawn(run);
        Manager(socket)
    }

    /// The next message.
    fn next(&self, seconds: u64) -> Option<String> {
        self.0
            .set_read_timeout(Some(Duration::from_secs(seconds)))
            .expect("a timeout");
        let mut said = vec![0; 4096];
        let length = self.0.recv(&mut said).ok()?;
        Some(String::from_utf8_lossy(&said[..length]).to_string())
    }

    /// The next message with this in it; all before it are passed over, but `not` must not be among them.
    fn hears_before(&self, text: &str, not: &str) -> String {
        let mut before = Vec::new();
        loop {
            let said = self
                .next(20)
                .unwrap_or_else(|| panic!("in vain: {text}; heard: {before:?}"));
            if said.contains(text) {
                return said;
            }
            assert!(
                not.is_empty() || !said.contains(not),
                "{said} came before {text}"
            );
            before.push(said);
        }
    }

    fn hears(&self, text: &str) -> String {
        self.hears_before(text, "")
    }
}

#[test]
fn a_start_is_notified() {
    let mut site = Site::new(WEB);
    let manager = Manager::of(&mut site, &[]);
    manager.hears_before("STATUS=starting: web 0/2 starting", "READY=1");
    let ready = manager.hears("READY=1");
    assert!(
        ready.contains(&format!("MAINPID={}\n", site.guardian())),
        "{ready}"
    );
    assert!(ready.contains("STATUS=running: web 2/2"), "{ready}");
}

/// READY=1 comes again when the change is in force, or refused.
#[test]
fn a_reload_is_notified() {
    let mut site = Site::new(WEB);
    let manager = Manager::of(&mut site, &[]);
    manager.hears("READY=1");
    for edit in ["count = 3", "cuont = 3"] {
        site.write(
            "rotad.toml",
            &site
                .read("rotad.toml")
                .replace("count = 2", edit)
                .replace("count = 3", edit),
        );
        site.signal(Signal::SIGHUP);
        assert!(
            manager
                .hears_before("RELOADING=1", "READY=1")
                .contains("MONOTONIC_USEC=")
        );
        manager.hears("READY=1");
    }
}

/// … and for a rolling restart when that has ended, and says how.
#[test]
fn a_roll_by_signal_is_notified() {
    let mut site = Site::new(WEB);
    let manager = Manager::of(&mut site, &[]);
    manager.hears("READY=1");
    site.signal(Signal::SIGUSR1);
    assert!(manager.hears("RELOADING=1").contains("MONOTONIC_USEC="));
    manager.hears_before(
        "STATUS=reloading: web 2/2 rolling, 0 of 2 replaced",
        "READY=1",
    );
    manager.hears_before("1 of 2 replaced", "READY=1");
    assert!(manager.hears("READY=1").contains("STATUS=running: web "));
    assert_eq!(site.await_ready()["pools"][0]["generation"], 2);

    site.write("code", "exit 3\nno such module\n");
    site.signal(Signal::SIGUSR1);
    manager.hears("RELOADING=1");
    let end = manager.hears("READY=1");
    assert!(
        end.contains("web 2/2 degraded (generation 3 did not come up: ")
            && end.contains("exited with 3"),
        "{end}"
    );
}

/// A signal that rolls nothing is a reload that is done.
#[test]
fn a_signal_without_pools_is_notified() {
    let mut site = Site::new(WEB);
    let manager = Manager::of(&mut site, &[]);
    manager.hears("READY=1");
    site.signal(Signal::SIGUSR2);
    manager.hears("RELOADING=1");
    manager.hears("READY=1");
}

/// A manager whose patience is short is asked for more while a stop takes its time.
#[test]
fn a_stop_is_notified() {
    let mut site = Site::new(&WEB.replace(
        "\"@DIR@/code\"]",
        "\"@DIR@/code\", \"--drain-ms\", \"6500\"]",
    ));
    let manager = Manager::of(&mut site, &[]);
    manager.hears("READY=1");
    site.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    let asked = Instant::now();
    manager.hears("EXTEND_TIMEOUT_USEC=20000000");
    manager.hears("STATUS=stopping: web 2 left");
    manager.hears("EXTEND_TIMEOUT_USEC=20000000");
    assert!(
        asked.elapsed() >= Duration::from_secs(4),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(site.await_exit(15).code(), Some(0));
}

/// Twice as often as asked, while the main loop turns; a paused master is silent.
#[test]
fn the_watchdog_is_pinged() {
    let mut site = Site::new(WEB);
    let manager = Manager::of(&mut site, &[("WATCHDOG_USEC", "400000")]);
    manager.hears("READY=1");
    let began = Instant::now();
    for _ in 0..10 {
        manager.hears("WATCHDOG=1");
    }
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(1500) && took < Duration::from_secs(6),
        "ten in {took:?}"
    );
    site.signal(Signal::SIGSTOP);
    while manager.next(1).is_some() {}
    site.signal(Signal::SIGCONT);
    manager.hears("WATCHDOG=1");
}

#[test]
fn a_watchdog_of_another_process_is_ignored() {
    let mut site = Site::new(WEB);
    let manager = Manager::of(
        &mut site,
        &[("WATCHDOG_USEC", "200000"), ("WATCHDOG_PID", "1")],
    );
    manager.hears("READY=1");
    never("a message for another process's watchdog", 1.0, || {
        manager.next(1).filter(|said| said.contains("WATCHDOG"))
    });
}

/// Nothing is rolled: the reload that the manager was told of still ends.
#[test]
fn a_signal_that_rolls_nothing_is_notified() {
    let mut site = Site::new(&WEB.replace("soak = \"100ms\"", "on = \"change\""));
    let manager = Manager::of(&mut site, &[]);
    manager.hears("READY=1");
    for signal in [Signal::SIGUSR1, Signal::SIGUSR1] {
        site.signal(signal);
        manager.hears("RELOADING=1");
        manager.hears("READY=1");
    }
    site.await_log("web: unchanged, passed over", 10);
}
