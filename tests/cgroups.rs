//! A cgroup of each worker's own, where one has been delegated: it holds what left its session and cleared its
//! environment, and nothing of it stays. Needs a cgroup that the test may make and mark.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use support::{Delegated, Site, delegated, pids, proc, until};

const POOL: &str = r#"
[pool.jobs]
kind = "task"
command = ["@WORKER@", "wait", "--notify"]
ready = "notify"
count = 3
"#;

/// Starts a process that no fence but a cgroup holds, and becomes an ordinary worker.
const HIDER: &str = r#"
[pool.hider]
kind = "task"
command = ["sh", "-c", '''
(env -i setsid sh -c "echo \$\$ >> @DIR@/hidden; exec sleep 1000" &)
exec "$0" wait --notify''', "@WORKER@"]
ready = "notify"
stop = "5s"
"#;

/// A master within the cgroup, all its workers ready.
fn up(given: &Delegated, pools: &str) -> Site {
    let mut site = Site::new(pools);
    site.spawn(given.begin(&site.run_command()));
    site.await_ready();
    assert_eq!(cgroup(site.pid()), given.dir());
    site
}

fn cgroup(pid: i32) -> PathBuf {
    delegated::of(pid).expect("a cgroup")
}

fn stop(site: &mut Site) {
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(10).code(), Some(0));
    site.assert_empty();
}

fn hidden(site: &Site, nth: usize) -> i32 {
    until("what hides has begun", 10, || {
        site.lines("hidden").get(nth)?.parse().ok()
    })
}

#[test]
fn each_worker_has_its_own_and_nothing_is_left() {
    let Some(given) = Delegated::make() else {
        return;
    };
    given.mark("delegate", "1");
    // The second kind is born through the shim.
    let user = "[pool.nobody]\nkind = \"task\"\ncommand = [\"@COPY@\", \"wait\", \"--notify\"]\nready = \"notify\"\n\
        count = 2\nuser = \"nobody\"\n";
    let mut site = up(&given, &format!("{POOL}{user}"));
    let base = given.dir().join(format!("rotad-site-{}", site.pid()));
    let status = site.status().expect("a status");
    let workers = [pids(&status, "jobs"), pids(&status, "nobody")].concat();
    let homes: BTreeSet<PathBuf> = workers.iter().map(|pid| cgroup(*pid)).collect();
    assert_eq!(homes.len(), 5, "{homes:?}");
    assert!(
        homes.iter().all(|home| home.parent() == Some(&base)),
        "{homes:?}"
    );
    for pid in &workers {
        let open = proc::descriptors(*pid);
        assert!(
            !open.values().any(|what| what.contains("cgroup")),
            "no way into its own cgroup: {open:?}"
        );
    }
    // Another takes the place of one that ends, and the cgroup of the first goes.
    let old = cgroup(workers[0]);
    kill(Pid::from_raw(workers[0]), Signal::SIGKILL).expect("a worker");
    site.await_status("a successor", 10, |status| {
        support::all_ready(status) && !pids(status, "jobs").contains(&workers[0])
    });
    until("the old cgroup is gone", 5, || {
        (!old.exists()).then_some(())
    });
    assert_eq!(given.all_below().len(), 1 + 5);
    stop(&mut site);
    given.assert_bare();
}

/// The kernel refuses more cgroups (cgroup.max.descendants): workers start without, and that is an event, once.
#[test]
fn a_cgroup_that_cannot_be_made_is_reported() {
    let Some(given) = Delegated::make() else {
        return;
    };
    given.mark("delegate", "1");
    // The master's own, in which those of the workers would be.
    fs::write(given.dir().join("cgroup.max.descendants"), "1").expect("a limit");
    let mut site = up(&given, POOL);
    assert_eq!(given.all_below().len(), 1);
    let events = site.events();
    let reports: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "cgroup")
        .collect();
    assert_eq!(reports.len(), 1, "{events:?}");
    assert_eq!(
        (&reports[0]["pool"], &reports[0]["cause"]),
        (&"jobs".into(), &"not-made".into())
    );
    stop(&mut site);
    given.assert_bare();
}

