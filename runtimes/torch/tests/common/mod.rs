//! Models and tensors for the tests of this directory.

#![allow(dead_code, reason = "each test uses a part")]

use std::{path::Path, sync::Arc};

use mizzen_runtime_api::{
    Batch, Cancel, Device, Instance, InstanceOptions, Loader, ModelSource, RuntimeError, Signature,
    TensorSpec,
};
use mizzen_torch::{TorchLoader, testing::compile};
use mizzen_types::{Coded, DataType, NamedTensor, Shape, SpecShape, Tensor};
use tempfile::TempDir;

/// A declared tensor.
pub(crate) type Spec<'a> = (&'a str, DataType, &'a [i64]);

pub(crate) fn specs(specs: &[Spec<'_>]) -> Vec<TensorSpec> {
    let spec = |(name, dtype, dims): &Spec<'_>| TensorSpec {
        name: (*name).into(),
        dtype: *dtype,
        shape: SpecShape(dims.to_vec()),
    };
    specs.iter().map(spec).collect()
}

pub(crate) fn source(dir: &Path, inputs: &[Spec<'_>], outputs: &[Spec<'_>]) -> ModelSource {
    ModelSource {
        name: "m".to_owned(),
        version: 1,
        dir: dir.to_owned(),
        file: None,
        parameters: Default::default(),
        declared: Signature { inputs: specs(inputs), outputs: specs(outputs) },
        decoupled: false,
    }
}

/// A module compiled from source, and its directory.
pub(crate) struct Written {
    pub(crate) dir: TempDir,
    pub(crate) source: ModelSource,
}

pub(crate) fn written(code: &str, inputs: &[Spec<'_>], outputs: &[Spec<'_>]) -> Written {
    let dir = tempfile::tempdir().unwrap();
    compile(code, &[("total", &[1], &[0.0])], &dir.path().join("model.pt")).unwrap();
    let source = source(dir.path(), inputs, outputs);
    Written { dir, source }
}

pub(crate) fn open(source: &ModelSource) -> Box<dyn Instance> {
    let model = TorchLoader.load(source).unwrap_or_else(|error| panic!("{}", error.message()));
    model.open(&InstanceOptions { threads: 1, device: Device::Cpu }).unwrap()
}

pub(crate) fn run(
    instance: &mut dyn Instance,
    inputs: &[NamedTensor],
) -> Result<Vec<NamedTensor>, RuntimeError> {
    instance.run(Batch { inputs, outputs: &[] }, &Cancel::default())
}

/// What a run says that fails, with its causes.
pub(crate) fn failure(instance: &mut dyn Instance, inputs: &[NamedTensor]) -> String {
    run(instance, inputs).map(drop).unwrap_err().message()
}

pub(crate) fn tensor(name: &str, dtype: DataType, dims: &[usize], data: Vec<u8>) -> NamedTensor {
    let tensor = Tensor::new(dtype, Shape::new(dims).unwrap(), data.into()).unwrap();
    NamedTensor { name: name.into(), tensor }
}

pub(crate) fn floats(name: &str, dims: &[usize], values: &[f32]) -> NamedTensor {
    tensor(name, DataType::Fp32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

pub(crate) fn ints(name: &str, dims: &[usize], values: &[i64]) -> NamedTensor {
    tensor(name, DataType::Int64, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

pub(crate) fn strings(name: &str, values: &[&str]) -> NamedTensor {
    let data = mizzen_types::encode_bytes_elements(values);
    let tensor = Tensor::new(DataType::Bytes, Shape::new([values.len()]).unwrap(), data).unwrap();
    NamedTensor { name: name.into(), tensor }
}

pub(crate) fn values(tensor: &NamedTensor) -> Vec<f32> {
    assert_eq!(tensor.tensor.dtype(), DataType::Fp32);
    tensor.tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The engine, told what a configuration would say.
pub(crate) struct Declared(pub(crate) Arc<dyn Fn() -> Signature + Send + Sync>);

impl Loader for Declared {
    fn backend(&self) -> &'static str {
        TorchLoader.backend()
    }

    fn default_file(&self) -> &'static str {
        TorchLoader.default_file()
    }

    fn load(
        &self,
        source: &ModelSource,
    ) -> Result<Arc<dyn mizzen_runtime_api::Model>, RuntimeError> {
        TorchLoader.load(&ModelSource { declared: (self.0)(), ..source.clone() })
    }

    fn status(&self) -> mizzen_runtime_api::EngineStatus {
        TorchLoader.status()
    }
}
