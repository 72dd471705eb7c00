//! The control socket: questions and answers, one JSON object a line.

pub mod server;
pub mod wire;
