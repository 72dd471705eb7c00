//! Logs in trouble: a master that is killed, a disk that is full, a directory of a malicious user.

mod support;

use nix::sys::signal::Signal;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::process::Command;
use std::time::Duration;
use support::{Site, alone, need, spaced, until};

/// A printing worker, and a master that is killed 20 times: the next one takes over what is in the pipes. No line is
/// lost; some may be there twice.
#[test]
fn no_line_is_lost_when_the_master_is_killed() {
    let _alone = alone();
    let script = r#"trap 'echo "$ROTAD_WORKER $i" >> ended; exit 0' TERM
echo "$ROTAD_WORKER" >> begun
i=0; while [ $i -lt 30000 ]; do echo "$ROTAD_WORKER line $i"; i=$((i+1)); done
while :; do read x < never; done"#;
    for target in ["@DIR@/web.log", "master"] {
        let mut site = Site::new(&format!(
            r#"
[pool.web]
command = ["sh", "@DIR@/worker.sh"]
working_directory = "@DIR@"
count = 2
ready = "spawned"
[pool.web.log]
stdout = "{target}"
"#
        ));
        site.write("worker.sh", script);
        nix::unistd::mkfifo(
            &site.path("never"),
            nix::sys::stat::Mode::from_bits_truncate(0o600),
        )
        .expect("a fifo");
        let rounds = if target == "master" { 5 } else { 20 };
        for round in 0..rounds {
            take_over(&mut site);
            await_begun(&site, round + 1);
            // Sometimes while it prints much, sometimes a little later.
            spaced(Duration::from_millis(7 * (round % 5)));
            support::proc::kill_with_guardian(site.pid());
            site.await_exit(10);
        }
        take_over(&mut site);
        await_begun(&site, rounds + 1);
        site.signal(Signal::SIGTERM);
        assert_eq!(site.await_exit(30).code(), Some(0));
        let ended: HashMap<String, u64> = site
            .lines("ended")
            .iter()
            .map(|line| line.split_once(' ').expect("a name and a number"))
            .map(|(name, number)| (name.to_owned(), number.parse().expect("a number")))
            .collect();
        assert_eq!(
            ended.len() as u64,
            2 * (rounds + 1),
            "every worker has told how far it came"
        );
        let text = if target == "master" {
            site.read("master.log")
        } else {
            site.read("web.log")
        };
        let lines: Vec<&str> = text
            .lines()
            .filter_map(|line| {
                line.split_once("\"line\":\"")
                    .map_or(Some(line), |(_, text)| text.split('"').next())
            })
            .filter(|line| line.contains(" line "))
            .collect();
        let all: HashSet<&str> = lines.iter().copied().collect();
        let mut printed = 0;
        for (name, count) in &ended {
            for number in 0..*count {
                assert!(
                    all.contains(&*format!("{name} line {number}")),
                    "{target}: {name}: line {number} is lost"
                );
                printed += 1;
            }
        }
        assert!(printed > 1000, "only {printed} lines");
    }
}

/// Waits until both workers of each of so many masters can say how far they came.
fn await_begun(site: &Site, masters: u64) {
    until("the workers have begun", 20, || {
        (site.lines("begun").len() as u64 == 2 * masters).then_some(())
    });
}

fn take_over(site: &mut Site) {
    let mut command = site.run_command();
    command.arg("--take-over");
    site.spawn(command);
}

/// A disk of 1.5 MiB and a worker that prints 4 MB: it does not hang, the master answers, and what could not be written
/// is counted to the byte once there is room.
#[test]
fn a_full_disk_blocks_no_worker() {
    if !need::root() || !need::program("unshare") {
        return;
    }
    let mut site = Site::new(
        r#"
[pool.web]
command = ["sh", "-c", "i=0; while [ $i -lt 40 ]; do cat lines; i=$((i+1)); done; touch printed; exec 3<>orders; read x <&3; echo after; read x <&3"]
working_directory = "@DIR@"
ready = "spawned"
[pool.web.log]
stdout = "@DIR@/disk/web.log"
"#,
    );
    let lines: String = (0..1000).map(|n| format!("{n:099}\n")).collect();
    site.write("lines", &lines);
    nix::unistd::mkfifo(
        &site.path("orders"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .expect("a fifo");
    fs::create_dir(site.path("disk")).expect("a directory");
    let run = site.run_command();
    let mut command = Command::new("unshare");
    let script = format!(
        "mount -t tmpfs -o size=1536k tmpfs {}; exec \"$@\"",
        site.path("disk").display()
    );
    command
        .args(["-m", "sh", "-c", &script, "x"])
        .arg(run.get_program())
        .args(run.get_args());
    site.spawn(command);
    until("the worker has printed all", 20, || {
        site.path("printed").exists().then_some(())
    });
    site.await_log("cannot be written", 10);
    site.await_ready();
    let file = format!(
        "/proc/{}/root{}",
        site.pid(),
        site.path("disk/web.log").display()
    );
    let before = fs::read(&file).expect("what there was room for");
    assert!(
        before.len() > 1400 << 10 && before.len() % 100 == 0,
        "{} bytes: a line was cut",
        before.len()
    );
    fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&file)
        .expect("emptied");
    fs::write(site.path("orders"), "go\n").expect("an order");
    let after = until("what was printed later", 20, || {
        fs::read_to_string(&file)
            .ok()
            .filter(|text| text.ends_with("after\n"))
    });
    let (told, rest) = after.split_once('\n').expect("a line");
    let lost: usize = told
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect(told);
    assert!(told.contains("bytes of log were lost"), "{told}");
    assert_eq!(
        before.len() + lost + rest.len(),
        4_000_000 + "after\n".len(),
        "what was lost is not what is missing"
    );
    assert!(rest.len() > 64 << 10, "nothing had waited in the pipe");
    site.await_log("can be written again", 5);
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(10).code(), Some(0));
}

