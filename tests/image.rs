//! The container image: packaging/image/Dockerfile, built by buildah with a binary that is there already, and an image of a
//! user's that takes the binary from it, run as a container. The stage that compiles is not built: it needs a registry.

mod support;

use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::fixed::{static_console, static_rotad, static_testworker};
use support::site::finish;
use support::{Container, all_ready, free_port, need, until};

const USERS_IMAGE: &str = r#"
FROM scratch
COPY --from=rotad /rotad /usr/local/bin/rotad
COPY root /
USER 10001:10001
ENTRYPOINT ["/usr/local/bin/rotad", "run", "/app/rotad.toml"]
"#;

const CONFIG: &str = r#"
[master]
runtime_dir = "/dev/shm/rotad"
[pool.web]
command = ["/app/testworker", "http"]
count = 2
listen = "127.0.0.1:@PORT@"
"#;

/// buildah(1) with a storage of its own.
struct Buildah {
    dir: tempfile::TempDir,
}

impl Buildah {
    fn new() -> Option<Self> {
        if !need::program("buildah") || !need::root() {
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("rt.")
            .tempdir_in("/tmp")
            .expect("a directory");
        Some(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut buildah = Command::new("buildah");
        buildah
            .arg("--root")
            .arg(self.path("storage"))
            .arg("--runroot")
            .arg(self.path("run"));
        buildah.args(["--storage-driver", "vfs"]).args(arguments);
        let run = finish(buildah, 120);
        assert_eq!(run.code, 0, "{}", run.text());
        run.out.trim().to_owned()
    }

    fn build(&self, tag: &str, dockerfile: &Path, more: &[&str], context: &Path) {
        let path = |path: &Path| path.to_str().expect("a path").to_owned();
        let (dockerfile, context) = (path(dockerfile), path(context));
        let build = [
            "build",
            "--isolation",
            "chroot",
            "--pull-never",
            "--tag",
            tag,
            "--file",
            &dockerfile,
        ];
        self.run(&[&build[..], more, &[&context]].concat());
    }

    /// The tree of an image.
    fn mounted(&self, image: &str) -> PathBuf {
        let container = self.run(&["from", "--pull-never", image]);
        self.run(&["mount", &container]).into()
    }
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn copy(from: PathBuf, to: PathBuf) {
    fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
    fs::copy(from, to).expect("a copy");
}

#[test]
fn an_image_takes_the_binary_from_ours() {
    let Some(buildah) = Buildah::new() else {
        return;
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("no image for {other}"),
    };
    copy(
        static_rotad(),
        buildah.path(&format!("binaries/rotad-{arch}")),
    );
    copy(
        static_console(),
        buildah.path(&format!("binaries/rotad-console-{arch}")),
    );
    let binaries = format!("build={}", buildah.path("binaries").display());
    buildah.build(
        "rotad",
        &project("packaging/image/Dockerfile"),
        &["--build-context", &binaries],
        &project(""),
    );
    let ours = buildah.mounted("rotad");
    let entries = fs::read_dir(&ours).expect("the image").flatten();
    let mut entries: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    entries.sort();
    assert_eq!(entries, ["rotad", "rotad-console", "usr"]);
    assert!(ours.join("usr/share/doc/rotad/LICENSE-MIT").exists());

    let port = free_port();
    copy(
        static_testworker(),
        buildah.path("user/root/app/testworker"),
    );
    let config = CONFIG.replace("@PORT@", &port.to_string());
    fs::write(buildah.path("user/root/app/rotad.toml"), config).expect("a configuration");
    fs::write(buildah.path("user/Dockerfile"), USERS_IMAGE).expect("a Dockerfile");
    buildah.build(
        "shop",
        &buildah.path("user/Dockerfile"),
        &[],
        &buildah.path("user"),
    );
    let image: serde_json::Value =
        serde_json::from_str(&buildah.run(&["inspect", "--type", "image", "shop"])).expect("JSON");
    let settings = &image["OCIv1"]["config"];
    let words = settings["Entrypoint"].as_array().expect("a list").iter();
    let entrypoint: Vec<&str> = words.filter_map(serde_json::Value::as_str).collect();
    let user = settings["User"].as_str().expect("a user");

    let Some(mut container) = Container::of_image(&buildah.mounted("shop"), "/app/rotad.toml")
    else {
        return;
    };
    container.set("USER_GROUP", user);
    container.entrypoint(&entrypoint);
    container.launch();
    let status = || {
        let run = container.exec(&[entrypoint[0], "status", "--json", "-c", "/app/rotad.toml"]);
        let status = serde_json::from_str(&run.out).ok()?;
        all_ready(&status).then_some(())
    };
    until("every worker is ready", 20, status);
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .expect("a request");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(20).code(), Some(0));
}
