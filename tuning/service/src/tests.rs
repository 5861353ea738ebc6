//! The service as a function from request to reply.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;

use mizzen_proto::katib::{
    AlgorithmSetting, AlgorithmSpec, Experiment, ExperimentSpec, FeasibleSpace,
    GetSuggestionsReply, GetSuggestionsRequest, Metric, NasConfig, ObjectiveSpec, Observation,
    ParameterSpec, Trial, TrialSpec, TrialStatus, ValidateAlgorithmSettingsRequest,
    experiment_spec::ParameterSpecs, trial_spec::ParameterAssignments,
    trial_status::TrialConditionType,
};
use mizzen_types::{Coded, ErrorCode};

use crate::{
    LABEL_GENERATION, LABEL_PARENT, ServiceError,
    suggestion::{suggest, validate},
};

fn experiment(algorithm: &str, settings: &[(&str, &str)]) -> Experiment {
    let setting = |(name, value): &(&str, &str)| AlgorithmSetting {
        name: (*name).into(),
        value: (*value).into(),
    };
    let range = |name: &str, parameter_type, max: &str, step: &str| ParameterSpec {
        name: name.into(),
        parameter_type,
        feasible_space: Some(FeasibleSpace {
            min: "1".into(),
            max: max.into(),
            step: step.into(),
            ..FeasibleSpace::default()
        }),
    };
    let parameters = vec![range("x", 1, "2", "0.02"), range("epochs", 2, "9", "")];
    Experiment {
        name: "e".into(),
        spec: Some(ExperimentSpec {
            parameter_specs: Some(ParameterSpecs { parameters }),
            objective: Some(ObjectiveSpec {
                r#type: 1,
                objective_metric_name: "loss".into(),
                ..ObjectiveSpec::default()
            }),
            algorithm: Some(AlgorithmSpec {
                algorithm_name: algorithm.into(),
                algorithm_settings: settings.iter().map(setting).collect(),
            }),
            ..ExperimentSpec::default()
        }),
    }
}

/// Each algorithm with the settings that it cannot do without.
fn all() -> Vec<Experiment> {
    let settings = |name: &str| -> &[(&str, &str)] {
        match name {
            "hyperband" => &[("r_l", "9"), ("resource_name", "epochs"), ("eta", "3")],
            "asha" => &[("r_max", "9"), ("resource_name", "epochs")],
            "pbt" => &[
                ("n_population", "5"),
                ("truncation_threshold", "0.2"),
                ("suggestion_trial_dir", "/tmp"),
            ],
            _ => &[],
        }
    };
    mizzen_samplers::NAMES.iter().map(|name| experiment(name, settings(name))).collect()
}

fn request(experiment: &Experiment, trials: &[Trial], count: i32) -> GetSuggestionsRequest {
    GetSuggestionsRequest {
        experiment: Some(experiment.clone()),
        trials: trials.to_vec(),
        current_request_number: count,
        total_request_number: trials.len() as i32 + count,
    }
}

/// The trials that a reply leads to; those before `ended` have a loss, the others run.
fn trials(reply: &GetSuggestionsReply, first: usize, ended: bool) -> Vec<Trial> {
    let trial = |(i, s): (usize, &crate::convert::Suggested)| Trial {
        name: if s.trial_name.is_empty() { format!("e-{i}") } else { s.trial_name.clone() },
        spec: Some(TrialSpec {
            parameter_assignments: Some(ParameterAssignments {
                assignments: s.assignments.clone(),
            }),
            ..TrialSpec::default()
        }),
        status: Some(TrialStatus {
            start_time: format!("2026-01-01T00:{:02}:{:02}Z", i / 60, i % 60),
            condition: if ended {
                TrialConditionType::Succeeded.into()
            } else {
                TrialConditionType::Running.into()
            },
            observation: ended.then(|| Observation {
                metrics: vec![Metric {
                    name: "loss".into(),
                    value: s.assignments[0].value.clone(),
                }],
            }),
            ..TrialStatus::default()
        }),
    };
    reply.parameter_assignments.iter().enumerate().map(|(i, s)| trial((first + i, s))).collect()
}

fn points(trials: &[Trial]) -> HashSet<Vec<String>> {
    let point = |t: &Trial| {
        let spec = t.spec.clone().unwrap_or_default();
        let assignments = spec.parameter_assignments.unwrap_or_default().assignments;
        assignments.into_iter().map(|a| a.value).collect()
    };
    trials.iter().map(point).collect()
}

