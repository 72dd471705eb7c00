//! Python: which application the files define, whether it speaks WSGI or ASGI, which server is there to run it, and whether
//! there are workers of Celery or RQ.

use super::pool::{Address, Pool};
use super::project::Project;
use std::collections::BTreeSet;

/// The port that is proposed for Python's servers: the default of gunicorn, uvicorn, hypercorn and daphne.
const PORT: u16 = 8000;

/// What a server calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interface {
    Wsgi,
    Asgi,
}

/// Calls that make an application, and its interface. The longer names come first where one contains another.
const CONSTRUCTORS: [(&str, Interface); 17] = [
    ("get_asgi_application(", Interface::Asgi),
    ("get_wsgi_application(", Interface::Wsgi),
    ("ProtocolTypeRouter(", Interface::Asgi),
    ("ASGIApp(", Interface::Asgi),
    ("falcon.asgi.App(", Interface::Asgi),
    ("falcon.App(", Interface::Wsgi),
    ("FastAPI(", Interface::Asgi),
    ("Starlette(", Interface::Asgi),
    ("Litestar(", Interface::Asgi),
    ("Quart(", Interface::Asgi),
    ("AsyncApp(", Interface::Asgi),
    ("FlaskApp(", Interface::Wsgi),
    ("Flask(", Interface::Wsgi),
    ("Bottle(", Interface::Wsgi),
    ("default_app(", Interface::Wsgi),
    ("make_wsgi_app(", Interface::Wsgi),
    ("WSGIApplication(", Interface::Wsgi),
];

/// Frameworks whose applications all have one interface.
const FRAMEWORKS: [(&str, Interface); 9] = [
    ("fastapi", Interface::Asgi),
    ("starlette", Interface::Asgi),
    ("litestar", Interface::Asgi),
    ("quart", Interface::Asgi),
    ("flask", Interface::Wsgi),
    ("bottle", Interface::Wsgi),
    ("falcon", Interface::Wsgi),
    ("pyramid", Interface::Wsgi),
    ("dash", Interface::Wsgi),
];

const ASGI_SERVERS: [&str; 4] = ["uvicorn", "hypercorn", "daphne", "granian"];
const WSGI_SERVERS: [&str; 3] = ["gunicorn", "waitress", "granian"];

/// The modules in which applications are kept, in the order of preference.
const MODULES: [&str; 9] = [
    "asgi",
    "wsgi",
    "app",
    "main",
    "application",
    "server",
    "api",
    "__init__",
    "web",
];

/// An application that a server can import.
#[derive(Debug)]
struct Application {
    module: String,
    name: String,
    /// The name is a function that makes it.
    factory: bool,
    interface: Interface,
    /// What it is, and where it stands.
    origin: String,
    /// What is not certain about it.
    doubt: Option<String>,
}

/// The web pool of a Python project.
pub(super) fn web(project: Project<'_>) -> Option<Pool> {
    let packages = project.python_packages();
    let application = django(project, &packages).or_else(|| application(project, &packages))?;
    Some(serve(project, &packages, &application))
}

/// The pools for jobs and schedules of a Python project.
pub(super) fn tasks(project: Project<'_>) -> Vec<Pool> {
    let packages = project.python_packages();
    let mut pools = celery(project);
    pools.extend(rq(project, &packages));
    pools
}

/// `PROJECT/wsgi.py` or `PROJECT/asgi.py` beside manage.py.
fn django(project: Project<'_>, packages: &BTreeSet<String>) -> Option<Application> {
    let manage = project.read("manage.py")?;
    // os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')
    let named = manage
        .split_once("DJANGO_SETTINGS_MODULE")
        .and_then(|(_, rest)| rest.split(['\'', '"']).nth(2))
        .and_then(|settings| settings.split('.').next())
        .map(str::to_owned);
    let has = |package: &str, file: &str| project.has(&format!("{package}/{file}.py"));
    let package = named
        .filter(|package| has(package, "wsgi") || has(package, "asgi"))
        .or_else(|| {
            let mut all = project.names("");
            all.retain(|name| has(name, "wsgi") || has(name, "asgi"));
            <[String; 1]>::try_from(all).ok().map(|[only]| only)
        })?;
    let settings = [
        format!("{package}/settings.py"),
        format!("{package}/settings/base.py"),
        format!("{package}/settings/__init__.py"),
    ];
    let says_asgi = settings
        .iter()
        .filter_map(|file| project.read(file))
        .any(|text| {
            text.lines()
                .any(|line| line.starts_with("ASGI_APPLICATION"))
        });
    let asgi_server = ASGI_SERVERS.iter().any(|name| packages.contains(*name));
    let interface = if has(&package, "asgi")
        && (says_asgi || !has(&package, "wsgi") || (asgi_server && !packages.contains("gunicorn")))
    {
        Interface::Asgi
    } else {
        Interface::Wsgi
    };
    let file = if interface == Interface::Asgi {
        "asgi"
    } else {
        "wsgi"
    };
    Some(Application {
        module: format!("{package}.{file}"),
        name: "application".to_owned(),
        factory: false,
        interface,
        origin: format!("Django: {package}/{file}.py"),
        doubt: None,
    })
}

