//! Which path gives what.

use super::access::{self, Access};
use super::actions::{self, Actions};
use super::answer::{self, Answer, set};
use super::connections::Connections;
use super::feed;
use super::link::{self, Link};
use super::logs::{self, Readers, Wanted};
use super::pss::Pss;
use super::statuses::Statuses;
use super::worker_metrics::WorkerMetrics;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_SECURITY_POLICY, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use rotad::cli::below_strength;
use rotad::exit_code::ExitCode;
use rotad::observe::metrics::{Format, Page, families};
use rotad::observe::sanitize::sanitize_json;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::{Duration, timeout};

/// The page. `@NONCE@` and `@ACTIONS@` are replaced at each answer.
const PAGE: &str = include_str!("../page/index.html");
/// The longest body of a request, in bytes.
const MAX_BODY: usize = 16 << 10;
/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(5);
/// Events that /api/events gives if nothing else is said.
const EVENTS: usize = 200;
/// Lines that /api/logs begins with if nothing else is said.
const LINES: u32 = 100;

/// What answers are made from.
pub(crate) struct Routes {
    pub(crate) access: Access,
    pub(crate) link: Arc<Link>,
    pub(crate) statuses: Rc<Statuses>,
    pub(crate) worker_metrics: Rc<WorkerMetrics>,
    /// None: it was not asked for.
    pub(crate) pss: Option<Pss>,
    pub(crate) connections: Rc<Connections>,
    pub(crate) readers: Rc<Readers>,
    pub(crate) actions: Rc<Actions>,
}

impl Routes {
    /// Answers a request.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Err((status, why)) = self.access.check(request.uri(), request.headers()) {
            return answer::text(status, why);
        }
        let path = request.uri().path().to_owned();
        let verb = path
            .strip_prefix("/api/")
            .filter(|verb| actions::is_action(verb));
        match (request.method(), verb) {
            (&Method::POST, Some(verb)) => self.act(verb, request).await,
            (&Method::GET | &Method::HEAD, None) => self.show(&path, request).await,
            (_, Some(_)) => not_allowed("POST"),
            (_, None) if is_shown(&path) => not_allowed("GET, HEAD"),
            (_, None) => not_found(),
        }
    }

    async fn act(&self, verb: &str, request: Request<Incoming>) -> Answer {
        let refused = |status, why| {
            let (status, json) = actions::refused(status, ExitCode::NOT_PERMITTED, why);
            answer::json(status, json)
        };
        if let Err((status, why)) = self.access.check_action(request.headers()) {
            return refused(status, why);
        }
        let body = timeout(BODY_TIME, Limited::new(request, MAX_BODY).collect()).await;
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => {
                let why = format!("the body is broken or longer than {MAX_BODY} bytes");
                return refused(StatusCode::BAD_REQUEST, why);
            }
            Err(_) => {
                let why = format!("the body took longer than {BODY_TIME:?}");
                return refused(StatusCode::REQUEST_TIMEOUT, why);
            }
        };
        let (status, json) = actions::act(&self.actions, &self.link, verb, &body).await;
        answer::json(status, json)
    }

    async fn show(&self, path: &str, request: Request<Incoming>) -> Answer {
        let query = Query(request.uri().query().unwrap_or_default());
        let is_head = request.method() == Method::HEAD;
        match path {
            "/" => {
                self.statuses.look();
                page(self.access.allows_actions())
            }
            "/healthz" => match self.statuses.current().await {
                Ok(_) => answer::text(StatusCode::OK, "ok"),
                Err(why) => answer::text(StatusCode::SERVICE_UNAVAILABLE, &*why),
            },
            "/readyz" => self.readyz().await,
            "/metrics" => self.metrics(request.headers()).await,
            "/api/status" => {
                self.statuses.look();
                match self.statuses.current().await {
                    Ok(seen) => answer::json(StatusCode::OK, seen.json.clone()),
                    Err(why) => no_master(&why),
                }
            }
            "/api/events" => {
                self.statuses.look();
                let most = query.number("last").unwrap_or(EVENTS as u64);
                let events = self.link.latest(most as usize);
                // Numbers and strings alone: this cannot fail.
                let json = serde_json::to_string(&events).unwrap_or_default();
                answer::json(StatusCode::OK, sanitize_json(&json))
            }
            "/api/history" => {
                self.statuses.look();
                answer::json(StatusCode::OK, self.statuses.history_json())
            }
            // They would be begun for nothing.
            "/events" | "/api/logs" if is_head => answer::text(StatusCode::OK, ""),
            "/events" | "/api/logs" if !self.connections.has_stream_left() => answer::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many clients already follow",
            ),
            "/events" => {
                let named = request.headers().get("last-event-id");
                let named = named.and_then(|id| id.to_str().ok()?.parse().ok());
                let after = named.or_else(|| query.number("after"));
                answer::stream(feed::feed(&self.link, &self.statuses, after))
            }
            "/api/logs" => self.logs(&query),
            _ => not_found(),
        }
    }

    async fn readyz(&self) -> Answer {
        match self.statuses.current().await {
            Err(why) => answer::text(StatusCode::SERVICE_UNAVAILABLE, &*why),
            Ok(seen) => {
                let reasons = below_strength(&seen.status);
                if reasons.is_empty() {
                    return answer::text(StatusCode::OK, "ok");
                }
                answer::text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n"))
            }
        }
    }

    async fn metrics(&self, headers: &HeaderMap) -> Answer {
        let format = match wants_openmetrics(headers) {
            true => Format::OpenMetrics,
            false => Format::Text,
        };
        let link = Arc::clone(&self.link);
        let asked = tokio::task::spawn_blocking(move || link::metrics(link.paths())).await;
        let measured = match (asked, &self.pss) {
            (Ok(Ok(metrics)), Some(pss)) => pss.add_to(metrics).await.map(Ok),
            (asked, _) => asked,
        };
        let metrics = match measured {
            Ok(Ok(metrics)) => metrics,
            Ok(Err(why)) => return answer::text(StatusCode::SERVICE_UNAVAILABLE, why),
            Err(error) => {
                return answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
            }
        };
        let workers = self.worker_metrics.page(format).await;
        let mut page = Page::new(format);
        families(&metrics, &mut page);
        page.append(&workers);
        answer::metrics(format, page.finish())
    }

    fn logs(&self, query: &Query<'_>) -> Answer {
        let slot = query.number("slot").map(u32::try_from);
        let wanted = Wanted {
            pool: query.text("pool"),
            slot: slot.and_then(Result::ok),
            lines: query
                .number("lines")
                .map_or(LINES, |lines| u32::try_from(lines).unwrap_or(u32::MAX)),
        };
        if wanted.slot.is_some() && wanted.pool.is_none() {
            return answer::text(StatusCode::BAD_REQUEST, "a slot needs its `pool`");
        }
        match logs::read(&self.readers, &self.link, wanted) {
            Ok(lines) => answer::stream(lines),
            Err(why) => answer::text(StatusCode::SERVICE_UNAVAILABLE, why),
        }
    }
}

