//! nginx and haproxy as workers of rotad, and nginx in front of programs that bind by themselves; all from Debian's
//! packages, rolled under load.

mod support;

use std::time::Duration;
use support::{Load, Site, alone, need};

/// nginx closes idle connections the moment its QUIT comes (`keepalive_min_timeout` mends that, from 1.27.4 on): each
/// kept connection may be lost once a roll, if its client sends just then.
#[test]
fn nginx() {
    if !need::program("nginx") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("nginx");
    site.run();
    site.await_ready();
    let rolled = site.roll_under_load(&["nginx"]);
    rolled.closing.assert_nothing_lost(300);
    assert!(
        rolled.keeping.ok >= 300 && rolled.keeping.lost() <= 5 * 3,
        "{:?}",
        rolled.keeping
    );
    site.stop_politely(40);
}

#[test]
fn haproxy() {
    if !need::program("haproxy") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("haproxy");
    site.run();
    site.await_ready();
    site.roll_under_load(&["haproxy"]).assert_nothing_lost(300);
    site.stop_politely(40);
}

/// The programs are rolled and nginx is not: no GET is lost, for nginx asks another worker. A POST that was sent to a
/// closing port it may not send again (docs/ports.md).
#[test]
fn ports_behind_nginx() {
    if !need::program("nginx") || !need::program("node") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("ports");
    let ports = support::free_ports(5);
    let first: u16 = ports
        .split('-')
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port");
    site.change("rotad.toml", "8101-8105", &ports);
    for number in 1..=5 {
        site.change(
            "nginx.conf",
            &format!("127.0.0.1:810{number}"),
            &format!("127.0.0.1:{}", first + number - 1),
        );
    }
    site.run();
    site.await_ready();
    let posts = Load::of(&site.address(), "POST /", 2, 2, Duration::ZERO);
    let rolled = site.under_load(|| site.roll_alone("api"));
    let posts = posts.stop();
    rolled.assert_nothing_lost(300);
    assert!(
        rolled.closing.by_worker.len() >= 10,
        "answers of {:?}",
        rolled.closing.by_worker.keys()
    );
    let only_502 = posts.lost.keys().all(|reason| reason.contains("502"));
    assert!(
        posts.ok >= 300 && only_502 && posts.lost() * 50 < posts.ok,
        "{posts:?}"
    );
    site.stop_politely(40);
}
