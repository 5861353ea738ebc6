//! Ensembles: which step of a request may start.
//!
//! [`Plan`] is an ensemble's graph, checked once when it is loaded: every tensor is made before it
//! is used, by one step, and is used. [`Progress`] takes one request through it: a step starts as
//! soon as its inputs are there, and only if an output that was asked for needs it.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_runtime_api::{Signature, TensorSpec};
use mizzen_types::{Coded, DataType, ErrorCode, SpecShape};

use crate::{
    ModelSpec,
    config::{ModelConfig, TensorConfig},
};

/// Triton's `platform` of ensembles.
pub const ENSEMBLE_PLATFORM: &str = "ensemble";

/// A tensor of an ensemble, by its place in [`Plan::tensors`].
pub type TensorId = usize;

/// A step of an ensemble, by its place in [`Plan::steps`].
pub type StepId = usize;

/// An ensemble's graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The names of its tensors.
    pub tensors: Vec<String>,
    /// Its own inputs, in the configuration's order.
    pub inputs: Vec<TensorId>,
    /// Its own outputs, likewise.
    pub outputs: Vec<TensorId>,
    /// Its steps, likewise.
    pub steps: Vec<Step>,
}

/// One model of an ensemble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The model.
    pub model: String,
    /// Its version; `None` is the highest that serves.
    pub version: Option<u64>,
    /// The model's inputs and what they get.
    pub inputs: Vec<(String, TensorId)>,
    /// The model's outputs and what they become.
    pub outputs: Vec<(String, TensorId)>,
}

/// Why a configuration is no ensemble, or does not fit the models it is made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum EnsembleError {
    #[error("field `platform`: expected `ensemble` beside `ensemble_scheduling`, got `{got}`")]
    Platform { got: String },
    #[error(
        "field `ensemble_scheduling`: expected at least one `step` for platform `ensemble`, got none"
    )]
    NoSteps,
    #[error("field `{field}`: expected none for an ensemble, whose models have their own")]
    Foreign { field: &'static str },
    #[error(
        "field `{field}`: expected at least one, got none; an ensemble's cannot be told from a model"
    )]
    NoTensors { field: &'static str },
    #[error("field `{field}`: `{name}` is listed twice")]
    Twice { field: &'static str, name: String },
    #[error(
        "field `ensemble_scheduling.step[{step}].output_map`: tensor `{tensor}` is already {by}; each is made once"
    )]
    MadeTwice { step: StepId, tensor: String, by: String },
    #[error(
        "field `ensemble_scheduling.step[{step}].input_map`: tensor `{tensor}` is neither an input of the ensemble nor made by a step"
    )]
    Unmade { step: StepId, tensor: String },
    #[error(
        "field `ensemble_scheduling`: steps {steps} (models {models}) wait for one another's outputs, so none can start"
    )]
    Cycle { steps: String, models: String },
    #[error("field `input`: `{name}` is used by no step")]
    UnusedInput { name: String },
    #[error("field `output`: `{name}` is made by no step")]
    UnmadeOutput { name: String },
    #[error(
        "field `ensemble_scheduling.step[{step}].output_map`: tensor `{tensor}` is used by no step and is no output of the ensemble"
    )]
    UnusedTensor { step: StepId, tensor: String },
    #[error("the ensemble needs model `{model}`, which is not ready{}{why}", if .why.is_empty() { "" } else { ": " })]
    NoModel { model: String, why: String },
    #[error("the ensemble needs itself, by way of {path}")]
    Itself { path: String },
    #[error(
        "field `max_batch_size`: expected at most {max}, which is that of model `{model}`, got {got}"
    )]
    BatchSize { model: String, max: usize, got: usize },
    #[error(
        "field `ensemble_scheduling.step[{step}].{field}`: model `{model}` has no {side} `{name}`; it has {has}"
    )]
    NoPort {
        step: StepId,
        field: &'static str,
        side: &'static str,
        model: String,
        name: String,
        has: String,
    },
    #[error(
        "field `ensemble_scheduling.step[{step}].input_map`: input `{name}` of model `{model}` gets no tensor"
    )]
    Unmapped { step: StepId, model: String, name: String },
    #[error(
        "tensor `{tensor}` is TYPE_{one} as {one_is} and TYPE_{other} as {other_is}; the two have to agree"
    )]
    DataType { tensor: String, one: DataType, one_is: String, other: DataType, other_is: String },
    #[error(
        "tensor `{tensor}` has shape {one} as {one_is} and {other} as {other_is}; the two have to agree"
    )]
    Shape { tensor: String, one: SpecShape, one_is: String, other: SpecShape, other_is: String },
}

