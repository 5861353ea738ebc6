//! What every scheduler must keep, as a check that any implementation can run.
