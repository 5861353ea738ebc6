//! Which call a path means. Exactly Triton's paths; names are percent-decoded.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::error::HttpError;

/// A model as the path names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelPath {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
}

/// A call of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Server,
    Live,
    Ready,
    AllStatistics,
    Metadata(ModelPath),
    ModelReady(ModelPath),
    Config(ModelPath),
    Statistics(ModelPath),
    Infer(ModelPath),
    Index,
    Load(String),
    Unload(String),
}

impl Route {
    fn method(&self) -> Method {
        match self {
            Self::Infer(_) | Self::Index | Self::Load(_) | Self::Unload(_) => Method::POST,
            _ => Method::GET,
        }
    }
}

/// Finds the call for a request.
///
/// # Errors
/// [`HttpError::NoRoute`], [`HttpError::Method`], or what is wrong with a name in the path.
pub(crate) fn find(method: &Method, path: &str) -> Result<Route, HttpError> {
    let no_route = || HttpError::NoRoute { path: path.to_owned() };
    let rest = path.strip_prefix("/v2").ok_or_else(no_route)?;
    let mut segments = rest.split('/');
    if segments.next() != Some("") {
        return Err(no_route()); // `/v20`
    }
    let segments: Vec<&str> = segments.take(SEGMENTS_MAX + 1).collect();
    let route = match segments.as_slice() {
        [] => Route::Server,
        ["health", "live"] => Route::Live,
        ["health", "ready"] => Route::Ready,
        ["models", "stats"] => Route::AllStatistics,
        ["models", name, rest @ ..] => model_route(name, rest)?.ok_or_else(no_route)?,
        ["repository", rest @ ..] => repository_route(rest)?.ok_or_else(no_route)?,
        _ => return Err(no_route()),
    };
    match route.method() {
        allow if allow == *method => Ok(route),
        allow => Err(HttpError::Method { path: path.to_owned(), allow, got: method.clone() }),
    }
}

/// The longest path has five segments after `/v2`.
const SEGMENTS_MAX: usize = 5;

fn model_route(name: &str, rest: &[&str]) -> Result<Option<Route>, HttpError> {
    let (version, call) = match rest {
        ["versions", version, call @ ..] if is_number(version) => (Some(*version), call),
        ["versions", ..] => return Ok(None),
        call => (None, call),
    };
    if name.is_empty() {
        return Ok(None);
    }
    let model = ModelPath { name: decode(name)?, version: version.map(str::to_owned) };
    Ok(match call {
        [] => Some(Route::Metadata(model)),
        ["ready"] => Some(Route::ModelReady(model)),
        ["config"] => Some(Route::Config(model)),
        ["stats"] => Some(Route::Statistics(model)),
        ["infer"] => Some(Route::Infer(model)),
        _ => None,
    })
}

fn repository_route(rest: &[&str]) -> Result<Option<Route>, HttpError> {
    match rest {
        ["index"] => Ok(Some(Route::Index)),
        ["models", name, "load"] if !name.is_empty() => Ok(Some(Route::Load(decode(name)?))),
        ["models", name, "unload"] if !name.is_empty() => Ok(Some(Route::Unload(decode(name)?))),
        [repository, "index"] | [repository, "models", _, "load" | "unload"] => {
            Err(HttpError::Repository(decode(repository)?))
        }
        _ => Ok(None),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn decode(segment: &str) -> Result<String, HttpError> {
    let decoded = percent_decode_str(segment).decode_utf8();
    decoded
        .map(|name| name.into_owned())
        .map_err(|_| HttpError::Segment { segment: segment.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model(name: &str, version: Option<&str>) -> ModelPath {
        ModelPath { name: name.to_owned(), version: version.map(str::to_owned) }
    }

    #[test]
    fn each_path_of_the_protocol_is_found() {
        let (get, post) = (Method::GET, Method::POST);
        #[rustfmt::skip]
        let cases = [
            (&get,  "/v2",                                Route::Server),
            (&get,  "/v2/health/live",                    Route::Live),
            (&get,  "/v2/health/ready",                   Route::Ready),
            (&get,  "/v2/models/stats",                   Route::AllStatistics),
            (&get,  "/v2/models/a",                       Route::Metadata(model("a", None))),
            (&get,  "/v2/models/a/versions/3",            Route::Metadata(model("a", Some("3")))),
            (&get,  "/v2/models/a/ready",                 Route::ModelReady(model("a", None))),
            (&get,  "/v2/models/a/versions/3/ready",      Route::ModelReady(model("a", Some("3")))),
            (&get,  "/v2/models/a/config",                Route::Config(model("a", None))),
            (&get,  "/v2/models/a/stats",                 Route::Statistics(model("a", None))),
            (&post, "/v2/models/a/infer",                 Route::Infer(model("a", None))),
            (&post, "/v2/models/my%20net/versions/1/infer", Route::Infer(model("my net", Some("1")))),
            (&post, "/v2/repository/index",               Route::Index),
            (&post, "/v2/repository/models/a/load",       Route::Load("a".to_owned())),
            (&post, "/v2/repository/models/a%2Fb/unload", Route::Unload("a/b".to_owned())),
        ];
        for (method, path, want) in cases {
            assert_eq!(find(method, path).unwrap(), want, "{path}");
        }
    }

    #[test]
    fn what_is_not_a_path_of_the_protocol_says_why() {
        #[rustfmt::skip]
        let cases = [
            // what the case shows        path                            status
            ("not the API",               "/",                            404),
            ("a longer prefix",           "/v20",                         404),
            ("a trailing slash",          "/v2/",                         404),
            ("no such call",              "/v2/models/a/explain",         404),
            ("a version is a number",     "/v2/models/a/versions/x/ready", 404),
            ("no name",                   "/v2/models//ready",            404),
            ("too long",                  "/v2/models/a/versions/1/infer/x", 404),
            ("infer is a POST",           "/v2/models/a/infer",           405),
            ("a name that is not UTF-8",  "/v2/models/%ff/ready",         400),
            ("repositories have no name", "/v2/repository/r/index",       501),
        ];
        for (shows, path, status) in cases {
            let response = find(&Method::GET, path).unwrap_err().into_response();
            assert_eq!(response.status().as_u16(), status, "{shows}");
        }
        let response = find(&Method::DELETE, "/v2/models/a").unwrap_err().into_response();
        assert_eq!(response.headers()["allow"], "GET");
    }

    proptest! {
        #[test]
        fn any_path_is_a_route_or_an_error(path in "/?(v2)?(/[a-z0-9%/]{0,12}){0,8}") {
            let _ = find(&Method::POST, &path);
        }
    }
}
