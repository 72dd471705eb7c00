//! Node: what package.json starts, and on which port. An unmodified program takes rotad's socket by the preload
//! (`{preload:node}`), where node itself runs it.

use super::pool::{Address, Pool};
use super::project::Project;

/// The port of most examples, and of Next.
const PORT: u16 = 3000;

/// What makes `listen(PORT)` take rotad's socket.
const PRELOAD: [&str; 2] = ["--require", "{preload:node}"];
const PRELOAD_NOTE: &str = "--require {preload:node}: listen(PORT) takes rotad's socket, and a stop loses no request \
                            (docs/programs/node.md)";

/// How no request would be lost.
pub(super) const NPM_INSTEAD: &str = "npm and its like pass no socket on; where `command` calls node itself, none is lost (docs/programs/node.md)";

/// Where Next's own program is: node can run it, and npm is not needed.
const NEXT: &str = "node_modules/next/dist/bin/next";

/// Packages whose programs are servers.
const SERVERS: [&str; 8] = [
    "express",
    "fastify",
    "koa",
    "@nestjs/core",
    "hono",
    "@hapi/hapi",
    "restify",
    "polka",
];

/// The web pool of a Node project.
pub(super) fn web(project: Project<'_>) -> Option<Pool> {
    let package = project.json("package.json")?;
    let text = |path: &str| package.pointer(path).and_then(serde_json::Value::as_str);
    // A production script that node runs comes before one that a tool for development runs.
    let production = text("/scripts/start:prod").filter(|line| line.starts_with("node "));
    if let Some(start) = production.or_else(|| text("/scripts/start")) {
        let (env, words) = script(start)?;
        let mut pool = match words.first().map(String::as_str) {
            Some("node") => of_node(project, &words, "package.json, scripts.start"),
            Some("next") => of_next(project, &words[1..]),
            _ => through_npm(start),
        };
        pool.env.splice(0..0, env);
        return Some(pool);
    }
    if depends(project, "next") {
        return Some(of_next(project, &["start".to_owned()]));
    }
    let main = text("/main")
        .filter(|main| project.has(main))
        .or_else(|| project.first(&["server.js", "app.js", "index.js", "server.mjs", "app.mjs"]))?;
    Some(of_node(
        project,
        &["node".to_owned(), main.to_owned()],
        "package.json",
    ))
}

/// Whether package.json names a package that the program needs.
fn depends(project: Project<'_>, package: &str) -> bool {
    project.json("package.json").is_some_and(|json| {
        json.get("dependencies")
            .is_some_and(|list| list.get(package).is_some())
    })
}

/// The variables before a command, and its words, if no shell is needed for it.
type Script = (Vec<(String, String)>, Vec<String>);

/// `NODE_ENV=production node server.js`: a script that a shell would only pass on. Others are left to npm.
fn script(line: &str) -> Option<Script> {
    let plain = !line.contains(|c| "$`&|;<>()*?[]{}~#!\n".contains(c));
    let words = shell_words::split(line).ok()?;
    if !plain {
        return Some((Vec::new(), vec!["npm".to_owned(), "start".to_owned()]));
    }
    let assigned = words
        .iter()
        .take_while(|word| {
            word.split_once('=')
                .is_some_and(|(name, _)| !name.is_empty() && !name.contains(['/', '-']))
        })
        .count();
    let env = words[..assigned]
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Some((env, words[assigned..].to_vec()))
}

/// `npm start`, where the script needs a shell or a program that may start another one.
fn through_npm(start: &str) -> Pool {
    Pool::new(
        "web",
        ["npm", "start"],
        format!("package.json, scripts.start: {start}"),
    )
    .binds(None, NPM_INSTEAD)
}

