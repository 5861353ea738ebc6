//! The KFP v2 IR read into a validated graph.
