//! What the embedded API server asks before it stores an object of ours.

use mizzen_apiserver::{AdmissionError, AdmissionRequest, Cause, Operation};
use mizzen_crds::{CollectorKind, Known, admit, apply_defaults};

use crate::serving::Deployer;

/// Model formats that a loader is there for. Whether its engine is installed shows when a model is
/// loaded, not here.
const MODEL_FORMATS: [&str; 3] = ["onnx", "safetensors", "triton"];

/// What this build offers to experiments and services; `deployer` says which storage it reads.
pub fn known(deployer: Option<&dyn Deployer>) -> Known {
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
    Known {
        algorithms: words(&mizzen_samplers::NAMES),
        early_stopping: vec![],
        collectors: vec![format!("{:?}", CollectorKind::StdOut)],
        model_formats: words(&MODEL_FORMATS),
        storage_schemes: words(deployer.map_or(&["file"][..], |d| d.storage_schemes())),
    }
}

/// Fills in defaults and refuses what cannot work, for the kinds of `mizzen-crds`.
#[derive(Clone, Debug)]
pub struct Admission {
    known: Known,
}

impl Admission {
    /// Checks against what one machine offers.
    pub fn new() -> Self {
        Self::with(known(None))
    }

    /// Checks against `known`.
    pub fn with(known: Known) -> Self {
        Self { known }
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

impl mizzen_apiserver::Admission for Admission {
    fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), AdmissionError> {
        if request.operation == Operation::Delete || request.subresource.is_some() {
            return Ok(());
        }
        // An object on its way out may lose its finalizers, whatever else is wrong with it.
        if !request.object["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        apply_defaults(request.object);
        admit(request.object, request.old, &self.known).map_err(|errors| {
            let cause = |error: mizzen_crds::FieldError| Cause {
                field: error.path,
                message: error.message,
                reason: "FieldValueInvalid".into(),
            };
            AdmissionError::fields(errors.into_iter().map(cause).collect())
        })
    }
}