/// Whether the client prefers OpenMetrics to the older text: as Prometheus does, unless it is told otherwise.
fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter();
    let kinds: Vec<&str> = accept
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let weight = |kind: &str| {
        let named = |part: &&str| part.split(';').next().map(str::trim) == Some(kind);
        let weights = kinds.iter().filter(|part| named(part)).map(|part| {
            let mut parameters = part.split(';').map(str::trim);
            let weight = parameters.find_map(|parameter| parameter.strip_prefix("q="));
            weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0))
        });
        weights.fold(0.0, f64::max)
    };
    let openmetrics = weight("application/openmetrics-text");
    openmetrics > 0.0 && openmetrics >= weight("text/plain")
}

fn is_shown(path: &str) -> bool {
    matches!(
        path,
        "/" | "/healthz"
            | "/readyz"
            | "/metrics"
            | "/events"
            | "/api/status"
            | "/api/events"
            | "/api/history"
            | "/api/logs"
    )
}

fn not_found() -> Answer {
    answer::text(
        StatusCode::NOT_FOUND,
        "there is nothing here; `/` is a page, and docs/serve.md lists the rest",
    )
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = answer::text(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("only {methods} is answered here"),
    );
    set(&mut answer, "allow", methods);
    answer
}

fn no_master(why: &str) -> Answer {
    let json = serde_json::json!({ "error": why }).to_string();
    answer::json(StatusCode::SERVICE_UNAVAILABLE, sanitize_json(&json))
}

/// The page: what stands in it runs, and nothing else does.
fn page(allows_actions: bool) -> Answer {
    let Ok(random) = access::random::<16>() else {
        return answer::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "/dev/urandom cannot be read",
        );
    };
    let nonce: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let actions = if allows_actions { "yes" } else { "no" };
    let mut answer = answer::html(
        PAGE.replace("@NONCE@", &nonce)
            .replace("@ACTIONS@", actions),
    );
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

/// The part of an address behind `?`.
struct Query<'a>(&'a str);

impl Query<'_> {
    /// The decoded value of a key.
    fn text(&self, key: &str) -> Option<String> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs
            .filter(|(name, _)| *name == key)
            .map(|(_, value)| value)
            .next()?;
        Some(decoded(value)).filter(|value| !value.is_empty())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }
}

/// Without percent signs (<https://url.spec.whatwg.org/#concept-urlencoded-parser>).
fn decoded(value: &str) -> String {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut rest = bytes.clone();
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => {
                        out.push((high * 16 + low) as u8);
                        bytes = rest;
                    }
                    _ => out.push(b'%'),
                }
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_is_preferred() {
        let wants = |accept: &str| {
            wants_openmetrics(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]))
        };
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert!(wants(prometheus) && wants("application/openmetrics-text; version=1.0.0"));
        let text = "text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.3";
        assert!(!wants(text) && !wants("*/*") && !wants("") && !wants("text/html"));
        assert!(!wants("application/openmetrics-text;q=0"));
        assert!(!wants_openmetrics(&HeaderMap::new()));
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query("pool=web%2Dapi+1&slot=2&empty=&bad=%zz%4");
        assert_eq!(query.text("pool").as_deref(), Some("web-api 1"));
        assert_eq!(query.number("slot"), Some(2));
        assert_eq!(query.text("empty"), None);
        assert_eq!(query.text("bad").as_deref(), Some("%zz%4"));
        assert_eq!(query.text("slo"), None);
    }
}
