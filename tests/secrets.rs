//! What may be a secret reaches no log, and nobody but root and the owner of the configuration says what root runs.

mod support;

use nix::sys::signal::Signal;
use std::os::unix::fs::{PermissionsExt, chown};
use support::{Site, need, until};

const POOL: &str = "[pool.web]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n";

/// All that a running master has said.
fn said(site: &Site) -> String {
    site.log() + &site.rotad(&["events", "--json"]).out + &site.rotad(&["status", "--json"]).out
}

/// A HUP, or a reload, over a broken file: where it is broken is told, and nothing of what stands there.
#[test]
fn a_broken_environment_is_not_copied_into_the_log() {
    let site = Site::up(POOL);
    let good = site.read("rotad.toml");
    for (number, broken) in [
        "env = { PW = \"SECRETVALUE }",
        "env = { PW = \"SECRETVALUE{SECRETHOLDER}\" }",
        "env = { PW = \"SECRETVALUE\", N = 77 }",
        "env = { \"SECRETVALUE NAME\" = \"x\" }",
        "env = { PW = \"SECRETVALUE\" }\nbogus = 1",
        "env_file = \"broken.env\"",
    ]
    .into_iter()
    .enumerate()
    {
        site.write(
            "broken.env",
            "SECRETVALUE without a sign\nSECRETVALUE-1=x\n",
        );
        site.write("rotad.toml", &format!("{good}\n{broken}\n"));
        site.signal(Signal::SIGHUP);
        let refused = || {
            (site
                .log()
                .matches("the configuration from before holds")
                .count()
                > 2 * number)
                .then_some(())
        };
        until("the refusal", 10, refused);
        let run = site.rotad(&["reload", "--config"]);
        assert_eq!(run.code, 78, "{broken}: {run:?}");
        assert!(
            run.err.contains(".toml:") || run.err.contains(".env:"),
            "the place: {run:?}"
        );
        let said = said(&site) + &run.err + &run.out;
        assert!(!said.contains("SECRET"), "{broken}: {said}");
        // Who checks the file by hand may read it.
        let check = site.rotad(&["check"]);
        assert_eq!(check.code, 78, "{check:?}");
        assert!(
            number > 0 || (check.err + &check.out).contains("SECRETVALUE"),
            "the line"
        );
    }
}

/// As root: an env file of another user's, or in another user's directory, could be replaced by that user.
#[test]
fn an_env_file_of_another_user_is_refused() {
    if !need::root() {
        return;
    }
    let site = Site::new(&POOL.replace("ready", "env_file = \"e/app.env\"\nready"));
    let (dir, file) = (site.path("e"), site.path("e/app.env"));
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(&file, "A=1\n").expect("a file");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    assert_eq!(site.rotad(&["check"]).code, 0);
    for (path, other) in [(&file, &dir), (&dir, &file)] {
        chown(path, Some(65534), None).expect("given away");
        chown(other, Some(0), None).expect("taken back");
        let check = site.rotad(&["check"]);
        assert_eq!(check.code, 78, "{check:?}");
        let text = check.err + &check.out;
        assert!(
            text.contains("belongs neither to root nor to the owner of the configuration"),
            "{text}"
        );
    }
    // The owner of the configuration may say anything anyway.
    chown(&site.config, Some(65534), None).expect("given away");
    chown(&file, Some(65534), None).expect("given away");
    assert_eq!(
        site.rotad(&["check"]).code,
        0,
        "{:?}",
        site.rotad(&["check"])
    );
}

/// Owner, group and mode of a pool's log: as configured, changed by a reload, kept over rotations.
#[test]
fn logs_belong_to_the_configured_user() {
    use std::os::unix::fs::MetadataExt;
    if !need::root() {
        return;
    }
    let log = "[pool.web.log]\nstdout = \"logs/web.log\"\nmax_size = \"4KiB\"\nkeep = 2\nmode = \"0604\"\nuser = \"65534\"\n";
    let lines = "[\"sh\", \"-c\", \"i=0; while [ $i -lt 500 ]; do echo a line of some width; i=$((i+1)); done; exec sleep 99\"]";
    let site = Site::up(&format!(
        "[pool.web]\ncommand = {lines}\nready = \"spawned\"\n{log}"
    ));
    let seen = |name: &str| {
        let meta = std::fs::metadata(site.path(name)).ok()?;
        Some((meta.mode() & 0o777, meta.uid(), meta.gid()))
    };
    for name in ["logs/web.log", "logs/web.log.1"] {
        until("a rotated log", 10, || {
            seen(name).filter(|seen| *seen == (0o604, 65534, 0))
        });
    }
    site.write(
        "rotad.toml",
        &site
            .read("rotad.toml")
            .replace("0604", "0640")
            .replace("\"65534\"", "\"0\"\ngroup = \"1\""),
    );
    let run = site.rotad(&["reload", "--config"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out.contains("adjusted without a restart"), "{run:?}");
    until("another mode", 10, || {
        seen("logs/web.log").filter(|seen| *seen == (0o640, 0, 1))
    });
}
