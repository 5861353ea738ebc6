//! Search spaces as Experiments write them: what is read, and what each refusal says.

use mizzen_tuning_api::{AssignmentError, ParameterSpec, SearchSpace, UnitScale, Value};
use proptest::prelude::*;

fn range(kind: &str, min: &str, max: &str) -> ParameterSpec {
    ParameterSpec::range("lr", kind, min, max)
}

fn list(kind: &str, values: &[&str]) -> ParameterSpec {
    ParameterSpec::list("lr", kind, values)
}

fn one(spec: ParameterSpec) -> SearchSpace {
    SearchSpace::new(vec![spec]).expect("a valid space")
}

#[test]
fn a_refusal_names_the_parameter_the_field_what_is_expected_and_what_came() {
    let both = ParameterSpec {
        feasible_space: mizzen_tuning_api::FeasibleSpaceSpec {
            list: vec!["1".into()],
            ..range("double", "0", "1").feasible_space
        },
        ..range("double", "0", "1")
    };
    let ranged = ParameterSpec { parameter_type: "categorical".into(), ..both.clone() };
    #[rustfmt::skip]
    let cases: Vec<(&str, Vec<ParameterSpec>, &str)> = vec![
        // what the case shows      parameters                                  the message
        ("nothing to search",       vec![],                                     "the search space has no parameters; list at least one under `parameters`"),
        ("no name",                 vec![ParameterSpec::default()],             "parameter number 1 has no `name`; trials refer to parameters by name"),
        ("one name twice",          vec![range("int", "0", "1"); 2],            "parameter `lr` is listed twice; names must be unique"),
        ("no type",                 vec![range("", "0", "1")],                  "parameter `lr`: `parameterType` is missing; expected `double`, `int`, `discrete` or `categorical`"),
        ("another type",            vec![range("float", "0", "1")],             "parameter `lr`: `parameterType` is `float`; expected `double`, `int`, `discrete` or `categorical`"),
        ("no minimum",              vec![range("double", "", "1")],             "parameter `lr`: `feasibleSpace.min` is missing; expected a finite number"),
        ("a word for a number",     vec![range("double", "0", "high")],         "parameter `lr`: `feasibleSpace.max` is `high`; expected a finite number"),
        ("an infinite bound",       vec![range("double", "-inf", "1")],         "parameter `lr`: `feasibleSpace.min` is `-inf`; expected a finite number"),
        ("a fraction for an int",   vec![range("int", "0.5", "3")],             "parameter `lr`: `feasibleSpace.min` is `0.5`; expected an integer (use type `double` for fractions)"),
        ("bounds the wrong way",    vec![range("double", "1", "0.1")],          "parameter `lr`: `feasibleSpace.min` is `1`; expected a number not above `feasibleSpace.max`, `0.1`"),
        ("a width beyond doubles",  vec![range("double", "-1e308", "1e308")],   "parameter `lr`: `feasibleSpace.max` is `1e308`; expected a range whose width is a finite number"),
        ("a step of zero",          vec![range("double", "0", "1").step("0")],  "parameter `lr`: `feasibleSpace.step` is `0`; expected a number above 0 that is not vanishingly small beside the range"),
        ("a step beyond doubles",   vec![range("double", "0", "1").step("1e-20")], "parameter `lr`: `feasibleSpace.step` is `1e-20`; expected a number above 0 that is not vanishingly small beside the range"),
        ("half a step for an int",  vec![range("int", "0", "9").step("0.5")],   "parameter `lr`: `feasibleSpace.step` is `0.5`; expected an integer above 0"),
        ("a negative int step",     vec![range("int", "0", "9").step("-1")],    "parameter `lr`: `feasibleSpace.step` is `-1`; expected an integer above 0"),
        ("a logarithm of zero",     vec![range("double", "0", "1").distribution("logUniform")], "parameter `lr`: `feasibleSpace.min` is `0`; expected a number above 0, because the distribution is `logUniform`"),
        ("the same for an int",     vec![range("int", "0", "9").distribution("logNormal")],     "parameter `lr`: `feasibleSpace.min` is `0`; expected a number above 0, because the distribution is `logNormal`"),
        ("another distribution",    vec![range("double", "0", "1").distribution("beta")],       "parameter `lr`: `feasibleSpace.distribution` is `beta`; expected `uniform`, `logUniform`, `normal` or `logNormal`"),
        ("a list for a range",      vec![both],                                 "parameter `lr`: `feasibleSpace.list` has no meaning for type `double`; remove it and use `feasibleSpace.min` and `feasibleSpace.max`"),
        ("a range for a list",      vec![ranged],                               "parameter `lr`: `feasibleSpace.min` has no meaning for type `categorical`; remove it and use `feasibleSpace.list`"),
        ("a step for a list",       vec![list("discrete", &["1"]).step("1")],   "parameter `lr`: `feasibleSpace.step` has no meaning for type `discrete`; remove it and use `feasibleSpace.list`"),
        ("a scale for a list",      vec![list("discrete", &["1"]).distribution("logUniform")], "parameter `lr`: `feasibleSpace.distribution` has no meaning for type `discrete`; remove it and use `feasibleSpace.list`"),
        ("an empty list",           vec![list("categorical", &[])],             "parameter `lr`: `feasibleSpace.list` is missing; expected at least one value"),
        ("a word among numbers",    vec![list("discrete", &["1", "two"])],      "parameter `lr`: `feasibleSpace.list` is `two`; expected only numbers (use type `categorical` for words)"),
        ("a word twice",            vec![list("categorical", &["a", "b", "a"])], "parameter `lr`: `feasibleSpace.list` holds `a` and `a`, which are the same value; list each once"),
        ("a number in two ways",    vec![list("discrete", &["1", "2", "1.0"])], "parameter `lr`: `feasibleSpace.list` holds `1` and `1.0`, which are the same value; list each once"),
    ];
    for (shows, specs, want) in cases {
        assert_eq!(SearchSpace::new(specs).unwrap_err().to_string(), want, "{shows}");
    }
}

