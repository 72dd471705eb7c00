//! Configurations in, diagnostics out: `tests/config/NAME.toml` against `NAME.expect`, which UPDATE_EXPECT=1 writes.

use rotad::config::{self, Report};
use rotad::plan::{self, Address, Context, Kind, Ready, Sink};
use rotad_core::{OnFailure, Readiness, RestartPolicy, Signal, Span, StopStep, To};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "config/differences.rs"]
mod differences;
#[path = "config/files.rs"]
mod files;
#[path = "config/mutations.rs"]
mod mutations;
#[path = "config/pools.rs"]
mod pools;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A directory of its own with one configuration (as `shop.toml`), in one of its own: paths that begin with `../` find
/// nothing of others.
struct Case {
    _around: tempfile::TempDir,
    dir: tempfile::TempDir,
    file: PathBuf,
}

impl Case {
    fn new(text: impl AsRef<[u8]>) -> Self {
        let around = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir_in(&around).unwrap();
        let file = dir.path().join("shop.toml");
        fs::write(&file, text).unwrap();
        Self {
            _around: around,
            dir,
            file,
        }
    }

    fn load(&self) -> Result<config::Loaded, Report> {
        config::load(&self.file)
    }

    fn base(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    fn rendered(&self) -> String {
        let report = match self.load() {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        };
        let text = report.to_string();
        text.replace(&format!("{}/", self.base().display()), "")
            .replace(&format!("{}", self.base().display()), "DIR")
    }
}

fn plan_of(text: &str) -> plan::Plan {
    let case = Case::new(text);
    case.load().unwrap_or_else(|report| panic!("{report}")).plan
}

fn refused(text: impl AsRef<[u8]>) -> Report {
    Case::new(text)
        .load()
        .expect_err("this configuration is wrong")
}

/// Compares with an expected file, or writes it with UPDATE_EXPECT=1.
fn expect(path: &Path, actual: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return fs::write(path, actual).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        actual,
        expected,
        "{} differs; UPDATE_EXPECT=1 rewrites it",
        path.display()
    );
}

#[test]
fn diagnostics_are_as_expected() {
    let mut cases = 0;
    for entry in fs::read_dir(project("tests/config")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let case = Case::new(fs::read(&path).unwrap());
            fs::copy(
                project("tests/config/case.env"),
                case.base().join("case.env"),
            )
            .unwrap();
            let included = path.with_extension("d");
            if included.is_dir() {
                fs::create_dir(case.base().join("conf.d")).unwrap();
                for entry in fs::read_dir(included).unwrap().flatten() {
                    fs::copy(
                        entry.path(),
                        case.base().join("conf.d").join(entry.file_name()),
                    )
                    .unwrap();
                }
            }
            expect(&path.with_extension("expect"), &case.rendered());
            cases += 1;
        }
    }
    assert!(cases >= 10);
}

