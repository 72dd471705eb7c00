//! More than one file: what `include` takes in, and what counts as a change.

use super::Case;
use rotad::plan;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const MAIN: &str = "include = [\"conf.d/*.toml\", \"shop.toml\"]\n[pool.web]\ncommand = [\"sh\"]\nready = \"notify\"\n";

fn site() -> Case {
    let case = Case::new(MAIN);
    fs::create_dir(case.base().join("conf.d")).unwrap();
    add(
        &case,
        "b.toml",
        "[pool.b]\nready = \"notify\"\ncommand = [\"sh\"]\nlisten = \"l\"\nlog = { stdout = \"b.log\" }\n",
    );
    add(
        &case,
        "a.toml",
        "[listen.l]\naddress = \"unix:l.sock\"\n[pool.a]\nready = \"notify\"\ncommand = [\"sh\"]\nafter = \"b\"\n",
    );
    case
}

fn add(case: &Case, name: &str, text: &str) {
    fs::write(case.base().join("conf.d").join(name), text).unwrap();
}

#[test]
fn included_files_come_in_the_order_of_their_names() {
    let case = site();
    add(&case, ".hidden.toml", "nonsense");
    let plan = case.load().unwrap_or_else(|report| panic!("{report}")).plan;
    let names: Vec<&str> = plan.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["web", "a", "b"]);
    // Relative to the main configuration's directory, wherever it is written.
    assert_eq!(
        plan.listeners[0].address,
        plan::Address::Unix(case.base().join("l.sock"))
    );
    assert_eq!(
        plan.pools[2].log.stdout,
        plan::Sink::File(case.base().join("b.log").into())
    );
    assert_eq!(plan.pools[1].recipe.working_directory, case.base());
    let sources: Vec<PathBuf> = plan
        .sources
        .iter()
        .map(|source| source.path.clone())
        .collect();
    assert_eq!(
        sources,
        ["shop.toml", "conf.d/a.toml", "conf.d/b.toml"].map(|name| case.base().join(name))
    );
}

#[test]
fn a_file_that_comes_changes_or_goes_is_a_change() {
    let case = site();
    let plan = case.load().unwrap().plan;
    let changed = || plan::changed(&plan).unwrap();
    let path = |name: &str| case.base().join("conf.d").join(name);
    assert_eq!(changed(), Vec::<PathBuf>::new());
    add(&case, "c.toml", "");
    add(&case, "c.txt", "");
    assert_eq!(changed(), [path("c.toml")]);
    fs::remove_file(path("c.toml")).unwrap();
    assert_eq!(changed(), Vec::<PathBuf>::new());
    add(&case, "a.toml", "");
    fs::remove_file(path("b.toml")).unwrap();
    assert_eq!(changed(), [path("a.toml"), path("b.toml")]);
}

#[test]
fn what_cannot_be_included_is_told_at_the_pattern() {
    let case = site();
    fs::create_dir(case.base().join("conf.d/folder.toml")).unwrap();
    std::os::unix::fs::symlink("nowhere", case.base().join("conf.d/link.toml")).unwrap();
    let report = case.load().unwrap_err();
    let told: Vec<&str> = report
        .findings()
        .iter()
        .map(|finding| finding.message.as_str())
        .collect();
    assert_eq!(told.len(), 2, "{report}");
    assert!(
        told[0].contains("folder.toml: not a regular file") && told[1].contains("link.toml"),
        "{report}"
    );
    assert!(
        report
            .findings()
            .iter()
            .all(|finding| finding.place.as_ref().unwrap().line == 1),
        "{report}"
    );
}

#[test]
fn root_trusts_no_included_file_that_others_can_write() {
    let case = site();
    let is_root = nix::unistd::Uid::effective().is_root();
    let chmod = |name: &str, mode| {
        fs::set_permissions(case.base().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    chmod("conf.d/a.toml", 0o666);
    assert_eq!(case.load().is_err(), is_root);
    chmod("conf.d/a.toml", 0o644);
    chmod("conf.d", 0o777);
    assert_eq!(case.load().is_err(), is_root);
    // In a sticky directory no other user can replace a file, but every user can add one.
    chmod("conf.d", 0o1777);
    assert!(case.load().is_ok());
    if is_root {
        std::os::unix::fs::chown(case.base().join("conf.d/a.toml"), Some(65534), None).unwrap();
        let report = case.load().unwrap_err().to_string();
        assert!(
            report.contains("belongs neither to root nor to the owner"),
            "{report}"
        );
        std::os::unix::fs::chown(&case.file, Some(65534), None).unwrap();
        assert!(case.load().is_ok());
    }
}

/// Neither a huge file, nor a directory, nor a pipe makes `check` wait.
#[test]
fn a_file_that_is_no_configuration_is_an_error() {
    let case = Case::new(vec![b'a'; 10 << 20]);
    assert!(
        case.load()
            .unwrap_err()
            .to_string()
            .contains("larger than 4 MiB")
    );
    let pipe = case.base().join("pipe.toml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [&pipe, &case.base()] {
        let report = rotad::config::load(path).unwrap_err().to_string();
        assert!(report.contains("not a regular file"), "{report}");
    }
}

/// A broken file of megabytes is refused with a bounded number of findings.
#[test]
fn the_number_of_findings_is_bounded() {
    let report = Case::new("a = 1\nb = \n".repeat(200_000))
        .load()
        .unwrap_err();
    assert_eq!(report.findings().len(), 1000);
    assert!(
        report
            .to_string()
            .lines()
            .last()
            .unwrap()
            .starts_with("and "),
        "{report}"
    );
    let wide = format!("a = {{ {} }}\n", "b = ".repeat(500_000));
    assert!(Case::new(wide).load().unwrap_err().to_string().len() < 50_000);
    let pools: String = (0..1200)
        .map(|number| format!("[pool.p{number}]\ncommand = \"sh\"\nready = \"notify\"\n"))
        .collect();
    let report = Case::new(pools).load().unwrap_err();
    assert_eq!(report.findings().len(), 200, "{report}");
}
