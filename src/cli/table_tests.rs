use super::*;
use crate::observe::status::{MasterStatus, TreeStatus};

const PLAIN: TableStyle<'static> = TableStyle {
    colour: false,
    width: None,
    rates: None,
    user: None,
};

fn worker(slot: u32, state: SlotState) -> WorkerStatus {
    WorkerStatus {
        slot,
        pid: Some(4711),
        state,
        generation: 2,
        age_s: 3.2,
        ready_in_s: Some(0.4),
        ready_by: None,
        restarts: 1,
        rss_bytes: Some(20 << 20),
        cpu_s: Some(0.8),
        tree: Some(TreeStatus {
            processes: 3,
            rss_bytes: 60 << 20,
            cpu_s: 2.5,
        }),
        last_exit: None,
        retry_in_s: None,
        port: None,
        says: None,
        adopted: false,
        waits: false,
    }
}

fn reload(state: RollState, reason: Option<&str>) -> ReloadStatus {
    ReloadStatus {
        state,
        generation: 3,
        reason: reason.map(str::to_owned),
        replaced: 1,
        of: 4,
        took_s: 1.0,
    }
}

fn pool(name: &str, state: PoolState, workers: Vec<WorkerStatus>) -> PoolStatus {
    let ready = workers
        .iter()
        .filter(|worker| worker.state == SlotState::Ready)
        .count() as u32;
    PoolStatus {
        name: name.to_owned(),
        kind: "worker".to_owned(),
        state,
        wanted: workers.len() as u32,
        alive: ready,
        ready,
        generation: 2,
        reload: reload(RollState::None, None),
        waits_for: Vec::new(),
        unserved: vec![],
        scaled: false,
        outdated: 0,
        last_deploy: Some(LastDeploy {
            generation: 2,
            at: "2026-11-27T18:30:23Z".to_owned(),
            age_s: 7380.0,
            by: "reload".to_owned(),
            uid: Some(1000),
            outcome: RollState::Done,
        }),
        uptime_s: (ready > 0).then_some(93_600.0),
        listen: vec![],
        ports: None,
        workers,
    }
}

fn sick(slot: u32) -> WorkerStatus {
    let log = vec![
        "first".to_owned(),
        "PDOException: \x1b[31mred\x1b[0m".to_owned(),
        " ".to_owned(),
    ];
    let exit = LastExit {
        code: Some(3),
        signal: None,
        core: None,
        error: None,
        after_s: 0.21,
        log,
        log_cut: false,
        asked: false,
    };
    WorkerStatus {
        pid: None,
        last_exit: Some(exit),
        retry_in_s: Some(12.0),
        rss_bytes: None,
        cpu_s: None,
        tree: None,
        ready_in_s: None,
        restarts: 5,
        ..worker(slot, SlotState::Backoff)
    }
}

fn sample() -> Status {
    let mut rolled = pool("api", PoolState::Ok, vec![worker(0, SlotState::Ready)]);
    rolled.reload = reload(RollState::RolledBack, Some("api/0: exit 1 before ready"));
    let mut rolling = pool(
        "task",
        PoolState::Reloading,
        vec![worker(0, SlotState::Ready)],
    );
    rolling.reload = reload(RollState::Running, None);
    let mut web = pool(
        "web",
        PoolState::Degraded,
        vec![worker(0, SlotState::Ready), sick(1)],
    );
    web.listen = vec!["0.0.0.0:8000".to_owned()];
    let mut off = pool("off", PoolState::Stopped, vec![]);
    if let Some(deploy) = &mut off.last_deploy {
        deploy.by = "start".to_owned();
    }
    Status {
        master: MasterStatus {
            pid: 812,
            version: "0.1.0".to_owned(),
            name: "shop".to_owned(),
            config: "/etc/shop.toml".into(),
            state: "running".to_owned(),
            uptime_s: 273_600.0,
            guardian: None,
            restarts: 0,
            last_death: None,
        },
        pools: vec![web, rolled, rolling, off],
    }
}

#[test]
fn the_table_of_pools() {
    let expected = "\
rotad 0.1.0  /etc/shop.toml  pid 812  up 3d4h  running
   POOL  READY  STATE      GEN  RESTARTS  CPU   MEMORY  UP    LISTEN        DEPLOYED                       NOTE
 ◐ web   1/2    degraded   2    6         2.5s  60M     1d2h  0.0.0.0:8000  2h03m ago, reload by uid 1000  web/1: exit 3 after 0.2s, log: \"PDOException: red\", retry in 12s
 ● api   1/1    ok         2    1         2.5s  60M     1d2h                2h03m ago, reload by uid 1000  generation 3 rolled back: api/0: exit 1 before ready
 ↻ task  1/1    reloading  2    1         2.5s  60M     1d2h                2h03m ago, reload by uid 1000  1 of 4 replaced
 ○ off   0/0    stopped    2    0         –     –       –                   2h03m ago, start by uid 1000   until `rotad start` starts it
";
    assert_eq!(pools(&sample(), PLAIN), expected);
}

