//! What a classifier says of a text, as scores by label.

use mizzen_types::Tensor;

use crate::{Task, TextError, TextModel, pooling::floats};

/// How likely a label is, or how well a pair goes together.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The label.
    pub label: String,
    /// From 0 to 1; any number where raw ones are asked for.
    pub score: f32,
}

impl TextModel {
    /// The scores of a text by its row of the model's output, in the model's order: softmax over the
    /// labels, the logistic function where there is one; the model's own numbers if `raw`.
    ///
    /// # Errors
    /// [`TextError::Output`] if the row is of another kind than the signature says.
    pub fn scores(&self, row: &Tensor, raw: bool) -> Result<Vec<Score>, TextError> {
        let dims = row.shape().dims();
        let labels = match &self.task {
            Task::Classify { labels } if dims == [1, labels.len()] => labels,
            _ => {
                return Err(TextError::Output {
                    output: self.output.to_string(),
                    want: "a score for each label".to_owned(),
                    got: format!("of shape {dims:?}"),
                });
            }
        };
        let mut scores = floats(row.data(), labels.len());
        if !raw {
            likely(&mut scores);
        }
        let score = |(label, score): (&String, f32)| Score { label: label.clone(), score };
        Ok(labels.iter().zip(scores).map(score).collect())
    }
}

fn likely(scores: &mut [f32]) {
    if let [one] = scores {
        *one = 1.0 / (1.0 + (-*one).exp());
        return;
    }
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - most).exp());
    let all: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= all);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_shares_and_one_alone_is_a_chance() {
        let mut several = [1000.0, 1000.0, -1000.0];
        likely(&mut several);
        assert_eq!(several, [0.5, 0.5, 0.0]);
        let mut one = [0.0];
        likely(&mut one);
        assert_eq!(one, [0.5]);
    }
}
