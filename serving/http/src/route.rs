//! Which route a request is for: the method and path held against the table, names decoded.

use http::Method;
use mizzen_serving_auth::Scope;
use mizzen_serving_core::Category;
use percent_encoding::percent_decode_str;

use crate::{
    error::{Dialect, HttpError},
    routes::{Call, ROUTES, Route},
};

/// A method that routes have. HEAD goes where GET does: the answer's body is left out on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Post,
}

impl Verb {
    fn takes(self, method: &Method) -> bool {
        match self {
            Self::Get => *method == Method::GET || *method == Method::HEAD,
            Self::Post => *method == Method::POST,
        }
    }

    /// As `Allow` lists it.
    const fn allows(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
        }
    }
}

/// A model as the path names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelPath {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
}

/// A route and the names that the path has in it, not yet decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) call: Call,
    category: Category,
    pub(crate) dialect: Dialect,
    names: Names<'a>,
}

impl<'a> Found<'a> {
    fn of(route: &Route, names: Names<'a>) -> Self {
        Self { call: route.call, category: route.api, dialect: route.dialect, names }
    }
}

/// What stood for `{model}` and so on; empty where the route has no such name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Names<'a> {
    model: &'a str,
    version: Option<&'a str>,
    repository: &'a str,
    region: &'a str,
}

impl Found<'_> {
    /// The model that the path names.
    ///
    /// # Errors
    /// [`HttpError::Segment`] if its name does not decode.
    pub(crate) fn model(&self) -> Result<ModelPath, HttpError> {
        let version = self.names.version.map(str::to_owned);
        Ok(ModelPath { name: decode(self.names.model)?, version })
    }

    /// The shared memory region that the path names, if it names one.
    ///
    /// # Errors
    /// As [`Found::model`].
    pub(crate) fn region(&self) -> Result<Option<String>, HttpError> {
        (!self.names.region.is_empty()).then(|| decode(self.names.region)).transpose()
    }

    /// The model that the path names, if it names one.
    ///
    /// # Errors
    /// As [`Found::model`].
    pub(crate) fn model_or_all(&self) -> Result<Option<String>, HttpError> {
        (!self.names.model.is_empty()).then(|| decode(self.names.model)).transpose()
    }

    /// The repository that the path names.
    ///
    /// # Errors
    /// As [`Found::model`].
    pub(crate) fn repository(&self) -> Result<String, HttpError> {
        decode(self.names.repository)
    }
}

/// Finds the route for a request. The first path of the table that fits decides.
///
/// # Errors
/// [`HttpError::NoRoute`] or [`HttpError::Method`].
pub(crate) fn find<'a>(method: &Method, path: &'a str) -> Result<Found<'a>, HttpError> {
    let paths = || ROUTES.iter().flat_map(|r| r.paths.iter().map(move |path| (r, *path)));
    let mut fits = paths().filter_map(|(route, template)| {
        matches(template, path).map(|names| (route, template, names))
    });
    let Some((route, template, names)) = fits.next() else {
        return Err(HttpError::NoRoute { path: path.to_owned() });
    };
    if route.verb.takes(method) {
        return Ok(Found::of(route, names));
    }
    // Another method may be at the same path.
    let same = || paths().filter(|(_, other)| *other == template).map(|(route, _)| route);
    if let Some(other) = same().find(|other| other.verb.takes(method)) {
        return Ok(Found::of(other, names));
    }
    let allow = same().map(|route: &Route| route.verb.allows()).collect::<Vec<_>>().join(", ");
    Err(HttpError::Method { path: path.to_owned(), allow, got: method.clone() })
}

/// What a request asks for, as far as permission goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What kind of call it is.
    pub category: Category,
    model: Option<String>,
    every_model: bool,
}

impl Target {
    /// What it touches.
    pub fn scope(&self) -> Scope<'_> {
        match &self.model {
            Some(model) => Scope::Model(model),
            None if self.every_model => Scope::All,
            None => Scope::Server,
        }
    }
}

/// What a request asks for. Nothing else decides which call it becomes, so that no spelling of a
/// path is served as another than it is judged as.
///
/// # Errors
/// As [`find`], and [`HttpError::Segment`].
pub(crate) fn classify(method: &Method, path: &str) -> Result<Target, HttpError> {
    let found = find(method, path)?;
    let model = match found.names.model {
        "" => None,
        _ => Some(found.model()?.name),
    };
    // What names no model in its path is about all of them, unless it is known not to be: an
    // inference names its model in the body, and is held against the caller there.
    let every_model = !matches!(
        (found.call, found.category),
        (Call::Server | Call::Alive | Call::Live | Call::Ready | Call::OpenApi, _)
            | (_, Category::Inference)
    );
    Ok(Target { category: found.category, model, every_model })
}

