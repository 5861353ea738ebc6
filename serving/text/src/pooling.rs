//! What a model says of tokens, made into one vector for their text.

use mizzen_types::Tensor;

use crate::{Task, TextError, TextModel};

/// How the vectors of a text's tokens become one; the modes of sentence-transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The largest of each component.
    Max,
    /// The last token's.
    LastToken,
    /// Their sum over the square root of their number.
    MeanSqrtLen,
}

impl Pooling {
    /// By its name, as sentence-transformers or text-embeddings-inference writes it.
    ///
    /// # Errors
    /// [`TextError::Pooling`] with the names there are.
    pub fn parse(word: &str) -> Result<Self, TextError> {
        Ok(match word {
            "mean" => Self::Mean,
            "cls" => Self::Cls,
            "max" => Self::Max,
            "lasttoken" | "last-token" | "last_token" => Self::LastToken,
            "mean_sqrt_len" | "mean_sqrt_len_tokens" => Self::MeanSqrtLen,
            _ => return Err(TextError::Pooling(word.to_owned())),
        })
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Max => "max",
            Self::LastToken => "lasttoken",
            Self::MeanSqrtLen => "mean_sqrt_len",
        }
    }

    /// Pools the vectors of `size` components each, at least one.
    fn apply(self, tokens: &[f32], size: usize) -> Vec<f32> {
        let mut rows = tokens.chunks_exact(size);
        let count = rows.len() as f32;
        let mut pooled = match self {
            Self::LastToken => return rows.next_back().unwrap_or_default().to_vec(),
            _ => rows.next().unwrap_or_default().to_vec(),
        };
        let fold = |pooled: &mut [f32], with: fn(f32, f32) -> f32| {
            for row in rows {
                pooled.iter_mut().zip(row).for_each(|(all, one)| *all = with(*all, *one));
            }
        };
        let by = match self {
            Self::Cls | Self::LastToken => return pooled,
            Self::Max => {
                fold(&mut pooled, f32::max);
                return pooled;
            }
            Self::Mean => count,
            Self::MeanSqrtLen => count.sqrt(),
        };
        fold(&mut pooled, |all, one| all + one);
        pooled.iter_mut().for_each(|all| *all /= by);
        pooled
    }
}

impl TextModel {
    /// The vectors of a text's own tokens in a row of the model's output, one after the other, and
    /// their length. A model that gives one vector for a text gives that.
    ///
    /// # Errors
    /// [`TextError::Output`] if the row is of another kind than the signature says.
    pub fn token_vectors(
        &self,
        row: &Tensor,
        tokens: usize,
    ) -> Result<(Vec<f32>, usize), TextError> {
        let dims = row.shape().dims();
        let (count, size) = match (&self.task, dims) {
            (Task::Embed { pooling: Some(_), .. }, [1, all, size]) if *all >= tokens => {
                (tokens, *size)
            }
            (Task::Embed { pooling: None, .. }, [1, size]) => (1, *size),
            _ => {
                return Err(TextError::Output {
                    output: self.output.to_string(),
                    want: format!("[1,size] or [1,{tokens},size], as the signature says"),
                    got: format!("{dims:?}"),
                });
            }
        };
        Ok((floats(row.data(), count * size), size))
    }

    /// The embedding of a text of so many tokens, by its row of the model's output; cut to
    /// `dimensions` where they are given (Matryoshka), and then of length 1 if `normalize`.
    ///
    /// # Errors
    /// [`TextError::Output`], [`TextError::Dimensions`].
    pub fn embedding(
        &self,
        row: &Tensor,
        tokens: usize,
        dimensions: Option<usize>,
        normalize: bool,
    ) -> Result<Vec<f32>, TextError> {
        let (vectors, size) = self.token_vectors(row, tokens)?;
        let mut vector = match &self.task {
            Task::Embed { pooling: Some(pooling), .. } => pooling.apply(&vectors, size),
            _ => vectors,
        };
        if let Some(got) = dimensions {
            if got == 0 || got > size {
                return Err(TextError::Dimensions { got, size });
            }
            vector.truncate(got);
        }
        if normalize {
            normalise(&mut vector);
        }
        Ok(vector)
    }
}

/// Gives a vector length 1; one of length 0 stays.
fn normalise(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let length = squares.sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
}

/// The first so many values of FP32 data.
pub(crate) fn floats(data: &[u8], count: usize) -> Vec<f32> {
    data.as_chunks::<4>().0.iter().take(count).map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_is_what_its_name_says() {
        let tokens = [1.0, -2.0, 3.0, 4.0, 5.0, 0.0];
        let cases = [
            (Pooling::Mean, [3.0, 2.0 / 3.0]),
            (Pooling::Cls, [1.0, -2.0]),
            (Pooling::Max, [5.0, 4.0]),
            (Pooling::LastToken, [5.0, 0.0]),
            (Pooling::MeanSqrtLen, [9.0 / 3f32.sqrt(), 2.0 / 3f32.sqrt()]),
        ];
        for (mode, want) in cases {
            assert_eq!(mode.apply(&tokens, 2), want, "{mode:?}");
            assert_eq!(Pooling::parse(mode.as_str()).unwrap(), mode);
        }
        assert!(Pooling::parse("median").unwrap_err().to_string().contains("`lasttoken`"));
    }

    #[test]
    fn a_vector_gets_length_one_unless_it_has_none() {
        let mut vector = [3.0, 4.0];
        normalise(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        let mut nothing = [0.0, 0.0];
        normalise(&mut nothing);
        assert_eq!(nothing, [0.0, 0.0]);
    }
}
