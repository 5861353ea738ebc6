//! Keeps web pages from using a browser to reach a server that is meant for its own machine.
//!
//! There is no password on the loopback address, and a page from anywhere can make a browser there
//! send requests: directly, or under a name of its own that resolves to 127.0.0.1. Browsers say
//! where a request comes from (`Origin`) and which name they asked for (`Host`), so both are checked.
//! Programs send no `Origin`, and use the address that the server printed.

use http::{HeaderName, Request, header};

use crate::{ApiError, Subject};

/// Refuses requests that a foreign page had a browser send.
///
/// # Errors
/// [`ApiError::Forbidden`] naming the header.
pub(super) fn check<B>(request: &Request<B>, loopback: bool) -> Result<(), ApiError> {
    let value = |name: HeaderName| {
        let value = request.headers().get(name)?;
        Some(value.to_str().unwrap_or("?").to_owned())
    };
    // HTTP/2 has the host in the address itself.
    let host = value(header::HOST).or_else(|| request.uri().authority().map(|a| a.to_string()));
    let origin = value(header::ORIGIN);
    if let Some(host) = host.as_deref().filter(|host| loopback && !is_loopback(host)) {
        return refuse("Host", host);
    }
    let Some(origin) = origin else { return Ok(()) };
    let from = origin.split_once("://").map_or("", |(_, authority)| authority);
    let same = host.as_deref() == Some(from) || (loopback && is_loopback(from));
    if same { Ok(()) } else { refuse("Origin", &origin) }
}

fn refuse(header: &str, value: &str) -> Result<(), ApiError> {
    let why = format!(
        "header `{header}` is `{value}`, which is not this server; use localhost or 127.0.0.1"
    );
    let subject = Subject { resource: "requests".into(), ..Subject::default() };
    Err(ApiError::Forbidden { subject, why })
}

/// Whether `HOST[:PORT]` can only be this machine.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_pages_are_refused_and_programs_are_not() {
        #[rustfmt::skip]
        let cases: &[(&str, bool, &str, Option<&str>, bool)] = &[
            // what the case shows            loopback  Host               Origin                         passes
            ("kubectl",                       true,  "127.0.0.1:8080",     None,                          true),
            ("kubectl by name",               true,  "localhost:8080",     None,                          true),
            ("IPv6",                          true,  "[::1]:8080",         None,                          true),
            ("our own page",                  true,  "localhost:8080",     Some("http://localhost:8080"), true),
            ("our page on another port",      true,  "localhost:8080",     Some("http://127.0.0.1:3000"), true),
            ("a foreign page",                true,  "localhost:8080",     Some("https://evil.example"),  false),
            ("a sandboxed page",              true,  "localhost:8080",     Some("null"),                  false),
            ("a name that resolves to here",  true,  "evil.example:8080",  None,                          false),
            ("a look-alike",                  true,  "localhost.evil.example", None,                      false),
            ("on a network, any name",        false, "mizzen.example:443", None,                          true),
            ("on a network, its own page",    false, "mizzen.example",     Some("https://mizzen.example"), true),
            ("on a network, a foreign page",  false, "mizzen.example",     Some("https://evil.example"),  false),
        ];
        for (shows, loopback, host, origin, passes) in cases {
            let mut request = Request::get("/").header(header::HOST, *host);
            if let Some(origin) = origin {
                request = request.header(header::ORIGIN, *origin);
            }
            let request = request.body(()).unwrap();
            assert_eq!(check(&request, *loopback).is_ok(), *passes, "{shows}");
        }
    }
}