/// Holds a path against a template segment by segment; nothing is allocated.
fn matches<'a>(template: &str, path: &'a str) -> Option<Names<'a>> {
    let mut names = Names::default();
    let mut segments = path.split('/');
    for want in template.split('/') {
        let segment = segments.next()?;
        match want.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            None if want == segment => {}
            None => return None,
            Some((name, verb)) => {
                let value = segment.strip_suffix(verb).filter(|value| !value.is_empty())?;
                match name {
                    "model" => names.model = value,
                    "repository" => names.repository = value,
                    "region" => names.region = value,
                    "version" if is_number(value) => names.version = Some(value),
                    _ => return None,
                }
            }
        }
    }
    segments.next().is_none().then_some(names)
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

pub(crate) fn decode(segment: &str) -> Result<String, HttpError> {
    let decoded = percent_decode_str(segment).decode_utf8();
    decoded
        .map(|name| name.into_owned())
        .map_err(|_| HttpError::Segment { segment: segment.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_path_of_the_protocol_is_found() {
        let (get, post) = (Method::GET, Method::POST);
        #[rustfmt::skip]
        let cases = [
            (&get,  "/v2",                                  Call::Server,        "",       None),
            (&get,  "/v2/health/live",                      Call::Live,          "",       None),
            (&Method::HEAD, "/v2/health/live",              Call::Live,          "",       None),
            (&get,  "/v2/health/ready",                     Call::Ready,         "",       None),
            (&get,  "/v2/models/stats",                     Call::AllStatistics, "",       None),
            (&get,  "/v2/models/a",                         Call::Metadata,      "a",      None),
            (&get,  "/v2/models/a/versions/3",              Call::Metadata,      "a",      Some("3")),
            (&get,  "/v2/models/a/ready",                   Call::ModelReady,    "a",      None),
            (&get,  "/v2/models/a/versions/3/ready",        Call::ModelReady,    "a",      Some("3")),
            (&get,  "/v2/models/a/config",                  Call::Config,        "a",      None),
            (&get,  "/v2/models/a/stats",                   Call::Statistics,    "a",      None),
            (&post, "/v2/models/a/infer",                   Call::Infer,         "a",      None),
            (&post, "/v2/models/my%20net/versions/1/infer", Call::Infer,         "my net", Some("1")),
            (&post, "/v2/repository/index",                 Call::Index,         "",       None),
            (&post, "/v2/repository/models/a/load",         Call::Load,          "a",      None),
            (&post, "/v2/repository/models/a%2Fb/unload",   Call::Unload,        "a/b",    None),
        ];
        for (method, path, call, name, version) in cases {
            let found = find(method, path).unwrap();
            let model = ModelPath { name: name.to_owned(), version: version.map(str::to_owned) };
            assert_eq!((found.call, found.model().unwrap()), (call, model), "{path}");
        }
    }

    #[test]
    fn what_is_not_a_path_of_the_protocol_says_why() {
        #[rustfmt::skip]
        let cases = [
            // what the case shows        path                            status
            ("not the API",               "/metrics",                     404),
            ("a longer prefix",           "/v20",                         404),
            ("a trailing slash",          "/v2/",                         404),
            ("no such call",              "/v2/models/a/explain",         404),
            ("a version is a number",     "/v2/models/a/versions/x/ready", 404),
            ("no name",                   "/v2/models//ready",            404),
            ("too long",                  "/v2/models/a/versions/1/infer/x", 404),
            ("infer is a POST",           "/v2/models/a/infer",           405),
            ("stats is no model",         "/v2/models/stats/infer/x",     404),
        ];
        for (shows, path, status) in cases {
            let response = find(&Method::GET, path).unwrap_err().into_response();
            assert_eq!(response.status().as_u16(), status, "{shows}");
        }
        let response = find(&Method::DELETE, "/v2/models/a").unwrap_err().into_response();
        assert_eq!(response.headers()["allow"], "GET, HEAD");
        let odd = find(&Method::GET, "/v2/models/%ff/ready").unwrap().model().unwrap_err();
        assert_eq!(odd.into_response().status().as_u16(), 400, "a name that is not UTF-8");
    }

    #[test]
    fn every_entry_of_the_table_is_reached_at_each_of_its_paths() {
        for route in ROUTES {
            for template in route.paths {
                let path = template
                    .replace("{version}", "7")
                    .replace("{model}", "net")
                    .replace("{repository}", "main");
                let method = if route.verb == Verb::Get { Method::GET } else { Method::POST };
                let found = find(&method, &path).unwrap();
                assert_eq!(found.call, route.call, "{path}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_path_is_a_route_or_an_error(path in "/?(v2)?(/[a-z0-9%/]{0,12}){0,8}") {
            if let Ok(found) = find(&Method::POST, &path) {
                let _ = found.model();
            }
        }
    }
}
