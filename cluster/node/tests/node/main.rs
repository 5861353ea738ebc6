//! A node against the embedded API server: Jobs in, processes and statuses out.

mod cluster;
mod crash;
mod inputs;
mod jobs;
mod logs;
mod slots;
