//! The meters themselves: a load client that overlooks a lost request would make every other test worthless.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use support::{Load, until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1 2 3";

/// A server that treats its n-th connection so; it ends with the test.
fn server(treat: impl Fn(usize, TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            treat(number, stream.expect("a connection"));
        }
    });
    address
}

fn request(stream: &mut TcpStream) -> usize {
    stream.read(&mut [0; 4096]).unwrap_or(0)
}

/// Asks until something was lost; what it was.
fn loss(keep: bool, treat: impl Fn(usize, TcpStream) + Send + 'static) -> String {
    let load = Load::on(&server(treat), usize::from(!keep), usize::from(keep));
    until("a loss", 10, || load.so_far().lost.keys().next().cloned())
}

#[test]
fn every_kind_of_loss_is_counted() {
    let every_third = |number: usize| number % 3 == 2;
    let closed = loss(false, move |number, mut stream| {
        request(&mut stream);
        if !every_third(number) {
            stream.write_all(OK.as_bytes()).expect("an answer");
        }
    });
    assert_eq!(closed, "closed before any byte of the answer");
    let half = loss(false, move |number, mut stream| {
        request(&mut stream);
        let end = if every_third(number) {
            OK.len() - 2
        } else {
            OK.len()
        };
        stream.write_all(&OK.as_bytes()[..end]).expect("an answer");
    });
    assert_eq!(half, "closed within the answer");
    let busy = loss(false, |_, mut stream| {
        request(&mut stream);
        stream
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            .expect("an answer");
    });
    assert!(busy.starts_with("answered \"http/1.1 503"), "{busy}");
    let kept = loss(true, |_, mut stream| {
        request(&mut stream);
        stream.write_all(OK.as_bytes()).expect("an answer");
        request(&mut stream); // the second request of the connection is read and dropped
    });
    assert_eq!(kept, "closed before any byte of the answer");
}

#[test]
fn a_refused_connection_is_a_loss() {
    let load = Load::on(&format!("127.0.0.1:{}", support::free_port()), 1, 0);
    let reason = until("a loss", 10, || load.so_far().lost.keys().next().cloned());
    assert!(reason.starts_with("connect"), "{reason}");
}

/// Closed while idle, or closed as the answer had announced: opened again, nothing lost.
#[test]
fn a_connection_that_ends_between_requests_is_no_loss() {
    let idle = server(|_, mut stream| {
        request(&mut stream);
        stream.write_all(OK.as_bytes()).expect("an answer");
    });
    let load = Load::of(&idle, "/", 0, 2, Duration::from_millis(30));
    load.await_more(20);
    load.stop().assert_nothing_lost(20);
    let announced = server(|_, mut stream| {
        request(&mut stream);
        stream
            .write_all(
                OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .expect("an answer");
    });
    let load = Load::on(&announced, 0, 2);
    load.await_more(200);
    load.stop().assert_nothing_lost(200);
}

/// A measurement runs alone: no other process of the user gets the lock meanwhile, and the next one does.
#[test]
fn tests_that_measure_lock_across_processes() {
    use support::{ALONE, open_lock_file};
    let alone = support::alone();
    let another = open_lock_file(ALONE);
    assert!(matches!(
        another.try_lock(),
        Err(std::fs::TryLockError::WouldBlock)
    ));
    drop(alone);
    // Another checkout's test may be first.
    until("the lock", 600, || another.try_lock().ok());
}
