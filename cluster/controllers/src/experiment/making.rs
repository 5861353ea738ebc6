//! The Trial object of a point.

use kube::{Resource, ResourceExt};
use mizzen_crds::{
    EarlyStoppingRule, Experiment, ExperimentSpec, LABEL_EXPERIMENT, LABEL_TRIAL_INDEX, Trial,
    TrialSpec,
};
use mizzen_tuning_service::LABEL_PARENT;

use super::{checkpoints, decide::NewTrial};
use crate::{
    search::hash,
    template::{Filling, Template},
};

/// The Trial object of a new trial.
pub(super) fn make(
    experiment: &Experiment,
    template: &Template,
    new: &NewTrial,
    rules: &[EarlyStoppingRule],
) -> Result<Trial, String> {
    let spec: &ExperimentSpec = &experiment.spec;
    let of = spec.trial_template.clone().unwrap_or_default();
    let name = new.point.name.clone().unwrap_or_else(|| trial_name(experiment, new.index));
    let namespace = experiment.namespace();
    let filling = Filling {
        parameters: &of.trial_parameters,
        assignments: &new.point.assignments,
        trial: &name,
        namespace: namespace.as_deref().unwrap_or_default(),
    };
    let mut run_spec = template.render(&filling)?;
    if let Some(directory) = checkpoints::directory(experiment) {
        let parent = new.point.labels.get(LABEL_PARENT).map(String::as_str);
        checkpoints::mount(&mut run_spec, experiment, directory, &name, parent);
    }
    let mut trial = Trial::new(
        &name,
        TrialSpec {
            objective: spec.objective(),
            parameter_assignments: new.point.assignments.clone(),
            run_spec,
            retain_run: of.retain,
            metrics_collector: spec.metrics_collector_spec.clone().unwrap_or_default(),
            primary_pod_labels: of.primary_pod_labels,
            primary_container_name: of.primary_container_name,
            success_condition: of.success_condition,
            failure_condition: of.failure_condition,
            labels: new.point.labels.clone(),
            early_stopping_rules: rules.to_vec(),
        },
    );
    trial.metadata.namespace = namespace;
    trial.metadata.owner_references = experiment.controller_owner_ref(&()).map(|o| vec![o]);
    let labels = trial.labels_mut();
    labels.extend(new.point.labels.clone());
    labels.insert(LABEL_EXPERIMENT.into(), experiment.name_any());
    labels.insert(LABEL_TRIAL_INDEX.into(), new.index.to_string());
    Ok(trial)
}

/// `<experiment>-<8 hex digits>`, the same for the same experiment and index.
fn trial_name(experiment: &Experiment, index: u64) -> String {
    let seed = format!("{}/{index}", experiment.uid().unwrap_or_default());
    format!("{}-{:08x}", experiment.name_any(), hash(seed.as_bytes()) >> 32)
}
