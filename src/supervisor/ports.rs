//! A port of its own for each worker of a pool with `ports`. A birth waits while none is free.

use super::Supervisor;
use crate::plan::Ports;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};
use rotad_core::{Input, PoolId, Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

/// While a birth waits, ports are tried again this often: a stranger that leaves one tells nobody.
const AGAIN: Span = Span::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct PortAllocator {
    held: BTreeMap<u16, WorkerId>,
    of: BTreeMap<WorkerId, u16>,
    /// Where the search begins: behind the port that was given last, so that one that has just been left rests longest.
    next: BTreeMap<PoolId, u16>,
    /// Births that wait, in the order of their orders.
    waiting: VecDeque<(WorkerId, PoolId)>,
    again: Option<Time>,
    /// Pools of which the diary says already that they wait.
    told: BTreeSet<PoolId>,
}

impl PortAllocator {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.again
    }

    fn waits(&self, pool: PoolId) -> bool {
        self.waiting.iter().any(|(_, of)| *of == pool)
    }

    fn taken_in(&self, ports: Ports) -> usize {
        self.held.range(ports.first..=ports.last).count()
    }

    fn take(&mut self, worker: WorkerId, pool: PoolId, ports: Ports) -> Option<u16> {
        let Ports { first, last } = ports;
        let start = self.next.get(&pool).copied().filter(|port| (first..=last).contains(port)).unwrap_or(first);
        let port = (start..=last).chain(first..start).find(|port| !self.held.contains_key(port) && is_free(*port))?;
        self.next.insert(pool, port.checked_add(1).unwrap_or(first));
        self.held.insert(port, worker);
        self.of.insert(worker, port);
        Some(port)
    }
}

impl Supervisor {
    /// True: the birth may go on, with a port where its pool has them. False: it waits until one is free. An order
    /// that waits is no failure: its time to get ready is given back to it.
    pub(super) fn gets_port(&mut self, worker: WorkerId) -> bool {
        let Some(body) = self.processes.get_mut(worker) else { return false };
        let (pool, Some(ports)) = (body.pool, body.pattern.plan.ports) else { return true };
        let book = &mut self.health.ports;
        if !book.waits(pool) {
            body.port = book.take(worker, pool, ports);
        }
        if body.port.is_none() {
            book.waiting.push_back((worker, pool));
            book.again.get_or_insert(self.clock.now() + AGAIN);
        }
        body.port.is_some()
    }

    /// A worker's tree is gone, and with it whatever listened on its port.
    pub(super) fn port_freed(&mut self, worker: WorkerId) {
        if let Some(port) = self.health.ports.of.remove(&worker) {
            self.health.ports.held.remove(&port);
            self.seat_waiting();
        }
    }

    /// It is asked to leave before it got a port: it need not be born for that.
    pub(super) fn leaves_unborn(&mut self, worker: WorkerId) {
        let waiting = &mut self.health.ports.waiting;
        let Some(at) = waiting.iter().position(|(waits, _)| *waits == worker) else { return };
        waiting.remove(at);
        if let Some(body) = self.processes.get_mut(worker) {
            body.error = Some("none of its pool's `ports` became free".to_owned());
        }
        self.not_born(worker);
        self.seat_waiting();
    }

    fn seat_waiting(&mut self) {
        let mut stuck = BTreeSet::new();
        for (worker, pool) in self.health.ports.waiting.clone() {
            let Some(body) = self.processes.get_mut(worker) else { continue };
            let Some(ports) = body.pattern.plan.ports.filter(|_| !stuck.contains(&pool)) else { continue };
            body.port = self.health.ports.take(worker, pool, ports);
            if body.port.is_none() {
                stuck.insert(pool);
                continue;
            }
            self.health.ports.waiting.retain(|(waits, _)| *waits != worker);
            self.grant_time(worker);
            self.give_birth(worker);
        }
        let book = &mut self.health.ports;
        if book.waiting.is_empty() {
            book.again = None;
        }
        let waiting: BTreeSet<PoolId> = book.waiting.iter().map(|(_, pool)| *pool).collect();
        book.told.retain(|pool| waiting.contains(pool));
    }

    /// What it has waited is not taken from its time to get ready.
    fn grant_time(&mut self, worker: WorkerId) {
        if let Some(body) = self.processes.get(worker) {
            self.inputs.push_back(Input::TimeoutExtended(worker, body.pattern.plan.policy.ready_timeout));
        }
    }

    pub(super) fn ports_due(&mut self) {
        let now = self.clock.now();
        if self.health.ports.again.is_none_or(|at| at > now) {
            return;
        }
        self.health.ports.again = Some(now + AGAIN);
        self.seat_waiting();
        for (worker, pool) in self.health.ports.waiting.clone() {
            self.grant_time(worker);
            let ports = self.processes.get(worker).and_then(|body| body.pattern.plan.ports);
            if let (true, Some(ports)) = (self.health.ports.told.insert(pool), ports) {
                let (all, own) = (ports.count(), self.health.ports.taken_in(ports));
                tracing::warn!(
                    pool = self.pool_name(pool),
                    "a worker waits for a free port: of {all} ({}-{}), {own} are held by workers, old ones that still \
                     finish included; the others are used by other programs",
                    ports.first,
                    ports.last
                );
            }
        }
        self.drain_inputs();
    }
}

/// Nobody listens there: tried by binding as servers do, with SO_REUSEADDR, so that connections that have just been
/// closed (TIME_WAIT) do not matter. The socket is closed before the worker is born; who takes the port in that moment
/// makes the worker fail, and its successor gets another one.
fn is_free(port: u16) -> bool {
    // `[::]` clashes with IPv4 as well as with IPv6; without IPv6, IPv4 is all there is.
    let tried = match bind_to((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => bind_to((Ipv4Addr::UNSPECIFIED, port).into()),
        other => other,
    };
    // EACCES, EMFILE …: they say nothing about who uses it.
    tried != Err(Errno::EADDRINUSE)
}

fn bind_to(address: SocketAddr) -> nix::Result<()> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
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
    fn whoever_listens_holds_its_port() {
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
    fn the_port_that_was_left_last_is_given_last() {
        // A range of which nobody else uses anything.
        let free = |first: u16| (first..first + 3).all(is_free);
        let first = (20_000..30_000).step_by(7).find(|first| free(*first)).unwrap();
        let (pool, ports) = (PoolId(1), Ports { first, last: first + 2 });
        let mut book = PortAllocator::default();
        let take = |book: &mut PortAllocator, n: u64| book.take(WorkerId(n), pool, ports);
        assert_eq!([1, 2].map(|n| take(&mut book, n)), [Some(first), Some(first + 1)]);
        book.of.remove(&WorkerId(1));
        book.held.remove(&first);
        assert_eq!(take(&mut book, 3), Some(first + 2));
        assert_eq!(take(&mut book, 4), Some(first));
        assert_eq!(take(&mut book, 5), None);
        let stranger = TcpListener::bind(("127.0.0.1", first + 1));
        book.of.remove(&WorkerId(2));
        book.held.remove(&(first + 1));
        assert!(stranger.is_ok());
        assert_eq!(take(&mut book, 6), None, "a stranger has it");
    }
}
