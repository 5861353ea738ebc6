//! The model server assembled: listeners, ready line, metrics, drain.
