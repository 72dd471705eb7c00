//! Ports: assigns each worker of a pool with `ports` a port of its own. A spawn waits while none is free; that is no
//! failure: the time is added to the worker's ready timeout.
//!
//! The supervisor calls [`PortAllocator::assign`] before a spawn, [`PortAllocator::cancel`] when a worker is asked to
//! stop, and [`PortAllocator::release`] when its tree is gone.

use crate::observe::events::EventKind;
use crate::plan::Ports;
use crate::supervisor::action::Action;
use crate::supervisor::event_builder::EventBuilder;
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

/// A spawn that waits for a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortRequest {
    pub worker: WorkerId,
    pub pool: PoolId,
    pub ports: Ports,
    /// The ready timeout of its pool, which begins again with each wait.
    pub ready_timeout: Span,
}

impl PortRequest {
    /// Extends the ready timeout by the time spent waiting for a port.
    fn extend_timeout(&self) -> Action {
        Action::Input(Input::TimeoutExtended(self.worker, self.ready_timeout))
    }
}

#[derive(Debug)]
pub(crate) struct PortAllocator {
    held: BTreeMap<u16, WorkerId>,
    of: BTreeMap<WorkerId, u16>,
    /// Where the search begins: after the port assigned last, so that a port just released is reused as late as
    /// possible.
    next: BTreeMap<PoolId, u16>,
    /// Spawns that wait for a port, in the order of their commands.
    waiting: VecDeque<PortRequest>,
    retry_at: Option<Time>,
    /// Pools whose wait has been reported.
    reported: BTreeSet<PoolId>,
    /// Whether no program listens on a port.
    is_free: fn(u16) -> bool,
}

impl Default for PortAllocator {
    fn default() -> Self {
        Self::new(is_free)
    }
}

impl PortAllocator {
    fn new(is_free: fn(u16) -> bool) -> Self {
        Self {
            held: BTreeMap::new(),
            of: BTreeMap::new(),
            next: BTreeMap::new(),
            waiting: VecDeque::new(),
            retry_at: None,
            reported: BTreeSet::new(),
            is_free,
        }
    }

