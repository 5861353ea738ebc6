use proptest::prelude::*;

use super::*;
use crate::config::{complete, read_pbtxt};

/// x → double → a; a → {left, right} → b, c; both → join → y. `z` is what only `left` is needed for.
const DIAMOND: &str = r#"
platform: "ensemble" max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 4 }
output [ { name: "y" data_type: TYPE_FP32 dims: 4 }, { name: "b" data_type: TYPE_FP32 dims: 4 } ]
ensemble_scheduling { step [
  { model_name: "join" model_version: -1 input_map { key: "p" value: "b" } input_map { key: "q" value: "c" } output_map { key: "y" value: "y" } },
  { model_name: "left" model_version: 3 input_map { key: "x" value: "a" } output_map { key: "y" value: "b" } },
  { model_name: "right" input_map { key: "x" value: "a" } output_map { key: "y" value: "c" } },
  { model_name: "double" input_map { key: "x" value: "x" } output_map { key: "y" value: "a" } }
] }"#;

fn config(text: &str) -> ModelConfig {
    read_pbtxt("config.pbtxt", text).unwrap().config
}

fn plan(text: &str) -> Result<Plan, EnsembleError> {
    Plan::of(&config(text))
}

fn names(plan: &Plan, steps: &[StepId]) -> Vec<String> {
    steps.iter().map(|at| plan.steps[*at].model.clone()).collect()
}

#[test]
fn steps_start_once_their_inputs_are_there() {
    let plan = plan(DIAMOND).unwrap();
    let mut progress = plan.start(&[0, 1]);
    let first = progress.take_ready();
    assert_eq!(names(&plan, &first), ["double"]);
    let freed = progress.ended(first[0]);
    assert_eq!(freed, [plan.inputs[0]], "the input has done its work");
    let both = progress.take_ready();
    assert_eq!(names(&plan, &both), ["left", "right"], "these do not wait for one another");
    assert!(progress.ended(both[1]).is_empty(), "`left` still uses it");
    assert!(progress.take_ready().is_empty());
    assert_eq!(progress.ended(both[0]).len(), 1);
    let last = progress.take_ready();
    assert_eq!(names(&plan, &last), ["join"]);
    assert!(!progress.is_over());
    let freed = progress.ended(last[0]);
    let freed: Vec<_> = freed.iter().map(|t| plan.tensors[*t].as_str()).collect();
    assert_eq!(freed, ["c"], "`b` is asked for itself");
    assert!(progress.is_over());
}

#[test]
fn only_what_is_asked_for_is_computed() {
    let plan = plan(DIAMOND).unwrap();
    let mut progress = plan.start(&[1]);
    let mut ran = Vec::new();
    while let Some(step) = progress.take_ready().pop() {
        ran.push(step);
        progress.ended(step);
    }
    assert_eq!(names(&plan, &ran), ["double", "left"]);
    assert!(progress.is_over());
    assert_eq!((plan.steps[0].version, plan.steps[1].version), (None, Some(3)));
}

