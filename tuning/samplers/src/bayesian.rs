//! `bayesianoptimization`: Katib's name and settings for [`gp`](crate::Gp).

use crate::gp::{Acquisition, Gp};
use crate::random::random_state;
use mizzen_tuning_api::{SettingError, Settings};

/// The process that Katib's settings of `bayesianoptimization` ask for.
///
/// `acq_func` is followed: `LCB` is the confidence bound, `EI` and `EIps` the expected improvement,
/// `PI` and `PIps` the probability of one, `gp_hedge` each of the three by turns. `base_estimator` and
/// `acq_optimizer` name parts of scikit-optimize, of which there is one each here: every value that
/// Katib takes is accepted, and the estimator is a process. The defaults are Katib's but for the
/// ranges, which need not be positive, and the distribution, which counts.
///
/// # Errors
/// [`SettingError`] if there is another setting, or one is out of its range.
pub(crate) fn from_settings(settings: &Settings) -> Result<Gp, SettingError> {
    let keys = ["acq_func", "acq_optimizer", "base_estimator", "n_initial_points", "random_state"];
    settings.expect_only("bayesianoptimization", &keys)?;
    let one_of = |key: &str, want: &'static str, words: &[&str]| {
        settings.read::<String>(key, want, |text| words.contains(&text.as_str()))
    };
    one_of("base_estimator", "`GP`, `RF`, `ET` or `GBRT`", &["GP", "RF", "ET", "GBRT"])?;
    one_of("acq_optimizer", "`auto`, `sampling` or `lbfgs`", &["auto", "sampling", "lbfgs"])?;
    let function = one_of(
        "acq_func",
        "`gp_hedge`, `LCB`, `EI`, `PI`, `EIps` or `PIps`",
        &["gp_hedge", "LCB", "EI", "PI", "EIps", "PIps"],
    )?;
    let acquisition = match function.as_deref() {
        Some("EI" | "EIps") => Acquisition::LogEi,
        Some("PI" | "PIps") => Acquisition::LogPi,
        Some("LCB") => Acquisition::Ucb,
        _ => Acquisition::Hedge,
    };
    let initial = settings.read("n_initial_points", "an integer from 1", |n| *n >= 1usize)?;
    Ok(Gp {
        random_state: random_state(settings)?,
        n_startup_trials: Some(initial.unwrap_or(10)),
        acquisition,
        ..Gp::default()
    })
}
