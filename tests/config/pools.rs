//! What pools become: defaults merged, oneshots, ports, checks.

use super::{Case, plan_of, refused};
use rotad::plan::{Check, Context, Health, Kind, PoolPlan, Ports, Ready, Sink, Template};
use rotad_core::{Essential, RestartPolicy, Span};
use std::path::Path;
use std::time::Duration;

fn expanded(template: &Template, slot: u32, port: Option<u16>) -> String {
    let context = Context {
        addresses: &[],
        pool: "web",
        slot,
        generation: 1,
        port,
        rotad: Path::new("/r"),
        node_preload: Path::new("/n"),
    };
    template.expand(&context).into_string().unwrap()
}

fn pool(lines: &str) -> PoolPlan {
    plan_of(&format!("[pool.web]\ncommand = [\"sh\"]\n{lines}\n"))
        .pools
        .remove(0)
}

#[test]
fn defaults_fill_up_and_tables_merge() {
    let plan = plan_of(
        "[pool.a]\nnice = 3\nenv = { B = \"own\" }\nrestart = { delay = \"2s\" }\nstop = \"1s\"\n\
         [pool.b]\ncommand = [\"true\"]\nready = \"spawned\"\n\
         [defaults]\ncommand = [\"sh\"]\nnice = 2\nenv = { A = \"{pool}\", B = \"default\" }\nkind = \"task\"\n\
         ready = { after = \"1s\" }\nstop = [{ signal = \"QUIT\", wait = \"9s\" }]\n\
         [defaults.restart]\npolicy = \"on-failure\"\ndelay = \"1s\"\n",
    );
    let [a, b] = &plan.pools[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (a.kind, a.recipe.nice, b.recipe.nice),
        (Kind::Task, Some(3), Some(2))
    );
    let env = |pool: &PoolPlan| -> Vec<String> {
        pool.recipe
            .env
            .iter()
            .map(|(name, value)| format!("{name}={}", expanded(value, 0, None)))
            .collect()
    };
    let mut own = env(a);
    own.sort();
    assert_eq!(
        (own, env(b)),
        (
            vec!["A=web".to_owned(), "B=own".to_owned()],
            vec!["A=web".to_owned(), "B=default".to_owned()]
        )
    );
    assert_eq!(
        (a.policy.restart.policy, a.policy.restart.delay),
        (RestartPolicy::OnFailure, Span(2000))
    );
    assert_eq!(
        (a.policy.stop[0].wait, b.policy.stop[0].wait),
        (Span(1000), Span(9000))
    );
    assert_eq!(
        (&a.ready, &b.ready),
        (&Ready::After(Duration::from_secs(1)), &Ready::Spawned)
    );
    assert_eq!(b.recipe.command, [Template::literal("true")]);
}

/// A default that means nothing in a pool is not applied; one key of a liveness check does not fight another.
#[test]
fn a_pools_key_overrides_the_default() {
    let plan = plan_of(
        "[defaults]\ncount = 4\nready = \"notify\"\npass_env = [\"A\"]\nafter = [\"migrate\"]\ngroup = \"root\"\n\
         restart = { delay = \"1s\" }\nreload = { debounce = \"1s\" }\nlog = { keep = 3 }\nessential = \"5s\"\n\
         health = { watchdog = \"30s\" }\n\
         [pool.migrate]\nkind = \"oneshot\"\ncommand = [\"sh\"]\n\
         [pool.once]\ncommand = [\"sh\"]\nrestart = { policy = \"never\" }\nhealth = { command = [\"true\"] }\n\
         [pool.logs]\ncommand = [\"sh\"]\nlog = { stdout = \"x.log\" }\nclear_env = true\nafter = []\n",
    );
    let [migrate, once, logs] = &plan.pools[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (migrate.kind, migrate.policy.count, &migrate.after),
        (Kind::Oneshot, 1, &Vec::new())
    );
    assert_eq!(
        (migrate.policy.essential, &migrate.health, &migrate.ready),
        (None, &None, &Ready::Auto)
    );
    assert_eq!(
        (once.policy.count, &once.after),
        (4, &vec!["migrate".to_owned()])
    );
    assert!(matches!(
        once.health,
        Some(Health::Probe {
            check: Check::Command(_),
            ..
        })
    ));
    assert_eq!(logs.health, Some(Health::Watchdog(Duration::from_secs(30))));
    assert_eq!(
        (&logs.log.stdout, logs.log.keep, logs.recipe.pass_env.len()),
        (
            &Sink::File(logs.recipe.working_directory.join("x.log").into()),
            3,
            1
        )
    );
    assert!(logs.after.is_empty() && logs.policy.essential == Some(Essential::Ready(Span(5000))));
}

#[test]
fn a_wrong_default_is_reported_once() {
    let text =
        "[defaults]\nnice = 99\nenv = { A = \"{nosuch}\" }\nuser = \"nobody-of-that-name\"\n";
    let pools: String = (0..9)
        .map(|number| format!("[pool.p{number}]\ncommand = [\"sh\"]\nready = \"notify\"\n"))
        .collect();
    let report = refused(format!("{text}{pools}"));
    let lines: Vec<usize> = report
        .findings()
        .iter()
        .map(|finding| finding.place.as_ref().unwrap().line)
        .collect();
    assert_eq!(lines, [2, 3, 4], "{report}");
    // Also where there is no pool to take it, and where a pool has its own.
    let report = refused(format!(
        "{text}[pool.a]\ncommand = [\"sh\"]\nready = \"notify\"\nnice = 1\n"
    ));
    assert_eq!(report.findings().len(), 3, "{report}");
}

