//! Searches that hand out a resource, and populations: who goes on, with how much, and from whom.

use mizzen_samplers::{Asha, Hyperband, Pbt, by_name};
use mizzen_tuning_api::{
    History, Objective, ParameterSpec, Plan, Sampler, SamplerError, SearchSpace, Settings,
    SuggestRequest, Trial, TrialState, Value,
};
use mizzen_types::Coded;
use std::collections::BTreeMap;

fn space() -> SearchSpace {
    SearchSpace::new(vec![
        ParameterSpec::range("x", "double", "0", "1"),
        ParameterSpec::range("epochs", "int", "1", "9"),
    ])
    .expect("a valid space")
}

fn request<'a>(space: &'a SearchSpace, history: &'a History, count: usize) -> SuggestRequest<'a> {
    let plan = Plan::default();
    SuggestRequest { space, history, objective: Objective::MINIMIZE, count, seed: 3, plan }
}

fn x_and_epochs(trial: &Trial) -> (f64, i64) {
    match trial.assignments.values() {
        [Value::Double(x), Value::Int(epochs)] => (*x, *epochs),
        other => panic!("{other:?} is not of the space"),
    }
}

fn hyperband() -> Hyperband {
    Hyperband { random_state: None, r_l: 9.0, resource_name: "epochs".into(), eta: 3 }
}

/// Runs a search whose objective is `x`, `parallel` trials at a time, until it ends or `most` ran.
fn run(sampler: &dyn Sampler, parallel: usize, most: usize) -> History {
    let space = space();
    let mut history = History::new();
    while history.trials.len() < most {
        let points = match sampler.suggest(request(&space, &history, parallel)) {
            Ok(points) => points,
            Err(SamplerError::Exhausted { .. }) => break,
            Err(error) => panic!("{}", error.message()),
        };
        assert!(!points.is_empty(), "nothing runs, so something must be suggested");
        for point in points {
            let mut trial = Trial::new(point, TrialState::Running);
            trial.state = TrialState::Succeeded(x_and_epochs(&trial).0);
            history.trials.push(trial);
        }
    }
    history
}

#[test]
fn hyperband_runs_the_papers_brackets_however_many_run_at_once() {
    // R = 9, η = 3: (9, 1) (3, 3) (1, 9); (5, 3) (1, 9); (3, 9).
    let want = BTreeMap::from([(1, 9), (3, 3 + 5), (9, 1 + 1 + 3)]);
    for parallel in [1, 2, 4, 30] {
        let history = run(&hyperband(), parallel, 100);
        let mut counts = BTreeMap::new();
        history.trials.iter().for_each(|t| *counts.entry(x_and_epochs(t).1).or_insert(0) += 1);
        assert_eq!(counts, want, "{parallel} at once");
    }
}

#[test]
fn hyperband_goes_on_with_the_best_of_a_rung() {
    let trials = run(&hyperband(), 1, 100).trials;
    let mut first: Vec<f64> =
        trials.iter().map(x_and_epochs).filter(|(_, e)| *e == 1).map(|(x, _)| x).collect();
    first.sort_by(f64::total_cmp);
    let second: Vec<f64> = trials[9..12]
        .iter()
        .map(x_and_epochs)
        .map(|(x, epochs)| {
            assert_eq!(epochs, 3);
            x
        })
        .collect();
    assert_eq!(second, first[..3], "the three best of nine, the best first");
    assert_eq!(x_and_epochs(&trials[12]), (first[0], 9));
}

#[test]
fn hyperband_begins_another_bracket_rather_than_wait() {
    let space = space();
    let mut history = run(&hyperband(), 1, 9);
    history.trials[4].state = TrialState::Running;
    let points = hyperband().suggest(request(&space, &history, 12)).unwrap();
    let epochs: Vec<i64> =
        points.into_iter().map(|p| x_and_epochs(&Trial::new(p, TrialState::Running)).1).collect();
    assert_eq!(
        epochs,
        [3, 3, 3, 3, 3, 9, 9, 9],
        "then there is nothing to do until the trial ends"
    );
}