    /// When ports are tried again. None: no spawn waits.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.retry_at
    }

    /// The port of a worker. None: its spawn waits for an [`Action::Spawn`].
    pub(crate) fn assign(&mut self, request: PortRequest, now: Time) -> Option<u16> {
        // Those that wait have their turn first.
        let waits = self.waiting.iter().any(|other| other.pool == request.pool);
        let port = (!waits).then(|| self.allocate(&request)).flatten();
        if port.is_none() {
            self.waiting.push_back(request);
            self.retry_at.get_or_insert(now + RETRY_INTERVAL);
        }
        port
    }

    /// A worker of a dead master has this port.
    pub(crate) fn hold(&mut self, worker: WorkerId, port: u16) {
        self.held.insert(port, worker);
        self.of.insert(worker, port);
    }

    /// A worker's tree is gone, and with it whatever listened on its port.
    pub(crate) fn release(&mut self, worker: WorkerId) -> Vec<Action> {
        let Some(port) = self.of.remove(&worker) else {
            return Vec::new();
        };
        self.held.remove(&port);
        self.serve_waiting()
    }

    /// A worker is asked to stop: if it waits for a port, it is not spawned at all.
    pub(crate) fn cancel(&mut self, worker: WorkerId) -> Vec<Action> {
        let waits = |request: &PortRequest| request.worker == worker;
        let Some(at) = self.waiting.iter().position(waits) else {
            return Vec::new();
        };
        self.waiting.remove(at);
        let error = "none of its pool's `ports` became free".to_owned();
        let mut actions = vec![Action::FailSpawn { worker, error }];
        actions.extend(self.serve_waiting());
        actions
    }

    /// Tries the ports again, and extends the time of those that still wait. The wait of a pool is reported once, with
    /// the worker whose turn is next.
    pub(crate) fn run_due(&mut self, now: Time) -> Vec<Action> {
        self.retry_at = Some(now + RETRY_INTERVAL);
        let mut actions = self.serve_waiting();
        for request in &self.waiting {
            actions.push(request.extend_timeout());
            if self.reported.insert(request.pool) {
                actions.push(Action::Emit(self.exhausted(request)));
            }
        }
        actions
    }

    /// The event that no port is free for this worker.
    fn exhausted(&self, request: &PortRequest) -> EventBuilder {
        let Ports { first, last } = request.ports;
        let all = request.ports.count() as usize;
        let own = self.held.range(first..=last).count();
        let mut text = format!(
            "waits for a free port: of {all} ({first}-{last}), {own} are held by workers, old ones that still finish \
             included"
        );
        if own < all {
            let others = all - own;
            text.push_str(&format!(", and {others} are used by other programs"));
        }
        let of_pool = self.waiting.iter().filter(|of| of.pool == request.pool);
        let more = of_pool.count() - 1;
        if more > 0 {
            text.push_str(&format!("; {more} more wait as well"));
        }
        let event = EventBuilder::new(EventKind::PortsExhausted, text);
        event.worker(request.worker).warn()
    }

    /// Gives ports to the spawns that wait, in order, as far as there are any.
    fn serve_waiting(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut exhausted = BTreeSet::new();
        for request in std::mem::take(&mut self.waiting) {
            let free = (!exhausted.contains(&request.pool))
                .then(|| self.allocate(&request))
                .flatten();
            let Some(port) = free else {
                exhausted.insert(request.pool);
                self.waiting.push_back(request);
                continue;
            };
            let worker = request.worker;
            actions.push(request.extend_timeout());
            actions.push(Action::Spawn {
                worker,
                port: Some(port),
            });
        }
        if self.waiting.is_empty() {
            self.retry_at = None;
        }
        self.reported.retain(|pool| exhausted.contains(pool));
        actions
    }

    fn allocate(&mut self, request: &PortRequest) -> Option<u16> {
        let Ports { first, last } = request.ports;
        let start = self
            .next
            .get(&request.pool)
            .copied()
            .filter(|port| (first..=last).contains(port))
            .unwrap_or(first);
        let port = (start..=last)
            .chain(first..start)
            .find(|port| !self.held.contains_key(port) && (self.is_free)(*port))?;
        self.next
            .insert(request.pool, port.checked_add(1).unwrap_or(first));
        self.held.insert(port, request.worker);
        self.of.insert(request.worker, port);
        Some(port)
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

    fn request(worker: u64, pool: u32) -> PortRequest {
        PortRequest {
            worker: WorkerId(worker),
            pool: PoolId(pool),
            ports: Ports {
                first: 8000,
                last: 8002,
            },
            ready_timeout: Span::from_secs(10),
        }
    }

    /// The spawns and failures that follow, as text.
    fn show(actions: Vec<Action>) -> Vec<String> {
        let line = |action| match action {
            Action::Spawn {
                worker,
                port: Some(port),
            } => Some(format!("{worker} gets {port}")),
            Action::FailSpawn { worker, .. } => Some(format!("{worker} fails")),
            Action::Emit(event) => {
                let event = event.event();
                Some(format!("{}: {}", event.event.word(), event.text))
            }
            _ => None,
        };
        actions.into_iter().filter_map(line).collect()
    }

    #[test]
    fn a_released_port_is_reused_last() {
        let mut ports = PortAllocator::new(|port| port != 8001);
        let now = Time(0);
        assert_eq!(ports.assign(request(1, 1), now), Some(8000));
        assert_eq!(ports.release(WorkerId(1)).len(), 0);
        assert_eq!(ports.assign(request(2, 1), now), Some(8002));
        assert_eq!(ports.assign(request(3, 1), now), Some(8000));
        assert_eq!(ports.deadline(), None);
        assert_eq!(ports.assign(request(4, 1), now), None, "a stranger has it");
        assert_eq!(ports.deadline(), Some(now + RETRY_INTERVAL));
    }

    #[test]
    fn spawns_that_wait_have_their_turn_in_order() {
        let mut ports = PortAllocator::new(|_| true);
        let now = Time(0);
        for worker in 1..=3 {
            assert!(ports.assign(request(worker, 1), now).is_some());
        }
        for worker in 4..=6 {
            assert_eq!(ports.assign(request(worker, 1), now), None);
        }
        assert_eq!(show(ports.release(WorkerId(2))), ["4 gets 8001"]);
        assert_eq!(show(ports.cancel(WorkerId(5))), ["5 fails"]);
        assert_eq!(show(ports.cancel(WorkerId(5))), [""; 0], "once");
        assert_eq!(show(ports.release(WorkerId(9))), [""; 0], "it has none");
        let actions = ports.run_due(Time(1000));
        let extended = Input::TimeoutExtended(WorkerId(6), Span::from_secs(10));
        assert!(matches!(&actions[0], Action::Input(input) if *input == extended));
        let text = "ports-exhausted: waits for a free port: of 3 (8000-8002), 3 are held by workers, old ones that \
                    still finish included";
        assert_eq!(show(actions), [text]);
        assert_eq!(show(ports.run_due(Time(2000))), [""; 0], "said once");
        assert_eq!(show(ports.release(WorkerId(1))), ["6 gets 8000"]);
        assert_eq!(ports.deadline(), None, "nobody waits");
    }

    #[test]
    fn each_wait_of_a_pool_is_reported_once() {
        let mut ports = PortAllocator::new(|port| port == 8000);
        for worker in 1..=3 {
            ports.assign(request(worker, 1), Time(0));
        }
        let waits = |more: &str| {
            format!(
                "ports-exhausted: waits for a free port: of 3 (8000-8002), 1 are held by workers, old ones that still \
                 finish included, and 2 are used by other programs{more}"
            )
        };
        assert_eq!(
            show(ports.run_due(Time(1000))),
            [waits("; 1 more wait as well")]
        );
        assert_eq!(show(ports.release(WorkerId(1))), ["2 gets 8000"]);
        assert_eq!(show(ports.run_due(Time(2000))), [""; 0], "3 still waits");
        assert_eq!(show(ports.release(WorkerId(2))), ["3 gets 8000"]);
        assert_eq!(ports.assign(request(4, 1), Time(3000)), None);
        assert_eq!(show(ports.run_due(Time(4000))), [waits("")], "another wait");
    }
}
