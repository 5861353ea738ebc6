//! Models made of models.

use std::collections::BTreeMap;

use crate::config::{
    HONOURED, hint, ignored,
    slot::{Place, Read},
};

message! {
    /// The models that an ensemble is made of.
    #[derive(Eq)]
    Ensemble = "ModelEnsembling" {
        /// The steps, in any order: a step runs once its inputs are there.
        steps: Vec<EnsembleStep> = "step", HONOURED;
        /// The most answers of one request that may be under way in one step; 0 is no limit.
        max_inflight_requests: u32 = "max_inflight_requests", hint("a step runs once for each request, so none is ahead of the next");
    }
}

message! {
    /// One model of an ensemble.
    #[derive(Eq)]
    EnsembleStep = "ModelEnsembling.Step", checked by check_step {
        /// The model.
        model_name: String = "model_name", HONOURED;
        /// Its version; -1 is the highest that serves.
        model_version: i64 = "model_version", HONOURED;
        /// The model's inputs, each with the ensemble's tensor that it gets.
        input_map: BTreeMap<String, String> = "input_map", HONOURED;
        /// The model's outputs, each with the ensemble's tensor that it becomes.
        output_map: BTreeMap<String, String> = "output_map", HONOURED;
        /// The repository that the model is from.
        model_namespace: String = "model_namespace", ignored("there are no namespaces; the first repository with the model has it");
    }
}

fn check_step(step: &EnsembleStep, place: Place<'_>) -> Read<()> {
    if step.model_name.is_empty() {
        return Err(place.wrong("a `model_name`", "none"));
    }
    for (field, map) in [("input_map", &step.input_map), ("output_map", &step.output_map)] {
        if map.is_empty() {
            let want = format!("an `{field}`");
            return Err(place.wrong(&want, "none"));
        }
        if let Some((name, _)) = map.iter().find(|(name, to)| name.is_empty() || to.is_empty()) {
            let want = "the model's tensor as the key and the ensemble's as the value";
            return Err(place.wrong_below(field, want, format!("an empty name with key `{name}`")));
        }
    }
    // 0 is what an unset field reads as, and no version has that number.
    match step.model_version {
        -1.. => Ok(()),
        other => {
            let want = "a version, or -1 for the highest";
            Err(place.wrong_below("model_version", want, format!("`{other}`")))
        }
    }
}
