//! Goal: ONNX models answer as ONNX says, and what is wrong with a file or a request is said.
//! Method: the real library, over models written byte by byte. It must be in `.cache/onnxruntime/lib`
//! (`make setup` puts it there) or where the search order finds it; its absence fails these tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use mizzen_runtime_api::{
    Batch, Cancel, Device, Instance, InstanceOptions, Loader, Model, ModelSource, RuntimeError,
};
use mizzen_runtime_onnx::{
    OnnxLoader, OnnxOptions,
    testing::{Graph, add_model, identity_model, linear_model, slow_model},
};
use mizzen_types::{Coded, DataType, NamedTensor, Shape, Tensor, encode_bytes_elements};

const CPU: InstanceOptions = InstanceOptions { threads: 1, device: Device::Cpu };

fn loader() -> OnnxLoader {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/onnxruntime/lib");
    OnnxLoader::new(OnnxOptions { dirs: vec![cache], ..OnnxOptions::default() })
}

fn source(dir: &Path) -> ModelSource {
    ModelSource {
        name: "m".into(),
        version: 1,
        dir: dir.into(),
        file: None,
        parameters: Default::default(),
        declared: Default::default(),
        decoupled: false,
    }
}

fn write(model: &[u8]) -> (tempfile::TempDir, ModelSource) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.onnx"), model).unwrap();
    let source = source(dir.path());
    (dir, source)
}

fn load(model: &[u8]) -> Result<Arc<dyn Model>, RuntimeError> {
    let (_dir, source) = write(model);
    loader().load(&source)
}

/// An instance; the version directory may go once it is open.
fn open(model: &[u8]) -> Box<dyn Instance> {
    let (_dir, source) = write(model);
    loader().load(&source).unwrap().open(&CPU).unwrap()
}

fn tensor(name: &str, dtype: DataType, dims: &[usize], data: impl Into<Bytes>) -> NamedTensor {
    let shape = Shape::new(dims).unwrap();
    NamedTensor { name: name.into(), tensor: Tensor::new(dtype, shape, data.into()).unwrap() }
}

fn floats(name: &str, dims: &[usize], values: &[f32]) -> NamedTensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, DataType::Fp32, dims, data)
}

fn run(
    instance: &mut dyn Instance,
    inputs: &[NamedTensor],
) -> Result<Vec<NamedTensor>, RuntimeError> {
    instance.run(Batch { inputs, outputs: &[] }, &Cancel::default())
}

fn values(tensor: &NamedTensor) -> Vec<f32> {
    let chunks = tensor.tensor.data().chunks_exact(4);
    chunks.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn every_data_type_goes_through_unchanged() {
    for dtype in DataType::ALL {
        let mut instance = open(&identity_model(dtype, &[-1, 2]));
        let data = match dtype {
            DataType::Bytes => encode_bytes_elements(["", "a", "ünï", "long ".repeat(99).as_str()]),
            DataType::Bool => Bytes::from_static(&[0, 1, 1, 0]),
            _ => (1..=4 * dtype.size().unwrap() as u8).collect::<Vec<_>>().into(),
        };
        let input = tensor("x", dtype, &[2, 2], data);
        let output = run(&mut *instance, std::slice::from_ref(&input)).unwrap();
        assert_eq!(output[0].tensor, input.tensor, "{dtype}");
        assert_eq!(&*output[0].name, "y");

        let empty = tensor("x", dtype, &[0, 2], Bytes::new());
        let output = run(&mut *instance, std::slice::from_ref(&empty)).unwrap();
        assert_eq!(output[0].tensor, empty.tensor, "{dtype} without elements");
    }
}

#[test]
fn bytes_that_are_not_aligned_for_their_type_are_still_read_right() {
    let mut instance = open(&identity_model(DataType::Fp64, &[-1]));
    let room: Vec<u8> = (0..64).collect();
    for offset in 0..8 {
        let input =
            tensor("x", DataType::Fp64, &[3], Bytes::from(room.clone()).slice(offset..offset + 24));
        let output = run(&mut *instance, std::slice::from_ref(&input)).unwrap();
        assert_eq!(output[0].tensor, input.tensor, "offset {offset}");
    }
}

#[test]
fn the_numbers_are_the_models_own() {
    let mut linear = open(&linear_model(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[0.5, -0.5]));
    let output =
        run(&mut *linear, &[floats("x", &[2, 3], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0])]).unwrap();
    assert_eq!(output[0].tensor.shape().dims(), [2, 2]);
    assert_eq!(values(&output[0]), [1.5, 1.5, 9.5, 11.5]);

    let mut add = open(&add_model(&[-1]));
    let inputs = [floats("b", &[2], &[10.0, 20.0]), floats("a", &[2], &[1.0, 2.0])];
    assert_eq!(values(&run(&mut *add, &inputs).unwrap()[0]), [11.0, 22.0], "inputs go by name");
}

