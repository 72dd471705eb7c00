//! PHP: Laravel with its queue, scheduler, Octane and Horizon, Symfony with Messenger, and anything that starts at an
//! `index.php`, under php-fpm.

use super::pool::{Address, Pool};
use super::project::Project;
use std::path::Path;

/// The port that php-fpm's own configuration proposes.
const FPM_PORT: u16 = 9000;
const OCTANE_PORT: u16 = 8000;

/// The configuration of php-fpm that is written beside rotad.toml, if the project has none.
pub(super) const FPM_CONF: &str = "php-fpm.conf";

/// Where Debian keeps php-fpm, which is not in everybody's PATH.
const SBIN: &str = "/usr/sbin";

/// What a PHP project is.
pub(super) struct Found {
    pub(super) pools: Vec<Pool>,
    /// The text of [`FPM_CONF`], if it is needed and not there.
    pub(super) fpm_conf: Option<String>,
}

/// The pools of a PHP project.
pub(super) fn find(project: Project<'_>) -> Option<Found> {
    let composer = project.json("composer.json").unwrap_or_default();
    let needs = |package: &str| {
        ["require", "require-dev"].iter().any(|list| {
            composer
                .get(list)
                .is_some_and(|list| list.get(package).is_some())
        })
    };
    if project.has("artisan") {
        return Some(laravel(project, &needs));
    }
    if project.has("bin/console") && needs("symfony/framework-bundle") {
        let mut found = fpm(project, "Symfony");
        found.pools.extend(messenger(project));
        return Some(found);
    }
    let index = project.first(&["public/index.php", "web/index.php", "index.php"])?;
    let name = if project.has("wp-config.php") || project.has("wp-load.php") {
        "WordPress"
    } else {
        index
    };
    Some(fpm(project, name))
}

fn laravel(project: Project<'_>, needs: &dyn Fn(&str) -> bool) -> Found {
    let mut found = if needs("laravel/octane") {
        let port = OCTANE_PORT.to_string();
        let words = ["php", "artisan", "octane:start", "--host=127.0.0.1"].map(str::to_owned);
        let words = words.into_iter().chain([format!("--port={port}")]);
        Found {
            pools: vec![Pool::new("web", words, "Laravel Octane").binds(
                Some(Address::local(OCTANE_PORT)),
                "php-fpm takes rotad's socket and loses none (docs/programs/php.md)",
            )],
            fpm_conf: None,
        }
    } else {
        fpm(project, "Laravel")
    };
    found.pools[0].notes.push(
        "migrations before each roll: [pool.migrate] kind = \"oneshot\", command = [\"php\", \"artisan\", \"migrate\", \
         \"--force\"], and after = [\"migrate\"] here"
            .to_owned(),
    );
    if needs("laravel/horizon") {
        found.pools.push(
            Pool::new("jobs", ["php", "artisan", "horizon"], "Laravel Horizon")
                .task()
                .note("Horizon starts and counts its workers itself: config/horizon.php"),
        );
    } else if let Some(doubt) = queue(project) {
        let mut pool = queue_work(Pool::new(
            "jobs",
            ["php", "artisan", "queue:work", "--max-time=3600"],
            "Laravel's queue",
        ));
        pool.notes.extend(doubt);
        found.pools.push(pool);
    }
    let schedule = [
        "routes/console.php",
        "app/Console/Kernel.php",
        "bootstrap/app.php",
    ]
    .iter()
    .filter_map(|file| project.read(file))
    .any(|text| {
        text.lines().map(str::trim_start).any(|line| {
            !line.starts_with(['/', '*', '#'])
                && (line.contains("Schedule::") || line.contains("$schedule->"))
        })
    });
    if schedule {
        found.pools.push(
            Pool::new(
                "scheduler",
                ["php", "artisan", "schedule:work"],
                "Laravel's scheduler",
            )
            .task()
            .alone("two schedulers side by side would start each job twice"),
        );
    }
    found
}

/// `queue:work` ends by itself after `--max-time`, `--max-jobs` and, with 12, at its memory limit: none is a failure.
pub(super) fn queue_work(pool: Pool) -> Pool {
    pool.task()
        .key("restart = { success_exit_codes = [0, 12] } # its ends after --max-time and at its memory limit")
}

/// Whether Laravel's queue needs a worker, and what is not certain about that.
fn queue(project: Project<'_>) -> Option<Option<String>> {
    let connection = [".env", ".env.example"]
        .iter()
        .filter_map(|file| project.read(file))
        .find_map(|text| {
            text.lines().find_map(|line| {
                let value = line.trim().strip_prefix("QUEUE_CONNECTION=")?;
                Some(value.trim_matches(['"', '\'', ' ']).to_owned())
            })
        });
    match connection.as_deref() {
        Some("sync" | "null") => None,
        Some(_) => Some(None),
        None if project.has_directory("app/Jobs") => Some(Some(
            "not certain: app/Jobs is there, but no .env says QUEUE_CONNECTION".to_owned(),
        )),
        None => None,
    }
}

