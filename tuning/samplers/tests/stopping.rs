//! Early stoppers: what each stops, when, and by which settings.

use mizzen_samplers::{AshaStop, HyperbandStop, MedianStop, STOPPERS, stopper_by_name};
use mizzen_tuning_api::{
    Curve, EarlyStopper, Objective, Settings, Stage, StopRequest, conformance::stopper::check,
};
use mizzen_types::Coded;

#[test]
fn every_stopper_conforms() {
    check(|| Box::new(MedianStop::default())).unwrap();
    check(|| Box::new(MedianStop { min_trials_required: 1, start_step: 1 })).unwrap();
    check(|| Box::new(AshaStop { r_min: 1, r_max: None, eta: 3 })).unwrap();
    check(|| Box::new(AshaStop { r_min: 4, r_max: Some(20), eta: 2 })).unwrap();
    check(|| Box::new(HyperbandStop { r_l: 27, eta: 3 })).unwrap();
}

fn curve(stage: Stage, values: &[f64]) -> Curve<'_> {
    Curve { values, stage }
}

fn judged(stopper: &dyn EarlyStopper, trials: &[Curve<'_>], objective: Objective) -> String {
    let trial = trials.len() - 1;
    let verdict = stopper.judge(StopRequest { trials, trial, objective });
    verdict.map_or_else(|| "goes on".into(), |verdict| verdict.to_string())
}

#[test]
fn medianstop_goes_by_the_median_of_running_means() {
    const INF: f64 = f64::INFINITY;
    let ended = |values| curve(Stage::Succeeded, values);
    let lost = |values| curve(Stage::Failed, values);
    let cut = |values| curve(Stage::EarlyStopped, values);
    // Running means after two values: 0.5, 0.3 and 9; after three: 0.4, 0.2 and 9.
    let (a, b, c) = (ended(&[0.6, 0.4, 0.2, 0.1]), ended(&[0.4, 0.2, 0.0]), ended(&[9.0; 4]));
    let (down, up) = (Objective::MINIMIZE, Objective::MAXIMIZE);
    type Case<'a> = (&'a str, &'a [Curve<'a>], &'a [f64], Objective, &'a str);
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        // what the case shows                     others                            its values        way   verdict
        ("worse than the median",                  &[a, b, c],                       &[0.8, 0.6],      down, "after 2 values its best, 0.6, is worse than 0.5, the median of 3 trials"),
        ("as good as the median",                  &[a, b, c],                       &[0.8, 0.5],      down, "goes on"),
        ("the mean of all would let it go on",     &[a, b, c],                       &[2.0, 2.0],      down, "after 2 values its best, 2, is worse than 0.5, the median of 3 trials"),
        ("its best counts, not its last",          &[a, b, c],                       &[0.1, 7.0],      down, "goes on"),
        ("judged anew with every value",           &[a, b, c],                       &[0.6, 0.45, 0.45], down, "after 3 values its best, 0.45, is worse than 0.4, the median of 3 trials"),
        ("a short trial counts by all it has",     &[a, b, c],                       &[0.6; 9],        down, "after 9 values its best, 0.6, is worse than 0.325, the median of 3 trials"),
        ("before `start_step`",                    &[a, b, c],                       &[99.0],          down, "goes on"),
        ("too few have ended",                     &[a, c],                          &[99.0, 99.0],    down, "goes on"),
        ("only those that succeeded count",        &[a, b, lost(&[9.0; 2]), cut(&[9.0; 2]), Curve::running(&[0.0; 2])], &[99.0, 99.0], down, "goes on"),
        ("an even number: halfway",                &[a, b, c, ended(&[0.2, 0.0])],   &[0.45, 0.45],    down, "after 2 values its best, 0.45, is worse than 0.4, the median of 4 trials"),
        ("to be made large",                       &[a, b, c],                       &[0.2, 0.4],      up,   "after 2 values its best, 0.4, is worse than 0.5, the median of 3 trials"),
        ("large enough",                           &[a, b, c],                       &[0.2, 0.6],      up,   "goes on"),
        ("nothing but not-a-number",               &[a, b, c],                       &[f64::NAN; 2],   down, "none of its first 2 values is a finite number; the median of 3 trials is at 0.5"),
        ("infinite, to be made large",             &[a, b, c],                       &[-INF, INF],     up,   "none of its first 2 values is a finite number; the median of 3 trials is at 0.5"),
        ("others with nothing else",               &[ended(&[f64::NAN]), ended(&[f64::NAN]), a], &[1e9, 1e9], down, "goes on"),
    ];
    let stopper = MedianStop { min_trials_required: 3, start_step: 2 };
    for (shows, others, values, objective, want) in cases {
        let mut trials = others.to_vec();
        trials.push(Curve::running(values));
        assert_eq!(judged(&stopper, &trials, *objective), *want, "{shows}");
    }
}

