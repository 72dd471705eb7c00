//! Where a pool serves and where its output goes, as a person types it.

use crate::listener::Listener;
use crate::plan::{Address, Check, Health, Plan, PoolPlan, Ready, Sink};
use crate::supervisor::Supervisor;
use crate::supervisor::clients::outcome_text::{NONE_WANTED, workers};
use rotad_core::{PoolId, Up};
use std::net::SocketAddr;
use std::path::Path;

impl Supervisor {
    /// A pool that is up, in one line: how many workers, and where they serve.
    pub(crate) fn up_line(&self, pool: PoolId, how: Up) -> String {
        let name = self.pools.name(pool);
        let view = self.engine.view().pool(pool);
        let count = workers(view.map_or(0, |view| view.ready));
        let at = self.served_at(pool);
        match how {
            Up::Ready => format!("{name}: {count} ready{at}"),
            Up::Alive => format!("{name}: {count} alive{at}, nothing says more"),
            Up::Done(Some(took)) => format!("{name}: done after {took}"),
            Up::Done(None) => format!("{name}: done"),
            Up::NoneWanted => format!("{name}: {NONE_WANTED}"),
        }
    }

    /// ` at ADDRESS, …`; empty if the pool has no address of its own.
    pub(crate) fn served_at(&self, pool: PoolId) -> String {
        let (Some(plan), Some(spec)) = (self.pools.plan(pool), self.pools.next_spec(pool)) else {
            return String::new();
        };
        let addresses = addresses(plan, &self.listening.of(&spec.listeners));
        match addresses.is_empty() {
            true => String::new(),
            false => format!(" at {}", addresses.join(", ")),
        }
    }
}

/// The addresses of a pool: of its listening sockets, or else its range of ports.
pub(crate) fn addresses(plan: &PoolPlan, listeners: &[&Listener]) -> Vec<String> {
    let of = |listener: &&Listener| match listener.bound() {
        Address::Tcp(address) => tcp(*address, uses_http(plan)),
        Address::Unix(path) => format!("unix:{}", path.display()),
    };
    let mut addresses: Vec<String> = listeners.iter().map(of).collect();
    if let Some(ports) = plan.ports {
        addresses.push(match ports.first == ports.last {
            true => format!("port {}", ports.first),
            false => format!("ports {}-{}", ports.first, ports.last),
        });
    }
    addresses
}

/// A TCP address as a person types it: a socket on every address is reached at `localhost`.
fn tcp(address: SocketAddr, http: bool) -> String {
    let scheme = if http { "http://" } else { "" };
    match address.ip().is_unspecified() {
        true => format!("{scheme}localhost:{} ({})", address.port(), address.ip()),
        false => format!("{scheme}{address}"),
    }
}

/// Whether the clients of a pool use HTTP: only a check by HTTP says so. What else a program takes is not known.
fn uses_http(plan: &PoolPlan) -> bool {
    let ready = match &plan.ready {
        Ready::Probe(check) => Some(check),
        _ => None,
    };
    let health = match &plan.health {
        Some(Health::Probe { check, .. }) => Some(check),
        _ => None,
    };
    let mut checks = ready.into_iter().chain(health);
    checks.any(|check| matches!(check, Check::Http(_)))
}

/// Where the master logs and where pools print that do not print there, in one line.
pub(crate) fn log_line(log_file: &Path, plan: &Plan) -> String {
    let mut line = format!("log: {}", log_file.display());
    for pool in &plan.pools {
        let mut files: Vec<String> = Vec::new();
        for sink in [&pool.log.stdout, &pool.log.stderr] {
            if let Sink::File(file) = sink {
                let file = file.shown(None);
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        if !files.is_empty() {
            line.push_str(&format!("; {}: {}", pool.name, files.join(", ")));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_one_types() {
        for (address, http, typed) in [
            ("127.0.0.1:8000", true, "http://127.0.0.1:8000"),
            ("127.0.0.1:9000", false, "127.0.0.1:9000"),
            ("0.0.0.0:80", true, "http://localhost:80 (0.0.0.0)"),
            ("[::]:80", true, "http://localhost:80 (::)"),
            ("[::1]:80", true, "http://[::1]:80"),
        ] {
            assert_eq!(tcp(address.parse().unwrap(), http), typed);
        }
    }
}