#[test]
fn what_is_no_graph_is_refused_with_its_reason() {
    let step = |model: &str, from: &str, to: &str| {
        format!(
            "step {{ model_name: '{model}' input_map {{ key: 'x' value: '{from}' }} output_map {{ key: 'y' value: '{to}' }} }}"
        )
    };
    let ends = "platform: 'ensemble' input { name: 'x' data_type: TYPE_FP32 dims: 1 } output { name: 'y' data_type: TYPE_FP32 dims: 1 }";
    let of = |steps: &str| format!("{ends} ensemble_scheduling {{ {steps} }}");
    let good = of(&step("m", "x", "y"));
    assert!(plan(&good).is_ok());
    #[rustfmt::skip]
    let cases = [
        (good.replace("platform: 'ensemble'", "platform: 'onnxruntime_onnx'"), "field `platform`: expected `ensemble`"),
        (format!("{good} backend: 'onnxruntime'"),          "field `backend`: expected none for an ensemble"),
        (format!("{good} instance_group {{ count: 2 }}"),   "field `instance_group`: expected none for an ensemble"),
        (format!("{good} optimization {{ }}"),              "field `optimization`: expected none for an ensemble"),
        (format!("{good} model_warmup {{ name: 'w' }}"),    "field `model_warmup`: expected none for an ensemble"),
        (ends.to_owned(),                                   "expected at least one `step`"),
        ("platform: 'ensemble' ensemble_scheduling { step { model_name: 'm' input_map { key: 'x' value: 'x' } output_map { key: 'y' value: 'y' } } }".to_owned(), "field `input`: expected at least one"),
        (of(&step("m", "z", "y")),                          "step[0].input_map`: tensor `z` is neither an input of the ensemble nor made by a step"),
        (of(&step("m", "x", "z")),                          "field `output`: `y` is made by no step"),
        (of(&(step("m", "x", "y") + &step("n", "x", "y"))), "step[1].output_map`: tensor `y` is already made by step 0 (`m`)"),
        (of(&step("m", "x", "x")),                          "tensor `x` is already an input of the ensemble"),
        (of(&(step("m", "x", "y") + &step("n", "x", "z"))), "step[1].output_map`: tensor `z` is used by no step and is no output"),
        (of(&(step("a", "x", "y") + &step("m", "p", "q") + &step("n", "q", "p"))), "steps 1, 2 (models `m`, `n`) wait for one another"),
        (of(&(step("m", "x", "y"))).replace("output {", "input { name: 'w' data_type: TYPE_FP32 dims: 1 } output {"), "field `input`: `w` is used by no step"),
        (good.replace("output {", "output { name: 'y' data_type: TYPE_FP32 dims: 1 } output {"), "field `output`: `y` is listed twice"),
    ];
    for (text, want) in cases {
        let error = plan(&text).unwrap_err().to_string();
        assert!(error.contains(want), "{error}\nfor {text}");
    }
}

/// A model's specification, from its configuration alone.
fn spec(text: &str) -> ModelSpec {
    let mut config = config(text);
    config.name = "m".to_owned();
    let signature = signature(&config);
    complete(config, &signature, false).unwrap().1
}

#[test]
fn an_ensemble_fits_the_models_it_is_made_of() {
    let ensemble = "platform: 'ensemble' max_batch_size: 4 input { name: 'x' data_type: TYPE_FP32 dims: 4 } output { name: 'y' data_type: TYPE_FP32 dims: -1 } ensemble_scheduling { step { model_name: 'm' input_map { key: 'x' value: 'x' } output_map { key: 'y' value: 'y' } } }";
    let plan = plan(ensemble).unwrap();
    let own = spec(ensemble);
    let model = |max: usize, x: &str, y: &str| {
        format!("max_batch_size: {max} input {{ name: 'x' {x} }} output {{ name: 'y' {y} }}")
    };
    let four = "data_type: TYPE_FP32 dims: 4";
    #[rustfmt::skip]
    let cases = [
        ("the same",                      model(4, four, four),                                  ""),
        ("a larger batch",                model(8, four, four),                                  ""),
        ("free sizes",                    model(4, "data_type: TYPE_FP32 dims: -1", four),       ""),
        ("no batch, the shape in full",   model(0, "data_type: TYPE_FP32 dims: [-1, 4]", "data_type: TYPE_FP32 dims: [-1, 4]"), ""),
        ("no batch, a row alone",         model(0, four, four),                                  ""),
        ("a smaller batch",               model(2, four, four),                                  "expected at most 2, which is that of model `m`, got 4"),
        ("another type",                  model(4, "data_type: TYPE_INT64 dims: 4", four),       "tensor `x` is TYPE_FP32 as input of the ensemble and TYPE_INT64 as input `x` of model `m`"),
        ("another size",                  model(4, "data_type: TYPE_FP32 dims: 5", four),        "tensor `x` has shape [-1,4] as input of the ensemble and [-1,5] as input `x` of model `m`"),
        ("another rank",                  model(4, "data_type: TYPE_FP32 dims: [4, 1]", four),   "tensor `x` has shape"),
        ("no such output",                model(4, four, four).replace("'y'", "'z'"),            "step[0].output_map`: model `m` has no output `y`; it has `z`"),
        ("an input that gets nothing",    model(4, four, four) + " input { name: 'w' data_type: TYPE_FP32 dims: 4 }", "input `w` of model `m` gets no tensor"),
    ];
    for (shows, text, want) in cases {
        let result = plan.check(&own, |_| Ok(spec(&text)));
        match result {
            Ok(()) => assert_eq!(want, "", "{shows}"),
            Err(error) => {
                assert!(!want.is_empty() && error.to_string().contains(want), "{shows}: {error}");
            }
        }
    }
    let error = plan.check(&own, |_| Err("it failed".to_owned())).unwrap_err();
    assert_eq!(error.to_string(), "the ensemble needs model `m`, which is not ready: it failed");
}

