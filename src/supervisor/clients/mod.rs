//! Clients of the control socket, and everything that waits for the outcome of a request.

pub(crate) mod control;
pub(crate) mod launch;
pub(crate) mod log_clients;
pub(crate) mod outcome_text;
pub(crate) mod replies;
pub(crate) mod requests;
pub(crate) mod status;
pub(crate) mod tickets;

use crate::control::server::Server;
use launch::StartWatch;
use log_clients::LogClients;
use status::PendingStatuses;
use tickets::Tickets;

pub(crate) struct Clients {
    pub(crate) server: Server,
    pub(crate) statuses: PendingStatuses,
    pub(crate) log_clients: LogClients,
    pub(crate) tickets: Tickets,
    pub(crate) start_watch: StartWatch,
    /// Clients that wait for the master to stop.
    pub(crate) stop_clients: Vec<u64>,
}