#[test]
fn hyperband_bears_a_failed_rung() {
    let space = space();
    let mut history = run(&hyperband(), 1, 9);
    history.trials.iter_mut().for_each(|t| t.state = TrialState::Failed);
    let points = hyperband().suggest(request(&space, &history, 1)).unwrap();
    let trial = Trial::new(points[0].clone(), TrialState::Running);
    assert_eq!(x_and_epochs(&trial).1, 3, "the next bracket begins");
}

#[test]
fn a_resource_that_is_not_there_or_too_small_is_refused_by_name() {
    let refused = |r_l: &str, name: &str| {
        let settings = Settings::new([("r_l", r_l), ("resource_name", name)]);
        by_name("hyperband", &settings).unwrap().check_space(&space()).map_err(|e| e.message())
    };
    assert_eq!(refused("9", "epochs"), Ok(()));
    assert_eq!(
        refused("9", "steps").unwrap_err(),
        "algorithm `hyperband` cannot search parameter `steps`: setting `resource_name` must be a \
         parameter; there are `x`, `epochs`"
    );
    assert_eq!(
        refused("27", "epochs").unwrap_err(),
        "algorithm `hyperband` cannot search parameter `epochs`: trials get 1 to 27 of it, but it is \
         an integer from 1 to 9; widen it or change the settings"
    );
}

#[test]
fn asha_goes_on_with_one_in_eta_and_never_waits() {
    let asha =
        Asha { random_state: None, r_min: 1.0, r_max: 9.0, resource_name: "epochs".into(), eta: 3 };
    for parallel in [1, 5] {
        let trials = run(&asha, parallel, 120).trials;
        let count = |epochs| trials.iter().filter(|t| x_and_epochs(t).1 == epochs).count();
        let (low, middle, high) = (count(1), count(3), count(9));
        assert_eq!(low + middle + high, 120);
        // Who is among the best changes as trials end, so that a few more than one in three go on.
        assert!(middle * 2 <= low && high * 2 <= middle, "{low} {middle} {high}");
        assert!(middle >= low / 3 - 4 && high >= middle / 3 - 4, "{low} {middle} {high}");
        let best = trials.iter().map(x_and_epochs).map(|(x, _)| x).fold(1.0, f64::min);
        let whole = trials.iter().map(x_and_epochs).filter(|(_, e)| *e == 9);
        let of_whole = whole.map(|(x, _)| x).fold(1.0, f64::min);
        assert!(of_whole <= best + 0.05, "one of the best got all: {of_whole}, {best}");
    }
}

#[test]
fn a_population_goes_on_from_itself_or_from_its_best() {
    let pbt = Pbt {
        random_state: None,
        suggestion_trial_dir: "/checkpoints".into(),
        n_population: 10,
        truncation_threshold: 0.2,
        resample_probability: None,
    };
    let space = space();
    let history = run(&pbt, 1, 10);
    let mut order: Vec<usize> = (0..10).collect();
    let x = |i: usize| x_and_epochs(&history.trials[i]).0;
    order.sort_by(|a, b| x(*a).total_cmp(&x(*b)));
    let request = request(&space, &history, 10);
    let (points, lineage) = (pbt.suggest(request).unwrap(), pbt.lineage(request));
    assert_eq!((points.len(), lineage.len()), (10, 10));
    for i in 0..10 {
        assert_eq!(lineage[i].generation, 1);
        let parent = lineage[i].parent.expect("everybody has one");
        if order[8..].contains(&i) {
            assert!(order[..2].contains(&parent), "one of the worst goes on from one of the best");
            assert_ne!(points[i], history.trials[parent].assignments, "and is changed");
        } else {
            assert_eq!((parent, &points[i]), (i, &history.trials[i].assignments));
        }
    }
}

#[test]
fn a_member_waits_for_its_predecessor() {
    let pbt = by_name(
        "pbt",
        &Settings::new([
            ("suggestion_trial_dir", "/checkpoints"),
            ("n_population", "5"),
            ("truncation_threshold", "0.2"),
        ]),
    )
    .unwrap();
    let space = space();
    let mut history = run(pbt.as_ref(), 1, 5);
    history.trials[1].state = TrialState::Running;
    assert_eq!(pbt.suggest(request(&space, &history, 3)).unwrap().len(), 1);
}