/// A random graph in which step `i` uses some of what is there before it, in a random order.
fn graphs() -> impl Strategy<Value = (Plan, Vec<usize>, Vec<prop::sample::Index>)> {
    let steps = prop::collection::vec(
        (prop::collection::vec(any::<prop::sample::Index>(), 1..4), 1usize..3),
        1..9,
    );
    (steps, any::<prop::sample::Index>(), prop::collection::vec(any::<prop::sample::Index>(), 32))
        .prop_map(|(steps, shuffle, order)| {
            let mut count = 1;
            let mut made = Vec::new();
            for (inputs, outputs) in steps {
                let inputs = inputs.iter().map(|i| i.index(count)).enumerate();
                let inputs = inputs.map(|(at, t)| (format!("i{at}"), t)).collect();
                let outputs: Vec<_> =
                    (0..outputs).map(|at| (format!("o{at}"), count + at)).collect();
                count += outputs.len();
                made.push(Step {
                    model: format!("m{}", made.len()),
                    version: None,
                    inputs,
                    outputs,
                });
            }
            let turn = shuffle.index(made.len());
            made.rotate_left(turn);
            let plan = Plan {
                tensors: (0..count).map(|at| format!("t{at}")).collect(),
                inputs: vec![0],
                outputs: (1..count).collect(),
                steps: made,
            };
            let wanted = order[..3].iter().map(|i| i.index(plan.outputs.len()));
            let wanted = wanted.collect::<BTreeSet<_>>().into_iter().collect();
            (plan, wanted, order)
        })
}

proptest! {
    #[test]
    fn each_needed_step_runs_once_with_its_inputs_and_nothing_else_does(
        (plan, wanted, order) in graphs(),
    ) {
        prop_assert_eq!(plan.check_makers(), Ok(()));
        prop_assert_eq!(plan.check_order(), Ok(()));
        let mut progress = plan.start(&wanted);
        let mut held: BTreeSet<TensorId> = plan.inputs.iter().copied().collect();
        let mut ran = BTreeSet::new();
        let mut running = progress.take_ready();
        let mut turn = order.iter().cycle();
        while !running.is_empty() {
            let step = running.swap_remove(turn.next().unwrap().index(running.len()));
            prop_assert!(ran.insert(step), "a step runs once");
            let Step { inputs, outputs, .. } = &plan.steps[step];
            prop_assert!(inputs.iter().all(|(_, t)| held.contains(t)), "its inputs are held");
            prop_assert!(!progress.wanted(step).is_empty(), "it runs for something");
            held.extend(progress.wanted(step).into_iter().map(|at| outputs[at].1));
            for tensor in progress.ended(step) {
                held.remove(&tensor);
            }
            running.extend(progress.take_ready());
            // All that could run is running.
            for (at, step) in plan.steps.iter().enumerate() {
                let could = progress.needed[at] && step.inputs.iter().all(|(_, t)| progress.there.contains(t));
                prop_assert!(!could || ran.contains(&at) || running.contains(&at));
            }
        }
        prop_assert!(progress.is_over());
        let answer: BTreeSet<TensorId> = wanted.iter().map(|at| plan.outputs[*at]).collect();
        let held: BTreeSet<TensorId> = held.into_iter().filter(|t| *t != 0).collect();
        prop_assert_eq!(held, answer, "what was asked for is there, and nothing else is kept");
    }
}