#[test]
fn the_cells_of_a_domain_are_written_as_katib_users_expect() {
    #[rustfmt::skip]
    let cases: Vec<(&str, ParameterSpec, &[&str])> = vec![
        // what the case shows          parameter                                       its values as text
        ("decimal steps stay decimal",  range("double", "0.1", "0.5").step("0.1"),      &["0.1", "0.2", "0.3", "0.4", "0.5"]),
        ("the grid starts at min",      range("double", "0.05", "0.3").step("0.1"),     &["0.05", "0.15", "0.25"]),
        ("whole doubles keep a point",  range("double", "1", "3").step("1"),            &["1.0", "2.0", "3.0"]),
        ("small numbers use exponents", range("double", "1e-6", "3e-6").step("1e-6"),   &["1e-6", "2e-6", "3e-6"]),
        ("ints have none",              range("int", "-1", "1"),                        &["-1", "0", "1"]),
        ("an int grid ends below max",  range("int", "1", "8").step("3"),               &["1", "4", "7"]),
        ("a step beyond the range",     range("int", "5", "8").step("10"),              &["5"]),
        ("bounds that meet",            range("double", "0.5", "0.5"),                  &["0.5"]),
        ("discrete keeps the text",     list("discrete", &["1e1", "0.50", "2"]),        &["0.50", "2", "1e1"]),
        ("words keep their order",      list("categorical", &["sgd", "adam"]),          &["sgd", "adam"]),
    ];
    for (shows, spec, want) in cases {
        let space = one(spec);
        let domain = space.parameters()[0].domain();
        let cells = domain.cells().expect("a grid");
        let texts: Vec<_> = (0..cells).map(|c| domain.format(domain.value(c)).unwrap()).collect();
        assert_eq!(texts, want, "{shows}");
        for cell in 0..cells {
            assert_eq!(domain.cell(domain.value(cell)), Some(cell), "{shows}");
        }
    }
}

