//! The real tokens of a batch, packed: padding is left out, and everything a model could trip over
//! is refused before it computes anything.

use std::ops::Range;

use mizzen_runtime_api::RuntimeError;
use mizzen_types::Tensor;

/// Which entry of the table of places a token takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Places {
    /// Its column.
    Column,
    /// As many after the padding's id as there are tokens up to it that are not padding by their
    /// id; padding's own entry for padding that the mask keeps.
    After {
        /// Padding's id.
        pad: u32,
    },
}

/// What a model can take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Entries of the vocabulary.
    pub words: usize,
    /// Columns of a row.
    pub columns: usize,
    /// Entries of the table of token types.
    pub types: usize,
    pub places: Places,
}

/// The tokens of a batch that the mask keeps, row after row. All but `sequences` have one entry a
/// token.
#[derive(Debug)]
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    pub types: Vec<u32>,
    pub places: Vec<u32>,
    /// Where in its row the token stood.
    pub columns: Vec<u32>,
    /// Each row's tokens; empty where the mask keeps none.
    pub sequences: Vec<Range<usize>>,
    /// Columns of the batch.
    pub width: usize,
}

impl Tokens {
    /// Of `input_ids`, `attention_mask` and, for models that have them, `token_type_ids`.
    ///
    /// # Errors
    /// [`RuntimeError::Input`] naming the input, the row and the position.
    pub(crate) fn read(inputs: &[&Tensor], limits: &Limits) -> Result<Self, RuntimeError> {
        let (ids, mask, types) = (inputs[0], inputs[1], inputs.get(2));
        let dims = ids.shape().dims();
        for (name, other) in [("attention_mask", Some(&mask)), ("token_type_ids", types)] {
            if let Some(other) = other.filter(|other| other.shape() != ids.shape()) {
                let (want, got) = (ids.shape(), other.shape());
                let reason = format!("it has shape {got}; `input_ids` has {want}");
                return Err(refused(name, reason));
            }
        }
        let (rows, width) = (dims[0], dims[1]);
        if width > limits.columns {
            let reason = format!(
                "rows have {width} tokens; the model takes at most {}: shorten the texts",
                limits.columns
            );
            return Err(refused("input_ids", reason));
        }
        let mut tokens = Self {
            ids: Vec::new(),
            types: Vec::new(),
            places: Vec::new(),
            columns: Vec::new(),
            sequences: Vec::with_capacity(rows),
            width,
        };
        let (ids, mask) = (Words(ids), Words(mask));
        for row in 0..rows {
            let (start, mut place) = (tokens.count(), 0);
            for column in 0..width {
                let at = row * width + column;
                let at_place = |name: &str, what: String| {
                    refused(name, format!("row {row}, position {column}: {what}"))
                };
                if let Places::After { pad } = limits.places
                    && ids.get(at) != i64::from(pad)
                {
                    place += 1;
                }
                match mask.get(at) {
                    0 => continue,
                    1 => {}
                    other => {
                        let what = format!("it is {other}; expected 0 or 1");
                        return Err(at_place("attention_mask", what));
                    }
                }
                let known = |name: &str, value: i64, entries: usize| {
                    let index = u32::try_from(value).ok();
                    index.filter(|index| (*index as usize) < entries).ok_or_else(|| {
                        at_place(name, format!("it is {value}; expected 0 to {}", entries - 1))
                    })
                };
                tokens.ids.push(known("input_ids", ids.get(at), limits.words)?);
                if let Some(types) = types {
                    let index = Words(types).get(at);
                    tokens.types.push(known("token_type_ids", index, limits.types)?);
                }
                tokens.columns.push(column as u32);
                tokens.places.push(match limits.places {
                    Places::Column => column as u32,
                    Places::After { pad } if ids.get(at) == i64::from(pad) => pad,
                    Places::After { pad } => pad + place,
                });
            }
            tokens.sequences.push(start..tokens.count());
        }
        Ok(tokens)
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.ids.len()
    }

    /// The rows that have tokens in `block`, which is not empty; empty ones may be among them.
    pub(super) fn sequences_of(&self, block: Range<usize>) -> Range<usize> {
        let first = self.sequences.partition_point(|sequence| sequence.end <= block.start);
        first..self.sequences.partition_point(|sequence| sequence.start < block.end)
    }
}

/// The elements of an INT64 tensor.
struct Words<'a>(&'a Tensor);

impl Words<'_> {
    fn get(&self, index: usize) -> i64 {
        i64::from_le_bytes(self.0.data().as_chunks().0[index])
    }
}

pub(super) fn refused(input: &str, reason: String) -> RuntimeError {
    RuntimeError::Input { input: input.to_owned(), reason }
}
