//! The tuning seam: search space, history, Sampler and its conformance suite.
