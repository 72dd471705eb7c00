//! The pages to copy from: what they tell an operator to write and to type is written and typed, as it stands, with the
//! programs of Debian, PyPI and npm. What is not run says so on the page.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use support::example::{node_package, node_program, python};
use support::need;
use support::need::{program, root};
use support::page::{Block, Page, docs, line_has, php_fpm};
use support::site::verb;

/// What a recipe says of itself.
const RUN: &str = "\nA test runs this page as it is written";
const NOT_RUN: &str = "\nNo test runs this page";

/// A test for each page: its path below docs/, and what it needs.
macro_rules! pages {
    ($($test:ident: $name:literal, [$($need:expr),*];)*) => {
        $(#[test]
        fn $test() {
            if [$($need),*].into_iter().all(|it| it) {
                Page::read($name).run();
            }
        })*
        const PAGES: &[&str] = &[$($name),*];
    };
}

pages! {
    deploying: "deploying", [python("gunicorn"), program("git")];
    monitoring: "monitoring", [root(), python("gunicorn"), program("jq")];
    from_docker: "moving/docker", [python("gunicorn")];
    from_einhorn: "moving/einhorn", [program("python3")];
    from_gunicorn: "moving/gunicorn", [python("gunicorn")];
    from_pm2: "moving/pm2", [program("node")];
    from_procfile: "moving/procfile", [python("gunicorn")];
    from_supervisord: "moving/supervisord", [python("gunicorn")];
    from_swoole: "moving/swoole", [];
    from_systemd: "moving/systemd", [root(), program("node")];
    bun: "recipes/bun", [node_program("bun")];
    caddy: "recipes/caddy", [need("php-fpm", php_fpm().is_some()), python("caddy")];
    celery: "recipes/celery", [python("celery"), program("redis-server")];
    deno: "recipes/deno", [node_program("deno")];
    django: "recipes/django", [python("gunicorn"), python("django-admin")];
    dotnet: "recipes/dotnet", [];
    express: "recipes/express", [program("node"), node_package("express")];
    fastapi: "recipes/fastapi", [python("uvicorn"), python("fastapi")];
    flask: "recipes/flask", [python("gunicorn"), python("flask")];
    frankenphp: "recipes/frankenphp", [];
    gearman: "recipes/gearman", [program("gearmand"), program("gearman"), program("php")];
    go: "recipes/go", [program("go")];
    granian: "recipes/granian", [python("granian"), python("fastapi")];
    laravel: "recipes/laravel", [need("php-fpm", php_fpm().is_some()), php_library("Illuminate/Foundation"), program("cgi-fcgi"), program("redis-server")];
    next: "recipes/next", [program("node"), node_package("next")];
    rails: "recipes/rails", [program("bundle"), program("rails"), program("puma"), program("sidekiq"), program("redis-server")];
    rq: "recipes/rq", [python("rq"), program("redis-server")];
    sidekiq: "recipes/sidekiq", [program("sidekiq"), program("redis-server")];
    spring: "recipes/spring", [];
    swoole: "recipes/swoole", [];
    symfony: "recipes/symfony", [need("php-fpm", php_fpm().is_some()), php_library("Symfony/Component/Messenger/Bridge/Redis"), program("cgi-fcgi"), program("redis-server")];
    wordpress: "recipes/wordpress", [root(), need("php-fpm", php_fpm().is_some()), program("nginx")];
    workerman: "recipes/workerman", [];
}

/// A library of PHP, where Debian has those.
fn php_library(path: &str) -> bool {
    need(path, Path::new("/usr/share/php").join(path).exists())
}

