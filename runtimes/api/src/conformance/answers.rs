//! Checks of what an engine answers.

use std::{collections::HashSet, sync::Arc, thread};

use mizzen_types::{NamedTensor, TensorError};

use super::{
    Fixture,
    support::{ONE_THREAD, answers_right, load, open, panic_text, run, said, same},
};
use crate::{Batch, Cancel, Model, RuntimeError, TensorSpec};

/// Batch sizes that meet an engine's paths for one row, few rows and odd counts.
const ROWS: [usize; 6] = [1, 2, 3, 4, 7, 16];

pub(super) fn signature(fixture: &Fixture<'_>) -> Result<(), String> {
    let model = load(fixture)?;
    let signature = model.signature();
    well_formed("input", &signature.inputs)?;
    well_formed("output", &signature.outputs)?;
    let inputs = (fixture.batch)(2, 1);
    signature
        .accept(&Batch { inputs: &inputs, outputs: &[] })
        .map_err(|error| format!("the fixture's inputs do not fit it: {error}"))?;
    if load(fixture)?.signature() != signature {
        return Err("the second load gave another signature".to_owned());
    }
    Ok(())
}

fn well_formed(what: &str, specs: &[TensorSpec]) -> Result<(), String> {
    if specs.is_empty() {
        return Err(format!("there is no {what}"));
    }
    let mut names = HashSet::new();
    for spec in specs {
        if spec.name.is_empty() || !names.insert(&spec.name) {
            return Err(format!("{what} name `{}` is empty or used twice", spec.name));
        }
        if spec.shape.0.first() != Some(&-1) || spec.shape.0.iter().any(|dim| *dim < -1) {
            return Err(format!("{what} `{}` has shape {}", spec.name, spec.shape));
        }
    }
    Ok(())
}

pub(super) fn status(fixture: &Fixture<'_>) -> Result<(), String> {
    let _model = load(fixture)?;
    let status = fixture.loader.status();
    if status.backend != fixture.loader.backend() {
        return Err(format!("status is of backend `{}`", status.backend));
    }
    status.found.map(drop).map_err(|reason| format!("it says it is not there: {reason}"))
}

pub(super) fn right(fixture: &Fixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    ROWS.into_iter()
        .zip(1..)
        .try_for_each(|(rows, seed)| answers_right(fixture, &mut *instance, rows, seed))
}

pub(super) fn rows_alone(fixture: &Fixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let rows = 5;
    let inputs = (fixture.batch)(rows, 2);
    let mut answer =
        |inputs: &[NamedTensor]| run(&mut *instance, inputs).map_err(|error| said("run", &error));
    let together = answer(&inputs)?;
    for row in 0..rows {
        let alone = answer(&rows_of(&inputs, row)?)?;
        same(&alone, &rows_of(&together, row)?, fixture.tolerance)
            .map_err(|difference| format!("row {row} alone: {difference}"))?;
    }
    Ok(())
}

fn rows_of(tensors: &[NamedTensor], row: usize) -> Result<Vec<NamedTensor>, String> {
    let slice = |named: &NamedTensor| -> Result<NamedTensor, TensorError> {
        Ok(NamedTensor { name: named.name.clone(), tensor: named.tensor.slice_rows(row, 1)? })
    };
    tensors.iter().map(slice).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

pub(super) fn no_rows(fixture: &Fixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let inputs = (fixture.batch)(0, 3);
    match run(&mut *instance, &inputs) {
        Ok(got) => same(&got, &(fixture.reference)(&inputs), fixture.tolerance)?,
        Err(RuntimeError::Input { .. } | RuntimeError::Run(_)) => {}
        Err(error) => return Err(format!("it is neither an answer nor a refusal: {error}")),
    }
    answers_right(fixture, &mut *instance, 3, 4)
}

pub(super) fn at_once(fixture: &Fixture<'_>) -> Result<(), String> {
    let model = load(fixture)?;
    let job = |seed: u64| {
        // One shape throughout, so that answers can be mixed up.
        let inputs = (fixture.batch)(3, seed);
        let want = (fixture.reference)(&inputs);
        (inputs, want)
    };
    // Four threads of eight runs, no two alike.
    let jobs: Vec<Vec<Job>> = (0..4).map(|t| (8 * t..8 * t + 8).map(job).collect()).collect();
    let tolerance = fixture.tolerance;
    thread::scope(|scope| {
        let running: Vec<_> =
            jobs.iter().map(|jobs| scope.spawn(|| answer_all(&model, jobs, tolerance))).collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => Err(format!("a thread panicked: {}", panic_text(&*panic))),
        })
    })
}

type Job = (Vec<NamedTensor>, Vec<NamedTensor>);

fn answer_all(model: &Arc<dyn Model>, jobs: &[Job], tolerance: f64) -> Result<(), String> {
    let mut instance = model.open(&ONE_THREAD).map_err(|error| said("open", &error))?;
    for (inputs, want) in jobs {
        let got = run(&mut *instance, inputs).map_err(|error| said("run", &error))?;
        same(&got, want, tolerance)?;
    }
    Ok(())
}

pub(super) fn outputs_as_asked(fixture: &Fixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let inputs = (fixture.batch)(2, 5);
    let all = (fixture.reference)(&inputs);
    let last_to_first: Vec<_> = all.iter().rev().cloned().collect();
    let single = all.iter().map(|output| vec![output.clone()]);
    for want in single.chain([last_to_first, all.clone()]) {
        let outputs: Vec<_> = want.iter().map(|output| output.name.clone()).collect();
        let got = instance
            .run(Batch { inputs: &inputs, outputs: &outputs }, &Cancel::default())
            .map_err(|error| said("run", &error))?;
        same(&got, &want, fixture.tolerance)?;
    }
    let mut shuffled = inputs.clone();
    shuffled.reverse();
    let got = run(&mut *instance, &shuffled).map_err(|error| said("run", &error))?;
    same(&got, &all, fixture.tolerance).map_err(|what| format!("inputs in another order: {what}"))
}

pub(super) fn outputs_live_on(fixture: &Fixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let inputs = (fixture.batch)(4, 6);
    let first = run(&mut *instance, &inputs).map_err(|error| said("run", &error))?;
    // A buffer that is used again would show the second batch's values in the first's answer.
    answers_right(fixture, &mut *instance, 4, 7)?;
    drop(instance);
    same(&first, &(fixture.reference)(&inputs), fixture.tolerance)
}
