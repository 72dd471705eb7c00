//! The control socket: questions and answers, one JSON object a line.

pub mod client;
pub mod wire;
