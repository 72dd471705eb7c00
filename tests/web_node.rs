//! Node, unmodified, from Debian: rolled under load.

mod support;

use support::{Site, alone, need};

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
