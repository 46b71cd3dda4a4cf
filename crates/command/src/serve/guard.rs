//! Who may change something through the page: the requests of the page itself, and with a token only those that have it. Pure.
//!
//! A page of another host could send requests in the name of the person at this browser. Each of these keeps it out: a header that
//! no form can set and that a browser sends to another host only after that host allowed it, which this server never does; the
//! origin that the browser names; and, without a token, a host name that stands for this machine, since another name may be made to
//! lead here.

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};

/// The header that the page sends with each change.
pub(crate) const CHANGE_HEADER: &str = "x-fleet-change";

/// The header in which browsers say where a request comes from.
const FETCH_SITE: &str = "sec-fetch-site";

/// The shortest token, in bytes.
pub(crate) const MIN_TOKEN_BYTES: usize = 16;

/// Which requests may change something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Guard {
    /// No request.
    Closed,
    /// The page, on an address of this machine alone.
    Loopback,
    /// Requests with this token.
    Token(String),
}

impl Guard {
    /// Whether any request may.
    pub(crate) fn is_open(&self) -> bool {
        *self != Self::Closed
    }

    /// Whether a token is needed.
    pub(crate) fn needs_token(&self) -> bool {
        matches!(self, Self::Token(_))
    }

    /// Checks a request for a change.
    ///
    /// # Errors
    /// Why it is refused, and the remedy.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if *self == Self::Closed {
            return Err("this server only watches; start it with --allow-changes");
        }
        let is_json = text(CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with("application/json"));
        if !is_json || text(CHANGE_HEADER) != Some("1") {
            return Err("a change needs the content type application/json and the header x-fleet-change: 1");
        }
        if text(FETCH_SITE).is_some_and(|site| site != "same-origin") {
            return Err("a page of another host asked for the change; use the page of this server");
        }
        let Some(host) = text(HOST.as_str()) else { return Err("the request names no host") };
        let is_own = |origin: &str| {
            let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            own == Some(host)
        };
        if headers.contains_key(ORIGIN) && !text(ORIGIN.as_str()).is_some_and(is_own) {
            return Err("a page of another host asked for the change; use the page of this server");
        }
        match self {
            Self::Token(token) => {
                let given = text(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
                match given {
                    Some(given) if is_same(given.as_bytes(), token.as_bytes()) => Ok(()),
                    _ => Err("the token is missing or wrong"),
                }
            }
            _ if is_loopback(host) => Ok(()),
            _ => Err("without a token, changes are made at http://127.0.0.1 or http://localhost alone"),
        }
    }
}

/// Whether a host, perhaps with a port, is a name of this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_address = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    is_address || name.eq_ignore_ascii_case("localhost")
}

/// Compares in a time that does not depend on where the first difference is.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |difference, (one, other)| difference | (one ^ other));
    one.len() == other.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(changes: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let usual = [
            ("host", "127.0.0.1:9464"),
            ("content-type", "application/json"),
            (CHANGE_HEADER, "1"),
            ("origin", "http://127.0.0.1:9464"),
            (FETCH_SITE, "same-origin"),
        ];
        for (name, value) in usual.iter().chain(changes) {
            let name = HeaderName::from_static(name);
            match *value {
                "" => drop(headers.remove(name)),
                value => drop(headers.insert(name, HeaderValue::from_str(value).unwrap())),
            }
        }
        headers
    }

    #[test]
    fn only_the_own_page_changes_something() {
        let check = |changes: &[(&'static str, &str)]| Guard::Loopback.check(&headers(changes));
        check(&[]).unwrap();
        // A program without a browser.
        check(&[("origin", ""), (FETCH_SITE, "")]).unwrap();
        for (host, origin) in
            [("localhost:9464", "http://localhost:9464"), ("[::1]:9464", "http://[::1]:9464")]
        {
            check(&[("host", host), ("origin", origin)]).unwrap();
        }
        for changes in [
            [("origin", "http://evil.example"), (FETCH_SITE, "")],
            [("origin", "null"), (FETCH_SITE, "")],
            [("origin", "http://127.0.0.1:80"), (FETCH_SITE, "")],
            [("origin", ""), (FETCH_SITE, "cross-site")],
            [("origin", ""), (FETCH_SITE, "same-site")],
            [("origin", ""), (CHANGE_HEADER, "")],
            [("origin", ""), ("content-type", "text/plain")],
            [("origin", ""), ("host", "")],
            // A name of another host that leads to this machine.
            [("origin", "http://evil.example:9464"), ("host", "evil.example:9464")],
            [("origin", ""), ("host", "127.0.0.1.evil.example")],
        ] {
            assert!(check(&changes).is_err(), "{changes:?}");
        }
        assert!(Guard::Closed.check(&headers(&[])).unwrap_err().contains("--allow-changes"));
    }

    #[test]
    fn token_is_needed_where_there_is_one() {
        let guard = Guard::Token("0123456789abcdef".to_owned());
        let check = |authorization: &str| {
            let here = ("host", "fleet.example");
            guard.check(&headers(&[
                here,
                ("origin", "https://fleet.example"),
                ("authorization", authorization),
            ]))
        };
        check("Bearer 0123456789abcdef").unwrap();
        for wrong in
            ["", "Bearer ", "Bearer 0123456789abcdeg", "Bearer 0123456789abcdef0", "0123456789abcdef"]
        {
            assert!(check(wrong).is_err(), "{wrong}");
        }
        assert!(guard.check(&headers(&[])).is_err(), "also on this machine");
    }
}
