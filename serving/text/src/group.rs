//! Texts of like length together: what is padded is computed for nothing by most engines.

use bytes::{BufMut as _, Bytes, BytesMut};
use mizzen_types::{DataType, NamedTensor, Shape, Tensor, TensorError};

use crate::{Encoded, Means, TextModel};

/// Tokens that a group may have, padding included: enough to keep an engine busy, and little enough
/// that others get their turn.
const GROUP_TOKENS_MAX: usize = 16 * 1024;

/// The part of a group that may be padding: a quarter.
const fn may_join(longest: usize, length: usize) -> bool {
    length * 4 >= longest * 3
}

/// Puts texts into groups that are run as one request each: indices, every one of them once. A
/// group has at most `rows_max` texts, of lengths that differ by a quarter at most.
pub fn groups(texts: &[Encoded], rows_max: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(texts[*i].ids.len()));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        let length = texts[index].ids.len();
        let open = groups.last_mut().filter(|group| {
            let longest = texts[group[0]].ids.len();
            group.len() < rows_max.max(1)
                && may_join(longest, length)
                && (group.len() + 1) * longest <= GROUP_TOKENS_MAX
        });
        match open {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

impl TextModel {
    /// A group as the model's inputs, of shape `[texts, longest]` each.
    ///
    /// # Errors
    /// [`TensorError`] for more than a tensor can hold.
    pub fn inputs(&self, texts: &[&Encoded]) -> Result<Vec<NamedTensor>, TensorError> {
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let shape = Shape::new([texts.len(), longest])?;
        let tensor = |input: &crate::Input| {
            let (pad, of): (u32, fn(&Encoded, usize) -> u32) = match input.means {
                Means::Ids => (self.pad, |text, i| text.ids[i]),
                Means::Mask => (0, |_, _| 1),
                Means::Types => (0, |text, i| text.types.get(i).copied().unwrap_or(0)),
            };
            let values = texts.iter().flat_map(|text| {
                (0..longest).map(move |i| if i < text.ids.len() { of(text, i) } else { pad })
            });
            let data = whole_numbers(input.dtype, texts.len() * longest, values);
            let tensor = Tensor::new(input.dtype, shape.clone(), data)?;
            Ok(NamedTensor { name: input.name.clone(), tensor })
        };
        self.inputs.iter().map(tensor).collect()
    }
}

fn whole_numbers(dtype: DataType, count: usize, values: impl Iterator<Item = u32>) -> Bytes {
    let mut data = BytesMut::with_capacity(count * 8);
    match dtype {
        DataType::Int32 => values.for_each(|value| data.put_u32_le(value)),
        _ => values.for_each(|value| data.put_u64_le(value.into())),
    }
    data.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(lengths: &[usize]) -> Vec<Encoded> {
        let text = |n: &usize| Encoded { ids: vec![1; *n], types: vec![0; *n] };
        lengths.iter().map(text).collect()
    }

    #[test]
    fn short_texts_do_not_wait_for_long_ones() {
        let texts = texts(&[10, 400, 12, 11, 380]);
        assert_eq!(groups(&texts, 32), [vec![1, 4], vec![2, 3, 0]]);
        assert_eq!(groups(&texts, 2), [vec![1, 4], vec![2, 3], vec![0]]);
    }

    proptest! {
        #[test]
        fn every_text_is_in_one_group_within_bounds(
            lengths in prop::collection::vec(1..2000usize, 0..200), rows_max in 1..64usize,
        ) {
            let texts = texts(&lengths);
            let groups = groups(&texts, rows_max);
            let mut all: Vec<_> = groups.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..texts.len()).collect::<Vec<_>>());
            for group in groups {
                let longest = lengths[group[0]];
                prop_assert!(group.len() <= rows_max);
                prop_assert!(group.len() * longest <= GROUP_TOKENS_MAX.max(longest));
                prop_assert!(group.iter().all(|i| may_join(longest, lengths[*i])));
            }
        }
    }
}