#[test]
fn a_narrow_terminal_gets_the_same_on_more_lines() {
    let narrow = TableStyle {
        width: Some(80),
        ..PLAIN
    };
    let expected = "\
rotad 0.1.0  /etc/shop.toml  pid 812  up 3d4h  running
   POOL  READY  STATE      GEN  RESTARTS  CPU   MEMORY  UP    LISTEN
 ◐ web   1/2    degraded   2    6         2.5s  60M     1d2h  0.0.0.0:8000
     web/1: exit 3 after 0.2s, log: \"PDOException: red\", retry in 12s
     deployed 2h03m ago, reload by uid 1000
 ● api   1/1    ok         2    1         2.5s  60M     1d2h
     generation 3 rolled back: api/0: exit 1 before ready
     deployed 2h03m ago, reload by uid 1000
 ↻ task  1/1    reloading  2    1         2.5s  60M     1d2h
     1 of 4 replaced
     deployed 2h03m ago, reload by uid 1000
 ○ off   0/0    stopped    2    0         –     –       –
     until `rotad start` starts it
";
    assert_eq!(pools(&sample(), narrow), expected);
}

#[test]
fn the_table_of_one_pool() {
    let expected = "\
◐ web  worker  degraded  1/2 ready  generation 2  up 1d2h
  listens on 0.0.0.0:8000
  generation 2 deployed 2h03m ago, reload by uid 1000 (2026-11-27T18:30:23Z)
   SLOT  PID   STATE    AGE   GEN  READY-IN  RESTARTS  CPU   MEMORY  NOTE
 ● 0     4711  ready    3.2s  2    0.40s     1         2.5s  60M
 × 1     –     backoff  –     2    –         5         –     –       exit 3 after 0.2s, log: \"PDOException: red\", retry in 12s
";
    assert_eq!(workers(&sample().pools[0], PLAIN), expected);
}

#[test]
fn colour_only_adds_and_only_our_own_escapes_come_through() {
    let coloured = pools(
        &sample(),
        TableStyle {
            colour: true,
            ..PLAIN
        },
    );
    assert!(coloured.contains("\x1b[33m◐\x1b[0m web"));
    assert!(coloured.contains("\x1b[33mdegraded\x1b[0m   2  "));
    assert!(coloured.contains("\x1b[1mPOOL  READY"));
    let of_one = workers(
        &sample().pools[0],
        TableStyle {
            colour: true,
            ..PLAIN
        },
    );
    assert!(of_one.contains("\x1b[31mbackoff\x1b[0m"), "{of_one}");
    let mut plain = coloured;
    for paint in [GREEN, YELLOW, BLUE, RED, GREY, 0, 1] {
        plain = plain.replace(&format!("\x1b[{paint}m"), "");
    }
    assert_eq!(plain, pools(&sample(), PLAIN));
}

#[test]
fn why_a_pool_is_as_it_is() {
    let mut held = pool("web", PoolState::Starting, vec![]);
    held.waits_for = vec!["migrate".to_owned(), "cache".to_owned()];
    assert_eq!(pool_note(&held), "waits for migrate, cache");
    let mut scaled = pool("web", PoolState::Ok, vec![]);
    scaled.scaled = true;
    assert_eq!(pool_note(&scaled), "scaled by hand");
}

#[test]
fn between_two_looks_the_processor_is_a_share() {
    let mut before = sample();
    before.pools[0].workers[0].pid = Some(1);
    let mut after = before.clone();
    if let Some(tree) = &mut after.pools[0].workers[0].tree {
        tree.cpu_s += 1.0;
    }
    after.pools[1].workers[0].pid = Some(4712);
    let rates = Rates::between(&before, &after, std::time::Duration::from_secs(2));
    let table = pools(
        &after,
        TableStyle {
            rates: Some(&rates),
            ..PLAIN
        },
    );
    assert!(table.contains("50%") && !table.contains("0.8s"), "{table}");
    assert!(
        table
            .lines()
            .any(|line| line.contains("api") && line.contains("  –    60M")),
        "new since then: {table}"
    );
}

#[test]
fn what_a_worker_says_and_how_it_died_in_each_way() {
    let mut one = worker(0, SlotState::Ready);
    one.says = Some("busy\n\x07".to_owned());
    assert_eq!(
        worker_note(&pool("web", PoolState::Ok, vec![]), &one),
        "busy\\x0a\\x07"
    );
    let exit = LastExit {
        code: None,
        signal: Some("SEGV".into()),
        core: Some(true),
        error: None,
        after_s: 90.0,
        log: vec![],
        log_cut: false,
        asked: false,
    };
    assert_eq!(exit_note(&exit), "killed by SEGV, core dumped after 1m30s");
    let failed = LastExit {
        error: Some("exec: no such program /x".into()),
        signal: None,
        core: None,
        after_s: 0.0,
        ..exit
    };
    assert_eq!(exit_note(&failed), "exec: no such program /x");
}

