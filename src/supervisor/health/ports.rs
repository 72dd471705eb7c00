//! Ports: assigns each worker of a pool with `ports` a port of its own. A spawn waits while none is free.

use crate::plan::Ports;
use crate::supervisor::Supervisor;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use rotad_core::{Input, PoolId, Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

/// How often ports are tried while a spawn waits: another program that frees a port does not tell us.
const RETRY_INTERVAL: Span = Span::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct PortAllocator {
    held: BTreeMap<u16, WorkerId>,
    of: BTreeMap<WorkerId, u16>,
    /// Where the search begins: after the port assigned last, so that a port just released is reused as late as
    /// possible.
    next: BTreeMap<PoolId, u16>,
    /// Spawns that wait for a port, in the order of their commands.
    waiting: VecDeque<(WorkerId, PoolId)>,
    retry_at: Option<Time>,
    /// Pools whose wait has been logged.
    logged: BTreeSet<PoolId>,
}

impl PortAllocator {
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.retry_at
    }

    fn has_waiting(&self, pool: PoolId) -> bool {
        self.waiting.iter().any(|(_, of)| *of == pool)
    }

    fn count_held(&self, ports: Ports) -> usize {
        self.held.range(ports.first..=ports.last).count()
    }

    fn allocate(&mut self, worker: WorkerId, pool: PoolId, ports: Ports) -> Option<u16> {
        let Ports { first, last } = ports;
        let start = self
            .next
            .get(&pool)
            .copied()
            .filter(|port| (first..=last).contains(port))
            .unwrap_or(first);
        let port = (start..=last)
            .chain(first..start)
            .find(|port| !self.held.contains_key(port) && is_free(*port))?;
        self.next.insert(pool, port.checked_add(1).unwrap_or(first));
        self.held.insert(port, worker);
        self.of.insert(worker, port);
        Some(port)
    }
}

impl Supervisor {
    /// Assigns a port, where the pool has them. False: the spawn waits until one is free. Waiting is no failure: the
    /// time is added to the worker's ready timeout.
    pub(crate) fn assign_port(&mut self, worker: WorkerId) -> bool {
        let Some(process) = self.workers.processes.get_mut(worker) else {
            return false;
        };
        let (pool, Some(ports)) = (process.pool, process.spec.plan.ports) else {
            return true;
        };
        let allocator = &mut self.health.ports;
        if !allocator.has_waiting(pool) {
            process.port = allocator.allocate(worker, pool, ports);
        }
        if process.port.is_none() {
            allocator.waiting.push_back((worker, pool));
            allocator
                .retry_at
                .get_or_insert(self.clock.now() + RETRY_INTERVAL);
        }
        process.port.is_some()
    }

    /// A worker's tree is gone, and with it whatever listened on its port.
    pub(crate) fn release_port(&mut self, worker: WorkerId) {
        if let Some(port) = self.health.ports.of.remove(&worker) {
            self.health.ports.held.remove(&port);
            self.serve_port_waiters();
        }
    }

    /// A worker that waits for a port is asked to stop: it is not spawned at all.
    pub(crate) fn cancel_port_wait(&mut self, worker: WorkerId) {
        let waiting = &mut self.health.ports.waiting;
        let Some(at) = waiting.iter().position(|(waits, _)| *waits == worker) else {
            return;
        };
        waiting.remove(at);
        if let Some(process) = self.workers.processes.get_mut(worker) {
            process.error = Some("none of its pool's `ports` became free".to_owned());
        }
        self.spawn_failed(worker);
        self.serve_port_waiters();
    }

    fn serve_port_waiters(&mut self) {
        let mut exhausted = BTreeSet::new();
        for (worker, pool) in self.health.ports.waiting.clone() {
            let Some(process) = self.workers.processes.get_mut(worker) else {
                continue;
            };
            let Some(ports) = process
                .spec
                .plan
                .ports
                .filter(|_| !exhausted.contains(&pool))
            else {
                continue;
            };
            process.port = self.health.ports.allocate(worker, pool, ports);
            if process.port.is_none() {
                exhausted.insert(pool);
                continue;
            }
            self.health
                .ports
                .waiting
                .retain(|(waits, _)| *waits != worker);
            self.grant_time(worker);
            self.submit_spawn(worker);
        }
        let allocator = &mut self.health.ports;
        if allocator.waiting.is_empty() {
            allocator.retry_at = None;
        }
        let waiting: BTreeSet<PoolId> = allocator.waiting.iter().map(|(_, pool)| *pool).collect();
        allocator.logged.retain(|pool| waiting.contains(pool));
    }

