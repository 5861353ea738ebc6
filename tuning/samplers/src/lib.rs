//! Samplers under Katib's names: random, grid, tpe.