#[test]
fn asha_keeps_the_best_of_each_rung() {
    let stopper = AshaStop { r_min: 2, r_max: Some(18), eta: 3 }; // rungs at 2 and 6
    let ended = |values| curve(Stage::Succeeded, values);
    let cut = |values| curve(Stage::EarlyStopped, values);
    let (good, poor) = ([0.1; 20], [0.5; 20]);
    type Case<'a> = (&'a str, &'a [Curve<'a>], &'a [f64], &'a str);
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        // what the case shows                      others                                     its values              verdict
        ("below the first rung",                    &[ended(&good); 9],                        &[9.0],                 "goes on"),
        ("a rung that two have reached",            &[ended(&good)],                           &[9.0; 2],              "goes on"),
        ("one of three goes on",                    &[ended(&good), ended(&poor)],             &[0.3; 2],              "after 2 values its best, 0.3, is worse than 0.1, number 1 of the 3 trials that came to this rung"),
        ("that one",                                &[ended(&poor), ended(&poor)],             &[0.3; 2],              "goes on"),
        ("equals share a place",                    &[ended(&good), ended(&good)],             &good[..2],             "goes on"),
        ("two of six go on",                        &[ended(&good), cut(&poor[..2]), cut(&poor[..2]), cut(&poor[..2]), Curve::running(&poor[..3])], &[0.3; 2], "goes on"),
        ("its value at the rung counts, not now",   &[ended(&good), ended(&poor)],             &[0.3, 0.3, 0.0],       "after 2 values its best, 0.3, is worse than 0.1, number 1 of the 3 trials that came to this rung"),
        ("a failed trial is no rival",              &[ended(&good), curve(Stage::Failed, &poor)], &[0.3; 2],           "goes on"),
        ("the rung above is another race",          &[ended(&good), cut(&poor[..2])],          &[0.3; 6],              "goes on"),
        ("where others were, too",                  &[ended(&good), ended(&poor)],             &[0.3; 6],              "after 6 values its best, 0.3, is worse than 0.1, number 1 of the 3 trials that came to this rung"),
        ("no rung at `r_max`",                      &[ended(&good), ended(&poor)],             &[0.3; 19],             "after 6 values its best, 0.3, is worse than 0.1, number 1 of the 3 trials that came to this rung"),
    ];
    for (shows, others, values, want) in cases {
        let mut trials = others.to_vec();
        trials.push(Curve::running(values));
        assert_eq!(judged(&stopper, &trials, Objective::MINIMIZE), *want, "{shows}");
    }
}

/// Goal: brackets have Hyperband's shares, trials race only within their own, and one bracket is left alone.
/// Method: each place in turn holds a hopeless trial; where and when it is stopped shows its bracket.
#[test]
fn hyperband_races_within_brackets() {
    let stopper = HyperbandStop { r_l: 9, eta: 3 };
    let good = [0.1; 9];
    let mut stopped_at = [0; 10];
    for place in 0..300 {
        let mut trials = vec![curve(Stage::Succeeded, &good); 300];
        let hopeless = [9.0; 9];
        let step = (1..=9).find(|n| {
            trials[place] = Curve::running(&hopeless[..*n]);
            let request =
                StopRequest { trials: &trials, trial: place, objective: Objective::MINIMIZE };
            stopper.judge(request).is_some()
        });
        stopped_at[step.unwrap_or(0)] += 1;
    }
    // Hyperband's brackets have 9, 5 and 3 trials of 17.
    let share = |count: i32| (f64::from(count) / 300.0 * 17.0).round();
    assert_eq!([share(stopped_at[1]), share(stopped_at[3]), share(stopped_at[0])], [9.0, 5.0, 3.0]);
    assert_eq!(stopped_at[1] + stopped_at[3] + stopped_at[0], 300);
}

#[test]
fn settings_are_katibs_and_refused_by_name() {
    type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        // what the case shows     stopper       settings                                message
        ("Katib's defaults",       "medianstop", &[],                                    ""),
        ("Katib's example",        "medianstop", &[("min_trials_required", "1"), ("start_step", "2")], ""),
        ("no trial at all",        "medianstop", &[("min_trials_required", "0")],        "setting `min_trials_required` is `0`; expected an integer from 1"),
        ("no number",              "medianstop", &[("start_step", "soon")],              "setting `start_step` is `soon`; expected an integer from 1"),
        ("another's setting",      "medianstop", &[("eta", "3")],                        "no setting `eta`"),
        ("asha as it is",          "asha",       &[],                                    ""),
        ("rungs the wrong way",    "asha",       &[("r_min", "9"), ("r_max", "3")],      "setting `r_max` is `3`; expected an integer above `r_min`"),
        ("nothing to halve",       "asha",       &[("eta", "1")],                        "setting `eta` is `1`"),
        ("hyperband needs a most", "hyperband",  &[("eta", "2")],                        "setting `r_l` is missing"),
        ("hyperband",              "hyperband",  &[("r_l", "81")],                       ""),
        ("no rung at all",         "hyperband",  &[("r_l", "2")],                        "setting `r_l` is `2`; expected an integer from `eta`"),
        ("a slip",                 "medianstopp", &[],                                   "did you mean `medianstop`?"),
    ];
    for (shows, name, pairs, want) in cases {
        let settings = Settings::new(pairs.iter().copied());
        let message =
            stopper_by_name(name, &settings).err().map_or_else(String::new, |e| e.message());
        assert!(
            message.contains(want) && message.is_empty() == want.is_empty(),
            "{shows}: {message}"
        );
    }
    assert!(STOPPERS.is_sorted());
}
