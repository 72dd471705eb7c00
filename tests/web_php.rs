//! PHP, from Debian's packages: a script that accepts by itself, and php-fpm behind nginx, both unmodified; rolled under
//! load.

mod support;

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;
use support::{Load, Site, alone, need};

#[test]
fn a_script() {
    if !need::program("php") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("php");
    site.run();
    site.await_ready();
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(10);
}

/// Debian's name has PHP's version in it.
fn php_fpm() -> Option<PathBuf> {
    let name = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"))
    };
    std::fs::read_dir("/usr/sbin")
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(name)
}

/// The example on a port of this test's own, with Debian's php-fpm under the name that the example has for it.
fn fpm() -> Option<(Site, String)> {
    let fpm = php_fpm();
    if !need("php-fpm", fpm.is_some()) || !need::program("nginx") {
        return None;
    }
    let mut site = Site::example("php-fpm");
    let socket = format!("127.0.0.1:{}", support::free_port());
    for file in ["rotad.toml", "php-fpm.conf", "nginx.conf"] {
        site.change(file, "127.0.0.1:8001", &socket);
    }
    let bin = site.path("bin");
    std::fs::create_dir(&bin).expect("a directory");
    symlink(fpm.expect("php-fpm"), bin.join("php-fpm")).expect("a name without a version");
    site.search_first(&bin);
    Some((site, socket))
}

#[test]
fn fpm_behind_nginx() {
    let _alone = alone();
    let Some((mut site, _)) = fpm() else { return };
    site.run();
    site.await_ready();
    site.under_load(|| site.roll_alone("fpm"))
        .assert_nothing_lost(300);
    // nginx as well: see tests/web_proxies.rs for its kept connections.
    site.roll_under_load(&["fpm", "nginx"])
        .closing
        .assert_nothing_lost(300);
    site.stop_politely(40);
}

/// On a unix socket, with requests that are being answered when their php-fpm gets its QUIT. php-fpm removes the file that
/// its `listen` names when it leaves, so that name is another one (docs/programs/php.md).
#[test]
fn fpm_on_a_unix_socket() {
    let _alone = alone();
    let Some((mut site, socket)) = fpm() else {
        return;
    };
    site.change(
        "rotad.toml",
        &format!("\"{socket}\"\n"),
        "\"unix:@DIR@/fpm.sock\"\nmode = \"0666\"\n",
    );
    site.change("rotad.toml", "{addr:fpm}", "/nonexistent/fpm");
    site.change(
        "php-fpm.conf",
        &format!("listen = {socket}"),
        "listen = /nonexistent/fpm",
    );
    site.change("nginx.conf", &socket, "unix:@DIR@/fpm.sock");
    site.change(
        "public/index.php",
        "<?php\n",
        "<?php\nif (isset($_GET['slow'])) usleep(300000);\n",
    );
    site.run();
    site.await_ready();
    let slow = Load::of(&site.address(), "/?slow", 2, 0, Duration::ZERO);
    slow.await_more(2);
    site.under_load(|| site.roll_alone("fpm"))
        .assert_nothing_lost(300);
    slow.stop().assert_nothing_lost(10);
    assert!(
        site.path("fpm.sock").exists(),
        "the socket's file is still there"
    );
    site.stop_politely(40);
}
