//! What the checks share: models on disk, runs, and comparing tensors.

use std::{
    any::Any,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mizzen_types::{Coded, DataType, NamedTensor};

use super::Fixture;
use crate::{Batch, Cancel, Device, Instance, InstanceOptions, Model, ModelSource, RuntimeError};

pub(super) const MODEL: &str = "conformance-model";

/// One thread on the CPU, which every engine has.
pub(super) const ONE_THREAD: InstanceOptions = InstanceOptions { threads: 1, device: Device::Cpu };

/// A fresh version directory.
pub(super) fn directory(fixture: &Fixture<'_>) -> Result<PathBuf, String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let dir = fixture.scratch.join(format!("dir-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&dir).map_err(|error| format!("`{}`: {error}", dir.display()))?;
    Ok(dir)
}

/// The fixture's model in a fresh directory.
pub(super) fn written(fixture: &Fixture<'_>) -> Result<ModelSource, String> {
    let dir = directory(fixture)?;
    (fixture.model)(&dir);
    Ok(source(&dir))
}

pub(super) fn source(dir: &Path) -> ModelSource {
    ModelSource {
        name: MODEL.to_owned(),
        version: 1,
        dir: dir.to_owned(),
        file: None,
        parameters: Default::default(),
        declared: Default::default(),
        decoupled: false,
    }
}

pub(super) fn load(fixture: &Fixture<'_>) -> Result<Arc<dyn Model>, String> {
    let source = written(fixture)?;
    fixture.loader.load(&source).map_err(|error| said("load", &error))
}

pub(super) fn open(fixture: &Fixture<'_>) -> Result<Box<dyn Instance>, String> {
    load(fixture)?.open(&ONE_THREAD).map_err(|error| said("open", &error))
}

pub(super) fn run(
    instance: &mut dyn Instance,
    inputs: &[NamedTensor],
) -> Result<Vec<NamedTensor>, RuntimeError> {
    instance.run(Batch { inputs, outputs: &[] }, &Cancel::default())
}

/// Runs and compares with the reference.
pub(super) fn answers_right(
    fixture: &Fixture<'_>,
    instance: &mut dyn Instance,
    rows: usize,
    seed: u64,
) -> Result<(), String> {
    let inputs = (fixture.batch)(rows, seed);
    let got = run(instance, &inputs).map_err(|error| said("run", &error))?;
    let want = (fixture.reference)(&inputs);
    same(&got, &want, fixture.tolerance).map_err(|difference| format!("{rows} rows: {difference}"))
}

/// Whether two answers are the same outputs with, within the tolerance, the same values.
pub(super) fn same(
    got: &[NamedTensor],
    want: &[NamedTensor],
    tolerance: f64,
) -> Result<(), String> {
    let names = |tensors: &[NamedTensor]| -> Vec<String> {
        tensors.iter().map(|tensor| tensor.name.to_string()).collect()
    };
    if names(got) != names(want) {
        return Err(format!("outputs are {:?}; expected {:?}", names(got), names(want)));
    }
    got.iter().zip(want).try_for_each(|(got, want)| same_tensor(got, want, tolerance))
}

fn same_tensor(got: &NamedTensor, want: &NamedTensor, tolerance: f64) -> Result<(), String> {
    let (name, got, want) = (&got.name, &got.tensor, &want.tensor);
    if (got.dtype(), got.shape()) != (want.dtype(), want.shape()) {
        let (got_shape, want_shape) = (got.shape(), want.shape());
        let (got, want) = (got.dtype(), want.dtype());
        return Err(format!("`{name}` is {got} {got_shape}; expected {want} {want_shape}"));
    }
    let differs = match want.dtype() {
        DataType::Fp32 => first_apart::<4>(got.data(), want.data(), tolerance, |bytes| {
            f64::from(f32::from_le_bytes(bytes))
        }),
        DataType::Fp64 => first_apart::<8>(got.data(), want.data(), tolerance, f64::from_le_bytes),
        _ if got.data() == want.data() => None,
        _ => Some("bytes that differ".to_owned()),
    };
    differs.map_or(Ok(()), |what| Err(format!("`{name}` has {what}")))
}

fn first_apart<const N: usize>(
    got: &[u8],
    want: &[u8],
    tolerance: f64,
    read: impl Fn([u8; N]) -> f64,
) -> Option<String> {
    let (got, want) = (got.as_chunks::<N>().0, want.as_chunks::<N>().0);
    got.iter().zip(want).enumerate().find_map(|(index, (got, want))| {
        let (got, want) = (read(*got), read(*want));
        let near = (got - want).abs() <= tolerance * want.abs().max(1.0);
        let alike = near || got == want || (got.is_nan() && want.is_nan());
        (!alike).then(|| format!("{got} at element {index}; expected {want}"))
    })
}

pub(super) fn said(what: &str, error: &RuntimeError) -> String {
    format!("{what} failed: {}", error.message())
}

/// The text of a caught panic.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text")
}