#[test]
fn a_signature_is_the_files_own() {
    let model = load(&add_model(&[-1, 7])).unwrap();
    let signature = model.signature();
    let inputs: Vec<_> = signature.inputs.iter().map(|spec| (&*spec.name, spec.dtype)).collect();
    assert_eq!(inputs, [("a", DataType::Fp32), ("b", DataType::Fp32)]);
    assert_eq!(signature.outputs[0].shape.to_string(), "[-1,7]");
}

#[test]
fn outputs_outlive_their_instance() {
    let mut instance = open(&identity_model(DataType::Uint8, &[-1]));
    let data: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    let output =
        run(&mut *instance, &[tensor("x", DataType::Uint8, &[100_000], data.clone())]).unwrap();
    drop(instance);
    assert_eq!(output[0].tensor.data(), &data);
}

#[test]
fn a_value_the_engine_cannot_take_is_named() {
    let not_text = encode_bytes_elements([&b"fine"[..], b"\xff\xfe"]);
    let with_nul = encode_bytes_elements([&b"a\0b"[..], b""]);
    #[rustfmt::skip]
    let cases = [
        ("bytes that are not text", DataType::Bytes, not_text, "element 1 is not UTF-8"),
        ("a NUL within a string",   DataType::Bytes, with_nul, "element 0 is not UTF-8"),
        ("a truth value of 2",      DataType::Bool, Bytes::from_static(&[1, 2]), "element 1 is 2"),
    ];
    for (shows, dtype, data, want) in cases {
        let mut instance = open(&identity_model(dtype, &[-1]));
        let error = run(&mut *instance, &[tensor("x", dtype, &[2], data)]).unwrap_err();
        assert!(matches!(error, RuntimeError::Input { .. }), "{shows}: {error}");
        assert!(error.to_string().contains(want), "{shows}: {error}");
    }
}

#[test]
fn a_file_that_cannot_be_served_says_why() {
    let sequence = Graph::new("g")
        .input("x", DataType::Fp32, &[-1])
        .node("SequenceConstruct", &["x"], &["s"])
        .sequence_output("s", DataType::Fp32, &[-1])
        .encode();
    let unknown_op = Graph::new("g")
        .input("x", DataType::Fp32, &[-1])
        .node("NoSuchOperator", &["x"], &["y"])
        .output("y", DataType::Fp32, &[-1])
        .encode();
    let external = Graph::new("g")
        .input("x", DataType::Fp32, &[-1])
        .external("w", &[4], "absent.bin")
        .node("Add", &["x", "w"], &["y"])
        .output("y", DataType::Fp32, &[-1])
        .encode();
    let claims_too_much = Graph::new("g")
        .input("x", DataType::Fp32, &[-1])
        .constant("w", DataType::Fp32, &[1 << 40, 1 << 20], &[0; 4])
        .node("Add", &["x", "w"], &["y"])
        .output("y", DataType::Fp32, &[-1])
        .encode();
    #[rustfmt::skip]
    let cases: [(&str, &[u8], &str); 6] = [
        ("an output that is no tensor", &sequence,        "output `s`"),
        ("an unknown operator",         &unknown_op,      "NoSuchOperator"),
        ("missing external data",       &external,        "absent.bin"),
        ("a size the file lacks",       &claims_too_much, ""),
        ("nothing at all",              b"",              ""),
        ("not an ONNX file",            b"PK\x03\x04 certainly not", ""),
    ];
    for (shows, bytes, want) in cases {
        let error = load(bytes).err().unwrap_or_else(|| panic!("{shows}: it loaded"));
        assert!(matches!(error, RuntimeError::Load { .. }), "{shows}: {error}");
        assert!(error.to_string().contains(want), "{shows}: {error}");
    }
}

