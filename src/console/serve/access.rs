//! Who may ask: for which names requests are answered (DNS rebinding), from which pages they may come, and the token of
//! those that change something.

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{StatusCode, Uri};
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Names of this machine's loopback: another site's page cannot be told to be one of them.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// A token has so many random bytes.
const TOKEN_BYTES: usize = 24;
/// The shortest token of a file, in bytes.
const MIN_TOKEN: usize = 16;
/// The longest, in bytes.
const MAX_TOKEN: u64 = 4096;
/// How many letters of a name are repeated in a refusal.
const SHOWN: usize = 80;

/// Why a request is not answered: the status and the reason.
pub(crate) type Refusal = (StatusCode, String);

/// For which names requests are answered, and what those need that change something.
#[derive(Debug)]
pub(crate) struct Access {
    hosts: Vec<String>,
    /// None: nothing may be changed.
    token: Option<String>,
}

impl Access {
    /// Answers for the names of loopback, the address that is listened on, and these names.
    pub(crate) fn new(names: &[String], listens_on: Option<IpAddr>, token: Option<String>) -> Self {
        let loopback = LOOPBACK.iter().map(ToString::to_string);
        let own = listens_on
            .filter(|ip| !ip.is_unspecified())
            .map(|ip| ip.to_string());
        let hosts = loopback
            .chain(own)
            .chain(names.iter().map(|name| plain(name)))
            .collect();
        Self { hosts, token }
    }

    /// The name by which the client asks is one of ours, and the page that asks, if one does, is ours.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = authority(uri, headers)?;
        if !self.hosts.contains(&plain(&host)) {
            return Err((
                StatusCode::MISDIRECTED_REQUEST,
                format!(
                    "this is not {}: `rotad serve --host NAME` answers for more names than those of loopback",
                    shown(&host)
                ),
            ));
        }
        let foreign = |why: String| Err((StatusCode::FORBIDDEN, why));
        match header(headers, &ORIGIN) {
            None => {}
            Some(origin) if is_of(origin, &host) => {}
            Some(origin) => {
                return foreign(format!(
                    "a page of {} may not ask this server",
                    shown(origin)
                ));
            }
        }
        match header(headers, &HeaderName::from_static("sec-fetch-site")) {
            None | Some("same-origin" | "none") => Ok(()),
            Some(_) if is_navigation(headers) => Ok(()),
            Some(_) => foreign("a page of another site may not ask this server".to_owned()),
        }
    }

    /// Whether requests with the token may change something.
    pub(crate) fn allows_actions(&self) -> bool {
        self.token.is_some()
    }

    /// The request may change something.
    pub(crate) fn check_action(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let refused = |why: &str| Err((StatusCode::FORBIDDEN, why.to_owned()));
        let Some(token) = &self.token else {
            return refused("this server only shows: `rotad serve --allow-actions` may change");
        };
        let given = header(headers, &AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        match given {
            None => refused(
                "the token is missing: `Authorization: Bearer TOKEN`, as `rotad serve` has printed it or as --token-file has it",
            ),
            Some(given) if is_same(given.trim().as_bytes(), token.as_bytes()) => Ok(()),
            Some(_) => refused("the token is another one"),
        }
    }
}

/// A page that is opened by a link of another site, which cannot read it.
fn is_navigation(headers: &HeaderMap) -> bool {
    header(headers, &HeaderName::from_static("sec-fetch-mode")) == Some("navigate")
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    // What is no text is no name of ours.
    headers
        .get(name)
        .map(|value| value.to_str().unwrap_or("\u{fffd}"))
}

/// The name and port by which the client asks (RFC 9112, 3.2).
fn authority(uri: &Uri, headers: &HeaderMap) -> Result<String, Refusal> {
    let bad = |why: &str| Err((StatusCode::BAD_REQUEST, why.to_owned()));
    if headers.get_all(HOST).iter().count() > 1 {
        return bad("the request has more than one Host");
    }
    match (uri.authority(), header(headers, &HOST)) {
        (Some(authority), _) => Ok(authority.to_string()),
        (None, Some(host)) => Ok(host.to_owned()),
        (None, None) => bad("the request has no Host"),
    }
}

/// The name without its port, as names are compared.
fn plain(host: &str) -> String {
    let host = host.trim();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        // An IPv6 address without brackets has more than one colon.
        None if host.matches(':').count() > 1 => host,
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.parse::<IpAddr>().map_or(name, |ip| ip.to_string())
}

/// The page's origin is the host that is asked. A proxy may have taken TLS off, so the scheme is not compared.
fn is_of(origin: &str, host: &str) -> bool {
    let name = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    name.is_some_and(|name| name.eq_ignore_ascii_case(host.trim()))
}

