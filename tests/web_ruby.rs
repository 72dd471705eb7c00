//! Ruby's puma, unmodified, from Debian: rolled under load.

mod support;

use support::need::program;
use support::{Site, alone};

/// The stop steps of the example, which config.ru could do without behind a proxy.
const STEPS: &str =
    r#"stop = [{ signal = "WINCH", wait = "1s" }, { signal = "TERM", wait = "30s" }]"#;

fn rolled(mut site: Site) {
    site.run();
    site.await_ready();
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(40);
}

#[test]
fn puma() {
    if program("puma") {
        let _alone = alone();
        rolled(Site::example("puma"));
    }
}

/// The other way, for puma behind a proxy: no kept connections, and then plain TERM loses nothing either.
#[test]
fn puma_without_queue_requests() {
    if program("puma") {
        let _alone = alone();
        let site = Site::example("puma");
        site.change("rotad.toml", STEPS, "");
        site.change(
            "rotad.toml",
            r#""config.ru"]"#,
            r#""-C", "puma.rb", "config.ru"]"#,
        );
        site.write("puma.rb", "queue_requests false\n");
        rolled(site);
    }
}
