//! PHP, from Debian's packages: a script that accepts by itself, and php-fpm behind nginx, both unmodified; rolled under
//! load.

mod support;

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use support::{Site, alone, need};

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
    let name = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"));
    std::fs::read_dir("/usr/sbin").ok()?.flatten().map(|entry| entry.path()).find(name)
}

#[test]
fn fpm_behind_nginx() {
    let fpm = php_fpm();
    if !need("php-fpm", fpm.is_some()) || !need::program("nginx") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("php-fpm");
    let socket = format!("127.0.0.1:{}", support::free_port());
    for file in ["rotad.toml", "php-fpm.conf", "nginx.conf"] {
        site.change(file, "127.0.0.1:8001", &socket);
    }
    let bin = site.path("bin");
    std::fs::create_dir(&bin).expect("a folder");
    symlink(fpm.expect("php-fpm"), bin.join("php-fpm")).expect("a name without a version");
    site.search_first(&bin);
    site.run();
    site.await_ready();
    site.under_load(|| site.roll_alone("fpm")).assert_nothing_lost(300);
    // nginx as well: see tests/web_proxies.rs for its kept connections.
    site.roll_under_load(&["fpm", "nginx"]).closing.assert_nothing_lost(300);
    site.stop_politely(40);
}