impl Coded for EnsembleError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoModel { .. } => ErrorCode::FailedPrecondition,
            _ => ErrorCode::InvalidArgument,
        }
    }
}

/// What an ensemble takes and gives: what its configuration says, with the batch dimension.
pub fn signature(config: &ModelConfig) -> Signature {
    fn side<T: TensorConfig>(tensors: &[T], batched: bool) -> Vec<TensorSpec> {
        let spec = |tensor: &T| {
            let batch = if batched { &[-1][..] } else { &[] };
            let own = tensor.reshape().unwrap_or_else(|| tensor.dims());
            TensorSpec {
                name: tensor.name().into(),
                dtype: tensor.data_type().unwrap_or(DataType::Fp32),
                shape: SpecShape(batch.iter().chain(&own).copied().collect()),
            }
        };
        tensors.iter().map(spec).collect()
    }
    let batched = config.max_batch_size.unwrap_or(0) > 0;
    Signature { inputs: side(&config.inputs, batched), outputs: side(&config.outputs, batched) }
}

impl Plan {
    /// The graph that a configuration describes.
    ///
    /// # Errors
    /// [`EnsembleError`] with the field at fault.
    pub fn of(config: &ModelConfig) -> Result<Self, EnsembleError> {
        check_fields(config)?;
        let mut names = Names::default();
        let inputs = names.list("input", config.inputs.iter().map(|i| &*i.name))?;
        let outputs = names.list("output", config.outputs.iter().map(|o| &*o.name))?;
        let steps = config.ensemble_scheduling.iter().flat_map(|e| &e.steps);
        let steps: Vec<Step> = steps
            .map(|step| Step {
                model: step.model_name.clone(),
                version: u64::try_from(step.model_version).ok().filter(|version| *version > 0),
                inputs: names.map(&step.input_map),
                outputs: names.map(&step.output_map),
            })
            .collect();
        let plan = Self { tensors: names.names, inputs, outputs, steps };
        plan.check_makers()?;
        plan.check_order()?;
        plan.check_use()?;
        Ok(plan)
    }

    /// Every step's model, once.
    pub fn models(&self) -> BTreeSet<&str> {
        self.steps.iter().map(|step| step.model.as_str()).collect()
    }

    /// Each tensor is made once: as an input or by a step.
    fn check_makers(&self) -> Result<(), EnsembleError> {
        let mut made: BTreeMap<TensorId, String> = BTreeMap::new();
        for tensor in &self.inputs {
            made.insert(*tensor, "an input of the ensemble".to_owned());
        }
        for (at, step) in self.steps.iter().enumerate() {
            for (_, tensor) in &step.outputs {
                let this = format!("made by step {at} (`{}`)", step.model);
                if let Some(by) = made.insert(*tensor, this) {
                    let tensor = self.tensors[*tensor].clone();
                    return Err(EnsembleError::MadeTwice { step: at, tensor, by });
                }
            }
        }
        for (at, step) in self.steps.iter().enumerate() {
            if let Some((_, tensor)) = step.inputs.iter().find(|(_, t)| !made.contains_key(t)) {
                let tensor = self.tensors[*tensor].clone();
                return Err(EnsembleError::Unmade { step: at, tensor });
            }
        }
        match self.outputs.iter().find(|tensor| !made.contains_key(tensor)) {
            Some(tensor) => {
                Err(EnsembleError::UnmadeOutput { name: self.tensors[*tensor].clone() })
            }
            None => Ok(()),
        }
    }