#[test]
fn every_algorithm_gives_exactly_what_was_asked_for_and_nothing_twice() {
    for experiment in all() {
        let algorithm = experiment.spec.clone().unwrap().algorithm.unwrap().algorithm_name;
        validate(ValidateAlgorithmSettingsRequest { experiment: Some(experiment.clone()) })
            .unwrap();
        let first = suggest(request(&experiment, &[], 5)).unwrap();
        assert_eq!(first.parameter_assignments.len(), 5, "{algorithm}");
        let mut history = trials(&first, 0, true);
        let second = suggest(request(&experiment, &history, 3)).unwrap();
        assert_eq!(second.parameter_assignments.len(), 3, "{algorithm}");
        history.extend(trials(&second, 5, false));
        // A member of a population that does well goes on as it is.
        if algorithm != "pbt" {
            assert_eq!(points(&history).len(), 8, "{algorithm}: running trials count");
        }
        let again = suggest(request(&experiment, &history[..5], 3)).unwrap();
        assert_eq!(again, second, "{algorithm}: a restart changes nothing");
        let mut turned = history[..5].to_vec();
        turned.reverse();
        let turned = suggest(request(&experiment, &turned, 3)).unwrap();
        assert_eq!(turned, second, "{algorithm}: nor does the order in which trials come");
    }
}

#[test]
fn trials_that_are_not_shown_are_not_suggested_again() {
    let experiment = experiment("random", &[]);
    let five = suggest(request(&experiment, &[], 5)).unwrap();
    let shown = &trials(&five, 0, true)[..3];
    let asked = GetSuggestionsRequest { total_request_number: 7, ..request(&experiment, shown, 2) };
    let mut all = trials(&five, 0, true);
    all.extend(trials(&suggest(asked).unwrap(), 5, false));
    assert_eq!(points(&all).len(), 7);
}

#[test]
fn a_population_says_what_each_goes_on_from() {
    let experiment = all().into_iter().nth(8).unwrap();
    assert_eq!(experiment.spec.clone().unwrap().algorithm.unwrap().algorithm_name, "pbt");
    let first = suggest(request(&experiment, &[], 5)).unwrap();
    let history = trials(&first, 0, true);
    for suggested in &first.parameter_assignments {
        assert_eq!(suggested.labels[LABEL_GENERATION], "0");
        assert!(!suggested.labels.contains_key(LABEL_PARENT));
    }
    let names: HashSet<_> = history.iter().map(|t| t.name.clone()).collect();
    let second = suggest(request(&experiment, &history, 5)).unwrap();
    for suggested in &second.parameter_assignments {
        assert_eq!(suggested.labels[LABEL_GENERATION], "1");
        assert!(names.contains(&suggested.labels[LABEL_PARENT]));
        assert!(!names.contains(&suggested.trial_name), "a name of its own");
    }
}

#[test]
fn hyperband_feeds_its_settings_back_and_takes_them() {
    let mut experiment = all().into_iter().find(|e| {
        e.spec.as_ref().unwrap().algorithm.as_ref().unwrap().algorithm_name == "hyperband"
    });
    let mut experiment = experiment.take().unwrap();
    let reply = suggest(request(&experiment, &[], 9)).unwrap();
    let fed_back = reply.algorithm.clone().unwrap();
    let value = |name: &str| fed_back.algorithm_settings.iter().find(|s| s.name == name).unwrap();
    assert_eq!((value("s_max").value.as_str(), value("b_l").value.as_str()), ("2", "27"));
    experiment.spec.as_mut().unwrap().algorithm = Some(fed_back);
    let more = suggest(request(&experiment, &trials(&reply, 0, true), 3)).unwrap();
    assert_eq!(more.parameter_assignments.len(), 3);
}