#[test]
fn numbers_are_short() {
    let seconds = [
        (0.04, "0.0s"),
        (9.96, "10.0s"),
        (59.9, "59s"),
        (200.0, "3m20s"),
        (18_200.0, "5h03m"),
        (-1.0, "0.0s"),
    ];
    for (value, text) in seconds {
        assert_eq!(duration(value), text);
    }
    for (value, text) in [
        (1024.0, "1K"),
        (1_004_000.0, "980K"),
        (20_480_000.0, "20M"),
        (1.2e9, "1.1G"),
        (9e15, "8185T"),
    ] {
        assert_eq!(bytes(value), text);
    }
}

#[test]
fn who_is_ready_for_his_age_alone_is_called_alive() {
    let by_age = |slot, state| WorkerStatus {
        ready_by: Some(ReadyBy::Age),
        ..worker(slot, state)
    };
    let jobs = pool(
        "jobs",
        PoolState::Ok,
        vec![by_age(0, SlotState::Ready), by_age(1, SlotState::Soaking)],
    );
    let rows = workers(&jobs, PLAIN);
    assert!(
        rows.contains("4711  alive ") && rows.contains("4711  soaking "),
        "{rows}"
    );
    let status = Status {
        pools: vec![
            jobs,
            pool("web", PoolState::Ok, vec![worker(0, SlotState::Ready)]),
        ],
        ..sample()
    };
    let table = pools(&status, PLAIN);
    let lines: Vec<&str> = table
        .lines()
        .filter(|line| line.contains("alive, nothing says more"))
        .collect();
    assert!(lines.len() == 1 && lines[0].contains("jobs"), "{table}");
    assert!(
        !workers(&status.pools[1], PLAIN).contains("alive"),
        "{table}"
    );
}

#[test]
fn ends_that_were_asked_for_are_no_news() {
    let ended = |code, asked| LastExit {
        code: Some(code),
        signal: None,
        core: None,
        error: None,
        after_s: 3.4,
        log: vec![],
        log_cut: false,
        asked,
    };
    let of = |exit, state| WorkerStatus {
        last_exit: Some(exit),
        ..worker(0, state)
    };
    let asked = of(ended(0, true), SlotState::Ready);
    let died = of(ended(3, false), SlotState::Ready);
    let done = of(ended(0, false), SlotState::Done);
    let ok = pool("web", PoolState::Ok, vec![]);
    assert_eq!(worker_note(&ok, &asked), "");
    assert_eq!(worker_note(&ok, &died), "exit 3 after 3.4s");
    assert_eq!(worker_note(&ok, &done), "");
    let starting = of(ended(0, true), SlotState::Starting);
    assert_eq!(
        pool_note(&pool("web", PoolState::Reloading, vec![starting])),
        ""
    );
    let mut oneshot = pool("migrate", PoolState::Done, vec![done]);
    oneshot.wanted = 0;
    assert!(workers(&oneshot, PLAIN).starts_with("● migrate  worker  done  – ready"));
}

#[test]
fn a_slot_that_waits_for_another_one_is_not_about_to_be_tried() {
    let mut waiting = sick(0);
    waiting.last_exit = None;
    waiting.retry_in_s = Some(0.0);
    let looping = pool("web", PoolState::CrashLoop, vec![]);
    let note = worker_note(&looping, &waiting);
    assert_eq!(note, "waits for the worker that is tried");
    let ok = pool("web", PoolState::Degraded, vec![]);
    assert_eq!(worker_note(&ok, &waiting), "is retried now");
}

#[test]
fn resources_of_the_main_process_alone_are_called_so() {
    let mut alone = worker(0, SlotState::Ready);
    alone.tree = None;
    let web = pool(
        "web",
        PoolState::Ok,
        vec![alone, worker(1, SlotState::Ready)],
    );
    assert_eq!(pool_note(&web), "CPU and memory of main processes only");
    let rows = workers(&web, PLAIN);
    assert!(
        rows.contains("0.8s  20M     CPU and memory of its main process"),
        "{rows}"
    );
    assert!(rows.contains("2.5s  60M\n"), "{rows}");
}

#[test]
fn addresses_and_deploys_are_as_one_would_type_and_say_them() {
    let mut web = pool("web", PoolState::Ok, vec![worker(0, SlotState::Ready)]);
    web.listen = vec!["[::1]:80".to_owned(), "unix:/run/shop.sock".to_owned()];
    web.ports = Some("3000-3004".to_owned());
    assert_eq!(
        listens_on(&web).as_deref(),
        Some("[::1]:80, unix:/run/shop.sock, ports 3000-3004")
    );
    let Some(mut deploy) = web.last_deploy.clone() else {
        panic!("a deploy");
    };
    deploy.generation = 3;
    deploy.outcome = RollState::RolledBack;
    web.last_deploy = Some(deploy.clone());
    let rows = workers(&web, PLAIN);
    let line = "  generation 3 deployed 2h03m ago, reload by uid 1000 (2026-11-27T18:30:23Z), rolled-back\n";
    assert!(rows.contains(line), "{rows}");
    deploy.by = "watch".to_owned();
    deploy.uid = None;
    assert_eq!(deploy_text(&deploy, PLAIN), "2h03m ago, changed files");
}
