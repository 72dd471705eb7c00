//! Node, unmodified, from Debian: rolled under load, by `listen({ fd: 3 })` and by the preload.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use support::example::{node_modules, node_package, node_program};
use support::load::get;
use support::{Site, all_ready, alone, need, never, pool, until};

#[test]
fn node() {
    if !need::program("node") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("node");
    site.run();
    site.await_ready();
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(30);
}

/// The pool of an unmodified program: `listen` and the preload are all that rotad adds.
const POOL: &str = "
[listen.http]
address = \"127.0.0.1:@PORT@\"
[pool.web]
command = [\"node\", \"--require\", \"{preload:node}\", \"server.js\"]
count = 2
listen = \"http\"
env = { PORT = \"{port:http}\" }
";

/// What every program here answers.
const ANSWER: &str = "`${process.pid} ${process.env.ROTAD_GENERATION} hello`";

/// A site with this program, started.
fn site(pool: &str, file: &str, program: &str) -> Site {
    let mut site = Site::new(pool);
    site.write(file, &program.replace("ANSWER", ANSWER));
    site.write("package.json", "{}");
    if node_modules().exists() {
        symlink(node_modules(), site.path("node_modules")).expect("a link");
    }
    site.run();
    site.await_ready();
    site
}

fn loses_nothing(pool: &str, file: &str, program: &str) {
    let _alone = alone();
    let mut site = site(pool, file, program);
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(60);
}

#[test]
fn an_unmodified_program_loses_no_request() {
    if !need::program("node") {
        return;
    }
    loses_nothing(
        POOL,
        "server.js",
        "const http = require('http');
         http.createServer((request, answer) => answer.end(ANSWER)).listen(process.env.PORT, '127.0.0.1');",
    );
}

#[test]
fn express_loses_no_request() {
    if !need::program("node") || !node_package("express") {
        return;
    }
    loses_nothing(
        POOL,
        "server.js",
        "const app = require('express')();
         app.get('/', (request, answer) => answer.send(ANSWER));
         app.listen(process.env.PORT);",
    );
}

/// An ES module by `--import`, whose own handler of TERM answers 503 where it comes too early.
#[test]
fn fastify_loses_no_request() {
    if !need::program("node") || !node_package("fastify") {
        return;
    }
    loses_nothing(
        &POOL
            .replace("--require", "--import")
            .replace("server.js", "server.mjs"),
        "server.mjs",
        "import fastify from 'fastify';
         const app = fastify();
         app.get('/', async () => ANSWER);
         process.on('SIGTERM', () => app.close());
         await app.listen({ port: Number(process.env.PORT) });",
    );
}

/// The versions of Node that are in use, beside the machine's: with a CommonJS program, and with an ES module.
#[test]
fn each_version_of_node_takes_the_socket() {
    for version in ["18", "22", "24"] {
        if !node_package(&format!("node{version}")) {
            continue;
        }
        let node = node_modules().join(format!("node{version}/bin/node"));
        let pool = POOL.replace("\"node\"", &format!("{node:?}"));
        let answer = "answer.end(`${process.version} ${process.env.ROTAD_GENERATION}`)";
        let common = format!(
            "const http = require('http');
             http.createServer((request, answer) => {answer}).listen(process.env.PORT);"
        );
        let module = format!(
            "import http from 'node:http';
             http.createServer((request, answer) => {answer}).listen({{ port: Number(process.env.PORT) }});"
        );
        let imported = pool
            .replace("--require", "--import")
            .replace("server.js", "server.mjs");
        for (pool, file, program) in [
            (&pool, "server.js", common),
            (&imported, "server.mjs", module),
        ] {
            let mut site = site(pool, file, &program);
            site.roll_alone("web");
            let body = get(&site.address(), "/").expect("an answer");
            assert!(
                body.starts_with(&format!("v{version}.")) && body.ends_with(" 2"),
                "{file}: {body}"
            );
            site.stop_politely(30);
        }
    }
}

/// By its own `node:http`.
#[test]
fn deno_loses_no_request() {
    if !node_program("deno") {
        return;
    }
    let deno = node_modules().with_file_name("bin").join("deno");
    let deno = format!("{deno:?}, \"run\", \"--allow-all\", \"--require\"");
    loses_nothing(
        &POOL
            .replace("\"node\", \"--require\"", &deno)
            .replace("server.js", "server.cjs"),
        "server.cjs",
        "const http = require('http');
         http.createServer((request, answer) => answer.end(ANSWER)).listen(process.env.PORT, '127.0.0.1');",
    );
}

/// `wait_ready` of pm2: the worker counts once the program has said so, and not before.
#[test]
fn process_send_ready_is_ready_1() {
    if !need::program("node") {
        return;
    }
    let mut site = Site::new(&POOL.replace("[pool.web]", "[pool.web]\nready = \"notify\""));
    site.write(
        "server.js",
        "const http = require('http');
         const fs = require('fs');
         http.createServer((request, answer) => answer.end('hello')).listen(process.env.PORT, () => {
           const timer = setInterval(() => {
             if (!fs.existsSync('warm')) return;
             clearInterval(timer);
             process.send('other');
             process.send('ready');
           }, 20);
         });",
    );
    site.run();
    until("a program that listens", 30, || {
        get(&site.address(), "/").ok()
    });
    never("a worker that is ready without having said so", 0.5, || {
        site.status()
            .filter(|status| pool(status, "web")["ready"] != 0)
    });
    site.write("warm", "");
    site.await_status("every worker is ready", 30, all_ready);
    site.stop_politely(30);
}

/// As pm2 has it: a handler of SIGINT, or of the message "shutdown".
#[test]
fn the_programs_own_handler_is_called_after_the_drain() {
    if !need::program("node") {
        return;
    }
    for (handler, name) in [
        ("process.on('SIGTERM', end)", "SIGTERM"),
        ("process.on('SIGINT', end)", "SIGINT"),
        ("process.on('message', end)", "shutdown"),
    ] {
        let mut site = site(
            POOL,
            "server.js",
            &format!(
                "const end = (how) => {{ console.log(`ended by ${{how}}`); setTimeout(() => process.exit(0), 50); }};
                 {handler};
                 require('http').createServer((request, answer) => answer.end(ANSWER)).listen(process.env.PORT);"
            ),
        );
        site.roll_alone("web");
        site.await_log(&format!("ended by {name}"), 10);
        site.stop_politely(30);
    }
}

#[test]
fn a_port_that_rotad_does_not_hold_is_the_programs_own() {
    if !need::program("node") {
        return;
    }
    let own = support::free_port();
    let program = format!(
        "const http = require('http');
         http.createServer((request, answer) => answer.end(ANSWER)).listen({{ port: process.env.PORT }});
         if (process.env.ROTAD_SLOT === '0') http.createServer((request, answer) => answer.end('own')).listen({own}, '127.0.0.1');"
    );
    let mut site = site(POOL, "server.js", &program);
    let body = until("the program's own server", 10, || {
        get(&format!("127.0.0.1:{own}"), "/").ok()
    });
    assert_eq!(body, "own");
    assert!(get(&site.address(), "/").is_ok_and(|body| body.contains("hello")));
    assert!(
        !site.log().contains("which only one worker can"),
        "every socket of rotad's was taken"
    );
    site.stop_politely(30);
}

#[test]
fn a_program_that_listens_elsewhere_is_told() {
    if !need::program("node") {
        return;
    }
    let own = support::free_port();
    let mut site = Site::new(&POOL.replace("count = 2", "count = 1"));
    site.write(
        "server.js",
        &format!("require('http').createServer(() => {{}}).listen({own}, '127.0.0.1');"),
    );
    site.run();
    let text = format!("listens on port {own}, and rotad passed port {}", site.port);
    site.await_log(&text, 30);
    site.kill();
}

#[test]
fn a_unix_socket_is_taken_by_its_path() {
    if !need::program("node") {
        return;
    }
    let pool = POOL
        .replace("127.0.0.1:@PORT@", "unix:@DIR@/web.sock")
        .replace("{port:http}", "@DIR@/web.sock");
    let mut site = site(
        &pool,
        "server.js",
        "require('http').createServer((request, answer) => answer.end(ANSWER)).listen(process.env.PORT);",
    );
    site.roll_alone("web");
    let address = format!("unix:{}", site.path("web.sock").display());
    assert!(get(&address, "/").is_ok_and(|body| body.contains("hello")));
    site.stop_politely(30);
}

/// Workers of another user can read the script, and cannot write it.
#[test]
fn the_script_is_the_masters() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if !need::program("node") || !need::root() {
        return;
    }
    let pool = POOL.replace("[pool.web]", "[pool.web]\nuser = \"nobody\"");
    let mut site = site(
        &pool,
        "server.js",
        "require('http').createServer((request, answer) => answer.end(ANSWER)).listen(process.env.PORT);",
    );
    let script = site.path("run/node.cjs");
    let meta = script.metadata().expect("the script");
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (0, 0o644));
    assert!(get(&site.address(), "/").is_ok_and(|body| body.contains("hello")));
    fs::remove_file(&script).expect("a cleaner");
    site.roll_alone("web");
    assert!(script.exists(), "it was made again for the next worker");
    site.stop_politely(30);
}
