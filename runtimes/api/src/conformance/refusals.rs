//! Checks of what an engine refuses, and that refusing harms nothing.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mizzen_types::{DataType, NamedTensor, Shape, Tensor};

use super::{
    Fixture,
    support::{ONE_THREAD, answers_right, directory, open, run, said, source},
};
use crate::{Batch, Cancel, RuntimeError};

/// Time for a run to get going before it is cancelled. If it has not, the check still holds.
const HEAD_START: Duration = Duration::from_millis(50);
/// "Soon", on a machine that is busy with other things. That the run was ended at all shows in its
/// error.
const ENDED_EARLY: Duration = Duration::from_secs(15);

pub(super) fn inputs(fixture: &Fixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    for (what, inputs) in misfits(&(fixture.batch)(2, 1))? {
        match run(&mut *instance, &inputs) {
            Err(RuntimeError::Input { .. }) => {}
            Err(error) => return Err(format!("{what}: not an input error: {error}")),
            Ok(_) => return Err(format!("{what}: it was answered")),
        }
        answers_right(fixture, &mut *instance, 3, 2)
            .map_err(|after| format!("after {what}: {after}"))?;
    }
    Ok(())
}

/// Batches that each differ from a good one in one respect.
fn misfits(good: &[NamedTensor]) -> Result<Vec<(String, Vec<NamedTensor>)>, String> {
    let mut all = Vec::new();
    for index in 0..good.len() {
        let mut case = |what: &str, change: &dyn Fn(&mut Vec<NamedTensor>)| {
            let mut inputs = good.to_vec();
            change(&mut inputs);
            all.push((format!("`{}` {what}", good[index].name), inputs));
        };
        let (dtype, rank) = (other_dtype(&good[index])?, one_more_dimension(&good[index])?);
        case("missing", &|inputs| drop(inputs.remove(index)));
        case("given twice", &|inputs| inputs.push(good[index].clone()));
        case("of another type", &|inputs| inputs[index].tensor = dtype.clone());
        case("of another rank", &|inputs| inputs[index].tensor = rank.clone());
    }
    let mut extra = good.to_vec();
    if let Some(first) = good.first() {
        extra.push(NamedTensor { name: "no-such-input".into(), tensor: first.tensor.clone() });
        all.push(("an unknown input".to_owned(), extra));
    }
    Ok(all)
}

fn other_dtype(input: &NamedTensor) -> Result<Tensor, String> {
    let dtype = match input.tensor.dtype() {
        DataType::Uint8 => DataType::Int8,
        _ => DataType::Uint8,
    };
    let shape = input.tensor.shape().clone();
    let data = Bytes::from(vec![0; shape.elements()]);
    Tensor::new(dtype, shape, data).map_err(|error| error.to_string())
}

fn one_more_dimension(input: &NamedTensor) -> Result<Tensor, String> {
    let dims = [input.tensor.shape().dims(), &[1]].concat();
    let shape = Shape::new(dims).map_err(|error| error.to_string())?;
    Tensor::new(input.tensor.dtype(), shape, input.tensor.data().clone())
        .map_err(|error| error.to_string())
}

pub(super) fn unknown_output(fixture: &Fixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let inputs = (fixture.batch)(1, 1);
    let outputs = ["no-such-output".into()];
    match instance.run(Batch { inputs: &inputs, outputs: &outputs }, &Cancel::default()) {
        Err(RuntimeError::Input { .. }) => answers_right(fixture, &mut *instance, 1, 2),
        Err(error) => Err(format!("not an input error: {error}")),
        Ok(_) => Err("it was answered".to_owned()),
    }
}

pub(super) fn cancelled_before(fixture: &Fixture<'_>) -> Result<(), String> {
    let mut instance = open(fixture)?;
    let cancel = Cancel::default();
    cancel.cancel();
    let inputs = (fixture.batch)(1, 1);
    match instance.run(Batch { inputs: &inputs, outputs: &[] }, &cancel) {
        Err(RuntimeError::Cancelled) => answers_right(fixture, &mut *instance, 1, 2),
        Err(error) => Err(format!("not the error for it: {error}")),
        Ok(_) => Err("it was answered".to_owned()),
    }
}

pub(super) fn cancelled_during(fixture: &Fixture<'_>) -> Result<(), String> {
    let Some(slow) = &fixture.slow else { return Ok(()) };
    let dir = directory(fixture)?;
    (slow.model)(&dir);
    let model = fixture.loader.load(&source(&dir)).map_err(|error| said("load", &error))?;
    let mut instance = model.open(&ONE_THREAD).map_err(|error| said("open", &error))?;
    // Twice: an instance that was ended once can be used, and ended, again.
    for _ in 0..2 {
        let cancel = Cancel::default();
        let (over, is_over) = mpsc::channel::<()>();
        let outcome = thread::scope(|scope| {
            let raise = cancel.clone();
            scope.spawn(move || {
                let _ = is_over.recv_timeout(HEAD_START);
                raise.cancel();
            });
            let started = Instant::now();
            let outcome = instance.run(Batch { inputs: &slow.batch, outputs: &[] }, &cancel);
            drop(over);
            (outcome, started.elapsed())
        });
        match outcome {
            (Err(RuntimeError::Cancelled), took) if took < ENDED_EARLY => {}
            (Err(RuntimeError::Cancelled), took) => return Err(format!("only after {took:?}")),
            (Err(error), _) => return Err(format!("not the error for it: {error}")),
            (Ok(_), took) => return Err(format!("it was answered, after {took:?}")),
        }
    }
    Ok(())
}
