//! What suggestions look like: distributions, grids, batches, settings.

use mizzen_samplers::{Grid, NAMES, Random, Tpe, by_name};
use mizzen_tuning_api::{
    Assignments, History, Objective, ParameterSpec, Plan, Sampler, SamplerError, SearchSpace,
    Settings, SuggestRequest, Trial, TrialState, Value,
};
use mizzen_types::Coded;
use proptest::prelude::*;

fn space(specs: &[ParameterSpec]) -> SearchSpace {
    SearchSpace::new(specs.to_vec()).expect("a valid space")
}

fn request<'a>(space: &'a SearchSpace, history: &'a History, count: usize) -> SuggestRequest<'a> {
    let plan = Plan::default();
    SuggestRequest { space, history, objective: Objective::MINIMIZE, count, seed: 1, plan }
}

fn ask(sampler: &dyn Sampler, space: &SearchSpace, count: usize) -> Vec<Assignments> {
    sampler.suggest(request(space, &History::new(), count)).expect("a suggestion")
}

fn texts(space: &SearchSpace, points: &[Assignments]) -> Vec<String> {
    let line = |p: &Assignments| space.format(p).into_iter().map(|(_, t)| t).collect::<Vec<_>>();
    points.iter().map(|p| line(p).join(" ")).collect()
}

#[test]
fn random_points_follow_the_distribution_within_the_bounds() {
    let range = |distribution| {
        ParameterSpec::range("x", "double", "0.0001", "1").distribution(distribution)
    };
    #[rustfmt::skip]
    let cases = [
        // what the case shows                      parameter               below    its share
        ("half of uniform is below the middle",     range("uniform"),       0.5,     0.5),
        ("half of logUniform is below the root",    range("logUniform"),    0.01,    0.5),
        ("a sixth of normal is below one sigma",    range("normal"),        0.33339, 0.1587),
        ("half of logNormal is below the root",     range("logNormal"),     0.01,    0.5),
        ("logNormal gathers around the root",       range("logNormal"),     0.01 / 4.6416, 0.1587),
    ];
    for (shows, spec, below, share) in cases {
        let space = space(&[spec]);
        let n = 3000;
        let points = ask(&Random::default(), &space, n);
        let count =
            points.iter().filter(|p| matches!(p.values(), [Value::Double(v)] if *v < below));
        let seen = count.count() as f64 / n as f64;
        assert!((seen - share).abs() < 0.03, "{shows}: {seen} for {share}");
    }
}

#[test]
fn a_log_integer_is_drawn_by_the_logarithm_of_its_cell() {
    let spec = ParameterSpec::range("epochs", "int", "1", "3").distribution("logUniform");
    let other = ParameterSpec::range("x", "double", "0", "1"); // so that points do not repeat
    let space = space(&[spec, other]);
    let points = ask(&Random::default(), &space, 4000);
    let whole = (3.5f64 / 0.5).ln();
    for epochs in 1..=3i64 {
        let share = ((epochs as f64 + 0.5) / (epochs as f64 - 0.5)).ln() / whole;
        let count = points.iter().filter(|p| p.values()[0] == Value::Int(epochs)).count();
        let seen = count as f64 / 4000.0;
        assert!((seen - share).abs() < 0.03, "{epochs}: {seen} for {share}");
    }
}