    /// Some order lets every step start.
    fn check_order(&self) -> Result<(), EnsembleError> {
        let mut there: BTreeSet<TensorId> = self.inputs.iter().copied().collect();
        let mut left: Vec<StepId> = (0..self.steps.len()).collect();
        loop {
            let (ready, stuck): (Vec<StepId>, Vec<StepId>) = left
                .into_iter()
                .partition(|at| self.steps[*at].inputs.iter().all(|(_, t)| there.contains(t)));
            if stuck.is_empty() {
                return Ok(());
            }
            if ready.is_empty() {
                let list = |of: &dyn Fn(&StepId) -> String| {
                    stuck.iter().map(of).collect::<Vec<_>>().join(", ")
                };
                return Err(EnsembleError::Cycle {
                    steps: list(&|at: &StepId| at.to_string()),
                    models: list(&|at: &StepId| format!("`{}`", self.steps[*at].model)),
                });
            }
            there.extend(ready.iter().flat_map(|at| &self.steps[*at].outputs).map(|(_, t)| *t));
            left = stuck;
        }
    }

    /// No tensor is made in vain.
    fn check_use(&self) -> Result<(), EnsembleError> {
        let used: BTreeSet<TensorId> =
            self.steps.iter().flat_map(|step| &step.inputs).map(|(_, t)| *t).collect();
        if let Some(input) = self.inputs.iter().find(|tensor| !used.contains(tensor)) {
            return Err(EnsembleError::UnusedInput { name: self.tensors[*input].clone() });
        }
        for (at, step) in self.steps.iter().enumerate() {
            let unused = |t: &TensorId| !used.contains(t) && !self.outputs.contains(t);
            if let Some((_, tensor)) = step.outputs.iter().find(|(_, t)| unused(t)) {
                let tensor = self.tensors[*tensor].clone();
                return Err(EnsembleError::UnusedTensor { step: at, tensor });
            }
        }
        Ok(())
    }

    /// Holds the graph against the models it is made of, as far as can be told before a request
    /// comes: free dimensions agree with any.
    ///
    /// # Errors
    /// [`EnsembleError`] with the step or the tensor at fault.
    pub fn check(
        &self,
        own: &ModelSpec,
        model: impl Fn(&Step) -> Result<ModelSpec, String>,
    ) -> Result<(), EnsembleError> {
        let mut seen: BTreeMap<TensorId, (TensorSpec, bool, String)> = BTreeMap::new();
        let batched = own.max_batch_size > 0;
        let ports = |ids: &[TensorId], ports: &[crate::PortSpec], what: &str| {
            let port = |(id, port): (&TensorId, &crate::PortSpec)| {
                let mut spec = port.request.clone();
                spec.shape = port.reshape.clone().unwrap_or(spec.shape);
                (*id, (spec, batched, format!("{what} of the ensemble")))
            };
            ids.iter().zip(ports).map(port).collect::<Vec<_>>()
        };
        seen.extend(ports(&self.inputs, &own.inputs, "input"));
        for (id, port) in ports(&self.outputs, &own.outputs, "output") {
            self.agree(&mut seen, id, port)?;
        }
        for (at, step) in self.steps.iter().enumerate() {
            let spec = model(step)
                .map_err(|why| EnsembleError::NoModel { model: step.model.clone(), why })?;
            let (max, got) = (spec.max_batch_size, own.max_batch_size);
            if max > 0 && max < got {
                return Err(EnsembleError::BatchSize { model: step.model.clone(), max, got });
            }
            self.check_step(&mut seen, at, &spec)?;
        }
        Ok(())
    }

