use std::f64::consts::PI;

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Domain, Parameter, State, Trial},
    testing::range,
};

/// Trials of a function at points by chance.
fn report(parameters: Vec<Parameter>, trials: usize, f: impl Fn(&[f64]) -> f64) -> Report {
    let mut dice = Dice(7);
    let make = |n: usize| {
        let mut given = std::collections::BTreeMap::new();
        let mut point = Vec::new();
        for parameter in &parameters {
            let unit = dice.unit();
            let (number, text) = match &parameter.domain {
                Domain::Range { min, max, log: false } => {
                    let v = min + unit * (max - min);
                    (v, v.to_string())
                }
                Domain::Range { min, max, log: true } => {
                    let v = (min.ln() + unit * (max.ln() - min.ln())).exp();
                    (v, v.to_string())
                }
                Domain::Ordered { values } | Domain::Choice { values } => {
                    let place = ((unit * values.len() as f64) as usize).min(values.len() - 1);
                    (place as f64, values[place].clone())
                }
            };
            point.push(number);
            given.insert(parameter.name.clone(), text);
        }
        Trial {
            name: format!("t-{n}"),
            state: State::Succeeded,
            parameters: given,
            objective: Some(f(&point).to_string()),
            ..Trial::default()
        }
    };
    let trials = (0..trials).map(make).collect();
    Report { parameters, trials, ..Report::default() }
}

fn share(importance: &Importance, name: &str) -> f64 {
    importance.shares.iter().find(|s| s.name == name).unwrap().share
}

/// Ishigami's function has known indices (a = 7, b = 0.1): 0.3139, 0.4424, 0, and 0.2437 of the first and
/// the third together. The forest blurs the four slopes over x2, which therefore comes out a little low.
#[test]
fn shares_are_the_sobol_indices_of_ishigamis_function() {
    let axes = ["x1", "x2", "x3"].map(|n| range(n, -PI, PI, false)).to_vec();
    let f = |x: &[f64]| x[0].sin() + 7.0 * x[1].sin().powi(2) + 0.1 * x[2].powi(4) * x[0].sin();
    let importance = Importance::of(&report(axes, 1_500, f));
    for (name, want) in [("x1", 0.3139), ("x2", 0.4424), ("x3", 0.0)] {
        let got = share(&importance, name);
        assert!((got - want).abs() < 0.08, "{name}: {got} for {want}");
    }
    assert!((importance.together - 0.2437).abs() < 0.08, "{}", importance.together);
    assert_eq!(importance.shares[0].name, "x2");
}

/// Sobol's g-function, whose indices are products: V_i = 1 / (3 (1 + a_i)²), V = Π(1 + V_i) − 1.
#[test]
fn shares_are_the_sobol_indices_of_the_g_function() {
    let a = [0.0, 1.0, 4.5, 9.0];
    let axes = ["a", "b", "c", "d"].map(|n| range(n, 0.0, 1.0, false)).to_vec();
    let f =
        |x: &[f64]| x.iter().zip(a).map(|(x, a)| ((4.0 * x - 2.0).abs() + a) / (1.0 + a)).product();
    let importance = Importance::of(&report(axes, 1_500, f));
    let part = |a: f64| 1.0 / (3.0 * (1.0 + a).powi(2));
    let whole = a.iter().map(|a| 1.0 + part(*a)).product::<f64>() - 1.0;
    for (name, a) in ["a", "b", "c", "d"].into_iter().zip(a) {
        let (got, want) = (share(&importance, name), part(a) / whole);
        assert!((got - want).abs() < 0.06, "{name}: {got} for {want}");
    }
}

/// A sum of a step over a logarithm, of values without order, and of nothing: shares by arithmetic.
#[test]
fn logarithms_and_values_without_order_take_part() {
    let choice = Domain::Choice { values: ["a", "b", "c"].map(str::to_owned).to_vec() };
    let axes = vec![
        range("lr", 1e-5, 1e-1, true),
        Parameter { name: "opt".into(), domain: choice },
        range("none", 0.0, 1.0, false),
    ];
    // Variances: a step in the middle of the logarithm 1/4, (1, -2, 1) has 2.
    let f = |x: &[f64]| f64::from(u8::from(x[0] > 1e-3)) + [1.0, -2.0, 1.0][x[1] as usize];
    let importance = Importance::of(&report(axes, 600, f));
    assert!((share(&importance, "opt") - 2.0 / 2.25).abs() < 0.03);
    assert!((share(&importance, "lr") - 0.25 / 2.25).abs() < 0.03);
    assert!(share(&importance, "none") < 0.01);
    let surface = importance.surface(1, 0, (3, 10));
    // The forest's numbers are halves: the largest value is 2.
    let (step, choice) = (surface[0][9] - surface[0][0], surface[0][0] - surface[1][0]);
    assert!((step - 0.5).abs() < 0.1 && (choice - 1.5).abs() < 0.1, "{step} {choice}");
}

#[test]
fn too_few_or_equal_trials_have_no_shares() {
    let axes = || vec![range("x", 0.0, 1.0, false)];
    assert!(Importance::of(&report(axes(), 3, |x| x[0])).shares.is_empty());
    let flat = Importance::of(&report(axes(), 50, |_| 2.5));
    assert!(flat.shares.iter().all(|s| s.share == 0.0) && flat.together == 0.0, "{flat:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn shares_are_shares_whatever_the_values(
        values in prop::collection::vec(prop::num::f64::ANY, 0..40),
        places in prop::collection::vec((0.0f64..1.0, 0usize..70), 40),
    ) {
        let names: Vec<String> = (0..70).map(|i| format!("v{i}")).collect();
        let choice = Parameter { name: "c".into(), domain: Domain::Choice { values: names.clone() } };
        let few = Parameter { name: "d".into(), domain: Domain::Choice { values: names[..5].to_vec() } };
        let trials = values.iter().zip(&places).map(|(value, (x, place))| Trial {
            state: State::Succeeded,
            objective: Some(value.to_string()),
            parameters: [("x".to_owned(), x.to_string()), ("c".to_owned(), names[*place].clone()),
                ("d".to_owned(), names[place % 5].clone())].into(),
            ..Trial::default()
        }).collect();
        let parameters = vec![range("x", 0.0, 1.0, false), choice, few];
        let importance = Importance::of(&Report { parameters, trials, ..Report::default() });
        for s in &importance.shares {
            prop_assert!((0.0..=1.0).contains(&s.share), "{importance:?}");
        }
        let sum: f64 = importance.shares.iter().map(|s| s.share).sum();
        prop_assert!(sum <= 1.0 + 1e-6, "{sum}");
    }
}
