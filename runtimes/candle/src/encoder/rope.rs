//! Rotary position embeddings: queries and keys are turned by angles that grow with their position, so
//! that their product depends on how far apart they are.
//!
//! # Source
//! Su et al., *RoFormer*, 2021, with the halves of a head as the two coordinates, as Hugging Face
//! has it.

use std::sync::{Arc, PoisonError, RwLock};

/// Cosines and sines by position, worked out as far as they have been needed.
#[derive(Debug)]
pub(crate) struct Rope {
    theta: f64,
    size: usize,
    /// `[positions, size]`: a position's cosines, then its sines.
    table: RwLock<Arc<[f32]>>,
}

impl Rope {
    /// For heads of `size`, whose slowest angle is about `1 / theta` a position.
    pub(crate) fn new(theta: f64, size: usize) -> Result<Self, String> {
        if !size.is_multiple_of(2) {
            return Err(format!("`config.json`: heads of {size} cannot be turned; expected even"));
        }
        if !(theta.is_finite() && theta > 0.0) {
            return Err(format!("`config.json`: a rope theta of {theta}; expected more than 0"));
        }
        Ok(Self { theta, size, table: RwLock::new(Arc::new([])) })
    }

    /// The table of at least `positions` positions.
    pub(super) fn table(&self, positions: usize) -> Arc<[f32]> {
        let known = self.table.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.len() >= positions * self.size {
            return known;
        }
        let speed = |index| self.theta.powf(-2.0 * index as f64 / self.size as f64);
        let speeds: Vec<f64> = (0..self.size / 2).map(speed).collect();
        let row = |position: usize| {
            let angles = speeds.iter().map(move |speed| position as f64 * speed);
            let cosines = angles.clone().map(|angle| angle.cos() as f32);
            cosines.chain(angles.map(|angle| angle.sin() as f32))
        };
        // A power of two, so that longer and longer texts do not each make another one.
        let table: Arc<[f32]> = (0..positions.next_power_of_two()).flat_map(row).collect();
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table.clone();
        table
    }
}