#[test]
fn a_oneshot_has_no_limit_unless_it_gets_one() {
    let plan = plan_of(
        "[pool.a]\nkind = \"oneshot\"\ncommand = [\"sh\"]\n\
         [pool.b]\nkind = \"oneshot\"\ncommand = [\"sh\"]\nready_timeout = \"1s\"\ncount = 1\nafter = \"a\"\n",
    );
    let timeouts: Vec<Span> = plan
        .pools
        .iter()
        .map(|pool| pool.policy.ready_timeout)
        .collect();
    assert_eq!(timeouts, [Span::FOREVER, Span(1000)]);
    assert_eq!(
        (plan.pools[1].kind, &plan.pools[1].after),
        (Kind::Oneshot, &vec!["a".to_owned()])
    );
}

#[test]
fn each_worker_has_a_port_and_is_asked_there() {
    let api = pool(
        "count = 4\nports = \"3000-3010\"\nready = { connect = \"127.0.0.1:{port}\" }\n\
         health = { http = \"localhost:{port}\", failures = 5, every = \"2s\" }",
    );
    assert_eq!(
        api.ports,
        Some(Ports {
            first: 3000,
            last: 3010
        })
    );
    assert_eq!(api.ports.unwrap().count(), 11);
    let Ready::Probe(Check::Connect(address)) = &api.ready else {
        panic!("{:?}", api.ready)
    };
    assert_eq!(expanded(address, 0, Some(3002)), "127.0.0.1:3002");
    let Some(Health::Probe {
        check: Check::Http(request),
        every,
        timeout,
        failures,
    }) = &api.health
    else {
        panic!("{:?}", api.health)
    };
    // A path is there, always.
    assert_eq!(expanded(&request.url, 0, Some(3002)), "localhost:3002/");
    // The default of `timeout` never exceeds `every`.
    assert_eq!(
        (*every, *timeout, *failures),
        (Duration::from_secs(2), Duration::from_secs(2), 5)
    );
    let one = pool("ports = 3000\nenv = { P = \"{port}\" }\nreload = { surge = 0 }");
    assert_eq!(
        one.ports,
        Some(Ports {
            first: 3000,
            last: 3000
        })
    );
}

#[test]
fn unset_keys_have_their_defaults() {
    let web = pool(
        "health = { command = \"check {slot}\" }\nrecycle = { max_age = \"6h\", max_rss = \"512MiB\" }\nessential = \"60s\"\n\
         reload = { watch = \"*.toml\" }\nready = { http = \"127.0.0.1:80{slot}/x\" }",
    );
    let Some(Health::Probe {
        check: Check::Command(words),
        every,
        timeout,
        failures,
    }) = &web.health
    else {
        panic!()
    };
    assert_eq!(
        words
            .iter()
            .map(|word| expanded(word, 7, None))
            .collect::<Vec<_>>(),
        ["check", "7"]
    );
    assert_eq!((every.as_secs(), timeout.as_secs(), *failures), (10, 5, 3));
    assert_eq!(web.recycle.max_age, Some(Duration::from_secs(6 * 3600)));
    assert_eq!(
        (web.recycle.max_rss, web.policy.essential),
        (Some(512 << 20), Some(Essential::Ready(Span(60_000))))
    );
    let watch = web.watch.unwrap();
    assert_eq!(
        (watch.globs, watch.debounce),
        (vec!["*.toml".to_owned()], Duration::from_millis(500))
    );
    assert_eq!(watch.base, web.recipe.working_directory);
    let plain = pool("");
    assert_eq!(
        (
            plain.policy.essential,
            plain.ports,
            &plain.health,
            &plain.watch
        ),
        (None, None, &None, &None)
    );
    assert!(plain.after.is_empty() && plain.recycle == rotad::plan::Recycle::default());
}

#[test]
fn a_watched_directory_that_matches_no_file_is_a_warning() {
    let case = Case::new(
        "[pool.w]\ncommand = [\"sh\"]\nready = \"notify\"\nreload = { watch = \"s*c\" }\n",
    );
    std::fs::create_dir(case.dir.path().join("src")).unwrap();
    let text = case.rendered();
    assert!(
        text.contains("warning: no file matches `s*c` now")
            && text.contains("a directory does; all files in it and below are `s*c/**`"),
        "{text}"
    );
}

#[test]
fn pools_may_share_a_log_file_that_they_agree_on() {
    let text = "[defaults.log]\nstdout = \"all.log\"\nmax_size = \"1MiB\"\nkeep = 0\n\
                [pool.a]\ncommand = [\"sh\"]\n[pool.b]\ncommand = [\"sh\"]\n";
    let case = Case::new(text);
    let plan = case.load().unwrap_or_else(|report| panic!("{report}")).plan;
    for pool in &plan.pools {
        assert_eq!(
            pool.log.stdout,
            Sink::File(case.base().join("all.log").into())
        );
        assert_eq!(
            (pool.log.max_size, pool.log.keep, &pool.log.stderr),
            (1 << 20, 0, &Sink::Stdout)
        );
    }
    assert!(
        Case::new(format!("{text}log = {{ keep = 1 }}\n"))
            .load()
            .is_err()
    );
}
