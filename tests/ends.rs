//! Ends of workers: exit codes that are none to be repaired, programs that end before they are ready, pools whose end is
//! the master's.

mod support;

use serde_json::Value;
use std::time::{Duration, Instant};
use support::{Site, need, pool};

/// A worker that ends with 0 before it is ready is no failure, but it is not started ten times a second: the delay
/// grows, the status says so, and a start has failed at the fifth in a row, long before `ready_timeout`.
#[test]
fn ends_before_ready_are_tried_less_and_less_often() {
    let site = Site::new(
        "[pool.a]\ncommand = [\"sh\", \"-c\", \"echo x >>@DIR@/starts\"]\nready = \"notify\"\nready_timeout = \"60s\"\n\
         [pool.good]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n",
    );
    let began = Instant::now();
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.err.contains("5 ends in a row before it was ever ready"),
        "{run:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    let status = site.status().expect("a status");
    let worker = &pool(&status, "a")["workers"][0];
    assert_eq!(
        (&worker["restarts"], &worker["last_exit"]["code"]),
        (&0.into(), &0.into()),
        "{worker}"
    );
    site.await_log("times in a row", 10);
    // 100, 200, 400, 800 ms: the sixth comes some 3 s after the first.
    assert!(
        (5..=7).contains(&site.lines("starts").len()),
        "{:?}",
        site.lines("starts")
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// 78 is one of `never_on`: the slot stays empty, says why, and is no crash loop; a start or a roll fills it again.
#[test]
fn a_code_of_never_on_is_not_started_again() {
    let mut site = Site::new(
        "[pool.a]\ncommand = [\"@WORKER@\", \"wait\", \"--code\", \"@DIR@/code\", \"--starts\", \"@DIR@/starts\"]\n\
         ready = \"notify\"\nrestart = { never_on = [78] }\n",
    );
    site.write("code", "exit 78\nbad configuration");
    site.run();
    let failed = |status: &Value| pool(status, "a")["state"] == "failed";
    let status = site.await_status("it is given up", 20, failed);
    assert_eq!(
        pool(&status, "a")["workers"][0]["last_exit"]["code"],
        78,
        "{status}"
    );
    site.await_log("not started again until the next roll or start: 78", 10);
    assert_eq!(site.rotad(&["status", "--check"]).code, 3);
    let run = site.rotad(&["start", "a"]);
    assert!(
        run.code == 1 && run.err.contains("bad configuration"),
        "{run:?}"
    );
    assert_eq!(site.lines("starts").len(), 2, "one more try, and no others");
    assert!(!site.log().contains("crash loop"), "{}", site.log());
    let run = site.rotad(&["start", "a"]);
    assert_eq!((run.code, site.lines("starts").len()), (1, 3), "{run:?}");
}

/// `essential = "exit"`: the master's end and exit code are the pool's, as a container's main program wants it.
#[test]
fn the_master_exits_with_its_essential_pool() {
    for (script, code) in [("exit 3", 3), ("exit 0", 0), ("kill -KILL $$", 137)] {
        let mut site = Site::new(&format!(
            "[pool.main]\ncommand = [\"sh\", \"-c\", \"sleep 0.3; {script}\"]\nready = \"spawned\"\nessential = \"exit\"\n\
             restart = {{ policy = \"never\" }}\n[pool.beside]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n"
        ));
        site.run();
        let status = site.await_exit(30);
        assert_eq!(status.code(), Some(code), "{script}: {}", site.log());
        site.await_log("essential and has ended", 10);
        site.assert_empty();
    }
}

/// With `on-failure` failures are repaired; the pool, and with it the master, ends when each slot has ended well.
#[test]
fn an_essential_pool_ends_when_all_of_it_has_ended() {
    let mut site = Site::new(
        "[pool.main]\ncommand = [\"sh\", \"-c\", \"echo x >>@DIR@/starts; test $(wc -l <@DIR@/starts) -ge 4\"]\ncount = 2\n\
         ready = \"notify\"\nessential = \"exit\"\nrestart = { policy = \"on-failure\" }\n",
    );
    site.run();
    assert_eq!(site.await_exit(30).code(), Some(0), "{}", site.log());
    assert!(
        site.lines("starts").len() >= 4,
        "{:?}",
        site.lines("starts")
    );
    site.assert_empty();
}

/// Contradictions and the old name are errors that say what to write.
#[test]
fn contradicting_settings_are_refused() {
    for (pool, words) in [
        ("essential = \"exit\"", "never ends"),
        (
            "restart = { success_exit_codes = [0, 3], never_on = [3] }",
            "3 is one of `success_exit_codes`",
        ),
        (
            "restart = { policy = \"never\", never_on = [3] }",
            "means nothing",
        ),
        (
            "restart = { ends = [0] }",
            "did you mean `success_exit_codes`?",
        ),
    ] {
        let site = Site::new(&format!(
            "[pool.a]\ncommand = [\"@WORKER@\", \"wait\"]\n{pool}\n"
        ));
        let run = site.rotad(&["check"]);
        assert!(run.code == 78 && run.err.contains(words), "{pool}: {run:?}");
    }
}

/// A program that goes into the background is recognised by what it leaves behind: the start fails immediately, and says
/// what to write.
#[test]
fn a_program_that_goes_into_the_background_is_told_to_stay() {
    let redis = "redis-server --daemonize yes --save '' --port @PORT@ --bind 127.0.0.1";
    for (program, command, advice) in [
        (
            "sh",
            "sh -c \"setsid sleep 1000 & exit 0\"",
            "goes into the background",
        ),
        // Its first process is gone before the second has left the group.
        (
            "sh",
            "sh -c \"(sleep 0.5; exec setsid sleep 1000) & exit 0\"",
            "goes into the background",
        ),
        ("redis-server", redis, "--daemonize no"),
    ] {
        if !need::program(program) {
            continue;
        }
        let site = Site::new(&format!(
            "[pool.a]\ncommand = {command:?}\nready_timeout = \"60s\"\nworking_directory = \"@DIR@\"\n\
             [pool.good]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n"
        ));
        let began = Instant::now();
        let run = site.rotad(&["start"]);
        assert!(
            run.code == 1
                && run.err.contains("goes into the background")
                && run.err.contains(advice),
            "{run:?}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
        site.await_log("goes into the background", 10);
        assert_eq!(site.rotad(&["stop"]).code, 0);
        site.assert_empty();
    }
}

/// nginx writes its title over its environment: what it leaves behind belongs to nobody, is named, and is ended with the
/// master.
#[test]
fn an_unattributed_daemon_is_recognised_by_its_program() {
    if !need::program("nginx") {
        return;
    }
    let mut site = Site::new(
        "[pool.nginx]\ncommand = [\"nginx\", \"-p\", \"@DIR@\", \"-c\", \"@DIR@/nginx.conf\"]\nready_timeout = \"60s\"\n\
         working_directory = \"@DIR@\"\n[pool.good]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n",
    );
    site.write(
        "nginx.conf",
        &site.filled(
            "pid @DIR@/nginx.pid; error_log @DIR@/error.log; events {}\nhttp { access_log off; client_body_temp_path @DIR@/b;\n\
             proxy_temp_path @DIR@/p; fastcgi_temp_path @DIR@/f; uwsgi_temp_path @DIR@/u; scgi_temp_path @DIR@/s;\n\
             server { listen @PORT@; } }\n",
        ),
    );
    site.run();
    site.await_log("serves on where nobody supervises it", 20);
    site.await_log("daemon off", 10);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}
