//! The seam through which owners of a kind default and check its objects.
//!
//! Plug-ins run in order, after decoding (and after a patch has been merged) and before schema
//! validation and storage. They are synchronous and see one object: anything that needs other
//! objects belongs in a controller.

use serde_json::Value;

use crate::{ApiError, Cause, error::Subject};

/// What is about to happen to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The object does not exist yet.
    Create,
    /// The object is replaced or patched.
    Update,
    /// The object is deleted; `object` is what is stored, and changes to it are ignored.
    Delete,
}

/// One object on its way into the store.
#[derive(Debug)]
pub struct AdmissionRequest<'a> {
    /// What is about to happen.
    pub operation: Operation,
    /// API group, empty for core.
    pub group: &'a str,
    /// API version the client spoke.
    pub version: &'a str,
    /// Kind of the object.
    pub kind: &'a str,
    /// `status`, `scale`, or nothing.
    pub subresource: Option<&'a str>,
    /// Namespace, nothing for cluster-scoped objects.
    pub namespace: Option<&'a str>,
    /// Name; nothing on a create that leaves it to `generateName`.
    pub name: Option<&'a str>,
    /// The object as it would be stored; plug-ins may change it.
    pub object: &'a mut Value,
    /// What is stored now, on updates and deletes.
    pub old: Option<&'a Value>,
}

/// A plug-in of the admission chain.
pub trait Admission: Send + Sync + 'static {
    /// Looks at (and may change) the object.
    ///
    /// # Errors
    /// [`AdmissionError`] refuses the request; the client sees 422 or 403.
    fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), AdmissionError>;
}

/// Why a plug-in refused an object.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdmissionError {
    /// The object itself is not acceptable: 422 `Invalid`, with one cause per field.
    #[error("{message}")]
    Invalid {
        /// What is wrong, in one line; shown where `causes` is empty.
        message: String,
        /// What is wrong with each field.
        causes: Vec<Cause>,
    },
    /// The object is fine and still not allowed: 403 `Forbidden`.
    #[error("{message}")]
    Forbidden {
        /// Why not.
        message: String,
    },
}

impl AdmissionError {
    /// 422 with one line and no field.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), causes: Vec::new() }
    }

    /// 422 with a cause per field.
    pub fn fields(causes: Vec<Cause>) -> Self {
        Self::Invalid { message: "the object is invalid".into(), causes }
    }

    /// 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::Forbidden { message: message.into() }
    }

    /// As the error a client sees: 422 speaks of the kind, 403 of the resource, as in Kubernetes.
    pub(crate) fn into_api(self, kind: &str, resource: &str, group: &str, name: &str) -> ApiError {
        let subject = |resource: &str| Subject {
            group: group.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
        };
        match self {
            Self::Invalid { message, mut causes } => {
                if causes.is_empty() {
                    let reason = "FieldValueInvalid".into();
                    causes.push(Cause { field: String::new(), message, reason });
                }
                ApiError::Invalid { subject: subject(kind), causes }
            }
            Self::Forbidden { message } => {
                ApiError::Forbidden { subject: subject(resource), why: message }
            }
        }
    }
}
