//! `rotad serve`: a page, probes and streams over HTTP, for this machine (docs/serve.md). One thread serves all clients;
//! what waits for the master does so on threads of its own.

mod access;
mod actions;
mod answer;
mod connections;
mod feed;
mod history;
mod link;
mod listening;
mod logs;
mod pss;
mod routes;
mod stalls;
mod statuses;
mod worker_metrics;

use access::Access;
use actions::Actions;
use connections::Tracker;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use link::Link;
use listening::{Listening, Place, Sockets};
use pss::Pss;
use rotad::cli::console::Serve;
use rotad::cli::master_paths;
use rotad::exit_code::ExitCode;
use rotad::listener::InheritedFds;
use rotad::observe::print;
use rotad::sys::signal;
use routes::Routes;
use stalls::{Socket, Stalls};
use statuses::Statuses;
use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::rc::Rc;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal as on_signal};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Duration, timeout};
use worker_metrics::WorkerMetrics;

/// How long a client may take to send the head of a request, or to send the next one.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// The longest head, in bytes; hyper reads no less than 8 KiB.
const MAX_HEAD: usize = 16 << 10;
/// Lines of a head.
const MAX_HEADERS: usize = 64;
/// How long answers that are under way may take at the end.
const END_TIME: Duration = Duration::from_millis(500);

/// Serves until TERM or INT.
pub(crate) fn serve(file: Option<&Path>, args: &Serve, inherited: InheritedFds) -> ExitCode {
    signal::ignore(&signal::MEANT_FOR_A_MASTER);
    let paths = match master_paths(file) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let place = match Place::parse(&args.listen) {
        Ok(place) => place,
        Err(why) => {
            print::error(&why);
            return ExitCode::USAGE;
        }
    };
    let token = match token(args) {
        Ok(token) => token,
        Err((code, why)) => {
            print::error(&why);
            return code;
        }
    };
    let mut listening = match Listening::open(&place, inherited) {
        Ok(listening) => listening,
        Err(why) => {
            print::error(&why);
            return ExitCode::FAILED;
        }
    };
    let access = Access::new(&args.hosts, listening.ip(), token.clone());
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // Requests to the master wait on these.
        .thread_stack_size(512 << 10)
        .build();
    let served = runtime.and_then(|runtime| {
        let link = Link::start(paths)?;
        let local = LocalSet::new();
        let shown = token.filter(|_| args.token_file.is_none());
        local.block_on(&runtime, async {
            let statuses = Statuses::new(link.clone());
            let routes = Rc::new(Routes {
                access,
                worker_metrics: WorkerMetrics::new(link.clone()),
                pss: args.pss.then(Pss::default),
                link,
                statuses,
                connections: Rc::default(),
                readers: Rc::default(),
                actions: Rc::new(Actions::default()),
            });
            announce(&listening, shown.as_deref());
            run(&listening, &routes).await
        })?;
        // A request to a master that hangs is not waited for.
        runtime.shutdown_background();
        Ok(())
    });
    listening.close();
    match served {
        Ok(()) => ExitCode::DONE,
        Err(error) => {
            print::error(&format!("cannot serve: {error}"));
            ExitCode::FAILED
        }
    }
}

/// The token that actions need; None: there are none.
fn token(args: &Serve) -> Result<Option<String>, (ExitCode, String)> {
    match (&args.token_file, args.allow_actions) {
        (None, false) => Ok(None),
        (Some(_), false) => Err((
            ExitCode::USAGE,
            "--token-file without --allow-actions has no effect".to_owned(),
        )),
        (Some(path), true) => access::token_of(path)
            .map(Some)
            .map_err(|why| (ExitCode::FAILED, why)),
        (None, true) => access::new_token().map(Some).map_err(|error| {
            let why = format!("/dev/urandom cannot be read: {error}");
            (ExitCode::FAILED, why)
        }),
    }
}

/// Says where it serves.
fn announce(listening: &Listening, token: Option<&str>) {
    let link = token.map_or_else(String::new, |token| format!("#token={token}"));
    print::plain_error(&format!("rotad serves {}{link}", listening.url()));
    if !listening.is_local() {
        print::warning(
            "other machines may reach this address, and HTTP is not encrypted: a proxy with TLS and a password belongs in \
             front",
        );
    }
}

async fn run(listening: &Listening, routes: &Rc<Routes>) -> io::Result<()> {
    let sockets = listening.sockets()?;
    let mut terminate = on_signal(SignalKind::terminate())?;
    let mut interrupt = on_signal(SignalKind::interrupt())?;
    // A closed window ends what it shows.
    let mut hang_up = match io::stderr().is_terminal() {
        true => Some(on_signal(SignalKind::hangup())?),
        false => None,
    };
    let hung_up = async {
        match &mut hang_up {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        }
    };
    spawn_local(Rc::clone(&routes.statuses).keep_current());
    spawn_local(Rc::clone(&routes.worker_metrics).follow());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hung_up => {}
        () = accept(&sockets, routes) => {}
    }
    drop(sockets);
    timeout(END_TIME, routes.connections.answered()).await.ok();
    routes.worker_metrics.save();
    Ok(())
}

/// Takes connections for ever.
async fn accept(sockets: &Sockets, routes: &Rc<Routes>) {
    loop {
        let socket = sockets.accept().await;
        // Closed: the client sees that it is refused.
        if !routes.connections.make_room() {
            continue;
        }
        let id = routes.connections.next_id();
        let task = spawn_local(answer_all(socket, id, Rc::clone(routes)));
        routes.connections.add(id, task.abort_handle());
    }
}

/// Answers the requests of one connection.
async fn answer_all(socket: Box<dyn Socket>, id: u64, routes: Rc<Routes>) {
    let answering = Rc::clone(&routes);
    let service = service_fn(move |request| {
        let routes = Rc::clone(&answering);
        async move {
            let tracker = Tracker::begin(&routes.connections, id);
            let mut answer = routes.answer(request).await;
            if answer.body().is_stream() {
                tracker.streams();
            }
            answer.body_mut().tracker = Some(tracker);
            Ok::<_, Infallible>(answer)
        }
    });
    // What a client does wrong is its own affair: nothing is said.
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Stalls::new(socket)), service)
        .await
        .ok();
    routes.connections.remove(id);
}
