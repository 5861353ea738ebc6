//! Samplers by the name an Experiment gives.

use crate::{Asha, Auto, CmaEs, Gp, Grid, Hyperband, Pbt, Random, Sobol, Tpe, bayesian};
use mizzen_tuning_api::{Sampler, SamplerError, Settings, closest};

/// The names [`by_name`] knows.
pub const NAMES: [&str; 12] = [
    "asha",
    "auto",
    "bayesianoptimization",
    "cmaes",
    "gp",
    "grid",
    "hyperband",
    "multivariate-tpe",
    "pbt",
    "random",
    "sobol",
    "tpe",
];

/// The sampler of an Experiment's `algorithmName`, with its `algorithmSettings`.
///
/// # Errors
/// [`SamplerError::UnknownAlgorithm`] listing the known names; [`SamplerError::Setting`] naming a
/// setting that the algorithm does not have or a value that it does not take.
pub fn by_name(name: &str, settings: &Settings) -> Result<Box<dyn Sampler>, SamplerError> {
    match name {
        "asha" => Ok(Box::new(Asha::from_settings(settings)?)),
        "auto" => Ok(Box::new(Auto::from_settings(settings)?)),
        "bayesianoptimization" => Ok(Box::new(bayesian::from_settings(settings)?)),
        "cmaes" => Ok(Box::new(CmaEs::from_settings(settings)?)),
        "gp" => Ok(Box::new(Gp::from_settings(settings)?)),
        "grid" => Ok(Box::new(Grid::from_settings(settings)?)),
        "hyperband" => Ok(Box::new(Hyperband::from_settings(settings)?)),
        "multivariate-tpe" => Ok(Box::new(Tpe::multivariate_from_settings(settings)?)),
        "pbt" => Ok(Box::new(Pbt::from_settings(settings)?)),
        "random" => Ok(Box::new(Random::from_settings(settings)?)),
        "sobol" => Ok(Box::new(Sobol::from_settings(settings)?)),
        "tpe" => Ok(Box::new(Tpe::from_settings(settings)?)),
        _ => Err(SamplerError::UnknownAlgorithm {
            name: name.into(),
            hint: closest(name, &NAMES)
                .map_or_else(String::new, |near| format!(", did you mean `{near}`?")),
            known: NAMES.map(|n| format!("`{n}`")).join(", "),
        }),
    }
}
