//! `rotad init` in the directories of real projects: what it writes is started and rolled as it is, with the real programs.
//! tests/pages.rs does the same for what it writes on the pages of docs/recipes.

mod support;

use std::fs;
use std::process::Command;
use support::example::{node_package, python, venv};
use support::jobs::Server;
use support::load::get;
use support::need::program;
use support::page::php_fpm;
use support::site::{MASTER, finish};
use support::{Run, Site, all_ready, alone, free_port, need, pool, rotad};

/// How the file begins; a test puts its own directories in.
const HEAD: &str =
    "[master]\npid_file = \"master.pid\"            # locked while the master runs\n";

/// A project in which `rotad init` was run.
struct Project {
    site: Site,
    init: Run,
    written: String,
}

impl Project {
    /// A directory with these files, and what `init` makes of it (or of the command). Its workers listen on the site's
    /// port in place of `port`.
    fn new(files: &[(&str, &str)], command: &[&str], port: u16) -> Self {
        let mut site = Site::new("");
        fs::remove_file(site.path("rotad.toml")).expect("the site's own configuration");
        for (name, text) in files {
            let path = site.path(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        site.search_first(&venv().join("bin"));
        let mut init = Command::new(rotad());
        init.arg("init").current_dir(site.path(""));
        if !command.is_empty() {
            init.arg("--").args(command);
        }
        site.search(&mut init);
        let init = finish(init, 60);
        assert_eq!(init.code, 0, "{init:?}");
        let written = site.read("rotad.toml");
        assert!(written.contains(HEAD), "{written}");
        assert!(written.lines().count() < 60, "{written}");
        let mine = written
            .replacen(HEAD, MASTER, 1)
            .replace(&format!("127.0.0.1:{port}"), &site.address())
            .replace(&port.to_string(), &site.port.to_string());
        site.configure(&mine);
        Self {
            site,
            init,
            written,
        }
    }

    /// Starts it, and rolls it five times under load; a request of any of its clients that is lost is a failure.
    fn rolls_without_loss(mut self, name: &str) {
        let _alone = alone();
        self.site.run();
        self.site.await_ready();
        let body = get(&self.site.address(), "/").expect("an answer");
        assert!(body.contains("hello"), "{body}");
        let rolled = self.site.roll_under_load(&[name]);
        rolled.assert_nothing_lost(100);
        self.site.stop_politely(60);
    }

    /// Starts it, and rolls it while it is asked nothing.
    fn rolls(&mut self, names: &[&str]) {
        self.site.run();
        self.site.await_ready();
        for name in names {
            self.site.roll_alone(name);
        }
    }

    /// The same, and it answers afterwards.
    fn serves_and_rolls(&mut self, name: &str) {
        self.rolls(&[name]);
        let body = get(&self.site.address(), "/").expect("an answer");
        assert!(body.contains(" hello"), "{body}");
        self.site.stop_politely(60);
    }

    /// A deploy watches new workers whose age alone says that they are ready for one second and not for ten.
    fn watch_briefly(&self) {
        self.site
            .change("rotad.toml", "soak = \"10s\"", "soak = \"1s\"");
    }

    /// What the screen and the file say about why a roll has a gap.
    fn assert_says(&self, words: &str) {
        assert!(self.init.out.contains(words), "{}", self.init.out);
        let comments: Vec<&str> = self
            .written
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .collect();
        assert!(comments.join(" ").contains(words), "{}", self.written);
    }
}

const FLASK: (&str, &str) = (
    "app.py",
    "import flask, os
app = flask.Flask(__name__)
@app.get('/')
def hello():
    return f'{os.getpid()} {os.environ[\"ROTAD_GENERATION\"]} hello'
",
);

const FASTAPI: (&str, &str) = (
    "main.py",
    "import os
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
app = FastAPI()
@app.get('/', response_class=PlainTextResponse)
async def hello():
    return f'{os.getpid()} {os.environ[\"ROTAD_GENERATION\"]} hello'
",
);

#[test]
fn flask_is_rolled_by_gunicorn() {
    if !python("gunicorn") || !python("flask") {
        return;
    }
    let project = Project::new(&[FLASK], &[], 8000);
    project.assert_says("Flask(…) in app.py, gunicorn");
    project.rolls_without_loss("web");
}

/// FastAPI under gunicorn's default worker would answer 500.
#[test]
fn fastapi_is_run_by_the_asgi_server_that_the_project_names() {
    for server in ["uvicorn", "hypercorn", "daphne"] {
        if !python(server) || !python("fastapi") {
            return;
        }
        let mut project = Project::new(
            &[
                FASTAPI,
                ("requirements.txt", &format!("fastapi\n{server}\n")),
            ],
            &[],
            8000,
        );
        project.assert_says(&format!("FastAPI(…) in main.py, {server}"));
        // docs/recipes/fastapi.md is run.
        if server != "uvicorn" {
            project.serves_and_rolls("web");
        }
    }
}

#[test]
fn granian_is_replaced_one_after_the_other() {
    if !python("granian") || !python("fastapi") {
        return;
    }
    let project = Project::new(&[FASTAPI, ("requirements.txt", "granian\n")], &[], 8000);
    project.assert_says("surge = 0: it opens its port itself");
}

#[test]
fn django_is_its_wsgi_module() {
    if !python("gunicorn") || !python("django-admin") {
        return;
    }
    let files = [
        (
            "manage.py",
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n",
        ),
        ("shop/__init__.py", ""),
        ("shop/settings.py", "ROOT_URLCONF = 'shop.urls'\n"),
        ("shop/wsgi.py", "application = get_wsgi_application()\n"),
    ];
    let project = Project::new(&files, &[], 8000);
    project.assert_says("Django: shop/wsgi.py, gunicorn");
}

#[test]
fn a_rack_application_is_run_by_puma() {
    if !program("puma") {
        return;
    }
    let config = "run ->(env) { [200, { 'content-type' => 'text/plain' }, [\"#{Process.pid} #{ENV['ROTAD_GENERATION']} hello\"]] }\n";
    let mut project = Project::new(&[("config.ru", config)], &[], 3000);
    project.assert_says("config.ru, puma");
    project.serves_and_rolls("web");
}

/// Debian's php-fpm has its version in its name.
#[test]
fn an_index_php_is_run_by_php_fpm() {
    if !need("php-fpm", php_fpm().is_some()) {
        return;
    }
    let index = "<?php echo getmypid(), ' hello from ', $_SERVER['REQUEST_METHOD'];\n";
    let project = Project::new(&[("public/index.php", index)], &[], 9000);
    project.assert_says("fastcgi_pass 127.0.0.1:9000");
}

#[test]
fn celery_and_its_beat_are_pools_for_jobs() {
    if !python("celery") {
        return;
    }
    let tasks = "from celery import Celery
app = Celery('tasks', broker='memory://')
app.conf.beat_schedule = {}
";
    let mut project = Project::new(&[("tasks.py", tasks)], &[], 8000);
    project.assert_says("surge = 0: two schedulers side by side");
    project.watch_briefly();
    project.rolls(&["jobs", "beat"]);
    let status = project.site.await_ready();
    for name in ["jobs", "beat"] {
        assert_eq!(pool(&status, name)["kind"], "task");
    }
    project.site.stop_politely(60);
}

#[test]
fn rq_and_sidekiq_are_pools_for_jobs() {
    let Some(server) = Server::redis() else {
        return;
    };
    let url = format!("redis://{}/0", server.address());
    let worker =
        "require 'sidekiq'\nclass Mail\n  include Sidekiq::Worker\n  def perform\n  end\nend\n";
    for (files, there) in [
        (("requirements.txt", "rq\n"), python("rq")),
        (("worker.rb", worker), program("sidekiq")),
    ] {
        if !there {
            return;
        }
        let mut project = Project::new(&[files], &[], 8000);
        // Sidekiq says itself that it is ready.
        if files.0 == "requirements.txt" {
            project.watch_briefly();
        }
        let mut command = project.site.run_command();
        command.env("REDIS_URL", &url).env("RQ_REDIS_URL", &url);
        project.site.spawn(command);
        project
            .site
            .await_status("every worker is ready", 60, all_ready);
        project.site.roll_alone("jobs");
        project.site.stop_politely(60);
    }
}

#[test]
fn a_typed_command_is_given_rotads_socket() {
    if !python("uvicorn") || !python("fastapi") {
        return;
    }
    let port = free_port().to_string();
    let command = [
        "uvicorn",
        "main:app",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
    ];
    let mut project = Project::new(&[FASTAPI], &command, port.parse().expect("a number"));
    project.assert_says("added to the command: --fd 3");
    project.serves_and_rolls("web");
}

#[test]
fn a_typed_server_that_binds_by_itself_is_rolled_with_a_gap() {
    if !program("php") {
        return;
    }
    let command = ["php", "-S", "127.0.0.1:8123"];
    let mut project = Project::new(
        &[(
            "x.php",
            "<?php header('Content-Length: 5'); echo 'hello';\n",
        )],
        &command,
        8123,
    );
    project.assert_says("surge = 0: it opens its port itself");
    project.rolls(&["web"]);
    let answer = get(&project.site.address(), "/x.php");
    assert_eq!(answer.as_deref(), Ok("hello"));
    project.site.stop_politely(60);
}

#[test]
fn express_is_run_by_the_preload() {
    if !program("node") || !node_package("express") {
        return;
    }
    let files = [
        ("package.json", r#"{"scripts": {"start": "node server.js"}, "dependencies": {"express": "5"}}"#),
        (
            "server.js",
            "const app = require('express')();
app.get('/', (request, answer) => answer.send(`${process.pid} ${process.env.ROTAD_GENERATION} hello`));
app.listen(process.env.PORT || 3000);
",
        ),
    ];
    let project = Project::new(&files, &[], 3000);
    project.assert_says("listen(PORT) takes rotad's socket");
}

#[test]
fn npm_start_is_rolled_with_a_gap() {
    if !program("npm") {
        return;
    }
    let files = [
        (
            "package.json",
            r#"{"scripts": {"start": "true && node server.js"}}"#,
        ),
        (
            "server.js",
            "require('http').createServer((request, answer) => answer.end('hello')).listen(3000, '127.0.0.1');\n",
        ),
    ];
    let mut project = Project::new(&files, &[], 3000);
    let port = project.site.port.to_string();
    project.site.change("server.js", "3000", &port);
    project.assert_says("npm and its like pass no socket on");
    project.rolls(&["web"]);
    project.site.stop_politely(60);
}

/// Programs that the machine lacks: what is written is valid, and names them.
#[test]
fn frameworks_that_are_not_installed_get_a_valid_file() {
    /// The files of a project, each with its text, and what the configuration says.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let artisan = ("artisan", "#!/usr/bin/env php\n");
    let cases: [Case<'_>; 6] = [
        (
            &[artisan, (".env", "QUEUE_CONNECTION=redis\n")],
            &[
                "\"php\", \"artisan\", \"queue:work\"",
                "success_exit_codes = [0, 12]",
            ],
        ),
        (
            &[
                artisan,
                (
                    "composer.json",
                    r#"{"require": {"laravel/octane": "2", "laravel/horizon": "5"}}"#,
                ),
            ],
            &["\"octane:start\"", "surge = 0", "\"horizon\""],
        ),
        (
            &[
                ("bin/console", ""),
                (
                    "composer.json",
                    r#"{"require": {"symfony/framework-bundle": "7"}}"#,
                ),
                (
                    "config/packages/messenger.yaml",
                    "framework:\n  messenger:\n    transports:\n      async: 'x'\n",
                ),
            ],
            &["php-fpm", "\"messenger:consume\", \"async\""],
        ),
        (
            &[
                ("Gemfile", "gem 'rails'\ngem 'sidekiq'\n"),
                ("Gemfile.lock", ""),
                ("config/application.rb", ""),
                ("config/puma.rb", "port 3000\n"),
            ],
            &[
                "\"bundle\", \"exec\", \"puma\"",
                "\"bundle\", \"exec\", \"sidekiq\"",
            ],
        ),
        (
            &[(
                "package.json",
                r#"{"dependencies": {"next": "16"}, "scripts": {"start": "next start"}}"#,
            )],
            &["{preload:node}", "node_modules/next/dist/bin/next"],
        ),
        (
            &[("package.json", r#"{"scripts": {"start": "vite preview"}}"#)],
            &["\"npm\", \"start\"", "surge = 0"],
        ),
    ];
    for (files, expected) in cases {
        let project = Project::new(files, &[], 65000);
        for words in expected {
            assert!(
                project.written.contains(words),
                "{words}: {}",
                project.written
            );
        }
    }
}