/// Every page of the directory has a test, and says truly whether its commands are run; the table says the same.
#[test]
fn each_recipe_says_whether_a_test_runs_it() {
    let entries = fs::read_dir(docs().join("recipes")).expect("docs/recipes");
    let there: BTreeSet<String> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .filter(|name| name != "README")
        .collect();
    let tested = PAGES
        .iter()
        .filter_map(|name| name.strip_prefix("recipes/"));
    assert_eq!(there, tested.map(str::to_owned).collect());
    let table = Page::read("recipes/README").text;
    for name in there {
        let page = Page::read(&format!("recipes/{name}"));
        assert!(page.blocks.iter().any(Block::is_commands), "{name}");
        assert_eq!(page.text.contains(RUN), page.is_run(), "{name}");
        assert_eq!(page.text.contains(NOT_RUN), !page.is_run(), "{name}");
        let row = table
            .lines()
            .find(|line| line.contains(&format!("]({name}.md)")));
        let row = row.unwrap_or_else(|| panic!("docs/recipes/README.md lacks {name}"));
        let said = if page.is_run() { "| yes |" } else { "| no |" };
        assert!(row.ends_with(said), "{row}");
    }
}

/// What only a part of a configuration lacks.
const PARTS: &[&str] = &[
    "there is no pool: nothing to run",
    "has no `command`",
    "unknown listener",
    "`{port}` without `ports`",
];

/// Every configuration on every page is right, as far as a part of one can be.
#[test]
fn configurations_of_all_pages_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    markdown(&docs(), &mut pages);
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join(".env"), "").expect("the file that a page names");
    let file = dir.path().join("rotad.toml");
    let mut checked = 0;
    for path in &pages {
        let page = Page::of("", &fs::read_to_string(path).expect("a page"));
        for block in page.blocks.iter().filter(|it| it.language == "toml") {
            // Keys alone are those of a pool.
            let first = block
                .text
                .lines()
                .find(|line| !line.is_empty() && !line.starts_with('#'));
            let keys =
                first.is_some_and(|line| !line.starts_with('[') && !line.starts_with("include"));
            let head = if keys { "[pool.jobs]\n" } else { "" };
            fs::write(&file, format!("{head}{}", block.text)).expect("a file");
            let run = verb(&file, &["check"], 60);
            let wrong = run.text();
            let mut wrong = wrong
                .lines()
                .filter(|line| line.starts_with("error"))
                .filter(|line| !PARTS.iter().any(|part| line.contains(part)));
            assert_eq!(wrong.next(), None, "{}:{}", path.display(), block.line);
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}

/// Each link between the pages leads to a file that is there, and to a heading of it.
#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    markdown(&docs(), &mut pages);
    assert!(pages.len() > 60, "{pages:?}");
    let mut broken = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).expect("a page");
        for link in links(&text) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.clone(),
                _ => page.parent().expect("a directory").join(path),
            };
            let there = target.exists()
                && (heading.is_empty() || headings(&target).iter().any(|it| it == heading));
            if !there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

fn markdown(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            markdown(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
}

/// The targets of `[text](target)`, outside of code, but for those on the web.
fn links(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        if !in_code {
            let targets = line.split("](").skip(1);
            found.extend(targets.filter_map(|rest| rest.split(')').next()));
        }
    }
    found.retain(|target| !target.contains("://"));
    found
}

/// The headings of a page as links name them.
fn headings(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).expect("a page");
    let titles = text.lines().filter(|line| line.starts_with('#'));
    titles
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// The runner notices what it is there for.
#[test]
fn a_page_that_is_not_true_is_noticed() {
    for (block, text) in [
        ("toml", "[pool.web]\ncommand = \"sleep 1\"\ncuont = 2\n"),
        ("sh", "false\n"),
        ("console", "$ echo 1\n2\n"),
        ("sh", "nohup sleep 1000 > /dev/null &\n"),
    ] {
        let page = Page::of("untrue", &format!("Text\n\n```{block}\n{text}```\n"));
        assert!(page.is_run());
        let ran = std::panic::catch_unwind(|| page.run());
        assert!(ran.is_err(), "{text}");
    }
    let marked = Page::of("marked", "<!-- not run: needs it -->\n```sh\nfalse\n```\n");
    assert!(!marked.is_run());
    marked.run();
    assert!(line_has("a: done: 2 in 3 s", "a: done: … in …"));
    assert!(!line_has("a: done", "done: …"));
    assert_eq!(links("[a](b.md#c), [d](https://e)"), ["b.md#c"]);
}
