//! Rules that end trials before they end by themselves, under the names an Experiment gives.
//!
//! A step is one value of the objective, whatever a trial reports it after. All rules go by a trial's
//! best value so far, so one bad value ends nothing.

mod median;
mod rungs;

pub use median::MedianStop;
use mizzen_tuning_api::{EarlyStopper, Settings, StopperError, closest};
pub use rungs::{AshaStop, HyperbandStop};

/// The names [`stopper_by_name`] knows.
pub const STOPPERS: [&str; 3] = ["asha", "hyperband", "medianstop"];

/// The stopper of an Experiment's `earlyStopping.algorithmName`, with its `algorithmSettings`.
///
/// # Errors
/// [`StopperError::Unknown`] listing the known names; [`StopperError::Setting`] naming a setting that
/// the stopper does not have or a value that it does not take.
pub fn stopper_by_name(
    name: &str,
    settings: &Settings,
) -> Result<Box<dyn EarlyStopper>, StopperError> {
    match name {
        "asha" => Ok(Box::new(AshaStop::from_settings(settings)?)),
        "hyperband" => Ok(Box::new(HyperbandStop::from_settings(settings)?)),
        "medianstop" => Ok(Box::new(MedianStop::from_settings(settings)?)),
        _ => Err(StopperError::Unknown {
            name: name.into(),
            hint: closest(name, &STOPPERS)
                .map_or_else(String::new, |near| format!(", did you mean `{near}`?")),
            known: STOPPERS.map(|n| format!("`{n}`")).join(", "),
        }),
    }
}
