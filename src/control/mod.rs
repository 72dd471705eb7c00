//! The control socket: the protocol, and the master's end of it. Requests and responses are one JSON object on each
//! line.

pub mod pool_names;
pub mod protocol;
pub mod server;