/// Symfony's Messenger: a worker for its first transport that is no test's.
fn messenger(project: Project<'_>) -> Option<Pool> {
    let text = project.read("config/packages/messenger.yaml")?;
    let mut lines = text.lines().skip_while(|line| line.trim() != "transports:");
    let indent = |line: &str| line.len() - line.trim_start().len();
    let outer = indent(lines.next()?);
    let names: Vec<&str> = lines
        .take_while(|line| line.trim().is_empty() || indent(line) > outer)
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| {
            !["failed", "sync", "dsn", "options"].contains(name)
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
        .collect();
    let first = names.first()?;
    Some(
        Pool::new(
            "jobs",
            [
                "php",
                "bin/console",
                "messenger:consume",
                first,
                "--time-limit=3600",
            ],
            "Symfony Messenger: config/packages/messenger.yaml",
        )
        .task(),
    )
}

/// php-fpm for this project, or, where it is not installed, PHP's own server for development.
fn fpm(project: Project<'_>, name: &str) -> Found {
    let root = if project.has("public/index.php") {
        "public"
    } else if project.has("web/index.php") {
        "web"
    } else {
        "."
    };
    let Some(program) = fpm_program(project) else {
        let address = Address::local(OCTANE_PORT);
        let bind = address.to_string();
        let words = ["php", "-S", bind.as_str(), "-t", root];
        let pool = Pool::new("web", words, format!("{name}, PHP's own server"))
            .binds(Some(address), "php-fpm takes rotad's socket and loses none")
            .note("PHP's own server is for development: apt-get install php-fpm, and `rotad init` writes a pool for it");
        return Found {
            pools: vec![pool],
            fpm_conf: None,
        };
    };
    let own = project.read(FPM_CONF);
    let listen = own.as_deref().and_then(fpm_listen);
    let address = listen
        .and_then(fpm_address)
        .unwrap_or_else(|| Address::local(FPM_PORT));
    let words = [
        program.as_str(),
        "--nodaemonize",
        "--fpm-config",
        FPM_CONF,
        "--prefix",
        ".",
    ];
    let mut pool = Pool::new("fpm", words, format!("{name}, php-fpm")).inherits(address.clone());
    pool.count = 1;
    // php-fpm looks for the text of its `listen` in this variable.
    let text = listen.map_or_else(|| address.to_string(), str::to_owned);
    pool.env
        .push(("FPM_SOCKETS".to_owned(), format!("{text}=3")));
    pool = pool
        .key("stop = [{ signal = \"QUIT\", wait = \"30s\" }] # TERM would cut off running requests")
        .note(format!(
            "php-fpm speaks FastCGI: put a web server in front. nginx: root …/{}; fastcgi_pass {address};",
            if root == "." { "" } else { root }
        ))
        .note("`listen` in php-fpm.conf, `listen` here and the left side of FPM_SOCKETS have to be the same");
    if listen.is_some_and(|listen| listen.starts_with('/')) {
        pool = pool.note("php-fpm.conf listens on a unix socket, whose file php-fpm removes when it ends: docs/programs/php.md says how to name it");
    }
    Found {
        pools: vec![pool],
        fpm_conf: own.is_none().then(|| fpm_conf(&address)),
    }
}

/// The value of `listen` in a configuration of php-fpm.
fn fpm_listen(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "listen").then(|| value.trim())
    })
}

/// `PORT`, `HOST:PORT`; a path has no port.
fn fpm_address(listen: &str) -> Option<Address> {
    Address::parse(listen).or_else(|| Address::of("127.0.0.1", listen))
}

/// A configuration for one php-fpm under rotad.
fn fpm_conf(address: &Address) -> String {
    let user = ["www-data", "nginx", "http", "apache"]
        .into_iter()
        .find(|name| nix::unistd::User::from_name(name).is_ok_and(|user| user.is_some()))
        .unwrap_or("nobody");
    format!(
        "; php-fpm under rotad: docs/programs/php.md\n[global]\nerror_log = /dev/stderr\n; With the default of 0, QUIT cuts \
         off running requests. Shorter than `stop` in rotad.toml.\nprocess_control_timeout = 25s\ndaemonize = no\n\n[www]\n; \
         The same text as in FPM_SOCKETS of rotad.toml, else php-fpm opens a socket of its own.\nlisten = {address}\n; As \
         root, php-fpm's workers need a user; without root these two lines only cause a notice.\nuser = {user}\ngroup = \
         {group}\npm = static\npm.max_children = 8\ncatch_workers_output = yes\nclear_env = no\n",
        group = group_of(user),
    )
}

