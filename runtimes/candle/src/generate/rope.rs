//! Positions, as angles that queries and keys are turned by.
//!
//! # Source
//! Su et al., *RoFormer*, 2021, with the halves of a head as the two coordinates. Longer contexts
//! than were trained on: linear interpolation (Chen et al., 2023), Llama 3's by wavelength, and
//! YaRN (Peng et al., 2023), each as Hugging Face's `modeling_rope_utils` has it.

use std::f64::consts::PI;

/// How angles are stretched for longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stretch {
    None,
    /// All angles are this many times smaller.
    Linear(f64),
    /// Long waves are this many times longer, short ones as they were.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// As above, with a ramp between, and attention that is sharpened by `attention`.
    Yarn {
        factor: f64,
        fast: f64,
        slow: f64,
        original: f64,
        attention: Option<f64>,
    },
    /// Each angle is divided by a factor of its own, as files give them.
    Factors {
        factors: Vec<f64>,
        attention: f64,
    },
}

/// How one kind of layer turns its queries and keys.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    /// Angle a position, of each pair of coordinates.
    speeds: Vec<f64>,
    /// What cosines and sines are multiplied by.
    size: f64,
}

impl Rope {
    /// For the first `turned` coordinates of a head.
    pub(crate) fn new(theta: f64, turned: usize, stretch: &Stretch) -> Result<Self, String> {
        if !turned.is_multiple_of(2) {
            return Err(format!("{turned} coordinates of a head cannot be turned; expected even"));
        }
        if !(theta.is_finite() && theta > 0.0) {
            return Err(format!("a rope theta of {theta}; expected more than 0"));
        }
        let plain = (0..turned / 2).map(|index| theta.powf(-2.0 * index as f64 / turned as f64));
        let good = |x: &f64| x.is_finite() && *x > 0.0;
        let bad = |what: &str| Err(format!("rope scaling: {what} must be finite and above 0"));
        let (speeds, size): (Vec<f64>, f64) = match stretch {
            Stretch::None => (plain.collect(), 1.0),
            Stretch::Linear(factor) if good(factor) => {
                (plain.map(|speed| speed / factor).collect(), 1.0)
            }
            Stretch::Llama3 { factor, low, high, original }
                if [factor, low, high, original].into_iter().all(good) && high > low =>
            {
                let scaled = plain.map(|speed| {
                    let wave = 2.0 * PI / speed;
                    let smooth = ((original / wave - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - smooth) * speed / factor + smooth * speed
                });
                (scaled.collect(), 1.0)
            }
            Stretch::Yarn { factor, fast, slow, original, attention }
                if [factor, fast, slow, original].into_iter().all(good) =>
            {
                // The coordinate that turns so many times over the original context.
                let place = |turns: f64| {
                    turned as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
                };
                let first = place(*fast).floor().max(0.0);
                let last = place(*slow).ceil().min(turned as f64 - 1.0);
                let width = if last > first { last - first } else { 0.001 };
                let scaled = plain.enumerate().map(|(index, speed)| {
                    let ramp = ((index as f64 - first) / width).clamp(0.0, 1.0);
                    speed / factor * ramp + speed * (1.0 - ramp)
                });
                let size = attention
                    .unwrap_or_else(|| if *factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 });
                (scaled.collect(), size)
            }
            Stretch::Factors { factors, attention }
                if factors.len() == turned / 2 && factors.iter().all(good) && good(attention) =>
            {
                (plain.zip(factors).map(|(speed, factor)| speed / factor).collect(), *attention)
            }
            Stretch::Factors { factors, .. } if factors.len() != turned / 2 => {
                let (got, want) = (factors.len(), turned / 2);
                return Err(format!("rope scaling has {got} factors; expected {want}"));
            }
            _ => return bad("its numbers"),
        };
        Ok(Self { speeds, size })
    }

    /// Coordinates that are turned.
    pub(crate) fn turned(&self) -> usize {
        2 * self.speeds.len()
    }

    /// Adds a position's cosines and sines to a table.
    pub(super) fn push(&self, position: usize, table: &mut Vec<f32>) {
        let angles = self.speeds.iter().map(|speed| position as f64 * speed);
        table.extend(angles.clone().map(|angle| (angle.cos() * self.size) as f32));
        table.extend(angles.map(|angle| (angle.sin() * self.size) as f32));
    }
}
