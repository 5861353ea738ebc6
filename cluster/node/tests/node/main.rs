//! A node against the embedded API server: Jobs in, processes and statuses out.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod cluster;
mod crash;
mod inputs;
mod jobs;
mod logs;
mod slots;
mod speed;
