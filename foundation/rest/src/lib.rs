//! What the JSON calls beside the Kubernetes API share: routes below a prefix, lists, and one shape for
//! answers and errors.
//!
//! Bodies are whole when they come here; nothing here waits, listens or knows the time.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use mizzen_types::Coded;
use serde::Serialize;
use serde_json::{Value, json};

/// A result as it is sent: its JSON, or the error as `{code, message}` with the error's status.
pub fn answer<E: Coded>(result: Result<Value, E>) -> Response<Bytes> {
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            let code = error.code();
            let status =
                StatusCode::from_u16(code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, json!({ "code": code.as_str(), "message": error.message() }))
        }
    };
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// The segments of a request's path below `prefix`; none if it is elsewhere.
pub fn segments<'a>(request: &'a Request<Bytes>, prefix: &str) -> Option<Vec<&'a str>> {
    Some(request.uri().path().strip_prefix(prefix)?.split('/').collect())
}

/// A parameter of the query, as it is written there.
pub fn query<'a>(request: &'a Request<Bytes>, name: &str) -> Option<&'a str> {
    let mut pairs = request.uri().query().unwrap_or_default().split('&');
    pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// A list as it is sent: `{items, size}`.
pub fn list<T: Serialize>(items: &[T]) -> Value {
    json!({ "size": items.len(), "items": items })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_types::ErrorCode;

    #[derive(Debug)]
    struct Gone;

    impl std::fmt::Display for Gone {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("it is gone")
        }
    }

    impl std::error::Error for Gone {}

    impl Coded for Gone {
        fn code(&self) -> ErrorCode {
            ErrorCode::NotFound
        }
    }

    #[test]
    fn answers_and_errors_have_one_shape() {
        let good = answer::<Gone>(Ok(list(&[1, 2])));
        let body: Value = serde_json::from_slice(good.body()).expect("JSON");
        assert_eq!((good.status().as_u16(), body), (200, json!({"items": [1, 2], "size": 2})));
        let bad = answer(Err(Gone));
        let body: Value = serde_json::from_slice(bad.body()).expect("JSON");
        assert_eq!((bad.status().as_u16(), &body["message"]), (404, &json!("it is gone")));
        assert_eq!(body["code"], ErrorCode::NotFound.as_str());
    }

    #[test]
    fn a_request_is_taken_apart() {
        let request = Request::get("/api/x/models/7?a=1&name=b%20c&ab=2").body(Bytes::new());
        let request = request.expect("a request");
        assert_eq!(segments(&request, "/api/x/"), Some(vec!["models", "7"]));
        assert_eq!(segments(&request, "/api/y/"), None);
        assert_eq!((query(&request, "name"), query(&request, "b")), (Some("b%20c"), None));
    }
}
