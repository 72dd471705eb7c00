//! Ruby's puma, unmodified, from Debian: rolled under load.

mod support;

use support::need::program;
use support::{Site, alone};

#[test]
fn puma() {
    if !program("puma") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("puma");
    site.run();
    site.await_ready();
    let rolled = site.roll_under_load(&["web"]);
    eprintln!("{:?} {:?}", rolled.closing.ok, rolled.keeping.ok);
    rolled.assert_nothing_lost(300);
    site.stop_politely(40);
}
