//! Engines in shared libraries behind one small C table.
