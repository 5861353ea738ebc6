//! Custom resources: Katib's, KServe's and Mizzen's own.