/// A master of root's and a log in a directory of the worker's user: no link leads it elsewhere, neither at its start nor
/// when it opens its logs again.
#[test]
fn a_link_in_a_users_directory_is_not_followed() {
    if !need::root() {
        return;
    }
    let mut site = Site::new(
        r#"
[pool.web]
command = ["sh", "-c", "exec 3<>orders; while read x <&3; do echo said $x; done"]
working_directory = "@DIR@"
user = "nobody"
ready = "spawned"
[pool.web.log]
stdout = "@DIR@/logs/web.log"
"#,
    );
    nix::unistd::mkfifo(
        &site.path("orders"),
        nix::sys::stat::Mode::from_bits_truncate(0o666),
    )
    .expect("a fifo");
    let nobody = nix::unistd::User::from_name("nobody")
        .expect("users")
        .expect("nobody")
        .uid
        .as_raw();
    fs::create_dir(site.path("logs")).expect("a directory");
    chown(site.path("logs"), Some(nobody), None).expect("given away");
    chown(site.path("orders"), Some(nobody), None).expect("given away");
    let (log, victim) = (site.path("logs/web.log"), site.write("victim", "mine\n"));
    symlink(&victim, &log).expect("linked");
    let run = site.rotad(&["run"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.text().contains("web.log") && run.text().contains("link"),
        "{run:?}"
    );
    fs::remove_file(&log).expect("removed");
    site.run();
    site.await_ready();
    fs::rename(&log, site.path("logs/old")).expect("moved");
    symlink(&victim, &log).expect("linked");
    assert!(
        Command::new("kill")
            .args(["-s", "RTMIN", &site.pid().to_string()])
            .status()
            .expect("kill")
            .success()
    );
    site.await_log("cannot be opened again", 10);
    fs::write(site.path("orders"), "something\n").expect("an order");
    until("in the old file", 10, || {
        site.read("logs/old")
            .contains("said something")
            .then_some(())
    });
    assert_eq!(site.read("victim"), "mine\n");
    assert_eq!(fs::metadata(&victim).expect("a file").nlink(), 1);
}

/// A log that is a FIFO is refused by its configuration; one that comes later is, too, and holds nothing up.
#[test]
fn a_fifo_as_log_is_refused() {
    let mut site = Site::new(
        "[pool.web]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n[pool.web.log]\nstdout = \"@DIR@/web.log\"\n",
    );
    nix::unistd::mkfifo(
        &site.path("web.log"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .expect("a fifo");
    let run = site.rotad(&["run"]);
    assert_eq!(run.code, 78, "{run:?}");
    assert!(run.text().contains("not a regular file"), "{run:?}");
    fs::remove_file(site.path("web.log")).expect("removed");
    site.run();
    site.await_ready();
    fs::remove_file(site.path("web.log")).expect("removed");
    nix::unistd::mkfifo(
        &site.path("web.log"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .expect("a fifo");
    assert!(
        Command::new("kill")
            .args(["-s", "RTMIN", &site.pid().to_string()])
            .status()
            .expect("kill")
            .success()
    );
    site.await_log("it is not a regular file", 10);
    site.await_ready();
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(10).code(), Some(0));
}

/// The directory of a log is removed under a running master: it is made again, and nothing that is printed later is lost.
#[test]
fn a_removed_directory_is_created_again() {
    let mut site = Site::new(
        r#"
[pool.web]
command = ["sh", "-c", "exec 3<>orders; while read x <&3; do echo said $x; done"]
working_directory = "@DIR@"
ready = "spawned"
[pool.web.log]
stdout = "@DIR@/logs/today/web.log"
"#,
    );
    nix::unistd::mkfifo(
        &site.path("orders"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .expect("a fifo");
    site.run();
    site.await_ready();
    for word in ["one", "two", "three"] {
        fs::write(site.path("orders"), format!("{word}\n")).expect("an order");
        until(word, 10, || {
            (site.read("logs/today/web.log") == format!("said {word}\n")).then_some(())
        });
        fs::remove_dir_all(site.path("logs")).expect("removed");
    }
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(10).code(), Some(0));
}
