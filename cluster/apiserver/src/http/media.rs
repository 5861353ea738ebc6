//! Which form of an answer a client asked for.

use http::{HeaderMap, header};

use crate::ApiError;

/// The media types that answers come in.
const OFFERED: &str = "application/json, application/yaml";

/// What an object or list is sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object itself.
    Object,
    /// A `Table`, as `kubectl get` prints it.
    Table,
    /// Metadata alone.
    Metadata,
    /// Aggregated discovery.
    Discovery,
    /// The object itself, as YAML.
    Yaml,
}

/// Picks the first form that is offered.
///
/// # Errors
/// [`ApiError::NotAcceptable`] if there is none.
pub(crate) fn accepted(headers: &HeaderMap) -> Result<Form, ApiError> {
    let mut asked = false;
    for value in headers.get_all(header::ACCEPT) {
        for item in value.to_str().unwrap_or_default().split(',') {
            asked |= !item.trim().is_empty();
            if let Some(form) = form(item) {
                return Ok(form);
            }
        }
    }
    if asked { Err(ApiError::NotAcceptable(OFFERED)) } else { Ok(Form::Object) }
}

fn form(item: &str) -> Option<Form> {
    let mut parts = item.split(';').map(str::trim);
    let media_type = parts.next()?;
    let parameters: Vec<_> = parts.collect();
    let has = |wanted: &str| parameters.iter().any(|p| p.eq_ignore_ascii_case(wanted));
    let shape = parameters.iter().find_map(|p| p.strip_prefix("as="));
    match (media_type, shape) {
        ("application/json" | "application/*" | "*/*", None) => Some(Form::Object),
        ("application/json", Some("Table")) if has("v=v1") => Some(Form::Table),
        ("application/json", Some("PartialObjectMetadata" | "PartialObjectMetadataList")) => {
            Some(Form::Metadata)
        }
        ("application/json", Some("APIGroupDiscoveryList")) if has("v=v2") => Some(Form::Discovery),
        ("application/yaml" | "text/yaml", None) => Some(Form::Yaml),
        ("text/plain" | "text/*" | "text/html", None) => Some(Form::Object),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_offered_form_is_taken() {
        #[rustfmt::skip]
        let cases: &[(&str, &str, Option<Form>)] = &[
            ("nothing asked",     "", Some(Form::Object)),
            ("kubectl get",       "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some(Form::Table)),
            ("client-go typed",   "application/vnd.kubernetes.protobuf,application/json", Some(Form::Object)),
            ("aggregated discovery", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", Some(Form::Discovery)),
            ("metadata informers", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Metadata)),
            ("protobuf alone",    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", None),
            ("a browser",         "text/html, */*;q=0.8", Some(Form::Object)),
        ];
        for (shows, accept, want) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(accepted(&headers).ok(), *want, "{shows}");
        }
    }
}