/// The modules of the project in which an application may stand: the name that Python imports, and the file.
fn modules(project: Project<'_>) -> Vec<(String, String)> {
    let rank = |file: &str| {
        let stem = file.rsplit('/').next().unwrap_or(file);
        let stem = stem.strip_suffix(".py").unwrap_or(stem);
        let depth = usize::from(file.contains('/'));
        let known = MODULES.iter().position(|module| *module == stem);
        known.map(|known| (depth, known))
    };
    let mut files: Vec<((usize, usize), String)> = project
        .sources(".py")
        .into_iter()
        .filter_map(|file| Some((rank(&file)?, file)))
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|(_, file)| (module(&file), file))
        .collect()
}

/// `shop/main.py` is imported as `shop.main`, `shop/__init__.py` as `shop`.
fn module(file: &str) -> String {
    let path = file.strip_suffix(".py").unwrap_or(file);
    path.strip_suffix("/__init__")
        .unwrap_or(path)
        .replace('/', ".")
}

/// `NAME = VALUE` or `NAME: TYPE = VALUE` at the beginning of a line.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let value = match rest.strip_prefix(':') {
        Some(typed) => typed.split_once('=')?.1,
        None => rest.strip_prefix('=')?,
    };
    (!name.is_empty() && !value.starts_with('=')).then(|| (name, value.trim()))
}

/// The first application whose kind is certain; else the first that is named like one; else a function that makes one.
fn application(project: Project<'_>, packages: &BTreeSet<String>) -> Option<Application> {
    let modules: Vec<(String, String, String)> = modules(project)
        .into_iter()
        .filter_map(|(module, file)| {
            let text = project.read(&file)?;
            Some((module, file, text))
        })
        .collect();
    let made_by = |value: &str| CONSTRUCTORS.iter().find(|(call, _)| value.contains(call));
    for (module, file, text) in &modules {
        let certain = text
            .lines()
            .filter_map(assignment)
            .find_map(|(name, value)| Some((name, made_by(value)?)));
        if let Some((name, (call, interface))) = certain {
            return Some(Application {
                module: module.clone(),
                name: name.to_owned(),
                factory: false,
                interface: *interface,
                origin: format!("{}…) in {file}", call),
                doubt: None,
            });
        }
    }
    for (module, file, text) in &modules {
        let named = text
            .lines()
            .filter_map(assignment)
            .find(|(name, _)| ["application", "app", "api"].contains(name));
        if let Some((name, _)) = named {
            return Some(uncertain(
                project, packages, module, file, text, name, false,
            ));
        }
    }
    modules.iter().find_map(|(module, file, text)| {
        let makes = |name: &&str| {
            let head = format!("def {name}(");
            text.lines().any(|line| line.starts_with(&head))
        };
        let name = ["create_app", "make_app", "create_application"]
            .into_iter()
            .find(makes)?;
        Some(uncertain(project, packages, module, file, text, name, true))
    })
}