#[test]
fn an_unknown_or_missing_assignment_is_named() {
    let space = SearchSpace::new(vec![
        ParameterSpec::range("momentum", "double", "0", "1"),
        ParameterSpec::range("layers", "int", "1", "9").step("2"),
        ParameterSpec::list("optimizer", "categorical", &["sgd", "adam"]),
    ])
    .unwrap();
    let good = [("optimizer", "adam"), ("momentum", "0.25"), ("layers", "3")];
    let point = space.parse(good).unwrap();
    assert_eq!(point.values(), [Value::Double(0.25), Value::Int(3), Value::Choice(1)]);
    let texts = space.format(&point);
    assert_eq!(
        texts,
        [("momentum", "0.25".into()), ("layers", "3".into()), ("optimizer", "adam".into())]
    );

    type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        // what the case shows  assignments                         the message
        ("no value",        &[("momentum", "0")],                   "parameter `layers` has no value; assign one to every parameter of the space"),
        ("a slip",          &[("momemtum", "0")],                   "there is no parameter `momemtum`; the space has `momentum`, which is near"),
        ("another name",    &[("seed", "0")],                       "there is no parameter `seed`; the space has `momentum`, `layers`, `optimizer`"),
        ("twice",           &[("layers", "1"), ("layers", "1")],    "parameter `layers` is assigned twice; assign it once"),
        ("off the grid",    &[("momentum", "0"), ("layers", "2")],  "parameter `layers` is assigned `2`; expected an integer from 1 to 9 by 2"),
        ("beyond a bound",  &[("momentum", "1.5")],                 "parameter `momentum` is assigned `1.5`; expected a number from 0.0 to 1.0"),
        ("not a number",    &[("momentum", "NaN")],                 "parameter `momentum` is assigned `NaN`; expected a number from 0.0 to 1.0"),
        ("no such word",    &[("momentum", "1"), ("layers", "1"), ("optimizer", "lion")], "parameter `optimizer` is assigned `lion`; expected one of `sgd`, `adam`"),
    ];
    for (shows, pairs, want) in cases {
        let error = space.parse(pairs.iter().copied()).unwrap_err();
        assert_eq!(error.to_string(), *want, "{shows}");
    }
    let short = space.assign(vec![Value::Int(1)]).unwrap_err();
    assert_eq!(short, AssignmentError::Count { want: 3, got: 1 });
}

#[test]
fn an_experiments_json_is_read_by_katibs_field_names() {
    let json = r#"{"name": "lr", "parameterType": "double",
        "feasibleSpace": {"min": "0.01", "max": "0.05", "step": "0.01", "distribution": "normal"}}"#;
    let spec: ParameterSpec = serde_json::from_str(json).unwrap();
    assert_eq!(spec, range("double", "0.01", "0.05").step("0.01").distribution("normal"));
    assert_eq!(one(spec).size(), Some(5));
}

#[test]
fn the_size_of_a_space_multiplies_and_does_not_overflow() {
    let whole = || ParameterSpec::range("", "int", &i64::MIN.to_string(), &i64::MAX.to_string());
    let named = |i: usize| ParameterSpec { name: format!("p{i}"), ..whole() };
    let space = SearchSpace::new((0..3).map(named).collect()).unwrap();
    assert_eq!(space.size(), Some(u128::MAX));
    let domain = space.parameters()[0].domain();
    assert_eq!(domain.value(0), Value::Int(i64::MIN));
    assert_eq!(domain.cell(Value::Int(i64::MAX)), Some(u64::MAX));
    assert_eq!(one(range("double", "0", "1")).size(), None);
}

/// Ranges of every kind and scale, with and without a step.
fn any_range() -> impl Strategy<Value = ParameterSpec> {
    let distribution = prop::sample::select(vec!["uniform", "logUniform", "normal", "logNormal"]);
    let bounds = (1e-6f64..1e3, 0f64..1e4, prop::option::of(1e-3f64..1e2));
    (any::<bool>(), bounds, distribution).prop_map(|(int, (min, width, step), distribution)| {
        let spec = if int {
            let (min, width) = (1 + min as i64, width as i64);
            let spec = range("int", &min.to_string(), &(min + width).to_string());
            step.map_or(spec.clone(), |s| spec.step(&(1 + s as u64).to_string()))
        } else {
            let spec = range("double", &min.to_string(), &(min + width).to_string());
            step.map_or(spec.clone(), |s| spec.step(&s.to_string()))
        };
        spec.distribution(distribution)
    })
}

proptest! {
    #[test]
    fn a_place_is_a_value_of_the_domain_and_its_text_reads_back(
        spec in any_range(), places in prop::collection::vec(0f64..=1.0, 1..20),
    ) {
        let space = one(spec);
        let domain = space.parameters()[0].domain();
        let scale = UnitScale::new(domain);
        let places = places.into_iter().chain([0.0, 1.0]);
        for place in places {
            let value = scale.value(place);
            prop_assert!(domain.contains(value), "{value:?} of {}", domain.describe());
            let text = domain.format(value).unwrap();
            prop_assert_eq!(domain.parse(&text), Some(value));
            if let Some(cell) = domain.cell(value) {
                prop_assert_eq!(domain.value(cell), value);
                let (low, high) = scale.cell_edges(cell);
                prop_assert!((low - 1e-9..=high + 1e-9).contains(&place), "{low} {place} {high}");
                let centre = scale.place(value).unwrap();
                prop_assert!((low..=high).contains(&centre), "{low} {centre} {high}");
            } else {
                let back = scale.place(value).unwrap();
                prop_assert!((back - place).abs() < 1e-6, "{place} came back as {back}");
            }
        }
    }
}
