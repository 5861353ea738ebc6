//! The registry over REST, in the shapes of Kubeflow's Model Registry.
//!
//! | route below [`PREFIX`] | answers |
//! |---|---|
//! | `GET registered_models` | all models |
//! | `GET registered_model?name=` | the one of this name |
//! | `GET registered_models/{id}/versions` | its versions, newest first |
//! | `GET model_versions`, `GET model_versions/{id}` | all versions, newest first; one |
//! | `POST registered_models:register` | enters a version in one call (ours): `{name, uri, modelFormatName, customProperties}` |
//!
//! Lists are `{items, size}`; errors are `{code, message}`.

use bytes::Bytes;
use http::{Method, Request, Response};
use mizzen_rest::list;
use serde_json::{Value, json};

use crate::{Registry, RegistryError};

/// Where these routes lie.
pub const PREFIX: &str = "/api/model_registry/v1alpha3/";

/// Answers one request.
pub async fn answer(registry: &Registry, request: Request<Bytes>, now_ms: i64) -> Response<Bytes> {
    mizzen_rest::answer(route(registry, &request, now_ms).await)
}

async fn route(
    registry: &Registry,
    request: &Request<Bytes>,
    now_ms: i64,
) -> Result<Value, RegistryError> {
    let path = request.uri().path();
    let unknown = || RegistryError::NotFound(format!("route `{} {path}`", request.method()));
    let rest = mizzen_rest::segments(request, PREFIX).ok_or_else(unknown)?;
    let id = |text: &str| {
        text.parse::<i64>().map_err(|_| RegistryError::NotFound(format!("id `{text}`")))
    };
    match (request.method(), rest.as_slice()) {
        (&Method::POST, ["registered_models:register"]) => {
            let new = serde_json::from_slice(request.body())
                .map_err(|e| RegistryError::Body(e.to_string()))?;
            Ok(json!(registry.register(new, now_ms).await?))
        }
        (&Method::GET, ["registered_models"]) => Ok(list(&registry.models(None)?)),
        (&Method::GET, ["registered_model"]) => {
            let name = mizzen_rest::query(request, "name").unwrap_or_default();
            let found = registry.models(Some(name))?.into_iter().next();
            Ok(json!(found.ok_or_else(|| RegistryError::NotFound(format!("model `{name}`")))?))
        }
        (&Method::GET, ["registered_models", model, "versions"]) => {
            Ok(list(&registry.versions(Some(id(model)?))?))
        }
        (&Method::GET, ["model_versions"]) => Ok(list(&registry.versions(None)?)),
        (&Method::GET, ["model_versions", version]) => Ok(json!(registry.version(id(version)?)?)),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_store::Store;

    #[tokio::test]
    async fn what_was_registered_is_read_back_and_what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(Store::open(&dir.path().join("db")).unwrap()).unwrap();
        let good = r#"{"name":"digits","uri":"file:///m","customProperties":{"accuracy":{"double_value":0.97}}}"#;
        #[rustfmt::skip]
        let cases = [
            // what the case shows   method  route                               body   status  words in the answer
            ("an entry",             "POST", "registered_models:register",       good,  200,    "\"name\":\"1\""),
            ("all models",           "GET",  "registered_models",                "",    200,    "\"size\":1"),
            ("a model by name",      "GET",  "registered_model?name=digits",     "",    200,    "\"id\":\"1\""),
            ("no such model",        "GET",  "registered_model?name=x",          "",    404,    "`x`"),
            ("its versions",         "GET",  "registered_models/1/versions",     "",    200,    "0.97"),
            ("a version",            "GET",  "model_versions/1",                 "",    200,    "file:///m"),
            ("no such version",      "GET",  "model_versions/7",                 "",    404,    "`7`"),
            ("an id that is none",   "GET",  "model_versions/x",                 "",    404,    "`x`"),
            ("no such route",        "GET",  "nothing",                          "",    404,    "nothing"),
            ("a body that is none",  "POST", "registered_models:register",       "{",   400,    "body"),
            ("an unknown field",     "POST", "registered_models:register",       r#"{"name":"a","uri":"b","url":"c"}"#, 400, "url"),
        ];
        for (shows, method, route, body, status, words) in cases {
            let request = Request::builder().method(method).uri(format!("{PREFIX}{route}"));
            let request = request.body(Bytes::from(body)).unwrap();
            let response = answer(&registry, request, 1).await;
            let text = String::from_utf8(response.body().to_vec()).unwrap();
            assert_eq!(response.status(), status, "{shows}: {text}");
            assert!(text.contains(words), "{shows}: {text}");
        }
    }
}
