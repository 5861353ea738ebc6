//! Goal: the built-in engines keep the promises of the engine seam.
//! Method: the conformance suite, with models that need nothing but a configuration.

use std::path::Path;

use mizzen_runtime_api::{
    Loader, ModelSource, RuntimeError, Signature, TensorSpec,
    conformance::{StreamFixture, check_streams},
};
use mizzen_runtime_builtin::{identity::IdentityLoader, repeat::RepeatLoader};
use mizzen_types::{DataType, NamedTensor, Shape, SpecShape, Tensor};

fn words(name: &str, dtype: DataType, words: impl IntoIterator<Item = u32>) -> NamedTensor {
    let data: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    let shape = Shape::new([data.len() / 4]).expect("a test's shape is small");
    let tensor = Tensor::new(dtype, shape, data.into()).expect("its bytes were counted");
    NamedTensor { name: name.into(), tensor }
}

fn request(values: Vec<u32>, delays: Vec<u32>, wait: u32) -> Vec<NamedTensor> {
    vec![
        words("IN", DataType::Int32, values),
        words("DELAY", DataType::Uint32, delays),
        words("WAIT", DataType::Uint32, [wait]),
    ]
}

fn source(decoupled: bool, declared: Signature) -> ModelSource {
    ModelSource {
        name: "m".to_owned(),
        version: 1,
        dir: Path::new("/nowhere").to_owned(),
        file: None,
        parameters: Default::default(),
        declared,
        decoupled,
    }
}

#[test]
fn repeat_keeps_the_promises_of_streams() {
    let answers = |inputs: &[NamedTensor]| {
        let values = inputs[0].tensor.data().as_chunks().0.iter().map(|w| u32::from_le_bytes(*w));
        let answer = |(index, value)| {
            vec![words("OUT", DataType::Int32, [value]), words("IDX", DataType::Uint32, [index])]
        };
        (0u32..).zip(values).map(answer).collect()
    };
    check_streams(&StreamFixture {
        loader: &RepeatLoader,
        source: source(true, Signature::default()),
        request: &|answers, seed| {
            let values = (0..answers as u32).map(|i| seed as u32 * 1000 + i).collect();
            request(values, vec![1; answers], 0)
        },
        reference: &answers,
        slow: request(vec![1, 2], vec![0, 60_000], 0),
        long: request(vec![5; 5000], vec![0; 5000], 0),
    });
}

#[test]
fn repeat_is_refused_where_it_cannot_be_had() {
    let vector = |name: &str, dims: &[i64]| TensorSpec {
        name: name.into(),
        dtype: DataType::Int32,
        shape: SpecShape(dims.to_vec()),
    };
    let batched = Signature { inputs: vec![vector("IN", &[-1, -1])], outputs: Vec::new() };
    let cases = [
        ("one answer only", source(false, Signature::default()), "decoupled: true"),
        ("a batch dimension", source(true, batched), "max_batch_size: 0"),
    ];
    for (shows, source, want) in cases {
        let error = RepeatLoader.load(&source).map(drop).unwrap_err().to_string();
        assert!(error.contains(want), "{shows}: {error}");
    }
}

#[test]
fn repeat_takes_as_many_delays_as_values() {
    use mizzen_runtime_api::{Cancel, Device, InstanceOptions, Responses, Sink, StreamRequest};
    struct End(std::sync::mpsc::Sender<Result<(), RuntimeError>>);
    impl Sink for End {
        fn send(&mut self, _: Vec<NamedTensor>) -> Result<(), RuntimeError> {
            Ok(())
        }
        fn end(&mut self, outcome: Result<(), RuntimeError>) {
            self.0.send(outcome).unwrap();
        }
    }
    let model = RepeatLoader.load(&source(true, Signature::default())).unwrap();
    let options = InstanceOptions { threads: 1, device: Device::Cpu };
    let mut instance = model.open(&options).unwrap();
    let (end, ended) = std::sync::mpsc::channel();
    let inputs = request(vec![1, 2], vec![0], 0);
    let responses = Responses::new(Box::new(End(end)), Cancel::default());
    instance.stream(StreamRequest { inputs, outputs: Vec::new() }, responses);
    let error = ended.recv().unwrap().unwrap_err().to_string();
    assert!(error.contains("expected IN and DELAY shape to match, got [2] and [1]"), "{error}");
}

fn pairs(pairs: &[(&str, &str, DataType)]) -> Signature {
    let spec =
        |name: &str, dtype| TensorSpec { name: name.into(), dtype, shape: SpecShape(vec![-1, 2]) };
    Signature {
        inputs: pairs.iter().map(|(input, _, dtype)| spec(input, *dtype)).collect(),
        outputs: pairs.iter().map(|(_, output, dtype)| spec(output, *dtype)).collect(),
    }
}

#[test]
fn identity_gives_each_input_back_under_its_outputs_name() {
    use mizzen_runtime_api::{Batch, Cancel, Device, InstanceOptions};
    let declared = pairs(&[
        ("INPUT1", "OUTPUT0", DataType::Uint8),
        ("INPUT0", "OUTPUT1", DataType::Uint8),
        ("x", "y", DataType::Int8),
    ]);
    let model = IdentityLoader.load(&source(false, declared)).unwrap();
    let options = InstanceOptions { threads: 1, device: Device::Cpu };
    let mut instance = model.open(&options).unwrap();
    let byte = |name: &str, dtype, byte: u8| {
        let shape = Shape::new([1, 2]).unwrap();
        let tensor = Tensor::new(dtype, shape, vec![byte; 2].into()).unwrap();
        NamedTensor { name: name.into(), tensor }
    };
    let inputs = [
        byte("x", DataType::Int8, 7),
        byte("INPUT0", DataType::Uint8, 0),
        byte("INPUT1", DataType::Uint8, 1),
    ];
    let batch = Batch { inputs: &inputs, outputs: &[] };
    let outputs = instance.run(batch, &Cancel::default()).unwrap();
    let got: Vec<_> = outputs.iter().map(|o| (&*o.name, o.tensor.data()[0])).collect();
    assert_eq!(got, [("OUTPUT0", 0), ("OUTPUT1", 1), ("y", 7)]);
}

#[test]
fn identity_says_what_is_wrong_with_a_configuration() {
    let mut odd = pairs(&[("INPUT0", "OUTPUT0", DataType::Fp32)]);
    odd.outputs[0].dtype = DataType::Int64;
    let cases = [
        ("nothing declared", Signature::default(), "it lists 0 and 0"),
        (
            "another type",
            odd,
            "output `OUTPUT0` is INT64 [-1,2]; its input `INPUT0` is FP32 [-1,2]",
        ),
    ];
    for (shows, declared, want) in cases {
        let error = IdentityLoader.load(&source(false, declared)).map(drop).unwrap_err();
        assert!(error.to_string().contains(want), "{shows}: {error}");
    }
}