/// An application of which only the name is known: its interface is that of the framework that the file imports, or that
/// the project needs.
fn uncertain(
    project: Project<'_>,
    packages: &BTreeSet<String>,
    module: &str,
    file: &str,
    text: &str,
    name: &str,
    factory: bool,
) -> Application {
    let imports = |framework: &str| {
        text.lines().any(|line| {
            let mut words = line.split_whitespace();
            matches!(words.next(), Some("import" | "from"))
                && words
                    .next()
                    .is_some_and(|word| word.split(['.', ',']).next() == Some(framework))
        })
    };
    let of = |says: &dyn Fn(&str) -> bool| {
        let mut kinds = FRAMEWORKS
            .iter()
            .filter(|(framework, _)| says(framework))
            .map(|(_, interface)| *interface);
        let first = kinds.next()?;
        kinds.all(|kind| kind == first).then_some(first)
    };
    let by_name = match module.rsplit('.').next() {
        Some("wsgi") => Some(Interface::Wsgi),
        Some("asgi") => Some(Interface::Asgi),
        _ => None,
    };
    let known = by_name
        .or_else(|| of(&imports))
        .or_else(|| of(&|framework| packages.contains(framework)));
    let servers = |all: &[&str]| all.iter().any(|name| packages.contains(*name));
    let interface = known.unwrap_or_else(|| {
        let only_asgi = servers(&ASGI_SERVERS) && !packages.contains("gunicorn")
            || project.program("gunicorn").is_none() && project.program("uvicorn").is_some();
        if only_asgi {
            Interface::Asgi
        } else {
            Interface::Wsgi
        }
    });
    let doubt = known.is_none().then(|| {
        let (taken, other) = match interface {
            Interface::Wsgi => ("WSGI", "ASGI (FastAPI, Starlette …), which needs uvicorn"),
            Interface::Asgi => ("ASGI", "WSGI (Flask, Django …), which needs gunicorn"),
        };
        format!("not certain: nothing says whether `{name}` in {file} is WSGI or ASGI. It is taken for {taken}; it may be {other}")
    });
    Application {
        module: module.to_owned(),
        name: name.to_owned(),
        factory,
        interface,
        origin: format!("`{name}` in {file}"),
        doubt,
    }
}

/// The server that runs an application: one that the project names, else one that is installed, else the usual one.
fn serve(project: Project<'_>, packages: &BTreeSet<String>, application: &Application) -> Pool {
    let (servers, usual): (&[&str], _) = match application.interface {
        Interface::Asgi => (&ASGI_SERVERS, "uvicorn"),
        Interface::Wsgi => (&WSGI_SERVERS, "gunicorn"),
    };
    let server = servers
        .iter()
        .find(|name| packages.contains(**name))
        .or_else(|| {
            servers
                .iter()
                .find(|name| project.program(program_of(name)).is_some())
        })
        .copied()
        .unwrap_or(usual);
    let program = project.program_or_guess(program_of(server));
    let target = format!("{}:{}", application.module, application.name);
    let called = format!("{target}()");
    let target_of = |calls: bool| {
        if application.factory && calls {
            called.as_str()
        } else {
            target.as_str()
        }
    };
    let origin = format!("{}, {server}", application.origin);
    let address = Address::local(PORT);
    let mut pool = match server {
        "uvicorn" => {
            let mut words = vec![program.as_str(), "--fd", "3"];
            words.extend(UVICORN);
            if application.factory {
                words.push("--factory");
            }
            words.push(target_of(false));
            Pool::new("web", words, origin)
                .inherits(address)
                .note(UVICORN_NOTE)
        }
        "hypercorn" => {
            let words = [&program, "--bind", "fd://3", "--workers", "0"];
            let words = words
                .into_iter()
                .chain(["--backlog", "4096", target_of(true)]);
            Pool::new("web", words, origin)
                .inherits(address)
                .note(DRAIN_NOTE)
        }
        "daphne" => Pool::new("web", [&program, "--fd", "3", target_of(true)], origin)
            .inherits(address)
            .note(DRAIN_NOTE),
        "granian" => {
            let interface = match application.interface {
                Interface::Asgi => "asgi",
                Interface::Wsgi => "wsgi",
            };
            let port = PORT.to_string();
            let mut words = vec![program.as_str(), "--interface", interface];
            words.extend(["--host", "127.0.0.1", "--port", &port]);
            if application.factory {
                words.push("--factory");
            }
            words.push(target_of(false));
            Pool::new("web", words, origin).binds(Some(address), GRANIAN_INSTEAD)
        }
        "waitress" => {
            let listen = format!("--listen=127.0.0.1:{PORT}");
            let mut words = vec![program.as_str(), listen.as_str()];
            if application.factory {
                words.push("--call");
            }
            words.push(target_of(false));
            Pool::new("web", words, origin).binds(
                Some(address),
                "gunicorn takes rotad's socket and loses none",
            )
        }
        _ => gunicorn(project, &program, target_of(true), origin).inherits_more(project),
    };
    pool.notes.splice(0..0, application.doubt.clone());
    if project.program(program_of(server)).is_none() {
        pool = pool.note(format!(
            "{server} is not installed here: pip install {server}"
        ));
    }
    if application.origin.starts_with("Django") {
        let python = project.program_or_guess("python");
        pool = pool.note(format!(
            "migrations before each roll: [pool.migrate] kind = \"oneshot\", command = [\"{python}\", \"manage.py\", \
             \"migrate\", \"--noinput\"], and after = [\"migrate\"] here"
        ));
    }
    pool
}

