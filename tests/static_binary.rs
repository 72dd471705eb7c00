//! The static binary: one file that needs no library, in a root file system that has none.

mod support;

use nix::sys::signal::Signal;
use support::fixed::{program_headers, static_rotad};
use support::{Container, pids, pool, proc};

/// The program interpreter that a dynamic program asks for (elf(5)).
const PT_INTERP: u32 = 3;

const POOLS: &str = r#"
[master]
runtime_dir = "/run/rotad"

[listen.web]
address = "unix:/run/web.sock"
user = "www-data"
group = "logs"

[pool.web]
command = ["/bin/testworker", "http"]
count = 2
listen = "web"
user = "nobody"

[pool.jobs]
kind = "task"
command = ["{rotad}", "__demo-task"]
ready = "notify"
user = "33"
group = "nogroup"
"#;

#[test]
fn the_static_binary_needs_no_library() {
    let dynamic = program_headers(&support::rotad());
    assert!(
        dynamic.contains(&PT_INTERP),
        "the test sees no interpreter where one is: {dynamic:?}"
    );
    let headers = program_headers(&static_rotad());
    assert!(
        !headers.is_empty() && !headers.contains(&PT_INTERP),
        "{headers:?}"
    );
}

/// Users and groups are those of /etc/passwd and /etc/group, whatever nsswitch.conf names; a pool of another user's
/// starts, is rolled and stops.
#[test]
fn users_are_read_from_files() {
    let Some(mut container) = Container::new(POOLS) else {
        return;
    };
    container.write("etc/nsswitch.conf", "passwd: sss ldap\ngroup: sss ldap\n");
    container.start();
    let status = container.await_ready();
    assert_eq!(pids(&status, "web").len(), 2);
    let of = |name: &str, what: &str| {
        let mut ids = proc::status(worker(&container, name), what).expect("a worker");
        ids = ids.split_whitespace().collect::<Vec<_>>().join(" ");
        ids
    };
    assert_eq!(
        (of("testworker", "Uid"), of("testworker", "Gid")),
        (four(65534), four(65534))
    );
    assert_eq!(of("testworker", "Groups"), "44 65534");
    assert_eq!(
        (of("rotad", "Uid"), of("rotad", "Gid")),
        (four(33), four(65534))
    );
    assert_eq!(of("rotad", "Groups"), "44 65534");
    let socket = container.exec(&["/bin/busybox", "stat", "-c", "%u:%g", "/run/web.sock"]);
    assert_eq!(socket.out.trim(), "33:44", "{socket:?}");
    let run = container.rotad(&["roll"]);
    assert_eq!(run.code, 0, "{}", run.text());
    assert_eq!(pool(&container.await_ready(), "web")["generation"], 2);

    let text = POOLS
        .replace("\"nobody\"", "\"nobodi\"")
        .replace("\"nogroup\"", "\"nogrup\"");
    container.write("etc/rotad/rotad.toml", &text);
    let run = container.rotad(&["check"]);
    assert_eq!(run.code, 78, "{}", run.text());
    assert!(
        run.text().contains("unknown user `nobodi`")
            && run.text().contains("unknown group `nogrup`"),
        "{run:?}"
    );
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(20).code(), Some(0));
}

/// A child of the master with this program.
fn worker(container: &Container, name: &str) -> i32 {
    let is = |pid: &i32| proc::command_line(*pid).contains(name);
    proc::children(container.master())
        .into_iter()
        .find(is)
        .expect("a worker")
}

fn four(id: u32) -> String {
    [
        id.to_string(),
        id.to_string(),
        id.to_string(),
        id.to_string(),
    ]
    .join(" ")
}
