use mizzen_types::encode_bytes_elements;
use proptest::prelude::*;

use super::*;
use crate::testing::{fp32, fp32_values};

fn bytes(name: &str, shape: &[usize], elements: &[Vec<u8>]) -> NamedTensor {
    let shape = Shape::new(shape).unwrap();
    let tensor = Tensor::new(DataType::Bytes, shape, encode_bytes_elements(elements)).unwrap();
    NamedTensor { name: name.into(), tensor }
}

proptest! {
    #[test]
    fn what_is_gathered_and_scattered_is_each_requests_own(
        requests in prop::collection::vec(
            prop::collection::vec((any::<i16>(), prop::collection::vec(any::<u8>(), 0..5)), 1..4),
            1..6,
        ),
    ) {
        let inputs: Vec<Vec<NamedTensor>> = requests.iter().map(|rows| {
            let numbers: Vec<f32> = rows.iter().map(|(n, _)| f32::from(*n)).collect();
            let texts: Vec<Vec<u8>> = rows.iter().map(|(_, t)| t.clone()).collect();
            vec![fp32("a", &[rows.len(), 1], &numbers), bytes("b", &[rows.len(), 1], &texts)]
        }).collect();
        let batch = gather(inputs.clone(), None, &mut Spare::default()).unwrap();
        let order = [1, 0];
        let shares: Vec<_> =
            requests.iter().map(|r| Share { rows: r.len(), length: 0, outputs: &order }).collect();
        for (answer, input) in scatter(&batch, &shares, None).into_iter().zip(inputs) {
            let answer = answer.unwrap();
            prop_assert_eq!(&answer[0], &input[1]);
            prop_assert_eq!(&answer[1], &input[0]);
        }
    }

    // The padded dimension is in the middle, so that its lines are strided.
    #[test]
    fn what_is_padded_is_cut_back(
        requests in prop::collection::vec((1usize..4, 1usize..6), 2..5), ones in any::<bool>(),
    ) {
        let inputs: Vec<Vec<NamedTensor>> = requests.iter().map(|(rows, length)| {
            let numbers: Vec<f32> = (0..rows * 2 * length * 3).map(|n| n as f32).collect();
            let texts: Vec<_> = (0..rows * length).map(|n| vec![b'x'; n % 4]).collect();
            vec![
                fp32("a", &[*rows, 2, *length, 3], &numbers),
                bytes("b", &[*rows, *length], &texts),
            ]
        }).collect();
        let fill = if ones { 1f32.to_le_bytes().to_vec() } else { vec![0; 4] };
        let padding = Padding {
            inputs: vec![
                Some(PaddedInput { dim: 2, fill: PadFill(fill) }),
                Some(PaddedInput { dim: 1, fill: PadFill(vec![1, 0, 0, 0, b'-']) }),
            ],
            outputs: vec![Some(2), Some(1)],
        };
        let longest = requests.iter().map(|(_, length)| *length).max().unwrap();
        let total: usize = requests.iter().map(|(rows, _)| *rows).sum();
        let batch = gather(inputs.clone(), Some((&padding, longest)), &mut Spare::default()).unwrap();
        prop_assert_eq!(batch[0].tensor.shape().dims(), &[total, 2, longest, 3]);
        prop_assert_eq!(batch[1].tensor.shape().dims(), &[total, longest]);
        let real: usize = inputs.iter().map(|i| i[0].tensor.shape().elements()).sum();
        let ours = inputs.iter().flat_map(|i| fp32_values(&i[0].tensor)).sum::<f32>();
        let made_up = fp32_values(&batch[0].tensor).iter().sum::<f32>() - ours;
        let elements = if ones { batch[0].tensor.shape().elements() - real } else { 0 };
        prop_assert_eq!(made_up, elements as f32);

        let order = [0, 1];
        let shares: Vec<_> = requests.iter()
            .map(|(rows, length)| Share { rows: *rows, length: *length, outputs: &order })
            .collect();
        prop_assert!(check_lengths("m", &batch, &padding.outputs, longest).is_ok());
        let answers = scatter(&batch, &shares, Some((&padding.outputs, longest)));
        for (answer, input) in answers.into_iter().zip(inputs) {
            prop_assert_eq!(answer.unwrap(), input);
        }
    }
}

#[test]
fn one_request_is_not_copied() {
    let input = fp32("a", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let batch = gather(vec![vec![input.clone()]], None, &mut Spare::default()).unwrap();
    assert_eq!(batch[0].tensor.data().as_ptr(), input.tensor.data().as_ptr());
}

#[test]
fn a_batchs_memory_is_used_again_unless_somebody_holds_it() {
    let mut spare = Spare::default();
    let requests = || vec![vec![fp32("a", &[1, 2], &[1.0, 2.0])]; 3];
    let first = gather(requests(), None, &mut spare).unwrap();
    let at = first[0].tensor.data().as_ptr();
    spare.give_back(first);
    let second = gather(requests(), None, &mut spare).unwrap();
    assert_eq!(second[0].tensor.data().as_ptr(), at);
    let held = second.clone();
    spare.give_back(second);
    assert_ne!(gather(requests(), None, &mut spare).unwrap()[0].tensor.data().as_ptr(), at);
    assert_eq!(fp32_values(&held[0].tensor), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn memory_kept_is_bounded() {
    let mut spare = Spare::default();
    for _ in 0..3 {
        let rows = SPARE_MAX / 8 + 1;
        let half = || vec![fp32("a", &[rows / 2, 1], &vec![0.0; rows / 2])];
        let batch = gather(vec![half(), half(), half()], None, &mut Spare::default()).unwrap();
        spare.give_back(batch);
        assert!(spare.bytes <= SPARE_MAX, "{}", spare.bytes);
    }
    assert_eq!(spare.buffers.len(), 1);
}

#[test]
fn outputs_that_do_not_fit_the_batch_are_refused() {
    let out = [fp32("y", &[2, 1], &[1.0, 2.0])];
    let names: [Arc<str>; 1] = ["y".into()];
    assert!(check_outputs("m", &out, &names, Some(2)).is_ok());
    assert!(check_outputs("m", &out, &names, None).is_ok());
    let error = check_outputs("m", &out, &names, Some(3)).unwrap_err();
    assert_eq!(error.to_string(), "model `m` returned 2 rows for 3 in output `y`");
    let other: [Arc<str>; 1] = ["z".into()];
    assert!(check_outputs("m", &out, &other, Some(2)).is_err());
    assert!(check_outputs("m", &[], &names, Some(2)).is_err());
    let error = check_lengths("m", &out, &[Some(1)], 3).unwrap_err().to_string();
    assert!(error.starts_with("model `m` returned a length of 1 for 3 in output `y`"), "{error}");
}
