//! Python's web servers, unmodified, from PyPI: rolled under load.

mod support;

use support::example::python;
use support::{Site, alone};

#[test]
fn gunicorn() {
    if !python("gunicorn") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("gunicorn");
    site.run();
    site.await_ready();
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(30);
}