    fn check_step(
        &self,
        seen: &mut BTreeMap<TensorId, (TensorSpec, bool, String)>,
        at: StepId,
        spec: &ModelSpec,
    ) -> Result<(), EnsembleError> {
        let step = &self.steps[at];
        let sides = [
            ("input_map", "input", &step.inputs, &spec.inputs),
            ("output_map", "output", &step.outputs, &spec.outputs),
        ];
        for (field, side, mapped, ports) in sides {
            for (name, tensor) in mapped {
                let port = ports.iter().find(|p| *p.request.name == **name).ok_or_else(|| {
                    let has: Vec<_> =
                        ports.iter().map(|p| format!("`{}`", p.request.name)).collect();
                    EnsembleError::NoPort {
                        step: at,
                        field,
                        side,
                        model: step.model.clone(),
                        name: name.clone(),
                        has: has.join(", "),
                    }
                })?;
                let place = format!("{side} `{name}` of model `{}`", step.model);
                let batched = spec.max_batch_size > 0;
                self.agree(seen, *tensor, (port.request.clone(), batched, place))?;
            }
        }
        let mapped = |name: &str| step.inputs.iter().any(|(input, _)| input == name);
        match spec.inputs.iter().find(|port| !mapped(&port.request.name)) {
            Some(port) => Err(EnsembleError::Unmapped {
                step: at,
                model: step.model.clone(),
                name: port.request.name.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// Whether a tensor is the same everywhere. Where one side batches and the other does not, it
    /// may also be the same without the one's batch dimension, as Triton has it.
    fn agree(
        &self,
        seen: &mut BTreeMap<TensorId, (TensorSpec, bool, String)>,
        id: TensorId,
        (spec, batched, place): (TensorSpec, bool, String),
    ) -> Result<(), EnsembleError> {
        let Some((first, first_batched, first_place)) = seen.get(&id) else {
            seen.insert(id, (spec, batched, place));
            return Ok(());
        };
        let tensor = || self.tensors[id].clone();
        if first.dtype != spec.dtype {
            return Err(EnsembleError::DataType {
                tensor: tensor(),
                one: first.dtype,
                one_is: first_place.clone(),
                other: spec.dtype,
                other_is: place,
            });
        }
        let (one, other) = (&first.shape.0[..], &spec.shape.0[..]);
        let row =
            |shape: &[i64], batched: bool| shape[usize::from(batched).min(shape.len())..].to_vec();
        let same_rows = same(&row(one, *first_batched), &row(other, batched));
        if same(one, other) || same_rows {
            return Ok(());
        }
        Err(EnsembleError::Shape {
            tensor: tensor(),
            one: first.shape.clone(),
            one_is: first_place.clone(),
            other: spec.shape,
            other_is: place,
        })
    }

    /// A request for these of the ensemble's outputs, by their place.
    pub fn start(&self, wanted: &[usize]) -> Progress<'_> {
        let mut uses = vec![0usize; self.tensors.len()];
        let mut needed = vec![false; self.steps.len()];
        for output in wanted {
            uses[self.outputs[*output]] += 1;
        }
        // From the last step in some order back: a step is needed if what it makes is. Repeated
        // until nothing changes, since the configuration's order is any.
        loop {
            let more: Vec<StepId> = (0..self.steps.len())
                .filter(|at| !needed[*at])
                .filter(|at| self.steps[*at].outputs.iter().any(|(_, t)| uses[*t] > 0))
                .collect();
            if more.is_empty() {
                break;
            }
            for at in more {
                needed[at] = true;
                self.steps[at].inputs.iter().for_each(|(_, tensor)| uses[*tensor] += 1);
            }
        }
        let there = self.inputs.iter().copied().collect();
        let mut progress = Progress {
            plan: self,
            needed,
            started: vec![false; self.steps.len()],
            uses,
            there,
            ready: Vec::new(),
            left: 0,
        };
        progress.left = progress.needed.iter().filter(|needed| **needed).count();
        progress.look();
        progress
    }
}

/// One request on its way through an ensemble.
#[derive(Debug, Clone)]
pub struct Progress<'p> {
    plan: &'p Plan,
    needed: Vec<bool>,
    started: Vec<bool>,
    /// How many that have not ended yet use each tensor; the answer is one of them.
    uses: Vec<usize>,
    there: BTreeSet<TensorId>,
    ready: Vec<StepId>,
    left: usize,
}

impl Progress<'_> {
    /// The steps that may start now; each is given once.
    pub fn take_ready(&mut self) -> Vec<StepId> {
        std::mem::take(&mut self.ready)
    }

    /// The outputs that are wanted of a step, by their place in [`Step::outputs`].
    pub fn wanted(&self, step: StepId) -> Vec<usize> {
        let outputs = self.plan.steps[step].outputs.iter().enumerate();
        outputs.filter(|(_, (_, tensor))| self.uses[*tensor] > 0).map(|(at, _)| at).collect()
    }

    /// A step has ended well. Returns the tensors that nobody needs any more.
    pub fn ended(&mut self, step: StepId) -> Vec<TensorId> {
        let Step { inputs, outputs, .. } = &self.plan.steps[step];
        self.left = self.left.saturating_sub(1);
        self.there.extend(outputs.iter().map(|(_, tensor)| *tensor));
        let mut released = Vec::new();
        for (_, tensor) in inputs {
            self.uses[*tensor] = self.uses[*tensor].saturating_sub(1);
            if self.uses[*tensor] == 0 {
                released.push(*tensor);
            }
        }
        self.look();
        released
    }

    /// The steps that are needed and have not been given to start.
    pub fn to_start(&self) -> impl Iterator<Item = StepId> {
        let steps = self.needed.iter().zip(&self.started).enumerate();
        let given = |at: &StepId| !self.ready.contains(at);
        steps
            .filter(move |(at, (needed, started))| **needed && !(**started && given(at)))
            .map(|(at, _)| at)
    }

    /// Whether everything that was asked for is there.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    fn look(&mut self) {
        for (at, step) in self.plan.steps.iter().enumerate() {
            let complete = || step.inputs.iter().all(|(_, tensor)| self.there.contains(tensor));
            if self.needed[at] && !self.started[at] && complete() {
                self.started[at] = true;
                self.ready.push(at);
            }
        }
    }
}

