//! Every sampler keeps the seam's promises.

use mizzen_samplers::{
    Acquisition, Asha, Auto, CmaEs, Gp, Grid, Hyperband, Pbt, Random, RestartStrategy, Sobol,
    Split, Tpe, by_name,
};
use mizzen_tuning_api::Settings;
use mizzen_tuning_api::conformance::{Claims, check};

#[test]
fn random_conforms() {
    check(|| Box::new(Random::default()), Claims::MODEL).unwrap();
}

#[test]
fn grid_conforms() {
    check(|| Box::new(Grid::default()), Claims::ENUMERATION).unwrap();
    check(|| Box::new(Grid { random_state: Some(4) }), Claims::ENUMERATION).unwrap();
}

#[test]
fn tpe_conforms() {
    check(|| by_name("tpe", &Settings::default()).unwrap(), Claims::MODEL).unwrap();
    let unusual = Tpe {
        n_startup_trials: 0,
        n_ei_candidates: Some(1),
        split: Some(Split::Root(0.9)),
        ..Tpe::default()
    };
    check(|| Box::new(unusual), Claims::MODEL).unwrap();
}

#[test]
fn multivariate_tpe_conforms() {
    check(|| by_name("multivariate-tpe", &Settings::default()).unwrap(), Claims::MODEL).unwrap();
}

#[test]
fn sobol_conforms() {
    check(|| Box::new(Sobol::default()), Claims::MODEL).unwrap();
}

#[test]
fn cmaes_conforms() {
    for restart_strategy in [RestartStrategy::None, RestartStrategy::Ipop, RestartStrategy::Bipop] {
        check(|| Box::new(CmaEs { restart_strategy, ..CmaEs::default() }), Claims::MODEL).unwrap();
    }
}

#[test]
fn gp_conforms() {
    for acquisition in [Acquisition::LogEi, Acquisition::Ucb, Acquisition::LogPi] {
        check(|| Box::new(Gp { acquisition, ..Gp::default() }), Claims::MODEL).unwrap();
    }
}

#[test]
fn auto_conforms() {
    check(|| Box::new(Auto::default()), Claims::MODEL).unwrap();
}

#[test]
fn bayesianoptimization_conforms() {
    check(|| by_name("bayesianoptimization", &Settings::default()).unwrap(), Claims::MODEL)
        .unwrap();
}

#[test]
fn hyperband_and_asha_conform() {
    let claims = Claims { resource: Some("epochs"), ..Claims::POPULATION };
    let resource_name = "epochs".to_owned();
    let hyperband = Hyperband { random_state: None, r_l: 81.0, resource_name, eta: 3 };
    check(|| Box::new(hyperband.clone()), claims).unwrap();
    let resource_name = "epochs".to_owned();
    let asha = Asha { random_state: None, r_min: 1.0, r_max: 81.0, resource_name, eta: 3 };
    check(|| Box::new(asha.clone()), claims).unwrap();
}

#[test]
fn pbt_conforms() {
    let pbt = Pbt {
        random_state: None,
        suggestion_trial_dir: "/checkpoints".into(),
        n_population: 40,
        // Half, so that some of the few that a check asks for are changed.
        truncation_threshold: 0.5,
        resample_probability: Some(0.3),
    };
    check(|| Box::new(pbt.clone()), Claims::POPULATION).unwrap();
}
