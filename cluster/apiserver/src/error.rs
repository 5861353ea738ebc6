//! Why the API server refused a request, and the `Status` body that says so.
//!
//! Clients branch on `reason`, `code` and `details.causes`, so these follow the Kubernetes API
//! conventions to the letter; the English of `message` is the real server's where tools show it.

use http::StatusCode;
use mizzen_store::StoreError;
use mizzen_types::{Coded, ErrorCode};
use serde_json::{Value, json};

/// Which object or collection an error speaks of; becomes `details` of the `Status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// API group, empty for core.
    pub group: String,
    /// Plural resource name (`pods`), or the kind where Kubernetes uses that (`Invalid`).
    pub resource: String,
    /// Object name, empty for a collection.
    pub name: String,
}

impl Subject {
    /// `pods "x"`, `jobs.batch "x"`: how Kubernetes names an object in messages.
    fn quoted(&self) -> String {
        format!("{} \"{}\"", self.qualified(), self.name)
    }

    fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.resource.clone(),
            group => format!("{}.{group}", self.resource),
        }
    }
}

/// One reason why an object is invalid: an entry of `details.causes`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cause {
    /// Path of the field, as `spec.template.spec.containers[0].name`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
    /// Machine-readable: `FieldValueInvalid`, `FieldValueRequired`, `FieldValueNotSupported`, …
    pub reason: String,
}

impl Cause {
    /// A value that is not acceptable.
    pub fn invalid(field: impl Into<String>, value: impl ToString, why: impl ToString) -> Self {
        let message = format!("Invalid value: {}: {}", value.to_string(), why.to_string());
        Self { field: field.into(), message, reason: "FieldValueInvalid".into() }
    }

    /// A value that must be given and is not.
    pub fn required(field: impl Into<String>, why: impl ToString) -> Self {
        let why = why.to_string();
        let message = match why.as_str() {
            "" => "Required value".to_owned(),
            why => format!("Required value: {why}"),
        };
        Self { field: field.into(), message, reason: "FieldValueRequired".into() }
    }

    /// A value outside a closed set.
    pub fn unsupported(field: impl Into<String>, value: impl ToString, allowed: &[String]) -> Self {
        let allowed: Vec<_> = allowed.iter().map(|v| format!("\"{v}\"")).collect();
        let message = format!(
            "Unsupported value: {}: supported values: {}",
            value.to_string(),
            allowed.join(", ")
        );
        Self { field: field.into(), message, reason: "FieldValueNotSupported".into() }
    }

    /// A value that may not change or may not be set here.
    pub fn forbidden(field: impl Into<String>, why: impl ToString) -> Self {
        let message = format!("Forbidden: {}", why.to_string());
        Self { field: field.into(), message, reason: "FieldValueForbidden".into() }
    }
}