    /// Extends the ready timeout by the time spent waiting for a port.
    fn grant_time(&mut self, worker: WorkerId) {
        if let Some(process) = self.workers.processes.get(worker) {
            self.engine.push(Input::TimeoutExtended(
                worker,
                process.spec.plan.policy.ready_timeout,
            ));
        }
    }

    pub(crate) fn run_due_ports(&mut self) {
        let now = self.clock.now();
        if self.health.ports.retry_at.is_none_or(|at| at > now) {
            return;
        }
        self.health.ports.retry_at = Some(now + RETRY_INTERVAL);
        self.serve_port_waiters();
        for (worker, pool) in self.health.ports.waiting.clone() {
            self.grant_time(worker);
            let ports = self
                .workers
                .processes
                .get(worker)
                .and_then(|process| process.spec.plan.ports);
            if let (true, Some(ports)) = (self.health.ports.logged.insert(pool), ports) {
                let (all, own) = (ports.count(), self.health.ports.count_held(ports));
                tracing::warn!(
                    pool = self.pools.name(pool),
                    "a worker waits for a free port: of {all} ({}-{}), {own} are held by workers, old ones that still \
                     finish included; the others are used by other programs",
                    ports.first,
                    ports.last
                );
            }
        }
    }
}

/// Whether the port is free: tries to bind it as servers do, with SO_REUSEADDR, so that closed connections in TIME_WAIT
/// do not matter. The socket is closed before the worker is spawned. If another program takes the port in between, the
/// worker fails and its successor gets another one.
fn is_free(port: u16) -> bool {
    // `[::]` clashes with IPv4 as well as with IPv6; without IPv6, IPv4 is all there is.
    let tried = match bind_to((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
            bind_to((Ipv4Addr::UNSPECIFIED, port).into())
        }
        other => other,
    };
    // Other errors (EACCES, EMFILE) do not say that the port is in use.
    tried != Err(Errno::EADDRINUSE)
}

fn bind_to(address: SocketAddr) -> nix::Result<()> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listening_program_holds_its_port() {
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert!(!is_free(port), "{address}");
            drop(listener);
            assert!(is_free(port), "{address}");
        }
        if let Ok(listener) = TcpListener::bind("[::1]:0") {
            assert!(!is_free(listener.local_addr().unwrap().port()));
        }
    }

    #[test]
    fn a_released_port_is_reused_last() {
        // A range in which all ports are free.
        let free = |first: u16| (first..first + 3).all(is_free);
        let first = (20_000..30_000)
            .step_by(7)
            .find(|first| free(*first))
            .unwrap();
        let (pool, ports) = (
            PoolId(1),
            Ports {
                first,
                last: first + 2,
            },
        );
        let mut allocator = PortAllocator::default();
        let allocate =
            |allocator: &mut PortAllocator, n: u64| allocator.allocate(WorkerId(n), pool, ports);
        assert_eq!(
            [1, 2].map(|n| allocate(&mut allocator, n)),
            [Some(first), Some(first + 1)]
        );
        allocator.of.remove(&WorkerId(1));
        allocator.held.remove(&first);
        assert_eq!(allocate(&mut allocator, 3), Some(first + 2));
        assert_eq!(allocate(&mut allocator, 4), Some(first));
        assert_eq!(allocate(&mut allocator, 5), None);
        let stranger = TcpListener::bind(("127.0.0.1", first + 1));
        allocator.of.remove(&WorkerId(2));
        allocator.held.remove(&(first + 1));
        assert!(stranger.is_ok());
        assert_eq!(allocate(&mut allocator, 6), None, "a stranger has it");
    }
}