/// uvicorn waits for running requests without limit, and its listen() call would lower the backlog for every worker.
pub(super) const UVICORN: [&str; 4] = ["--timeout-graceful-shutdown", "25", "--backlog", "4096"];
pub(super) const CONTROL_SOCKET_NOTE: &str = "all gunicorns of a user share one control socket, and each worker is one: add --no-control-socket to its command";
pub(super) const UVICORN_NOTE: &str = "uvicorn cuts kept connections when it stops: 15 lines beside the app prevent that \
                                       (docs/programs/python.md, drain.py)";
pub(super) const DRAIN_NOTE: &str = "it cuts connections when it stops: a few lines beside the app prevent that \
                                     (docs/programs/python.md, drain.py)";
pub(super) const GRANIAN_INSTEAD: &str = "uvicorn and hypercorn take rotad's socket, and lose none";

/// The program that a package brings.
fn program_of(package: &str) -> &str {
    match package {
        "waitress" => "waitress-serve",
        other => other,
    }
}

/// One gunicorn for each worker, or, where its own configuration says how many it has, one that brings them.
fn gunicorn(project: Project<'_>, program: &str, target: &str, origin: String) -> Pool {
    let mut words = vec![program];
    let own = project.has("gunicorn.conf.py");
    if !own {
        words.extend(["--workers", "1", "--graceful-timeout", "25"]);
    }
    if has_control_socket(project, program) {
        // All gunicorns of a user would fight for one file.
        words.push("--no-control-socket");
    }
    words.push(target);
    let pool = Pool::new("web", words, origin);
    if own {
        pool.note("gunicorn.conf.py is read by gunicorn itself; its `bind` is ignored, since rotad passes the socket")
    } else {
        pool
    }
}

impl Pool {
    /// gunicorn finds rotad's socket by LISTEN_FDS.
    fn inherits_more(self, project: Project<'_>) -> Self {
        let count = if project.has("gunicorn.conf.py") {
            1
        } else {
            2
        };
        Self {
            count,
            ..self.inherits(Address::local(PORT))
        }
    }
}

/// gunicorn has a control socket since 25.1; older ones do not know the option that switches it off.
pub(super) fn has_control_socket(project: Project<'_>, program: &str) -> bool {
    let Some(lib) = project
        .locate(program)
        .and_then(|path| Some(path.parent()?.parent()?.join("lib")))
    else {
        return false;
    };
    let children = |directory: &std::path::Path| {
        std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .collect::<Vec<_>>()
    };
    let versions = children(&lib)
        .into_iter()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .flat_map(|python| children(&python.path().join("site-packages")));
    versions
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("gunicorn-")?.strip_suffix(".dist-info")?;
            let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
            Some((numbers.next()??, numbers.next()??))
        })
        .any(|version| version >= (25, 1))
}

/// Celery's application: the module that makes it.
fn celery(project: Project<'_>) -> Vec<Pool> {
    let found = project.sources(".py").into_iter().find_map(|file| {
        let text = project.read(&file)?;
        text.lines()
            .filter_map(assignment)
            .any(|(_, value)| value.starts_with("Celery(") || value.starts_with("celery.Celery("))
            .then_some((file, text))
    });
    let Some((file, text)) = found else {
        return Vec::new();
    };
    let module = module(&file);
    // `-A shop` finds shop/celery.py.
    let application = module.strip_suffix(".celery").unwrap_or(&module);
    let program = project.program_or_guess("celery");
    let origin = format!("Celery: {file}");
    let mut worker = Pool::new(
        "jobs",
        [
            &program,
            "-A",
            application,
            "worker",
            "-n",
            // Old and new workers run side by side in a roll, and node names have to be unique.
            "{pool}-{slot}-{generation}@%h",
        ],
        &origin,
    )
    .task()
    .note("Celery forks as many processes as there are CPUs: `--concurrency N` in `command`");
    if project.program("celery").is_none() {
        worker = worker.note("celery is not installed here: pip install celery");
    }
    let mut pools = vec![worker];
    let schedules = |text: &str| {
        [
            "beat_schedule",
            "BEAT_SCHEDULE",
            "django_celery_beat",
            "add_periodic_task",
        ]
        .iter()
        .any(|word| text.contains(word))
    };
    let settings = project
        .sources(".py")
        .into_iter()
        .filter(|file| file.ends_with("settings.py"))
        .filter_map(|file| project.read(&file));
    if schedules(&text) || settings.into_iter().any(|text| schedules(&text)) {
        pools.push(
            Pool::new(
                "beat",
                [&program, "-A", application, "beat"],
                format!("{origin}, with a schedule"),
            )
            .task()
            .alone("two schedulers side by side would send each job twice"),
        );
    }
    pools
}

