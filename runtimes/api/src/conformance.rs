//! What every engine must keep, as checks that any implementation can run.
