use bytes::Bytes;

use super::*;
use crate::Parameters;

fn port(name: &str, shape: &[i64]) -> PortSpec {
    let shape = SpecShape(shape.to_vec());
    PortSpec {
        request: TensorSpec { name: name.into(), dtype: DataType::Uint8, shape },
        reshape: None,
    }
}

fn spec(max_batch_size: usize) -> ModelSpec {
    ModelSpec {
        model: "m".into(),
        inputs: vec![port("a", &[-1, 2]), port("b", &[-1, -1])],
        outputs: vec![port("x", &[-1, 2]), port("y", &[-1, 2]), port("z", &[-1])],
        max_batch_size,
        max_rows: max_batch_size,
        padding: None,
    }
}

fn tensor(name: &str, dims: &[usize]) -> NamedTensor {
    let shape = Shape::new(dims).unwrap();
    let data = Bytes::from(vec![0; shape.elements()]);
    NamedTensor { name: name.into(), tensor: Tensor::new(DataType::Uint8, shape, data).unwrap() }
}

fn ask(names: &[&str]) -> Vec<RequestedOutput> {
    let output =
        |name: &&str| RequestedOutput { name: (*name).into(), parameters: Parameters::new() };
    names.iter().map(output).collect()
}

#[test]
fn what_fits_is_put_in_the_models_order() {
    let admitted =
        spec(8).admit(vec![tensor("b", &[3, 5]), tensor("a", &[3, 2])], &ask(&["z", "x"])).unwrap();
    assert_eq!(admitted.inputs, [tensor("a", &[3, 2]), tensor("b", &[3, 5])]);
    assert_eq!((admitted.rows, &*admitted.outputs), (3, &[2, 0][..]));
    assert_eq!(admitted.bucket, Bucket(vec![5, 0, 2]));
    let alone = spec(0).admit(vec![tensor("a", &[3, 2]), tensor("b", &[9, 5])], &[]).unwrap();
    assert_eq!(
        (alone.rows, &*alone.outputs),
        (1, &[0, 1, 2][..]),
        "no batch: rows are the model's"
    );
}

#[test]
fn only_what_may_share_a_batch_has_the_same_bucket() {
    let bucket = |columns: usize, outputs: &[&str]| {
        let inputs = vec![tensor("a", &[1, 2]), tensor("b", &[1, columns])];
        spec(8).admit(inputs, &ask(outputs)).unwrap().bucket
    };
    assert_eq!(bucket(5, &["x", "z"]), bucket(5, &["z", "x"]), "order is each request's own");
    assert_eq!(bucket(5, &[]), bucket(5, &["z", "y", "x"]), "all is all");
    assert_ne!(bucket(5, &[]), bucket(6, &[]));
    assert_ne!(bucket(5, &["x"]), bucket(5, &["y"]));
    assert_ne!(bucket(5, &["x"]), bucket(5, &[]));
}

#[test]
fn what_does_not_fit_is_named() {
    let (a, b) = (|rows: usize| tensor("a", &[rows, 2]), |rows: usize| tensor("b", &[rows, 5]));
    let wide = NamedTensor {
        name: "a".into(),
        tensor: Tensor::new(
            DataType::Int8,
            Shape::new([1, 2]).unwrap(),
            Bytes::from_static(&[0; 2]),
        )
        .unwrap(),
    };
    #[rustfmt::skip]
    let cases = [
        (vec![a(1)], vec![],                     "input `b` of model `m` is missing"),
        (vec![], vec![],                         "input `a` of model `m` is missing"),
        (vec![a(1), b(1), tensor("c", &[1])], vec![], "model `m` has no input `c`; it takes `a`, `b`"),
        (vec![a(1), a(1)], vec![],               "input `a` of model `m` is given twice"),
        (vec![a(1), b(1), a(1)], vec![],         "input `a` of model `m` is given twice"),
        (vec![wide, b(1)], vec![],               "input `a` of model `m` has datatype INT8; it takes UINT8"),
        (vec![tensor("a", &[1, 3]), b(1)], vec![], "input `a` of model `m` has shape [1,3]; it takes [-1,2] (-1 is any)"),
        (vec![tensor("a", &[2]), b(1)], vec![],  "input `a` of model `m` has shape [2]; it takes [-1,2] (-1 is any)"),
        (vec![a(1), b(2)], vec![],               "input `b` of model `m` has 2 rows; input `a` has 1"),
        (vec![a(0), b(0)], vec![],               "the request for model `m` has 0 rows; it takes 1 to 8 (`max_batch_size`)"),
        (vec![a(9), b(9)], vec![],               "the request for model `m` has 9 rows; it takes at most 8 (`max_batch_size`; with `dynamic_batching` larger requests are split)"),
        (vec![a(1), b(1)], ask(&["q"]),          "model `m` has no output `q`; it gives `x`, `y`, `z`"),
        (vec![a(1), b(1)], ask(&["x", "x"]),     "output `x` of model `m` is asked for twice"),
    ];
    for (inputs, outputs, want) in cases {
        assert_eq!(spec(8).admit(inputs, &outputs).unwrap_err().to_string(), want);
    }
}

#[test]
fn a_reshape_is_undone_on_the_way_out() {
    let port = PortSpec { reshape: Some(SpecShape(vec![-1, -1, 6])), ..port("a", &[-1, 2, 3, -1]) };
    let outside = tensor("a", &[7, 2, 3, 5]).tensor;
    let inside = port.inward(outside.clone()).unwrap();
    assert_eq!(inside.shape().dims(), [7, 5, 6]);
    assert_eq!(inside.data().as_ptr(), outside.data().as_ptr(), "nothing is copied");
    assert_eq!(port.outward(inside).unwrap(), outside);
    assert!(port.outward(tensor("a", &[7, 5, 7]).tensor).is_err(), "an engine's slip is no panic");
}
