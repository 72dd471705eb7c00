//! Responses: their headers, and their bodies of known length or of unknown end.

use super::connections::Tracker;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use rotad::observe::metrics::Format;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// On every response: nothing is cached, framed, sniffed or told to other sites.
const HEADERS: [(&str, &str); 6] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "content-security-policy",
        "default-src 'none'; frame-ancestors 'none'",
    ),
];

/// The content of a response.
pub(crate) struct Content {
    kind: Kind,
    /// Tells the table of connections when the response is written.
    pub(crate) tracker: Option<Tracker>,
}

enum Kind {
    Whole(Bytes),
    Stream(mpsc::Receiver<Bytes>),
}

impl Content {
    /// Whether it has no end of its own.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.kind, Kind::Stream(_))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.kind {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Stream(receiver) => receiver
                .poll_recv(context)
                .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.kind, Kind::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

/// A response.
pub(crate) type Answer = Response<Content>;

fn with(status: StatusCode, content_type: &'static str, kind: Kind) -> Answer {
    let content = Content {
        kind,
        tracker: None,
    };
    let mut response = Response::new(content);
    *response.status_mut() = status;
    for (name, value) in HEADERS {
        set(&mut response, name, value);
    }
    set(&mut response, "content-type", content_type);
    response
}

/// Sets a header, in place of one of this name.
pub(crate) fn set(answer: &mut Answer, name: &'static str, value: &'static str) {
    answer.headers_mut().insert(
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    );
}

/// Text for people and probes.
pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    let mut text: String = text.into();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    with(
        status,
        "text/plain; charset=utf-8",
        Kind::Whole(text.into()),
    )
}

/// JSON.
pub(crate) fn json(status: StatusCode, json: impl Into<Bytes>) -> Answer {
    with(status, "application/json", Kind::Whole(json.into()))
}

/// A page of metrics.
pub(crate) fn metrics(format: Format, text: String) -> Answer {
    let kind = format.content_type();
    with(StatusCode::OK, kind, Kind::Whole(text.into()))
}

/// A page; its caller sets what it may do.
pub(crate) fn html(html: impl Into<Bytes>) -> Answer {
    with(
        StatusCode::OK,
        "text/html; charset=utf-8",
        Kind::Whole(html.into()),
    )
}

/// Server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
pub(crate) fn stream(events: mpsc::Receiver<Bytes>) -> Answer {
    let mut answer = with(StatusCode::OK, "text/event-stream", Kind::Stream(events));
    // nginx would collect them first.
    set(&mut answer, "x-accel-buffering", "no");
    answer
}

/// A server-sent event. Each line of the data stands in a field of its own.
pub(crate) fn event(name: &str, id: Option<u64>, data: &str) -> Bytes {
    let mut out = String::with_capacity(data.len() + name.len() + 32);
    out.push_str("event: ");
    out.push_str(name);
    out.push('\n');
    if let Some(id) = id {
        out.push_str(&format!("id: {id}\n"));
    }
    for line in data.split(['\n', '\r']) {
        out.push_str("data: ");
        out.push_str(line);
        out.push('\n');
    }
    out.push('\n');
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_form_whatever_its_data() {
        let text = event("event", Some(7), "{\"a\":1}\r\nid: 9");
        assert_eq!(
            text,
            "event: event\nid: 7\ndata: {\"a\":1}\ndata: \ndata: id: 9\n\n"
        );
    }
}