#[test]
fn what_cannot_be_answered_is_refused_in_words() {
    let changed = |change: fn(&mut ExperimentSpec)| {
        let mut experiment = experiment("grid", &[]);
        change(experiment.spec.as_mut().unwrap());
        experiment
    };
    let with = |algorithm: &str, settings: &[(&str, &str)]| experiment(algorithm, settings);
    use ErrorCode::{InvalidArgument, Unsupported};
    #[rustfmt::skip]
    let cases: &[(&str, Experiment, ErrorCode, &[&str])] = &[
        // what the case shows         experiment                                              code             words
        ("no spec",                    Experiment::default(),                                  InvalidArgument, &["experiment.spec"]),
        ("no such algorithm",          with("tpee", &[]),                                      InvalidArgument, &["tpee", "`tpe`"]),
        ("no such setting",            with("tpe", &[("gama", "1")]),                          InvalidArgument, &["gama", "`gamma`"]),
        ("a setting out of range",     with("tpe", &[("gamma", "2")]),                         InvalidArgument, &["gamma", "`2`", "expected"]),
        ("a setting that is missing",  with("hyperband", &[]),                                 InvalidArgument, &["r_l", "missing"]),
        ("no parameters",              changed(|s| s.parameter_specs = None),                  InvalidArgument, &["no parameters"]),
        ("no type of a parameter",     changed(|s| s.parameter_specs.as_mut().unwrap().parameters[0].parameter_type = 9), InvalidArgument, &["`x`", "parameterType"]),
        ("bounds that are no numbers", changed(|s| s.parameter_specs.as_mut().unwrap().parameters[0].feasible_space = None), InvalidArgument, &["`x`", "min"]),
        ("no direction",               changed(|s| s.objective.as_mut().unwrap().r#type = 0),  InvalidArgument, &["objective.type"]),
        ("no metric",                  changed(|s| s.objective = Some(ObjectiveSpec { r#type: 1, ..Default::default() })), InvalidArgument, &["objective_metric_name"]),
        ("more trials than points",    changed(|s| s.max_trial_count = 460),                   InvalidArgument, &["459", "460", "maxTrialCount"]),
        ("a search of architectures",  changed(|s| { s.parameter_specs = None; s.nas_config = Some(NasConfig::default()); }), Unsupported, &["nasConfig"]),
    ];
    for (shows, experiment, code, words) in cases {
        let experiment = Some(experiment.clone());
        let error = validate(ValidateAlgorithmSettingsRequest { experiment }).unwrap_err();
        assert_eq!(error.code(), *code, "{shows}: {}", error.message());
        for word in *words {
            assert!(error.message().contains(word), "{shows}: {}", error.message());
        }
    }
}

#[test]
fn counts_that_cannot_be_met_are_refused() {
    let random = experiment("random", &[]);
    for count in [-1, i32::MAX] {
        let error = suggest(request(&random, &[], count)).unwrap_err();
        assert!(matches!(error, ServiceError::Count { .. }), "{count}");
    }
    assert_eq!(suggest(request(&random, &[], 0)).unwrap().parameter_assignments, []);
    // A population of five of which all run has nothing for a sixth.
    let population = all().into_iter().nth(8).unwrap();
    let running = trials(&suggest(request(&population, &[], 5)).unwrap(), 0, false);
    let error = suggest(request(&population, &running, 1)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.message().contains("5 trials run"), "{}", error.message());
}

#[test]
fn hyperbands_state_is_told_as_katibs_service_keeps_it() {
    let settings = [("r_l", "9"), ("resource_name", "epochs"), ("eta", "3.0")];
    let mut experiment = experiment("hyperband", &settings);
    let mut trials: Vec<Trial> = Vec::new();
    #[rustfmt::skip]
    let steps = [
        // asked for, resource | current_s, current_i, n,   r,   evaluating_trials
        (9, "1",                ["2",       "0",       "9", "1", "9"]),
        (3, "3",                ["2",       "1",       "9", "1", "3"]),
        (1, "9",                ["1",       "0",       "5", "3", "0"]), // the bracket is through
        (5, "3",                ["1",       "0",       "5", "3", "5"]),
        (1, "9",                ["0",       "0",       "3", "9", "0"]),
        (3, "9",                ["-1",      "0",       "3", "9", "0"]), // and so is the search
    ];
    for (count, resource, state) in steps {
        let reply = suggest(request(&experiment, &trials, count)).unwrap();
        for point in &reply.parameter_assignments {
            assert_eq!(point.assignments[1].value, resource);
        }
        // As Katib's controller: what came back goes into the next request.
        let spec = experiment.spec.as_mut().unwrap();
        let told = reply.algorithm.clone().unwrap().algorithm_settings;
        let value = |name: &str| told.iter().find(|s| s.name == name).unwrap().value.clone();
        for (name, want) in
            ["current_s", "current_i", "n", "r", "evaluating_trials"].into_iter().zip(state)
        {
            assert_eq!(value(name), want, "{name} after {count} with {resource}");
        }
        assert_eq!(
            (value("s_max"), value("b_l"), value("r_l")),
            ("2".into(), "27".into(), "9".into())
        );
        assert_eq!((value("eta"), value("resource_name")), ("3".into(), "epochs".into()));
        assert_eq!(told.len(), 10, "{told:?}");
        spec.algorithm.as_mut().unwrap().algorithm_settings = told;
        let first = trials.len();
        trials.extend(reply.parameter_assignments.into_iter().enumerate().map(|(i, point)| {
            let value = point.assignments[0].value.clone();
            let metrics = vec![Metric { name: "loss".into(), value }];
            Trial {
                name: format!("t-{:02}", first + i),
                spec: Some(TrialSpec {
                    parameter_assignments: Some(ParameterAssignments {
                        assignments: point.assignments,
                    }),
                    ..TrialSpec::default()
                }),
                status: Some(TrialStatus {
                    start_time: format!("2026-01-01T00:00:{:02}Z", first + i),
                    condition: TrialConditionType::Succeeded.into(),
                    observation: Some(Observation { metrics }),
                    ..TrialStatus::default()
                }),
            }
        }));
    }
}

/// A service that says nothing, and one that speaks something else.
#[tokio::test]
async fn a_service_that_does_not_answer_in_time_is_unavailable() {
    use crate::{Question, Remote};
    use std::time::Duration;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let remote = Remote::within(&address, Duration::from_millis(50)).unwrap();
    let question = Question { count: 1, ..Question::default() };
    let error = remote.suggest(question).await.unwrap_err();
    assert!(error.may_pass(), "{error}");
    assert!(error.to_string().contains(&address), "{error}");
}