/// The name of a user's own group.
fn group_of(user: &str) -> String {
    let group = nix::unistd::User::from_name(user)
        .ok()
        .flatten()
        .and_then(|user| nix::unistd::Group::from_gid(user.gid).ok().flatten());
    group.map_or_else(|| user.to_owned(), |group| group.name)
}

/// php-fpm: by that name, or by Debian's, which has the version in it (the newest one).
fn fpm_program(project: Project<'_>) -> Option<String> {
    if project.in_path("php-fpm").is_some() {
        return Some("php-fpm".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([SBIN.into()]);
    let mut found: Vec<((u32, u32), String)> = directories
        .filter(|directory| directory.is_absolute())
        .flat_map(|directory| versions(&directory))
        .collect();
    found.sort();
    let (_, path) = found.pop()?;
    let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
    // systemd looks into /usr/sbin, and so does root.
    Some(if project.in_path(&name).is_some() {
        name
    } else {
        path
    })
}

/// The `php-fpmX.Y` of a directory.
fn versions(directory: &Path) -> Vec<((u32, u32), String)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (major, minor) = name.strip_prefix("php-fpm")?.split_once('.')?;
            let version = (major.parse().ok()?, minor.parse().ok()?);
            Some((version, entry.path().to_str()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::project::tests::directory;
    use super::*;

    fn of(files: &[(&str, &str)]) -> Vec<Pool> {
        let directory = directory(files);
        find(Project::new(directory.path())).map_or_else(Vec::new, |found| found.pools)
    }

    fn lines(files: &[(&str, &str)]) -> Vec<String> {
        of(files)
            .iter()
            .skip(1)
            .map(|pool| format!("{}: {}", pool.name, pool.command.join(" ")))
            .collect()
    }

    #[test]
    fn laravel_brings_its_queue_and_scheduler() {
        let artisan = ("artisan", "#!/usr/bin/env php\n");
        let queue = "jobs: php artisan queue:work --max-time=3600";
        assert_eq!(
            lines(&[artisan, (".env", "QUEUE_CONNECTION=redis\n")]),
            [queue]
        );
        assert_eq!(
            lines(&[artisan, (".env", "QUEUE_CONNECTION=sync\n")]),
            [""; 0]
        );
        assert_eq!(lines(&[artisan]), [""; 0]);
        let unsure = [artisan, ("app/Jobs/Mail.php", "")];
        assert_eq!(lines(&unsure), [queue]);
        assert!(of(&unsure)[1].notes[0].starts_with("not certain"));
        let horizon = r#"{"require": {"laravel/horizon": "^5"}}"#;
        let schedule = "<?php\nSchedule::command('a')->daily();\n";
        assert_eq!(
            lines(&[
                artisan,
                ("composer.json", horizon),
                ("routes/console.php", schedule)
            ]),
            [
                "jobs: php artisan horizon",
                "scheduler: php artisan schedule:work"
            ]
        );
        let idle = "<?php\n    // $schedule->command('inspire')->hourly();\n";
        assert_eq!(lines(&[artisan, ("app/Console/Kernel.php", idle)]), [""; 0]);
    }

    #[test]
    fn octane_opens_its_port_itself() {
        let octane = r#"{"require": {"laravel/octane": "^2"}}"#;
        let pools = of(&[("artisan", ""), ("composer.json", octane)]);
        assert_eq!(
            pools[0].command.join(" "),
            "php artisan octane:start --host=127.0.0.1 --port=8000"
        );
        let text = pools[0].toml();
        assert!(
            text.contains("surge = 0") && text.contains("ready = { connect = \"127.0.0.1:8000\" }"),
            "{text}"
        );
    }

    #[test]
    fn symfony_consumes_its_first_transport() {
        let console = ("bin/console", "");
        let composer = (
            "composer.json",
            r#"{"require": {"symfony/framework-bundle": "7.*"}}"#,
        );
        let yaml = "framework:\n    messenger:\n        failure_transport: failed\n        transports:\n            # no: \
                    x\n            async:\n                dsn: 'x'\n            failed: 'y'\n        routing:\n            A: \
                    async\n";
        assert_eq!(
            lines(&[console, composer, ("config/packages/messenger.yaml", yaml)]),
            ["jobs: php bin/console messenger:consume async --time-limit=3600"]
        );
        assert_eq!(lines(&[console, composer]), [""; 0]);
    }

    #[test]
    fn an_own_configuration_of_fpm_is_kept() {
        assert_eq!(
            fpm_listen("; listen = 1\n[www]\nlisten = 127.0.0.1:9001 \n"),
            Some("127.0.0.1:9001")
        );
        assert_eq!(fpm_address("9001"), Some(Address::local(9001)));
        assert_eq!(fpm_address("/run/php/php8.2-fpm.sock"), None);
        let conf = fpm_conf(&Address::local(9000));
        assert_eq!(fpm_listen(&conf), Some("127.0.0.1:9000"));
    }
}
