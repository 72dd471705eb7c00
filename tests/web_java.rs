//! Java by `System.inheritedChannel()`: Debian's JVM with the listener as descriptor 0, rolled under load.

mod support;

use support::need::program;
use support::{Site, alone};

#[test]
fn inherited_channel() {
    if !program("java") || !program("javac") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("java");
    site.run();
    site.await_status(
        "javac is done and two JVMs are ready",
        60,
        support::all_ready,
    );
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(30);
    site.await_log("exited with 143", 10);
}