#[test]
fn a_grid_goes_through_its_points_in_order_and_then_says_so() {
    let space = space(&[
        ParameterSpec::range("lr", "double", "0.1", "0.3").step("0.1"),
        ParameterSpec::list("optimizer", "categorical", &["sgd", "adam"]),
    ]);
    let all = ask(&Grid::default(), &space, 100);
    let want = ["0.1 sgd", "0.1 adam", "0.2 sgd", "0.2 adam", "0.3 sgd", "0.3 adam"];
    assert_eq!(texts(&space, &all), want, "fewer than asked for are all that are left");

    let scattered = texts(&space, &ask(&Grid { random_state: Some(3) }, &space, 100));
    assert_ne!(scattered, want, "a random_state changes the order");
    let mut sorted = scattered;
    sorted.sort();
    assert_eq!(
        sorted,
        {
            let mut w = want;
            w.sort_unstable();
            w
        },
        "and nothing else"
    );

    let failed = all.into_iter().map(|p| Trial::new(p, TrialState::Failed)).collect::<Vec<_>>();
    let error = Grid::default().suggest(request(&space, &failed.into(), 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "all 6 points of the search space were tried; there is nothing left for `grid` to suggest"
    );
}

#[test]
fn a_grid_names_the_parameter_that_has_none() {
    let space = space(&[
        ParameterSpec::range("layers", "int", "1", "3"),
        ParameterSpec::range("lr", "double", "0.1", "0.3"),
    ]);
    let error = Grid::default().check_space(&space).unwrap_err();
    assert_eq!(
        error.to_string(),
        "algorithm `grid` cannot search parameter `lr`: it is a `double` without a step, which has \
         no grid; set `feasibleSpace.step` or use another algorithm"
    );
    assert_eq!(Grid::default().suggest(request(&space, &History::new(), 1)), Err(error));
}

#[test]
fn settings_are_read_by_katibs_names_or_refused() {
    type Case =
        (&'static str, &'static str, &'static [(&'static str, &'static str)], Option<&'static str>);
    let known = NAMES.map(|n| format!("`{n}`")).join(", ");
    #[rustfmt::skip]
    let cases: &[Case] = &[
        // what the case shows      algorithm           settings                            the message, if refused
        ("no settings",             "random",           &[],                                None),
        ("all of tpe",              "tpe",              &[("gamma", "0.25"), ("prior_weight", "1.0"), ("n_EI_candidates", "24"), ("random_state", "10")], None),
        ("all of multivariate-tpe", "multivariate-tpe", &[("n_startup_trials", "0"), ("n_ei_candidates", "1"), ("random_state", "0")], None),
        ("the other spelling",      "tpe",              &[("n_ei_candidates", "24")],       Some("the algorithm settings are not usable: algorithm `tpe` has no setting `n_ei_candidates`, did you mean `n_EI_candidates`?; it has `gamma`, `n_EI_candidates`, `n_startup_trials`, `prior_weight`, `random_state`")),
        ("a share of one",          "tpe",              &[("gamma", "1")],                  Some("the algorithm settings are not usable: setting `gamma` is `1`; expected a number above 0 and below 1")),
        ("no weight",               "tpe",              &[("prior_weight", "0")],           Some("the algorithm settings are not usable: setting `prior_weight` is `0`; expected a finite number above 0")),
        ("no candidates",           "multivariate-tpe", &[("n_ei_candidates", "0")],        Some("the algorithm settings are not usable: setting `n_ei_candidates` is `0`; expected an integer from 1 to 10000")),
        ("a negative seed",         "grid",             &[("random_state", "-1")],          Some("the algorithm settings are not usable: setting `random_state` is `-1`; expected an integer from 0")),
        ("all of cmaes",            "cmaes",            &[("sigma", "0.3"), ("restart_strategy", "bipop"), ("random_state", "1")], None),
        ("another strategy",        "cmaes",            &[("restart_strategy", "always")],  Some("the algorithm settings are not usable: setting `restart_strategy` is `always`; expected `none`, `ipop` or `bipop`")),
        ("all of Katib's process",  "bayesianoptimization", &[("base_estimator", "GP"), ("n_initial_points", "10"), ("acq_func", "gp_hedge"), ("acq_optimizer", "auto"), ("random_state", "1")], None),
        ("another acquisition",     "bayesianoptimization", &[("acq_func", "UCB")],         Some("the algorithm settings are not usable: setting `acq_func` is `UCB`; expected `gp_hedge`, `LCB`, `EI`, `PI`, `EIps` or `PIps`")),
        ("all of gp",               "gp",               &[("acquisition", "hedge"), ("transform", "rank"), ("input_warping", "false"), ("n_startup_trials", "3"), ("random_state", "1")], None),
        ("no resource",             "hyperband",        &[("r_l", "9")],                    Some("the algorithm settings are not usable: setting `resource_name` is missing; give the name of a parameter")),
        ("Katib's state",           "hyperband",        &[("r_l", "9"), ("resource_name", "x"), ("eta", "2"), ("current_s", "1"), ("evaluating_trials", "3")], None),
        ("a small population",      "pbt",              &[("n_population", "4"), ("suggestion_trial_dir", "/d"), ("truncation_threshold", "0.2")], Some("the algorithm settings are not usable: setting `n_population` is `4`; expected an integer from 5 to 100000")),
        ("a setting for auto",      "auto",             &[("gamma", "1")],                  Some("the algorithm settings are not usable: algorithm `auto` has no setting `gamma`; it has `random_state`")),
        ("another's setting",       "random",           &[("gamma", "0.5")],                Some("the algorithm settings are not usable: algorithm `random` has no setting `gamma`; it has `random_state`")),
        ("a slip in the name",      "radnom",           &[],                                Some("there is no algorithm `radnom`, did you mean `random`?; known are KNOWN")),
        ("no such algorithm",       "annealing",        &[],                                Some("there is no algorithm `annealing`; known are KNOWN")),
    ];
    for (shows, name, settings, want) in cases {
        let made = by_name(name, &Settings::new(settings.iter().copied()));
        let message = made.err().map(|e| e.message().replace(&known, "KNOWN"));
        assert_eq!(message.as_deref(), *want, "{shows}");
    }
}

/// The settings without which an algorithm cannot be, with this resource.
fn required(name: &str, resource: &'static str) -> Vec<(&'static str, &'static str)> {
    match name {
        "asha" => vec![("resource_name", resource), ("r_max", "9")],
        "hyperband" => vec![("resource_name", resource), ("r_l", "9"), ("eta", "2")],
        "pbt" => vec![
            ("suggestion_trial_dir", "/checkpoints"),
            ("n_population", "50"),
            ("truncation_threshold", "0.2"),
        ],
        _ => Vec::new(),
    }
}

#[test]
fn a_random_state_stands_in_for_the_seed() {
    let space = space(&[
        ParameterSpec::range("x", "double", "0", "1"),
        ParameterSpec::range("epochs", "int", "1", "9"),
    ]);
    for name in NAMES.into_iter().filter(|name| *name != "grid") {
        let required = required(name, "epochs");
        let ask = |random_state: Option<&str>, seed| {
            let history = History::new();
            let request = SuggestRequest { seed, ..request(&space, &history, 2) };
            let pinned = random_state.map(|text| ("random_state", text));
            let settings = Settings::new(required.iter().copied().chain(pinned));
            by_name(name, &settings).unwrap().suggest(request).unwrap()
        };
        assert_eq!(ask(Some("7"), 1), ask(Some("7"), 2), "{name}");
        assert_eq!(ask(Some("7"), 1), ask(None, 7), "{name}");
    }
}

#[test]
fn parzen_estimators_stay_away_from_where_trials_failed() {
    // Everything above 0.5 fails; below, the objective is the same everywhere.
    let space = space(&[ParameterSpec::range("x", "double", "0", "1")]);
    let mut history = History::new();
    for i in 0..40 {
        let x = (f64::from(i) + 0.5) / 40.0;
        let state = if x < 0.5 { TrialState::Succeeded(1.0) } else { TrialState::Failed };
        history.trials.push(Trial::new(space.assign(vec![Value::Double(x)]).unwrap(), state));
    }
    let points = Tpe::default().suggest(request(&space, &history, 20)).unwrap();
    let low = points.iter().filter(|p| matches!(p.values(), [Value::Double(x)] if *x < 0.5));
    assert!(low.count() >= 15);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A batch is what asking one by one gives while none of it has ended: parallel trials lose
    /// nothing but the results that are not there yet.
    #[test]
    fn a_batch_is_what_asking_one_by_one_gives(seed: u64, done in 0usize..20, known: bool, name in prop::sample::select(NAMES.to_vec())) {
        let space = space(&[
            ParameterSpec::range("layers", "int", "1", "40"),
            ParameterSpec::range("lr", "double", "0", "1").step("0.01"),
            ParameterSpec::list("optimizer", "categorical", &["sgd", "adam", "lion"]),
        ]);
        let sampler = by_name(name, &Settings::new(required(name, "layers"))).unwrap();
        let plan = Plan { trials_max: known.then_some(22), parallel: known.then_some(4), reports: false };
        let mut history = History::new();
        for i in 0..done {
            let request = SuggestRequest { seed, plan, ..request(&space, &history, 1) };
            let Some(point) = sampler.suggest(request).unwrap().pop() else { break };
            history.trials.push(Trial::new(point, TrialState::Succeeded((i * 7 % 11) as f64)));
        }
        let batch = sampler.suggest(SuggestRequest { seed, plan, ..request(&space, &history, 4) }).unwrap();
        let mut one_by_one = Vec::new();
        for _ in 0..4 {
            let request = SuggestRequest { seed, plan, ..request(&space, &history, 1) };
            // A bracket that waits for what runs has nothing to offer.
            let Ok(mut points) = sampler.suggest(request) else { break };
            let Some(point) = points.pop() else { break };
            history.trials.push(Trial::new(point.clone(), TrialState::Running));
            one_by_one.push(point);
        }
        prop_assert_eq!(batch, one_by_one);
    }
}

#[test]
fn auto_ends_around_the_best_trial_where_it_knows_the_end() {
    let space = space(&[
        ParameterSpec::range("x", "double", "0", "1"),
        ParameterSpec::range("y", "double", "0", "1"),
    ]);
    let sampler = by_name("auto", &Settings::default()).unwrap();
    let double = |value: &Value| if let Value::Double(v) = value { *v } else { panic!() };
    let off = |point: &Assignments| {
        let place = |i: usize, at: f64| (double(&point.values()[i]) - at).abs();
        place(0, 0.3).max(place(1, 0.6))
    };
    let search = |trials_max| {
        let mut history = History::new();
        let plan = Plan { trials_max, ..Plan::default() };
        for _ in 0..40 {
            let point = sampler.suggest(SuggestRequest { plan, ..request(&space, &history, 1) });
            let point = point.unwrap().remove(0);
            let loss = off(&point).powi(2);
            history.trials.push(Trial::new(point, TrialState::Succeeded(loss)));
        }
        history
    };
    let (known, unknown) = (search(Some(40)), search(None));
    let far = |h: &History| h.trials[32..].iter().filter(|t| off(&t.assignments) > 0.02).count();
    assert_eq!(far(&known), 0, "the last fifth is all around the best trial");
    assert!(far(&unknown) > 0, "without an end it goes on exploring");
    assert_eq!(known.trials[..32], unknown.trials[..32], "until then the end changes nothing");
    let said = |plan| sampler.explain(SuggestRequest { plan, ..request(&space, &unknown, 1) });
    let end = Plan { trials_max: Some(44), ..Plan::default() };
    assert!(said(end).unwrap().contains("no more than 4 trials are left"), "{:?}", said(end));
    let far = Plan { trials_max: Some(400), ..Plan::default() };
    assert_eq!(said(far), said(Plan::default()));
}

#[test]
fn an_exhausted_grid_is_told_apart_from_a_mistake() {
    let error = SamplerError::Exhausted { algorithm: "grid", points: 6 };
    assert_eq!(error.code(), mizzen_types::ErrorCode::FailedPrecondition);
}