/// Why a request got no (or not the wanted) answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request cannot be understood.
    #[error("{0}")]
    BadRequest(String),
    /// No such object.
    #[error("{} not found", .0.quoted())]
    NotFound(Subject),
    /// No such path, group, version or resource.
    #[error("the server could not find the requested resource")]
    UnknownResource,
    /// An object of that name exists.
    #[error("{} already exists", .0.quoted())]
    AlreadyExists(Subject),
    /// The object changed, or a precondition does not hold.
    #[error("Operation cannot be fulfilled on {}: {why}", .subject.quoted())]
    Conflict {
        /// The object.
        subject: Subject,
        /// What differs.
        why: String,
    },
    /// Fields of a server-side apply belong to other managers.
    #[error("Apply failed with {} conflict{}: {summary}", .causes.len(), if .causes.len() == 1 { "" } else { "s" })]
    ApplyConflict {
        /// Who owns what, in one line.
        summary: String,
        /// One per field.
        causes: Vec<Cause>,
    },
    /// The object is understood and not acceptable.
    #[error("{} is invalid: {}", .subject.quoted(), summary(.causes))]
    Invalid {
        /// The object; `resource` holds its kind, as in Kubernetes.
        subject: Subject,
        /// What is wrong, one entry per field.
        causes: Vec<Cause>,
    },
    /// A patch that cannot be applied to the object.
    #[error("{0}")]
    Unprocessable(String),
    /// Understood and not allowed.
    #[error("{} is forbidden: {why}", .subject.quoted())]
    Forbidden {
        /// The object.
        subject: Subject,
        /// Why not.
        why: String,
    },
    /// The history that a watch or a continued list needs is gone: list again.
    #[error("{0}")]
    Expired(String),
    /// A resourceVersion that this server has not reached.
    #[error("Too large resource version: {asked}, current: {current}")]
    FutureVersion {
        /// What the client asked for.
        asked: u64,
        /// Where the server is.
        current: u64,
    },
    /// The resource does not offer this verb.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// None of the media types in `Accept` is offered.
    #[error("only the following media types are accepted: {0}")]
    NotAcceptable(&'static str),
    /// The body's media type is not offered (protobuf, for one).
    #[error("the body of the request was in an unknown format - accepted media types include: {0}")]
    UnsupportedMediaType(&'static str),
    /// A body above the limit.
    #[error(
        "the request is larger than {limit} bytes; split the object or store its data elsewhere"
    )]
    TooLarge {
        /// Bytes.
        limit: usize,
    },
    /// A bound on watches or writes is reached.
    #[error("too many {what}; retry later")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
    /// Known to Kubernetes and not offered here.
    #[error("{0}")]
    Unsupported(String),
    /// Not ready, or shutting down.
    #[error("{0}")]
    Unavailable(String),
    /// The store could not read or write.
    #[error("the object store failed")]
    Store(#[from] StoreError),
    /// The listener or a stream failed.
    #[error("the API server's socket failed")]
    Socket(#[from] std::io::Error),
    /// A fault of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

/// `spec.a: Required value`, or all of them in brackets.
fn summary(causes: &[Cause]) -> String {
    let lines: Vec<_> = causes
        .iter()
        .map(|c| match c.field.as_str() {
            "" => c.message.clone(),
            field => format!("{field}: {}", c.message),
        })
        .collect();
    match lines.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

impl ApiError {
    /// A request that cannot be understood; `text` says where.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::BadRequest(text.into())
    }

    /// The HTTP status. Finer than [`ErrorCode::http`]: Kubernetes clients tell 405, 406, 410, 415
    /// and 422 apart.
    pub fn http_status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) | Self::UnknownResource => StatusCode::NOT_FOUND,
            Self::AlreadyExists(_) | Self::Conflict { .. } | Self::ApplyConflict { .. } => {
                StatusCode::CONFLICT
            }
            Self::Invalid { .. } | Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Expired(_) => StatusCode::GONE,
            Self::FutureVersion { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable(_) => StatusCode::NOT_ACCEPTABLE,
            Self::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(error) => StatusCode::from_u16(error.code().http())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            Self::Socket(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "BadRequest",
            Self::NotFound(_) | Self::UnknownResource => "NotFound",
            Self::AlreadyExists(_) => "AlreadyExists",
            Self::Conflict { .. } | Self::ApplyConflict { .. } => "Conflict",
            Self::Invalid { .. } | Self::Unprocessable(_) => "Invalid",
            Self::Forbidden { .. } => "Forbidden",
            Self::Expired(_) => "Expired",
            Self::FutureVersion { .. } => "Timeout",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable(_) => "NotAcceptable",
            Self::UnsupportedMediaType(_) => "UnsupportedMediaType",
            Self::TooLarge { .. } => "RequestEntityTooLarge",
            Self::TooMany { .. } => "TooManyRequests",
            Self::Unsupported(_) => "NotImplemented",
            Self::Unavailable(_) => "ServiceUnavailable",
            Self::Store(StoreError::Full(_)) => "InsufficientStorage",
            Self::Store(StoreError::Closed) => "ServiceUnavailable",
            Self::Store(_) | Self::Socket(_) | Self::Internal(_) => "InternalError",
        }
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::NotFound(s)
            | Self::AlreadyExists(s)
            | Self::Conflict { subject: s, .. }
            | Self::Forbidden { subject: s, .. } => {
                let mut details = json!({"name": s.name, "kind": s.resource});
                if !s.group.is_empty() {
                    details["group"] = json!(s.group);
                }
                Some(details)
            }
            Self::Invalid { subject, causes } => {
                let mut details = json!({
                    "name": subject.name, "kind": subject.resource, "causes": causes_json(causes)
                });
                if !subject.group.is_empty() {
                    details["group"] = json!(subject.group);
                }
                Some(details)
            }
            Self::ApplyConflict { causes, .. } => Some(json!({"causes": causes_json(causes)})),
            Self::UnknownResource => Some(json!({})),
            Self::TooMany { .. } | Self::Unavailable(_) => Some(json!({"retryAfterSeconds": 1})),
            Self::FutureVersion { .. } => Some(json!({
                "causes": [{"message": "Too large resource version", "reason": "ResourceVersionTooLarge"}],
                "retryAfterSeconds": 1
            })),
            _ => None,
        }
    }

    /// The `Status` object that a client gets.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message(), "reason": self.reason(),
            "code": self.http_status().as_u16(),
        });
        if let Some(details) = self.details() {
            status["details"] = details;
        }
        status
    }
}

fn causes_json(causes: &[Cause]) -> Value {
    causes
        .iter()
        .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
        .collect()
}

impl Coded for ApiError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::BadRequest(_)
            | Self::Invalid { .. }
            | Self::Unprocessable(_)
            | Self::NotAcceptable(_)
            | Self::UnsupportedMediaType(_) => ErrorCode::InvalidArgument,
            Self::NotFound(_) | Self::UnknownResource => ErrorCode::NotFound,
            Self::AlreadyExists(_) => ErrorCode::AlreadyExists,
            Self::Conflict { .. } | Self::ApplyConflict { .. } => ErrorCode::Conflict,
            Self::Forbidden { .. } => ErrorCode::PermissionDenied,
            Self::Expired(_) => ErrorCode::FailedPrecondition,
            Self::FutureVersion { .. } => ErrorCode::DeadlineExceeded,
            Self::MethodNotAllowed | Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::TooMany { .. } => ErrorCode::ResourceExhausted,
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::Store(error) => error.code(),
            Self::Socket(_) | Self::Internal(_) => ErrorCode::Internal,
        }
    }
}
