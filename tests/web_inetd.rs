//! Programs that inetd would start: with the listener as descriptor 0 ("wait"), and one for each connection ("nowait").

mod support;

use std::path::Path;
use support::need::program;
use support::{Site, alone};

#[test]
fn wait() {
    if !program("perl") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("inetd");
    site.run();
    site.await_ready();
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(15);
}

#[test]
fn nowait() {
    let there = Path::new("/usr/sbin/micro-httpd").exists();
    if !program("perl") || !support::need("micro-httpd", there) {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("inetd-nowait");
    site.run();
    site.await_ready();
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(15);
}
