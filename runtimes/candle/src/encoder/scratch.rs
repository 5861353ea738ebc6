//! Memory that steps write to and nobody reads afterwards, kept from one to the next.

use std::sync::{Mutex, PoisonError};

use crate::kernels::Panels;

/// One thread's.
#[derive(Default)]
pub(super) struct Scratch {
    /// A block's rows out of attention.
    pub context: Vec<f32>,
    pub normed: Vec<f32>,
    pub inner: Vec<f32>,
    pub summand: Vec<f32>,
    pub attention: AttentionScratch,
}

/// One head's.
#[derive(Default)]
pub(super) struct AttentionScratch {
    pub queries: Vec<f32>,
    pub turned: Vec<f32>,
    pub keys: Panels,
    pub values: Panels,
    pub scores: Vec<f32>,
}

/// As many as threads have needed at once.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Scratch>>);

impl Pool {
    /// Lends one.
    pub(super) fn with(&self, work: impl FnOnce(&mut Scratch)) {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = free().pop().unwrap_or_default();
        work(&mut scratch);
        free().push(scratch);
    }
}