fn check_fields(config: &ModelConfig) -> Result<(), EnsembleError> {
    if config.platform != ENSEMBLE_PLATFORM {
        return Err(EnsembleError::Platform { got: config.platform.clone() });
    }
    if config.ensemble_scheduling.as_ref().is_none_or(|e| e.steps.is_empty()) {
        return Err(EnsembleError::NoSteps);
    }
    let foreign = [
        ("backend", !config.backend.is_empty()),
        ("instance_group", !config.instance_groups.is_empty()),
        ("optimization", config.optimization.is_some()),
        ("model_warmup", !config.warmups.is_empty()),
    ];
    if let Some((field, _)) = foreign.into_iter().find(|(_, given)| *given) {
        return Err(EnsembleError::Foreign { field });
    }
    for (field, none) in
        [("input", config.inputs.is_empty()), ("output", config.outputs.is_empty())]
    {
        if none {
            return Err(EnsembleError::NoTensors { field });
        }
    }
    Ok(())
}

/// Tensors by name, numbered as they come.
#[derive(Default)]
struct Names {
    names: Vec<String>,
    ids: BTreeMap<String, TensorId>,
}

impl Names {
    fn id(&mut self, name: &str) -> TensorId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        self.names.push(name.to_owned());
        self.ids.insert(name.to_owned(), self.names.len() - 1);
        self.names.len() - 1
    }

    fn list<'n>(
        &mut self,
        field: &'static str,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<Vec<TensorId>, EnsembleError> {
        let mut ids = Vec::new();
        for name in names {
            let id = self.id(name);
            if ids.contains(&id) {
                return Err(EnsembleError::Twice { field, name: name.to_owned() });
            }
            ids.push(id);
        }
        Ok(ids)
    }

    fn map(&mut self, map: &BTreeMap<String, String>) -> Vec<(String, TensorId)> {
        map.iter().map(|(model, tensor)| (model.clone(), self.id(tensor))).collect()
    }
}

/// Whether two shapes agree, where a free size agrees with any.
fn same(one: &[i64], other: &[i64]) -> bool {
    let size = |(a, b): (&i64, &i64)| a == b || *a < 0 || *b < 0;
    one.len() == other.len() && one.iter().zip(other).all(size)
}

#[cfg(test)]
mod tests;