#[test]
fn external_data_beside_the_model_is_found() {
    let graph = Graph::new("g")
        .input("x", DataType::Fp32, &[2])
        .external("w", &[2], "weights.bin")
        .node("Add", &["x", "w"], &["y"])
        .output("y", DataType::Fp32, &[2]);
    let (dir, source) = write(&graph.encode());
    let weights: Vec<u8> = [10.0f32, 20.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(dir.path().join("weights.bin"), weights).unwrap();
    let mut instance = loader().load(&source).unwrap().open(&CPU).unwrap();
    let output = run(&mut *instance, &[floats("x", &[2], &[1.0, 2.0])]).unwrap();
    assert_eq!(values(&output[0]), [11.0, 22.0]);
}

#[test]
fn parameters_are_read_and_a_bad_one_is_named() {
    let (_dir, mut source) = write(&identity_model(DataType::Fp32, &[-1]));
    source.parameters.insert("intra_op_thread_count".into(), "2".into());
    source.parameters.insert("execution_mode".into(), "1".into());
    let mut instance = loader().load(&source).unwrap().open(&CPU).unwrap();
    assert!(run(&mut *instance, &[floats("x", &[1], &[1.0])]).is_ok());

    source.parameters.insert("intra_op_thread_count".into(), "many".into());
    let error = loader().load(&source).err().unwrap();
    assert!(error.to_string().contains("`intra_op_thread_count` is `many`"), "{error}");
}

#[test]
fn an_engine_failure_while_running_has_its_own_words_and_harms_nothing() {
    // Reshape to [2,2] only works for four elements, which no declared shape can say.
    let shape: Vec<u8> = [2i64, 2].iter().flat_map(|dim| dim.to_le_bytes()).collect();
    let graph = Graph::new("g")
        .input("x", DataType::Fp32, &[-1])
        .constant("to", DataType::Int64, &[2], &shape)
        .node("Reshape", &["x", "to"], &["y"])
        .output("y", DataType::Fp32, &[2, 2]);
    let mut instance = open(&graph.encode());
    let error = run(&mut *instance, &[floats("x", &[3], &[0.0; 3])]).unwrap_err();
    assert!(error.message().contains("Reshape"), "{}", error.message());
    assert!(run(&mut *instance, &[floats("x", &[4], &[0.0; 4])]).is_ok());
}

#[test]
fn a_cuda_device_is_refused_by_name() {
    let options = InstanceOptions { device: Device::Cuda(1), ..CPU };
    let error = load(&add_model(&[-1])).unwrap().open(&options).err().unwrap();
    assert!(error.to_string().contains("`cuda:1`"), "{error}");
}

#[test]
fn a_file_that_changed_after_loading_is_noticed() {
    let (dir, source) = write(&add_model(&[-1]));
    let model = loader().load(&source).unwrap();
    let _first = model.open(&CPU).unwrap();
    std::fs::write(dir.path().join("model.onnx"), identity_model(DataType::Int8, &[3])).unwrap();
    let error = model.open(&CPU).err().unwrap();
    assert!(error.to_string().contains("changed since"), "{error}");
}

/// The slow model does end by itself, and gives `x + iterations`.
#[test]
fn a_loop_runs_to_its_end() {
    let mut instance = open(&slow_model(1000));
    let output = run(&mut *instance, &[floats("x", &[1, 4], &[0.0, 1.0, 2.0, 3.0])]).unwrap();
    assert_eq!(values(&output[0]), [1000.0, 1001.0, 1002.0, 1003.0]);
}

#[test]
fn a_named_library_that_is_absent_is_missing_with_the_way_out_and_its_absence_is_not_remembered() {
    let (_dir, source) = write(&add_model(&[-1]));
    let absent = Some(PathBuf::from("/nowhere/libonnxruntime.so"));
    let lacking = OnnxLoader::new(OnnxOptions { library: absent, ..OnnxOptions::default() });
    let status = lacking.status();
    assert_eq!(status.backend, "onnxruntime");
    // Each test is its own process under nextest; elsewhere another test may have opened it.
    if let Err(error) = lacking.load(&source) {
        assert!(matches!(error, RuntimeError::EngineMissing { .. }), "{error}");
        for want in ["/nowhere/libonnxruntime.so", "pip install onnxruntime", "make setup"] {
            assert!(error.to_string().contains(want), "{error}");
        }
    }
    loader().load(&source).unwrap();
    let status = loader().status();
    assert!(status.found.unwrap().contains("1.3"), "the version is told");
}
