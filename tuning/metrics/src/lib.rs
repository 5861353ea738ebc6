//! Reads metrics out of trial output, by Katib's rules.