#[test]
fn every_finding_has_its_place_in_text_and_json() {
    let report = refused(fs::read(project("tests/config/types.toml")).unwrap());
    let text = report.to_string();
    let json = report.to_json();
    let findings = json.as_array().unwrap();
    assert!(findings.len() > 20);
    for finding in findings {
        let place = format!(
            "{}:{}:{}",
            finding["file"].as_str().unwrap(),
            finding["line"],
            finding["column"]
        );
        assert!(text.contains(&place), "{place} is not in\n{text}");
        assert!(["error", "warning"].contains(&finding["severity"].as_str().unwrap()));
        assert!(!finding["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn shipped_configurations_have_no_findings() {
    for name in ["config/rotad.toml", "config/demo.toml"] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("config")).unwrap();
        let file = dir.path().join(name);
        fs::copy(project(name), &file).unwrap();
        let loaded = config::load(&file).unwrap_or_else(|report| panic!("{report}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        let base = dir.path().canonicalize().unwrap();
        assert_eq!(loaded.plan.master.pid_file, base.join("master.pid"));
        assert!(
            loaded
                .plan
                .pools
                .iter()
                .all(|pool| pool.recipe.working_directory == base)
        );
    }
}

/// The examples for real programs, where they are. A program that this machine lacks is a warning only.
#[test]
fn examples_have_no_errors() {
    let mut examples = 0;
    for entry in fs::read_dir(project("config")).unwrap() {
        let file = entry.unwrap().path().join("rotad.toml");
        if file.exists() {
            config::load(&file).unwrap_or_else(|report| panic!("{report}"));
            examples += 1;
        }
    }
    assert!(examples > 0);
}

/// Every key of this release stands in the commented example.
#[test]
fn the_example_names_every_key() {
    let text = fs::read_to_string(project("config/rotad.toml")).unwrap();
    for section in config::reference() {
        for row in &section.rows {
            let is_table = row.takes.starts_with("table");
            let needle = if is_table {
                format!("{}]", row.name)
            } else {
                format!("{} = ", row.name)
            };
            let found = text.contains(&needle)
                || text.contains(&format!("[{}.", row.name))
                || text.contains(&format!("{} = {{", row.name));
            assert!(found, "{} {}", section.table, row.name);
        }
    }
}

/// The example with all its comments taken as configuration says nothing unknown.
#[test]
fn the_example_is_right_in_its_comments() {
    let text = fs::read_to_string(project("config/rotad.toml")).unwrap();
    let is_code = |line: &str| {
        let code = line.trim_start_matches("# ");
        code.starts_with('[')
            || code
                .split_once(" = ")
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_alphanumeric() || c == '_'))
    };
    let uncomment = |line: &str| {
        if line.starts_with('#') && is_code(line) {
            line[2..].to_owned()
        } else {
            line.to_owned()
        }
    };
    let text: Vec<String> = text.lines().map(uncomment).collect();
    let report = refused(text.join("\n"));
    // Users, groups, programs and env files are not the same everywhere; what is never right must not be there.
    for finding in report.findings() {
        let telling = [
            "unknown key",
            "unknown value",
            "expected",
            "not supported",
            "duplicate",
            "placeholder",
            "listener",
        ];
        assert!(
            !telling.iter().any(|word| finding.message.contains(word)),
            "{finding}"
        );
    }
}

#[test]
fn the_documentation_lists_every_key() {
    let path = project("docs/config.md");
    let page = fs::read_to_string(&path).unwrap();
    let (written, _) = page
        .split_once("<!-- keys -->")
        .expect("the mark of the list");
    expect(
        &path,
        &format!(
            "{written}<!-- keys -->\n\n{}\n",
            config::markdown().trim_end()
        ),
    );
}

/// Whatever is wrong with its value, no key of the lists in docs/config.md is unknown in its table.
#[test]
fn every_documented_key_is_known() {
    let page = fs::read_to_string(project("docs/config.md")).unwrap();
    let lists = page.split_once("<!-- keys -->").expect("the lists").1;
    let mut known = 0;
    for list in lists.split("### ").skip(1) {
        let title = list.lines().next().expect("a title").trim_matches('`');
        let header = match title {
            "Top of the file" => String::new(),
            table => table.replace("NAME", "web") + "\n",
        };
        let rows = list.lines().filter_map(|line| line.strip_prefix("| `"));
        for key in rows.filter_map(|row| Some(row.split_once('`')?.0)) {
            let unknown = |key: &str| {
                let report = refused(format!("{header}{key} = 1979-05-27\n"));
                report
                    .findings()
                    .iter()
                    .any(|finding| finding.message == format!("unknown key `{key}`"))
            };
            assert!(!unknown(key), "{title} {key}");
            assert!(unknown(&format!("{key}x")), "{title} {key}x");
            known += 1;
        }
    }
    assert!(known > 70, "{known} keys");
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let report = refused("[pool.web]\ncommand = [\"sh\"]\nlisten = \"unix:@abstract\"\n");
    assert_eq!(report.findings().len(), 1, "{report}");
    assert!(
        report.to_string().starts_with("error: not supported yet: "),
        "{report}"
    );
}

#[test]
fn a_stop_step_may_be_for_the_whole_tree() {
    let plan = plan_of(
        "[pool.web]\ncommand = [\"sh\"]\nstop = [{ signal = \"INT\", wait = \"5s\", to = \"tree\" }, \
         { signal = \"TERM\", wait = \"1s\", to = \"main\" }, { wait = \"2s\" }]\n",
    );
    let to: Vec<To> = plan.pools[0]
        .policy
        .stop
        .iter()
        .map(|step| step.to)
        .collect();
    assert_eq!(to, [To::Tree, To::Main, To::Main]);
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let plan = plan_of(
        "[pool.web]\ncommand = [\"sh\"]\ncount = 5\n[pool.task]\nkind = \"task\"\ncommand = [\"sh\"]\n",
    );
    assert_eq!(
        (
            plan.master.name.as_str(),
            plan.master.daemonize,
            plan.master.umask
        ),
        ("shop", true, 0o022)
    );
    assert_eq!(
        plan.master.pid_file,
        plan.master.runtime_dir.join("master.pid")
    );
    assert_eq!(
        (
            plan.master.log_max_size,
            plan.master.log_keep,
            plan.master.log_file
        ),
        (50 << 20, 10, None)
    );
    assert_eq!((plan.control.mode, plan.control.group), (0o600, None));
    let [web, task] = &plan.pools[..] else {
        panic!("{:?}", plan.pools)
    };
    assert_eq!((web.kind, &web.ready), (Kind::Worker, &Ready::Auto));
    assert_eq!(
        (&web.log.stdout, &web.log.stderr),
        (&Sink::Master, &Sink::Stdout)
    );
    assert_eq!((web.log.max_size, web.log.keep), (50 << 20, 10));
    assert_eq!(web.policy.readiness, Readiness::Alive(Span::from_secs(1)));
    assert_eq!(web.policy.ready_timeout, Span::from_secs(60));
    assert_eq!(
        web.policy.stop,
        [StopStep {
            signal: Some(Signal::TERM),
            wait: Span::from_secs(30),
            to: To::Main
        }]
    );
    assert_eq!(
        task.policy.stop,
        [StopStep {
            signal: Some(Signal::TERM),
            wait: Span::from_secs(300),
            to: To::Main
        }]
    );
    let reload = &web.policy.reload;
    assert_eq!(
        (reload.surge, reload.max_draining, reload.soak),
        (2, 5, None)
    );
    assert_eq!(
        (web.policy.soak(false), web.policy.soak(true)),
        (Span::from_secs(1), Span::from_secs(10))
    );
    assert_eq!(
        (reload.on_failure, task.policy.reload.surge),
        (OnFailure::Rollback, 1)
    );
    assert_eq!(web.roll_on, rotad::plan::RollOn::Always);
    let restart = &web.policy.restart;
    assert_eq!(
        (restart.policy, restart.delay, restart.max_delay),
        (RestartPolicy::Always, Span(100), Span(30_000))
    );
    assert_eq!(
        (restart.stable_after, &restart.success_exit_codes[..]),
        (Span(10_000), &[0][..])
    );
    assert_eq!(
        (web.recipe.clear_env, web.recipe.account.as_ref()),
        (false, None)
    );
}

#[test]
fn listeners_are_shared_and_kept_in_order() {
    let plan = plan_of(
        "[listen.b]\naddress = \"127.0.0.1:8001\"\n[listen.a]\naddress = \"unix:run/a.sock\"\nmode = \"0660\"\n\
         [pool.x]\ncommand = \"sh -c 'exit {fd:127.0.0.1:9000}'\"\nlisten = [\"a\", \"127.0.0.1:9000\"]\n\
         [pool.w]\ncommand = [\"sh\"]\nlisten = \"127.0.0.1:9000\"\n[pool.v]\ncommand = [\"sh\"]\nlisten = \"b\"\n",
    );
    let names: Vec<&str> = plan
        .listeners
        .iter()
        .map(|listener| listener.name.as_str())
        .collect();
    assert_eq!(names, ["b", "a", "127.0.0.1:9000"]);
    assert_eq!(
        plan.pools
            .iter()
            .map(|pool| pool.name.as_str())
            .collect::<Vec<_>>(),
        ["x", "w", "v"]
    );
    assert_eq!(
        plan.pools
            .iter()
            .map(|pool| pool.recipe.listen.clone())
            .collect::<Vec<_>>(),
        [vec![1, 2], vec![2], vec![0]]
    );
    let base = plan.config.parent().unwrap();
    assert_eq!(
        plan.listeners[1].address,
        Address::Unix(base.join("run/a.sock"))
    );
    let context = Context {
        addresses: &[],
        pool: "x",
        slot: 0,
        generation: 1,
        port: None,
        rotad: Path::new("/r"),
        node_preload: Path::new("/n"),
    };
    assert_eq!(plan.pools[0].recipe.command[2].expand(&context), "exit 4");
    assert_eq!(plan.pools[0].policy.readiness, Readiness::Reported);
}

#[test]
fn an_env_file_comes_before_env_and_counts_as_configuration() {
    let case = Case::new(
        "[pool.web]\ncommand = [\"sh\"]\nenv_file = \".env\"\nenv = { B = \"{slot}\" }\n",
    );
    fs::write(case.base().join(".env"), "A={slot}\nB=1\n").unwrap();
    let plan = case.load().unwrap().plan;
    let context = Context {
        addresses: &[],
        pool: "web",
        slot: 3,
        generation: 1,
        port: None,
        rotad: Path::new("/r"),
        node_preload: Path::new("/n"),
    };
    let env: Vec<_> = plan.pools[0]
        .recipe
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.expand(&context)))
        .collect();
    assert_eq!(
        env,
        [("A", "{slot}".into()), ("B", "1".into()), ("B", "3".into())]
    );
    assert_eq!(plan::changed(&plan).unwrap(), Vec::<PathBuf>::new());
    fs::write(case.base().join(".env"), "A=2\n").unwrap();
    assert_eq!(plan::changed(&plan).unwrap(), [case.base().join(".env")]);
    fs::remove_file(&case.file).unwrap();
    assert_eq!(
        plan::changed(&plan).unwrap(),
        [case.base().join("shop.toml"), case.base().join(".env")]
    );
}

