//! Losses as outcomes that a normal distribution explains.
//!
//! # Sources
//! * Box and Cox, *An Analysis of Transformations*, 1964, with the exponent of largest likelihood.
//! * Cowen-Rivers et al., *HEBO: Pushing the Limits of Sample-Efficient Hyper-parameter
//!   Optimisation*, JAIR 2022: that losses of trainings want such a transformation. Ours is of the
//!   distance from the best loss, so that it also spreads what lies close to it; theirs of the loss.

use crate::normal::quantile;

/// How losses are made into outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transform {
    /// A power of the distance from the best, chosen by likelihood.
    #[default]
    Power,
    /// The normal quantile of the rank, which no outlier moves.
    Rank,
    /// As they are, but for location and scale.
    None,
}

impl std::str::FromStr for Transform {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "power" => Ok(Self::Power),
            "rank" => Ok(Self::Rank),
            "none" => Ok(Self::None),
            _ => Err(()),
        }
    }
}

/// The exponents among which the likelihood chooses; 0 is the logarithm.
const EXPONENTS: [f64; 6] = [1.0, 0.75, 0.5, 0.25, 0.0, -0.25];

/// Outcomes of mean 0 and deviation 1, in the losses' order; a failure's infinite loss counts as the
/// worst that was seen.
pub(super) fn outcomes(losses: &[f64], transform: Transform) -> Vec<f64> {
    let worst = losses.iter().copied().filter(|l| l.is_finite()).fold(f64::NEG_INFINITY, f64::max);
    let losses: Vec<f64> = losses.iter().map(|l| if l.is_finite() { *l } else { worst }).collect();
    standardised(match transform {
        Transform::None => losses,
        Transform::Rank => ranked(&losses),
        Transform::Power => powered(&losses),
    })
}

fn standardised(mut values: Vec<f64>) -> Vec<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    // A constant objective has no scale; nor have losses whose squares overflow.
    let scale = if variance > 0.0 && variance.is_finite() { variance.sqrt() } else { 1.0 };
    values.iter_mut().for_each(|v| *v = ((*v - mean) / scale).clamp(-1e3, 1e3));
    if !values.iter().all(|v| v.is_finite()) {
        return ranked(&values);
    }
    values
}

fn ranked(losses: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..losses.len()).collect();
    order.sort_by(|&a, &b| losses[a].total_cmp(&losses[b]));
    let mut values = vec![0.0; losses.len()];
    let mut first = 0;
    while first < order.len() {
        // Equal losses share the middle of their ranks.
        let same =
            order[first..].iter().take_while(|&&i| losses[i] == losses[order[first]]).count();
        let middle = first as f64 + 0.5 * same as f64;
        for &i in &order[first..first + same] {
            values[i] = quantile((middle / losses.len() as f64).clamp(1e-6, 1.0 - 1e-6));
        }
        first += same;
    }
    values
}

fn powered(losses: &[f64]) -> Vec<f64> {
    let mut sorted = losses.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, middle) = (sorted[0], sorted[sorted.len() / 2]);
    let spread = middle - least;
    if !(spread > 0.0 && spread.is_finite()) {
        return losses.to_vec();
    }
    // Away from zero, where a logarithm would make the best an outlier.
    let distances: Vec<f64> = losses.iter().map(|l| (l - least) / spread + 0.02).collect();
    let logarithms: f64 = distances.iter().map(|d| d.ln()).sum();
    let n = losses.len() as f64;
    let raise = |power: f64| -> Vec<f64> {
        let raise = |d: &f64| if power == 0.0 { d.ln() } else { (d.powf(power) - 1.0) / power };
        distances.iter().map(raise).collect()
    };
    let likelihood = |power: f64| {
        let values = raise(power);
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        -0.5 * n * variance.ln() + (power - 1.0) * logarithms
    };
    let best = EXPONENTS.into_iter().max_by(|a, b| likelihood(*a).total_cmp(&likelihood(*b)));
    raise(best.unwrap_or(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_keep_the_order_and_have_unit_scale() {
        let losses = [3.0, 1e6, -2.0, 7.0, f64::INFINITY, 3.0];
        for transform in [Transform::Power, Transform::Rank, Transform::None] {
            let outcomes = outcomes(&losses, transform);
            let deviation = (outcomes.iter().map(|o| o * o).sum::<f64>() / 6.0).sqrt();
            assert!(deviation > 0.5 && deviation < 1.5, "{transform:?} {outcomes:?}");
            assert!(outcomes[2] < outcomes[0] && outcomes[0] < outcomes[3], "{transform:?}");
            assert_eq!(outcomes[0], outcomes[5], "{transform:?}");
            assert_eq!(outcomes[1], outcomes[4], "a failure is as bad as the worst");
        }
        for transform in [Transform::Power, Transform::Rank, Transform::None] {
            assert!(outcomes(&[2.0; 5], transform).iter().all(|o| *o == 0.0), "{transform:?}");
            assert!(outcomes(&[1e300, -1e300, 0.0], transform).iter().all(|o| o.is_finite()));
        }
    }
}