/// `next start`, which is a script of node.
pub(super) fn of_next(project: Project<'_>, words: &[String]) -> Pool {
    let given: Option<u16> = words
        .windows(2)
        .find(|two| two[0] == "-p" || two[0] == "--port")
        .and_then(|two| two[1].parse().ok());
    let address = Address::local(given.unwrap_or(PORT));
    let command = ["node"].into_iter().chain(PRELOAD).chain([NEXT]);
    let command = command.chain(words.iter().map(String::as_str));
    let mut pool = Pool::new("web", command, "Next, package.json")
        .inherits(address)
        .note(PRELOAD_NOTE);
    pool.listener = Some("http");
    if given.is_none() {
        pool.env.push(("PORT".to_owned(), "{port:http}".to_owned()));
    }
    if !project.has(NEXT) {
        pool = pool.note("not installed yet: npm install");
    }
    if !project.has(".next/BUILD_ID") {
        pool = pool.note("not built yet: npm run build");
    }
    pool
}

/// `node SCRIPT …`.
pub(super) fn of_node(project: Project<'_>, words: &[String], origin: &str) -> Pool {
    let source = words[1..]
        .iter()
        .find(|word| !word.starts_with('-'))
        .and_then(|script| {
            let file = script.strip_prefix("./").unwrap_or(script);
            project
                .read(file)
                .or_else(|| project.read(&format!("{file}.js")))
        })
        .unwrap_or_default();
    let port = port(project, &source);
    let address = Address::local(port.unwrap_or(PORT));
    if ["fd: 3", "fd:3", "LISTEN_FDS"]
        .iter()
        .any(|word| source.contains(word))
    {
        return Pool::new("web", words, origin).inherits(address);
    }
    let framework = SERVERS.iter().find(|name| depends(project, name));
    let serves = source.contains(".listen(") || source.contains("process.env.PORT");
    if !serves && framework.is_none() {
        return Pool::new("app", words, origin).alone(
            "nothing says that this program is a server, nor that two of it can run side by side; if two can, take this line \
             out, and a roll has no gap",
        );
    }
    let command = words[..1].iter().map(String::as_str).chain(PRELOAD);
    let command = command.chain(words[1..].iter().map(String::as_str));
    let mut pool = Pool::new("web", command, origin)
        .inherits(address)
        .note(PRELOAD_NOTE);
    pool.listener = Some("http");
    if port.is_none() || source.contains("process.env.PORT") {
        pool.env.push(("PORT".to_owned(), "{port:http}".to_owned()));
    }
    if port.is_none() {
        pool = pool.note(format!(
            "not certain: no port was found in the source; it is given {PORT} in PORT, and has to listen on that"
        ));
    }
    pool
}

/// The port that the source names, or `.env`.
fn port(project: Project<'_>, source: &str) -> Option<u16> {
    let number = |text: &str| {
        let text = text.trim_start_matches([' ', '(', '\'', '"', '|', '?', ':', '=', ',']);
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '_')
            .unwrap_or(text.len());
        text[..end].replace('_', "").parse::<u16>().ok()
    };
    let behind = |word: &str| {
        source
            .match_indices(word)
            .find_map(|(at, _)| number(&source[at + word.len()..]).filter(|port| *port > 0))
    };
    behind("process.env.PORT")
        .or_else(|| behind(".listen("))
        .or_else(|| behind("PORT ="))
        .or_else(|| behind("port ="))
        .or_else(|| behind("port:"))
        .or_else(|| {
            let text = project.read(".env")?;
            text.lines()
                .find_map(|line| number(line.trim().strip_prefix("PORT=")?))
        })
}

#[cfg(test)]
mod tests {
    use super::super::project::tests::directory;
    use super::*;

    fn of(files: &[(&str, &str)]) -> Option<Pool> {
        let directory = directory(files);
        web(Project::new(directory.path()))
    }

    fn start(script: &str) -> Pool {
        let package = serde_json::json!({ "scripts": { "start": script } }).to_string();
        of(&[("package.json", &package)]).unwrap()
    }

