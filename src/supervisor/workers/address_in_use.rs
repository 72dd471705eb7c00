//! What to do about a worker that found its address in use: who has it, as far as its output and its pool tell.
//! `process_table.rs` asks for each exit report of a worker that was never ready.

use crate::plan::{Address, ListenPlan};
use crate::supervisor::pool_registry::PoolSpec;
use std::net::SocketAddr;

/// EADDRINUSE, as programs print it.
const IN_USE: [&str; 4] = [
    "EADDRINUSE",
    "ddress already in use",
    "ddress in use",
    // gunicorn.
    "onnection in use",
];

/// A hint, if the last lines say that an address is in use.
pub(super) fn hint(spec: &PoolSpec, lines: &[String]) -> Option<String> {
    let of_rotad = "the program has to take the socket that rotad passes to it (Node does with `--require \
                    {preload:node}`)";
    let of_its_own = match spec.plan.ports {
        Some(_) => {
            "the pool's workers have ports of their own: the program has to listen on `{port}`, its worker's"
        }
        None => {
            "the program opens it itself, and another worker of the pool may have it: give each worker a port by \
             `ports`, or run one and set `surge = 0` in `reload`. Else another process has it (`ss -ltnp`)"
        }
    };
    let line = lines
        .iter()
        .find(|line| IN_USE.iter().any(|word| line.contains(word)))?;
    if let Some(own) = spec.sockets.iter().find(|own| names(line, own)) {
        return Some(format!(
            "{} is the pool's `listen`, which rotad has open: {of_rotad}",
            own.name
        ));
    }
    let listen: Vec<&str> = spec.sockets.iter().map(|own| own.name.as_str()).collect();
    Some(match listen.as_slice() {
        [] => format!("its address is in use: {of_its_own}"),
        _ if names_a_port(line) => {
            format!("its address is in use, and is not the pool's `listen`: {of_its_own}")
        }
        listen => format!(
            "its address is in use. If it is the pool's `listen` ({}), rotad has it open: {of_rotad}. If not, {of_its_own}",
            listen.join(", ")
        ),
    })
}

/// The line names this socket's port or path.
fn names(line: &str, socket: &ListenPlan) -> bool {
    match &socket.address {
        Address::Tcp(address) => ports(line).any(|port| port == address.port()),
        Address::Unix(path) => line.contains(&*path.to_string_lossy()),
    }
}

fn names_a_port(line: &str) -> bool {
    ports(line).next().is_some()
}

/// The ports that a line names: behind the colon of an address, or in a tuple of Python's (`('127.0.0.1', 8000)`).
fn ports(line: &str) -> impl Iterator<Item = u16> {
    let words = line.split(|c: char| c.is_whitespace() || "'\"[]()<>,;".contains(c));
    let python = line
        .split("', ")
        .skip(1)
        .filter_map(|rest| rest.split(')').next()?.parse().ok());
    words.filter_map(port).chain(python)
}

fn port(word: &str) -> Option<u16> {
    let word = word.trim_end_matches([':', '.']);
    let word = word.rsplit_once("//").map_or(word, |(_, address)| address);
    if let Ok(address) = word.parse::<SocketAddr>() {
        return Some(address.port());
    }
    let (host, port) = word.rsplit_once(':')?;
    // Not the seconds of a time.
    let is_host = host.is_empty() || host.starts_with(':') || host.contains('.');
    is_host.then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_and_times_are_none() {
        for (line, expected) in [
            (
                "Error: listen EADDRINUSE: address already in use :::3000",
                Some(3000),
            ),
            (
                "listen EADDRINUSE: address already in use 127.0.0.1:3000",
                Some(3000),
            ),
            ("[ERROR] Connection in use: ('127.0.0.1', 8000)", Some(8000)),
            (
                "bind on address ('127.0.0.1', 8000): address already in use",
                Some(8000),
            ),
            (
                "nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)",
                Some(80),
            ),
            (
                "Address already in use - bind(2) for \"[::1]:9292\" port 9292",
                Some(9292),
            ),
            ("listen tcp :8080: bind: address already in use", Some(8080)),
            ("tcp://0.0.0.0:3000 (Errno::EADDRINUSE)", Some(3000)),
            (
                "2026-11-27 22:01:55 OSError: [Errno 98] Address already in use",
                None,
            ),
        ] {
            let found: Vec<u16> = ports(line).collect();
            assert_eq!(found.last().copied(), expected, "{line}: {found:?}");
        }
    }
}
