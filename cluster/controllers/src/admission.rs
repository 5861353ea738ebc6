//! What the embedded API server asks before it stores an object of ours.

use kube::Resource;
use mizzen_apiserver::{AdmissionError, AdmissionRequest, Cause, Operation};
use mizzen_crds::{
    CollectorKind, Experiment, ExperimentSpec, FieldError, Known, PipelineRun, admit,
    apply_defaults,
};
use mizzen_pipeline_spec::Pipeline;
use mizzen_types::Coded;

use crate::{Services, search::Search, serving::Deployer, trial::stopper};

/// Model formats that a loader is there for. Whether its engine is installed shows when a model is
/// loaded, not here.
const MODEL_FORMATS: [&str; 3] = ["onnx", "safetensors", "triton"];

/// Katib's searches for architectures: their experiments are taken and told that they come next.
const ARCHITECTURE_SEARCH: [&str; 2] = ["darts", "enas"];

/// Whether an experiment searches for an architecture.
pub(crate) fn is_architecture_search(spec: &ExperimentSpec) -> bool {
    let algorithm = spec.algorithm.as_ref().map_or("", |a| a.algorithm_name.as_str());
    ARCHITECTURE_SEARCH.contains(&algorithm) || spec.nas_config.is_some()
}

/// Where metrics may come from.
const COLLECTORS: [CollectorKind; 6] = [
    CollectorKind::StdOut,
    CollectorKind::File,
    CollectorKind::TensorFlowEvent,
    CollectorKind::PrometheusMetric,
    CollectorKind::Custom,
    CollectorKind::Push,
];

/// What this build offers to experiments and services; `deployer` says which storage it reads.
pub fn known(deployer: Option<&dyn Deployer>) -> Known {
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
    Known {
        algorithms: words(&[&mizzen_samplers::NAMES[..], &ARCHITECTURE_SEARCH].concat()),
        early_stopping: words(&mizzen_samplers::STOPPERS),
        collectors: COLLECTORS.map(|k| format!("{k:?}")).into(),
        model_formats: words(&MODEL_FORMATS),
        storage_schemes: words(deployer.map_or(&["file"][..], |d| d.storage_schemes())),
    }
}

/// The same, with algorithms and early stopping that are services.
pub(crate) fn with_services(mut known: Known, search: &Services, stopping: &Services) -> Known {
    let add = |names: &mut Vec<String>, services: &Services| {
        let new: Vec<_> = services.keys().filter(|name| !names.contains(name)).cloned().collect();
        names.extend(new);
    };
    add(&mut known.algorithms, search);
    add(&mut known.early_stopping, stopping);
    known
}

/// Fills in defaults and refuses what cannot work, for the kinds of `mizzen-crds`.
#[derive(Clone, Debug)]
pub struct Admission {
    known: Known,
    services: Services,
    stoppers: Services,
}

impl Admission {
    /// Checks against what one machine offers.
    pub fn new() -> Self {
        Self::with(known(None))
    }

    /// Checks against `known`.
    pub fn with(known: Known) -> Self {
        Self { known, services: Services::default(), stoppers: Services::default() }
    }

    /// Takes these services' names for algorithms and for early stopping, too. What their settings mean
    /// they alone know.
    #[must_use]
    pub fn services(self, search: Services, stopping: Services) -> Self {
        let known = with_services(self.known, &search, &stopping);
        Self { known, services: search, stoppers: stopping }
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
        let checked = admit(request.object, request.old, &self.known)
            .and_then(|()| {
                check_search(request, &self.services, &self.stoppers).map_err(|error| vec![error])
            })
            .and_then(|()| check_pipeline(request).map_err(|error| vec![error]));
        checked.map_err(|errors| AdmissionError::fields(errors.into_iter().map(cause).collect()))
    }
}

fn cause(error: FieldError) -> Cause {
    Cause { field: error.path, message: error.message, reason: "FieldValueInvalid".into() }
}

/// Makes the search and the early stopping of a new experiment, so that settings and spaces that its algorithm does not
/// take are refused at the door.
fn check_search(
    request: &AdmissionRequest<'_>,
    services: &Services,
    stoppers: &Services,
) -> Result<(), FieldError> {
    let ours = request.kind == "Experiment" && request.group == Experiment::group(&());
    if !ours || request.operation != Operation::Create {
        return Ok(());
    }
    let Ok(spec) = serde_json::from_value::<ExperimentSpec>(request.object["spec"].clone()) else {
        return Ok(());
    };
    let algorithm = spec.algorithm.as_ref().map_or("", |a| a.algorithm_name.as_str());
    if !services.contains_key(algorithm) && !is_architecture_search(&spec) {
        Search::new(&spec, "").map_err(|message| FieldError::new("spec.algorithm", message))?;
    }
    let refused = |message| FieldError::new("spec.earlyStopping.algorithmSettings", message);
    stopper(&spec, stoppers).map(drop).map_err(refused)
}

/// Reads the pipeline of a new run, so that a broken one is refused at the door. One that is in a
/// ConfigMap is read by the controller.
fn check_pipeline(request: &AdmissionRequest<'_>) -> Result<(), FieldError> {
    let ours = request.kind == "PipelineRun" && request.group == PipelineRun::group(&());
    if !ours || request.operation != Operation::Create {
        return Ok(());
    }
    let spec = &request.object["spec"];
    let (field, text) = match spec["pipelineSpecYaml"].as_str() {
        Some(text) => ("spec.pipelineSpecYaml", text.to_owned()),
        None if spec["pipelineSpec"].is_object() => {
            ("spec.pipelineSpec", spec["pipelineSpec"].to_string())
        }
        None => return Ok(()),
    };
    let pipeline =
        Pipeline::read(&text).map_err(|error| FieldError::new(field, error.message()))?;
    let parameters = spec["parameters"].as_object().cloned().unwrap_or_default();
    let bound = pipeline.bind(&parameters);
    bound.map_err(|error| FieldError::new("spec.parameters", error.message()))?;
    Ok(())
}
