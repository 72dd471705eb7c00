//! Asks one worker for its page of metrics.

use super::super::stalls::Socket;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Duration, timeout};

/// How long a worker may take.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// The longest page, in bytes.
const MAX_PAGE: usize = 4 << 20;
/// The formats that are read; the older one is what every library prints.
const FORMATS: &str =
    "text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.5";

/// The page at an address: `http://HOST:PORT/PATH` or `unix:PATH`, where it is `/metrics`.
///
/// # Errors
/// Why there is none, for people.
pub(super) async fn page(address: &str) -> Result<String, String> {
    match timeout(ANSWER_TIME, fetch(address)).await {
        Ok(page) => page,
        Err(_) => Err(format!("no answer within {ANSWER_TIME:?}")),
    }
}

async fn fetch(address: &str) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let (socket, host, path): (Box<dyn Socket>, &str, &str) =
        if let Some(path) = address.strip_prefix("unix:") {
            let socket = UnixStream::connect(path).await.map_err(text)?;
            (Box::new(socket), "localhost", "/metrics")
        } else {
            let rest = address.strip_prefix("http://").ok_or("no address")?;
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            // Names are not looked up.
            let place = match host.strip_prefix("localhost:") {
                Some(port) => format!("127.0.0.1:{port}"),
                None => host.to_owned(),
            };
            let place: std::net::SocketAddr = place.parse().map_err(|_| "no address")?;
            let socket = TcpStream::connect(place).await.map_err(text)?;
            (Box::new(socket), host, path)
        };
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(text)?;
    let request = Request::get(path)
        .header(HOST, host)
        .header(ACCEPT, FORMATS)
        .header(CONNECTION, "close")
        .header(USER_AGENT, concat!("rotad/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(text)?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_PAGE).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        String::from_utf8(body.into()).map_err(|_| "its page is not UTF-8".to_owned())
    };
    tokio::pin!(answer);
    tokio::select! {
        page = &mut answer => page,
        // The connection's end comes with its last bytes.
        _ = connection => answer.await,
    }
}
