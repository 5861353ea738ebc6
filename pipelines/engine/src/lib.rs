//! The pipeline engine: a pure state machine over the KFP IR.