/// Without a cgroup it would live until the master stops.
#[test]
fn hidden_processes_are_killed_with_their_worker() {
    let Some(given) = Delegated::make() else {
        return;
    };
    given.mark("delegate", "1");
    let mut site = up(&given, HIDER);
    let (worker, hider) = (
        pids(&site.status().expect("a status"), "hider")[0],
        hidden(&site, 0),
    );
    until("an orphan", 10, || {
        (proc::parent(hider) == Some(site.pid())).then_some(())
    });
    assert_ne!(
        proc::stat(hider).expect("it lives")[3],
        worker.to_string(),
        "a session of its own"
    );
    assert_eq!(cgroup(hider), cgroup(worker));
    let run = site.rotad(&["reload"]);
    assert_eq!(run.code, 0, "{run:?}");
    until("what hid is gone", 5, || proc::gone(hider).then_some(()));
    assert!(site.master_lives());
    let second = hidden(&site, 1);
    assert!(
        !proc::gone(second),
        "that of the successor is another matter"
    );
    stop(&mut site);
    assert!(proc::gone(second));
    given.assert_bare();
}

/// A member whose parent is neither the worker nor we: no SIGCHLD tells of its end.
#[test]
fn members_of_the_cgroup_are_killed_although_they_are_no_orphans() {
    let Some(given) = Delegated::make() else {
        return;
    };
    given.mark("delegate", "1");
    let mut site = up(&given, POOL);
    let worker = pids(&site.status().expect("a status"), "jobs")[0];
    let home = cgroup(worker);
    let mut guest = Command::new("sleep")
        .arg("1000")
        .stdout(Stdio::null())
        .spawn()
        .expect("sleep");
    fs::write(home.join("cgroup.procs"), guest.id().to_string()).expect("the way in");
    kill(Pid::from_raw(worker), Signal::SIGTERM).expect("a worker");
    until("the worker's tree is gone", 5, || {
        (!home.exists()).then_some(())
    });
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&guest.wait().expect("its end")),
        Some(9)
    );
    stop(&mut site);
    given.assert_bare();
}

/// Not marked; or below a unit that a systemd has kept for itself.
#[test]
fn without_delegation_there_are_no_cgroups() {
    let Some(given) = Delegated::make() else {
        return;
    };
    let stays = |given: &Delegated| {
        let mut site = up(given, HIDER);
        let (worker, hider) = (
            pids(&site.status().expect("a status"), "hider")[0],
            hidden(&site, 0),
        );
        assert_eq!(
            (cgroup(worker), cgroup(hider)),
            (given.dir().to_owned(), given.dir().to_owned())
        );
        given.assert_bare();
        stop(&mut site);
        assert!(proc::gone(hider), "at the latest with the master");
    };
    stays(&given);
    given.mark("delegate", "1");
    let unit = given.below("some.service");
    unit.mark("invocation_id", "0123456789abcdef0123456789abcdef");
    stays(&unit);
    unit.mark("delegate", "1");
    let mut site = up(&unit, POOL);
    assert_eq!(unit.all_below().len(), 1 + 3);
    stop(&mut site);
}

/// A master killed by -9 leaves its cgroups; the next one takes them away with the workers.
#[test]
fn cgroups_of_a_dead_master_are_removed() {
    let Some(given) = Delegated::make() else {
        return;
    };
    given.mark("delegate", "1");
    let mut site = up(&given, POOL);
    let dead = site.pid();
    proc::kill_with_guardian(dead);
    site.await_exit(5);
    assert_eq!(given.all_below().len(), 1 + 3);
    let mut again = site.run_command();
    again.arg("--take-over");
    site.spawn(given.begin(&again));
    site.await_status("every worker is ready", 20, support::all_ready);
    let base = given.dir().join(format!("rotad-site-{dead}"));
    assert!(!base.exists(), "{:?}", given.all_below());
    assert_eq!(given.all_below().len(), 1 + 3);
    stop(&mut site);
    given.assert_bare();
}
