//! Every sampler keeps the seam's promises.

use mizzen_samplers::{
    Acquisition, Auto, CmaEs, Gp, Grid, Random, RestartStrategy, Sobol, Split, Tpe, by_name,
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
    let unusual =
        Tpe { n_startup_trials: 0, n_ei_candidates: 1, split: Split::Root(0.9), ..Tpe::default() };
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
    for acquisition in [Acquisition::LogEi, Acquisition::Ucb] {
        check(|| Box::new(Gp { acquisition, ..Gp::default() }), Claims::MODEL).unwrap();
    }
}

#[test]
fn auto_conforms() {
    check(|| Box::new(Auto::default()), Claims::MODEL).unwrap();
}
