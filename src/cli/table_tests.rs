use super::*;
use crate::observe::status::MasterStatus;

const PLAIN: TableStyle<'static> = TableStyle {
    colour: false,
    rates: None,
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
    };
    WorkerStatus {
        pid: None,
        last_exit: Some(exit),
        retry_in_s: Some(12.0),
        rss_bytes: None,
        cpu_s: None,
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
        pools: vec![
            pool(
                "web",
                PoolState::Degraded,
                vec![worker(0, SlotState::Ready), sick(1)],
            ),
            rolled,
            rolling,
            pool("off", PoolState::Stopped, vec![]),
        ],
    }
}

#[test]
fn the_table_of_pools() {
    let expected = "\
rotad 0.1.0  /etc/shop.toml  pid 812  up 3d4h  running
   POOL  READY  STATE      GEN  RESTARTS  CPU   MEMORY  NOTE
 ◐ web   1/2    degraded   2    6         0.8s  20M     web/1: exit 3 after 0.2s, log: \"PDOException: \\x1b[31mred\\x1b[0m\", retry in 12s
 ● api   1/1    ok         2    1         0.8s  20M     generation 3 rolled back: api/0: exit 1 before ready
 ↻ task  1/1    reloading  2    1         0.8s  20M     1 of 4 replaced
 ○ off   0/0    stopped    2    0         –     –       until `rotad start` starts it
";
    assert_eq!(pools(&sample(), PLAIN), expected);
}

#[test]
fn the_table_of_one_pool() {
    let expected = "\
◐ web  worker  degraded  1/2 ready  generation 2
   SLOT  PID   STATE    AGE   GEN  READY-IN  RESTARTS  CPU   MEMORY  NOTE
 ● 0     4711  ready    3.2s  2    0.40s     1         0.8s  20M
 × 1     –     backoff  3.2s  2    –         5         –     –       exit 3 after 0.2s, log: \"PDOException: \\x1b[31mred\\x1b[0m\", retry in 12s
";
    assert_eq!(workers(&sample().pools[0], PLAIN), expected);
}

#[test]
fn colour_only_adds_and_only_our_own_escapes_come_through() {
    let coloured = pools(
        &sample(),
        TableStyle {
            colour: true,
            rates: None,
        },
    );
    assert!(coloured.contains("\x1b[33m◐\x1b[0m web"));
    let mut plain = coloured;
    for paint in [GREEN, YELLOW, BLUE, RED, GREY, 0] {
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
    after.pools[0].workers[0].cpu_s = Some(1.8);
    after.pools[1].workers[0].pid = Some(4712);
    let rates = Rates::between(&before, &after, std::time::Duration::from_secs(2));
    let table = pools(
        &after,
        TableStyle {
            colour: false,
            rates: Some(&rates),
        },
    );
    assert!(table.contains("50%") && !table.contains("0.8s"), "{table}");
    assert!(
        table
            .lines()
            .any(|line| line.contains("api") && line.contains("  –    20M")),
        "new since then: {table}"
    );
}

#[test]
fn what_a_worker_says_and_how_it_died_in_each_way() {
    let mut one = worker(0, SlotState::Ready);
    one.says = Some("busy\n\x07".to_owned());
    assert_eq!(worker_note(&one), "busy\\x0a\\x07");
    let exit = LastExit {
        code: None,
        signal: Some("SEGV".into()),
        core: Some(true),
        error: None,
        after_s: 90.0,
        log: vec![],
        log_cut: false,
    };
    assert_eq!(exit_note(&exit), "killed by SEGV, core dumped after 1m30s");
    let failed = LastExit {
        error: Some("exec: no such program /x".into()),
        signal: None,
        core: None,
        after_s: 0.0,
        ..exit
    };
    assert_eq!(exit_note(&failed), "exec: no such program /x after 0.0s");
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
