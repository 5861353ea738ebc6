//! What one step does.

use mizzen_runtime_api::Want;

use crate::SequenceId;

/// A sequence's part in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Which.
    pub id: SequenceId,
    /// Tokens of it that the cache holds.
    pub start: usize,
    /// Tokens that this step puts there.
    pub count: usize,
    /// What is wanted of it.
    pub want: Want,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Who takes part, with the rows in the engine's order. Empty only if nobody is there.
    pub rows: Vec<Planned>,
    /// Those whose deadline passed before they were let in; they are gone.
    pub expired: Vec<SequenceId>,
}

impl Plan {
    /// Tokens of the step.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.count).sum()
    }
}
