//! Runs pipelines: state in the store, steps through a launcher, environments and cache.