    #[test]
    fn a_start_script_is_run_directly_or_by_npm() {
        assert_eq!(
            start("node server.js --x").command.join(" "),
            "node server.js --x"
        );
        for script in ["tsc && node x.js", "nest start"] {
            let pool = start(script);
            assert_eq!(pool.command, ["npm", "start"]);
            assert!(pool.toml().contains("surge = 0"), "{script}");
        }
        let env = start("NODE_ENV=production node x.js");
        assert_eq!(env.command.join(" "), "node x.js");
        assert_eq!(env.env[0], ("NODE_ENV".to_owned(), "production".to_owned()));
        let nest = r#"{"scripts": {"start": "nest start", "start:prod": "node dist/main"},
                       "dependencies": {"@nestjs/core": "11"}}"#;
        let nest = of(&[("package.json", nest)]).unwrap();
        assert_eq!(
            nest.command.join(" "),
            "node --require {preload:node} dist/main"
        );
        assert!(nest.notes[1].starts_with("not certain"), "{nest:?}");
    }

    #[test]
    fn next_is_run_by_node_itself() {
        let pool = start("next start -p 4000");
        let words = "node --require {preload:node} node_modules/next/dist/bin/next start -p 4000";
        assert_eq!(pool.command.join(" "), words);
        let text = pool.toml();
        assert!(
            text.contains("address = \"127.0.0.1:4000\"") && !text.contains("env ="),
            "{text}"
        );
        let package = r#"{"dependencies": {"next": "16"}}"#;
        let text = of(&[("package.json", package)]).unwrap().toml();
        assert!(text.contains("env = { PORT = \"{port:http}\" }"), "{text}");
    }

    #[test]
    fn a_server_takes_rotads_socket_by_the_preload() {
        let files = [
            (
                "package.json",
                "{\"scripts\": {\"start\": \"node server.js\"}}",
            ),
            ("server.js", "app.listen(process.env.PORT || 4001)"),
        ];
        let text = of(&files).unwrap().toml();
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(
            table["listen"]["http"]["address"].as_str(),
            Some("127.0.0.1:4001")
        );
        let pool = &table["pool"]["web"];
        assert_eq!(pool["listen"].as_str(), Some("http"));
        assert_eq!(pool["command"][2].as_str(), Some("{preload:node}"));
        assert_eq!(pool["env"]["PORT"].as_str(), Some("{port:http}"));
        assert!(!text.contains("surge"), "{text}");
    }

    #[test]
    fn without_a_start_script_the_main_file_is_run() {
        let main = [
            ("package.json", "{\"main\": \"lib/x.js\"}"),
            ("lib/x.js", ""),
        ];
        let pool = of(&main).unwrap();
        assert_eq!(pool.command, ["node", "lib/x.js"]);
        assert!(pool.toml().contains("surge = 0"));
        let server = [("package.json", "{}"), ("server.js", "s.listen(80)")];
        assert_eq!(of(&server).unwrap().command[3], "server.js");
        assert!(of(&[("package.json", "{\"scripts\": {}}"), ("rubbish", "")]).is_none());
        assert!(of(&[("package.json", "{")]).is_none());
    }

    #[test]
    fn the_port_is_the_one_that_the_source_names() {
        for (source, expected) in [
            ("app.listen(process.env.PORT || 4001)", Some(4001)),
            (
                "const port = process.env.PORT ?? '4002';\nserver.listen(port)",
                Some(4002),
            ),
            ("server.listen(4003, () => {})", Some(4003)),
            ("const PORT = 4004;\napp.listen(PORT)", Some(4004)),
            ("fastify.listen({ port: 4_005 })", Some(4005)),
            ("app.listen(config.port)", None),
            ("app.listen(0)", None),
        ] {
            let directory = directory(&[]);
            assert_eq!(
                port(Project::new(directory.path()), source),
                expected,
                "{source}"
            );
        }
        let directory = directory(&[(".env", "A=1\nPORT=4006\n")]);
        assert_eq!(
            port(Project::new(directory.path()), "app.listen(x)"),
            Some(4006)
        );
    }

    #[test]
    fn a_program_that_takes_the_descriptor_needs_no_preload() {
        let files = [
            (
                "package.json",
                "{\"scripts\": {\"start\": \"node server.js\"}}",
            ),
            ("server.js", "server.listen({ fd: 3 })"),
        ];
        let pool = of(&files).unwrap();
        assert_eq!(pool.command, ["node", "server.js"]);
        assert!(pool.toml().contains("listen ="));
    }
}