/// Files that may be missing count as configuration as well: one that appears is a change.
#[test]
fn later_env_files_win_and_some_may_be_missing() {
    let case = Case::new(
        "[pool.web]\ncommand = [\"sh\"]\nenv_file = [\".env\", \"?{pool}.env\", \"?none/x.env\"]\n",
    );
    fs::write(case.base().join(".env"), "A=1\nB='two\nlines'\n").unwrap();
    let env = |plan: &plan::Plan| -> Vec<(String, String)> {
        let env = plan.pools[0].recipe.env.iter();
        env.map(|(name, value)| (name.clone(), value.as_literal().unwrap().to_owned()))
            .collect()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let first = case.load().unwrap().plan;
    assert_eq!(env(&first), [pair("A", "1"), pair("B", "two\nlines")]);
    assert_eq!(plan::changed(&first).unwrap(), Vec::<PathBuf>::new());
    let own = case.base().join("web.env");
    fs::write(&own, "A=3\n").unwrap();
    assert_eq!(plan::changed(&first).unwrap(), std::slice::from_ref(&own));
    let second = case.load().unwrap().plan;
    assert_eq!(env(&second).last(), Some(&pair("A", "3")));
    assert_eq!(plan::changed(&second).unwrap(), Vec::<PathBuf>::new());
    let plan::PoolChange::Rolled { keys } = plan::diff(&first, &second).change_of("web") else {
        panic!("a changed variable needs new workers")
    };
    assert_eq!(keys, ["env.A"]);
    fs::remove_file(&own).unwrap();
    assert_eq!(plan::changed(&second).unwrap(), [own]);
}

#[test]
fn a_secret_in_an_env_file_is_never_shown() {
    let case = Case::new(fs::read(project("tests/config/envfile.toml")).unwrap());
    fs::copy(
        project("tests/config/case.env"),
        case.base().join("case.env"),
    )
    .unwrap();
    let report = case.load().unwrap_err();
    assert!(report.to_string().contains("case.env:3:1"), "{report}");
    assert!(!format!("{report}{}", report.to_json()).contains("topsecret"));
}

#[test]
fn clients_read_what_they_need_from_a_broken_file() {
    let case = Case::new(
        "[master]\nname = \"front\"\npid_file = \"m.pid\"\nruntime_dir = \"run\"\n[pool.web\ncount = = 2\n\"",
    );
    assert!(case.load().is_err());
    let peek = config::peek(&case.file);
    assert_eq!(
        (peek.name.as_str(), &peek.config),
        ("front", &case.base().join("shop.toml"))
    );
    assert_eq!(
        (peek.pid_file, peek.runtime_dir),
        (case.base().join("m.pid"), case.base().join("run"))
    );
    fs::remove_file(&case.file).unwrap();
    let peek = config::peek(&case.file);
    assert_eq!(
        (peek.name.as_str(), peek.pid_file),
        ("shop", peek.runtime_dir.join("master.pid"))
    );
    assert_eq!(peek.config, case.base().join("shop.toml"));
}

#[test]
fn a_peek_agrees_with_the_plan() {
    let case =
        Case::new("[master]\nname = \"n\"\nlog_file = \"l.log\"\n[pool.web]\ncommand = [\"sh\"]\n");
    let (plan, peek) = (case.load().unwrap().plan, config::peek(&case.file));
    assert_eq!(
        (&plan.config, &plan.master.name),
        (&peek.config, &peek.name)
    );
    assert_eq!(
        (&plan.master.runtime_dir, &plan.master.pid_file),
        (&peek.runtime_dir, &peek.pid_file)
    );
    assert_eq!(
        (plan.master.log_file, plan.master.default_log_file),
        (peek.log_file, peek.default_log_file)
    );
}

#[test]
fn unreadable_files_are_a_finding() {
    let case = Case::new("");
    for path in [case.base().join("missing.toml"), case.base()] {
        let report = config::load(&path).unwrap_err();
        assert!(
            report.to_string().starts_with("error: cannot read"),
            "{report}"
        );
        assert_eq!(report.to_json()[0]["line"], serde_json::Value::Null);
    }
    let report = refused(b"[master]\nname = \"a\xff\"\n");
    assert!(report.to_string().contains("shop.toml:2:10"), "{report}");
}

#[test]
fn root_refuses_files_that_others_can_write() {
    use std::os::unix::fs::PermissionsExt;
    let case = Case::new("[pool.web]\ncommand = [\"sh\"]\n");
    fs::set_permissions(&case.file, fs::Permissions::from_mode(0o666)).unwrap();
    let is_root = nix::unistd::Uid::effective().is_root();
    assert_eq!(case.load().is_err(), is_root);
    fs::set_permissions(&case.file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(case.load().is_ok());
    fs::set_permissions(case.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(case.load().is_err(), is_root);
    fs::set_permissions(case.dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(case.load().is_ok());
}

#[test]
fn an_explicit_configuration_must_exist() {
    let case = Case::new("");
    assert_eq!(config::find(Some(&case.file)).unwrap(), case.file);
    let error = config::find(Some(&case.base().join("gone.toml")))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("gone.toml") && error.contains("-c"),
        "{error}"
    );
}