fn shown(name: &str) -> String {
    let name: String = name.chars().take(SHOWN).collect();
    rotad::observe::sanitize::sanitize(name)
}

/// Compares in a time that depends on the lengths alone.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differs = given.iter().zip(token).fold(0, |differs, (one, other)| {
        black_box(differs | (one ^ other))
    });
    black_box(differs) == 0 && given.len() == token.len()
}

/// A token of random letters.
///
/// # Errors
/// Those of reading /dev/urandom.
pub(crate) fn new_token() -> io::Result<String> {
    let bytes = random::<TOKEN_BYTES>()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Random bytes (urandom(4)).
///
/// # Errors
/// Those of reading /dev/urandom.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The token of a file: its first line.
///
/// # Errors
/// For the user: it cannot be read, others can read it, or it is too short.
pub(crate) fn token_of(path: &Path) -> Result<String, String> {
    let cannot = |error: io::Error| format!("--token-file {}: {error}", path.display());
    let file = File::open(path).map_err(cannot)?;
    let mode = file.metadata().map_err(cannot)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(format!(
            "--token-file {}: all users of this machine may read it (mode {:04o}); `chmod 600` it",
            path.display(),
            mode & 0o7777
        ));
    }
    let mut text = String::new();
    file.take(MAX_TOKEN)
        .read_to_string(&mut text)
        .map_err(cannot)?;
    let token = text.lines().next().unwrap_or_default().trim().to_owned();
    let is_usable = token.len() >= MIN_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_usable {
        return Err(format!(
            "--token-file {}: its first line must be {MIN_TOKEN} or more letters without spaces, as `openssl rand -hex 24` \
             prints them",
            path.display()
        ));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn access() -> Access {
        let names = ["Shop.Example.com".to_owned()];
        let ip = "192.0.2.7".parse().ok();
        Access::new(&names, ip, Some("0123456789abcdef".into()))
    }

    fn status(uri: &str, pairs: &[(&'static str, &str)]) -> u16 {
        let uri: Uri = uri.parse().unwrap();
        let checked = access().check(&uri, &headers(pairs));
        checked.map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn only_known_names_are_answered() {
        for (host, code) in [
            ("localhost:9180", 200),
            ("127.0.0.1", 200),
            ("[::1]:9180", 200),
            ("[0:0:0:0:0:0:0:1]", 200),
            ("192.0.2.7:80", 200),
            ("shop.example.com.", 200),
            ("SHOP.example.com:443", 200),
            ("evil.example", 421),
            ("localhost.evil.example", 421),
            ("127.0.0.1.evil.example", 421),
            ("", 421),
            ("0.0.0.0", 421),
        ] {
            assert_eq!(status("/", &[("host", host)]), code, "{host}");
        }
        assert_eq!(status("/", &[]), 400);
        let two = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(status("/", &two), 400);
        let proxied = [("host", "localhost")];
        assert_eq!(status("http://evil.example/", &proxied), 421);
    }

    #[test]
    fn only_its_own_page_may_ask() {
        let with = |more: &[(&'static str, &str)]| {
            status("/", &[&[("host", "localhost:9180")], more].concat())
        };
        assert_eq!(with(&[("origin", "http://localhost:9180")]), 200);
        assert_eq!(with(&[("origin", "https://LOCALHOST:9180")]), 200);
        assert_eq!(with(&[("origin", "http://localhost:8000")]), 403);
        assert_eq!(with(&[("origin", "http://evil.example")]), 403);
        assert_eq!(with(&[("origin", "null")]), 403);
        assert_eq!(with(&[("sec-fetch-site", "cross-site")]), 403);
        assert_eq!(with(&[("sec-fetch-site", "same-origin")]), 200);
        let link = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ];
        assert_eq!(with(&link), 200);
    }

    #[test]
    fn actions_need_the_token() {
        let access = access();
        let allowed = |value: &str| access.check_action(&headers(&[("authorization", value)]));
        assert!(allowed("Bearer 0123456789abcdef").is_ok());
        for wrong in [
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeg",
            "Bearer 0123456789abcdef0",
            "Bearer ",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert!(allowed(wrong).is_err(), "{wrong}");
        }
        assert!(access.check_action(&HeaderMap::new()).is_err());
        let shows = Access::new(&[], None, None);
        let (status, why) = shows.check_action(&HeaderMap::new()).unwrap_err();
        assert!(status == 403 && why.contains("--allow-actions"), "{why}");
        assert_ne!(new_token().unwrap(), new_token().unwrap());
    }
}