/// RQ's worker, if the project needs RQ.
fn rq(project: Project<'_>, packages: &BTreeSet<String>) -> Option<Pool> {
    let django = packages.contains("django-rq") && project.has("manage.py");
    if !django && !packages.contains("rq") {
        return None;
    }
    let pool = if django {
        let python = project.program_or_guess("python");
        Pool::new("jobs", [&python, "manage.py", "rqworker"], "django-rq")
    } else {
        Pool::new("jobs", [&project.program_or_guess("rq"), "worker"], "RQ")
    };
    let name = if project
        .sources(".py")
        .iter()
        .any(|file| file == "worker.py")
    {
        pool.note("not certain: worker.py may be your own worker")
    } else {
        pool
    };
    Some(
        name.task()
            .note("it works on the queue `default`: name others behind `worker`")
            .note("RQ may lose a job that it has just fetched when it stops: docs/programs/queues.md, worker.py"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::project::tests::directory;
    use super::*;

    fn web_of(files: &[(&str, &str)]) -> Option<Pool> {
        let directory = directory(files);
        web(Project::new(directory.path()))
    }

    fn command(files: &[(&str, &str)]) -> String {
        web_of(files).map_or_else(String::new, |pool| pool.command.join(" "))
    }

    const FASTAPI: (&str, &str) = (
        "main.py",
        "from fastapi import FastAPI\n\napp = FastAPI(title=\"x\")\n",
    );
    const FLASK: (&str, &str) = ("app.py", "import flask\napp = flask.Flask(__name__)\n");

    #[test]
    fn wsgi_and_asgi_are_told_apart() {
        let both = [(".venv/bin/gunicorn", ""), (".venv/bin/uvicorn", "")];
        let of = |file| command(&[&both[..], &[file]].concat());
        assert_eq!(
            of(FLASK),
            ".venv/bin/gunicorn --workers 1 --graceful-timeout 25 app:app"
        );
        assert_eq!(
            of(FASTAPI),
            ".venv/bin/uvicorn --fd 3 --timeout-graceful-shutdown 25 --backlog 4096 main:app"
        );
        for (file, target) in [
            (
                ("wsgi.py", "application: App = make()\n"),
                "wsgi:application",
            ),
            (("shop/__init__.py", "app = Flask(__name__)\n"), "shop:app"),
            (("shop/wsgi.py", "app = create()\n"), "shop.wsgi:app"),
            (
                (
                    "shop/__init__.py",
                    "from flask import Flask\ndef create_app(test=None):\n",
                ),
                "shop:create_app()",
            ),
        ] {
            assert_eq!(
                of(file),
                format!(".venv/bin/gunicorn --workers 1 --graceful-timeout 25 {target}")
            );
        }
        for (file, target) in [
            (("asgi.py", "app = make()\n"), "asgi:app"),
            (
                ("app/main.py", "api = Starlette(\n    routes=[],\n)\n"),
                "app.main:api",
            ),
            (
                ("app/main.py", "import starlette\ndef create_app():\n"),
                "--factory app.main:create_app",
            ),
        ] {
            assert!(
                of(file).ends_with(&format!("--backlog 4096 {target}")),
                "{}",
                of(file)
            );
        }
        assert_eq!(of(("app.py", "application_of = 1\n")), "");
        assert_eq!(of(("x.py", "")), "");
    }

    #[test]
    fn what_is_not_certain_is_said() {
        let files = [(".venv/bin/gunicorn", ""), ("app.py", "app = make()\n")];
        let pool = web_of(&files).unwrap();
        assert_eq!(pool.command.last().unwrap(), "app:app");
        assert!(pool.notes[0].starts_with("not certain:"), "{pool:?}");
        let sure = web_of(&[&files[..], &[("requirements.txt", "flask\n")]].concat()).unwrap();
        assert!(!sure.notes.iter().any(|note| note.contains("certain")));
    }

    #[test]
    fn the_server_that_the_project_names_is_taken() {
        let of = |package: &str, file| {
            command(&[
                ("requirements.txt", package),
                file,
                (".venv/bin/python", ""),
            ])
        };
        assert_eq!(
            of("hypercorn", FASTAPI),
            ".venv/bin/hypercorn --bind fd://3 --workers 0 --backlog 4096 main:app"
        );
        assert_eq!(of("daphne", FASTAPI), ".venv/bin/daphne --fd 3 main:app");
        assert_eq!(
            of("granian", FASTAPI),
            ".venv/bin/granian --interface asgi --host 127.0.0.1 --port 8000 main:app"
        );
        assert_eq!(
            of("waitress", FLASK),
            ".venv/bin/waitress-serve --listen=127.0.0.1:8000 app:app"
        );
        let pool = web_of(&[("requirements.txt", "granian"), FASTAPI]).unwrap();
        let text = pool.toml();
        assert!(
            text.contains("surge = 0") && !text.contains("listen ="),
            "{text}"
        );
        assert!(pool.remarks()[0].contains("opens its port itself"));
    }

    #[test]
    fn a_django_project_is_its_package_with_wsgi_or_asgi() {
        let manage = (
            "manage.py",
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n",
        );
        let wsgi = ("shop/wsgi.py", "application = get_wsgi_application()\n");
        let asgi = ("shop/asgi.py", "application = get_asgi_application()\n");
        let other = ("blog/wsgi.py", "");
        let last = |files: &[(&str, &str)]| {
            let pool = web_of(files).unwrap();
            pool.command.last().unwrap().clone()
        };
        assert_eq!(last(&[manage, wsgi, asgi, other]), "shop.wsgi:application");
        assert_eq!(last(&[("manage.py", ""), wsgi]), "shop.wsgi:application");
        let channels = (
            "shop/settings.py",
            "ASGI_APPLICATION = 'shop.asgi.application'\n",
        );
        assert_eq!(
            last(&[manage, wsgi, asgi, channels]),
            "shop.asgi:application"
        );
        let uvicorn = ("requirements.txt", "django\nuvicorn\n");
        assert_eq!(
            last(&[manage, wsgi, asgi, uvicorn]),
            "shop.asgi:application"
        );
    }

    #[test]
    fn a_new_gunicorn_gets_no_control_socket() {
        let gunicorn = (".venv/bin/gunicorn", "");
        let of = |version: &str| {
            let info =
                format!(".venv/lib/python3.11/site-packages/gunicorn-{version}.dist-info/METADATA");
            command(&[gunicorn, FLASK, (&info, "")]).contains("--no-control-socket")
        };
        assert!(of("27.0.1") && of("25.1.0"));
        assert!(!of("25.0.3") && !of("20.1.0"));
        let own = web_of(&[gunicorn, FLASK, ("gunicorn.conf.py", "workers = 4\n")]).unwrap();
        assert_eq!(own.command, [".venv/bin/gunicorn", "app:app"]);
        assert_eq!(own.count, 1);
    }

    #[test]
    fn workers_of_celery_and_rq_are_pools_for_jobs() {
        let tasks_of = |files: &[(&str, &str)]| {
            let directory = directory(files);
            tasks(Project::new(directory.path()))
        };
        let plain = tasks_of(&[
            (".venv/bin/celery", ""),
            ("tasks.py", "app = Celery('x')\n"),
        ]);
        assert_eq!(
            plain[0].command.join(" "),
            ".venv/bin/celery -A tasks worker -n {pool}-{slot}-{generation}@%h"
        );
        assert!(plain[0].task && plain.len() == 1);
        let beat = tasks_of(&[
            ("shop/celery.py", "app = Celery('shop')\n"),
            ("shop/settings.py", "CELERY_BEAT_SCHEDULE = {}\n"),
        ]);
        assert_eq!(beat[1].command.join(" "), "celery -A shop beat");
        assert!(beat[1].toml().contains("surge = 0"));
        let rq = tasks_of(&[("requirements.txt", "rq==3.0.0\n")]);
        assert_eq!(rq[0].command.join(" "), "rq worker");
        assert_eq!(tasks_of(&[("tasks.py", "# Celery(\n")]).len(), 0);
    }
}
