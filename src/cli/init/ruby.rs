//! Ruby: Rails and other Rack applications under puma, Sidekiq, and Rails' own queue.

use super::pool::{Address, Pool};
use super::project::Project;

/// The port of Rails' own puma.rb.
const PORT: u16 = 3000;

/// puma takes the passed sockets, and opens nothing besides.
pub(super) const PUMA: &str = "--bind-to-activated-sockets=only";
/// A pool of Rails says how it is switched to production.
const PRODUCTION: &str = "# env = { RAILS_ENV = \"production\" }";
pub(super) const PUMA_NOTE: &str =
    "puma drops kept connections when it stops: docs/programs/ruby.md has two ways to lose none";

/// The pools of a Ruby project.
pub(super) fn pools(project: Project<'_>) -> Option<Vec<Pool>> {
    let gems = project.read("Gemfile").unwrap_or_default();
    let rails = project.has("config/application.rb") && gem(&gems, "rails");
    let rack = project.has("config.ru");
    let mut pools = Vec::new();
    if rack || rails {
        let name = if rails { "Rails" } else { "config.ru" };
        pools.push(web(project, &gems, name, rails));
    }
    pools.extend(sidekiq(project, &gems, rails));
    if project.has("bin/jobs") && gem(&gems, "solid_queue") {
        pools.push(Pool::new("jobs", ["bin/jobs"], "Solid Queue: bin/jobs").task());
    }
    (!pools.is_empty()).then_some(pools)
}

/// `gem "NAME"` in a Gemfile.
fn gem(gemfile: &str, name: &str) -> bool {
    gemfile.lines().any(|line| {
        let Some(rest) = line.trim_start().strip_prefix("gem") else {
            return false;
        };
        let rest = rest.trim_start_matches([' ', '(']);
        [format!("\"{name}\""), format!("'{name}'")]
            .iter()
            .any(|quoted| rest.starts_with(quoted))
    })
}

/// A program of a gem: by bundler, where the project's versions are locked.
fn bundled(project: Project<'_>, program: &str) -> Vec<String> {
    let words: &[&str] = if project.has("Gemfile.lock") {
        &["bundle", "exec", program]
    } else {
        &[program]
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn web(project: Project<'_>, gems: &str, name: &str, rails: bool) -> Pool {
    let mut words = bundled(project, "puma");
    words.push(PUMA.to_owned());
    let threads = ["--workers", "0"].map(str::to_owned);
    words.extend(threads);
    let own = project.has("config/puma.rb");
    if own {
        words.extend(["-C", "config/puma.rb"].map(str::to_owned));
    } else {
        words.push("config.ru".to_owned());
    }
    let mut pool = Pool::new("web", words, format!("{name}, puma"))
        .inherits(Address::local(PORT))
        .note(PUMA_NOTE);
    if own {
        pool = pool.note("config/puma.rb: its `port` and `bind` are ignored, since rotad passes the socket; take out `plugin :tmp_restart`");
    }
    if gem(gems, "unicorn") && !gem(gems, "puma") {
        pool = pool.note("the Gemfile has unicorn and not puma: docs/programs/ruby.md says how unicorn takes the socket");
    }
    if rails {
        pool = pool.key(PRODUCTION).note(
            "migrations before each roll: [pool.migrate] kind = \"oneshot\", command = [\"bin/rails\", \"db:migrate\"], \
             and after = [\"migrate\"] here",
        );
    }
    pool
}

fn sidekiq(project: Project<'_>, gems: &str, rails: bool) -> Option<Pool> {
    let worker = project.sources(".rb").into_iter().find(|file| {
        project
            .read(file)
            .is_some_and(|text| text.contains("Sidekiq::Worker") || text.contains("Sidekiq::Job"))
    });
    if !gem(gems, "sidekiq") && worker.is_none() {
        return None;
    }
    let mut words = bundled(project, "sidekiq");
    match worker {
        _ if rails => {}
        Some(file) => words.extend(["-r".to_owned(), format!("./{file}")]),
        None => return None,
    }
    // Below `stop`, or Sidekiq gives a running job back, and it begins again.
    words.extend(["-t", "290"].map(str::to_owned));
    let pool = Pool::new("jobs", words, "Sidekiq")
        .task()
        .key("ready = \"notify\"                  # Sidekiq 6 and newer says so itself");
    Some(if rails { pool.key(PRODUCTION) } else { pool })
}

#[cfg(test)]
mod tests {
    use super::super::project::tests::directory;
    use super::*;

    fn of(files: &[(&str, &str)]) -> Vec<String> {
        let directory = directory(files);
        pools(Project::new(directory.path()))
            .unwrap_or_default()
            .iter()
            .map(|pool| format!("{}: {}", pool.name, pool.command.join(" ")))
            .collect()
    }

    #[test]
    fn rails_is_puma_by_bundler_and_its_queue() {
        let rails = [
            (
                "Gemfile",
                "source 'x'\ngem \"rails\", '~> 8'\n  gem 'sidekiq'\n",
            ),
            ("Gemfile.lock", ""),
            ("config/application.rb", ""),
            ("config/puma.rb", "port 3000\n"),
            ("config.ru", ""),
        ];
        assert_eq!(
            of(&rails),
            [
                "web: bundle exec puma --bind-to-activated-sockets=only --workers 0 -C config/puma.rb",
                "jobs: bundle exec sidekiq -t 290"
            ]
        );
        let solid = [
            ("Gemfile", "gem 'rails'\ngem(\"solid_queue\")\n"),
            ("config/application.rb", ""),
            ("bin/jobs", ""),
        ];
        assert_eq!(of(&solid)[1], "jobs: bin/jobs");
    }

    #[test]
    fn a_rack_application_is_puma_and_a_worker_is_found() {
        assert_eq!(
            of(&[("config.ru", "run App\n")]),
            ["web: puma --bind-to-activated-sockets=only --workers 0 config.ru"]
        );
        assert_eq!(
            of(&[("worker.rb", "class A\n  include Sidekiq::Worker\n")]),
            ["jobs: sidekiq -r ./worker.rb -t 290"]
        );
        assert_eq!(
            of(&[("Gemfile", "# gem 'sidekiq'\n"), ("a.rb", "")]),
            [""; 0]
        );
    }
}
