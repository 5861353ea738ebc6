//! Kubelet and Job controller for one machine: Jobs as supervised process groups.
//!
//! `batch/v1` Jobs become Pods, and Pods become local processes, one group per container. There are
//! no images and no containment: a container's `command` runs on this machine as the user that
//! mizzen runs as. Everything is written against a [`kube::Client`].
//!
//! Invariant: mizzen may die at any moment. Decisions are made from what is stored, children have
//! names that follow from their owners, and processes do not notice. The next node to start adopts
//! what runs, collects what ended, and runs no command twice.
//!
//! * [`Node`] runs it, [`NodeOptions`] say with what.
//! * [`TrainingAdmission`] refuses training jobs that cannot work here.
//! * [`NodeDefaults`] completes Jobs and Pods in the API server as Kubernetes would.
//! * [`NodeLogs`] answers `kubectl logs`; it needs only the directory.
//! * [`PodPaths`] says where a Pod's files lie, for those who read them.
//!
//! Inside: `training` makes Pods and Jobs of PyTorchJobs and TrainJobs; `job` decides over Jobs (a pure function) and carries that out; `scheduler` gives Pods
//! their turn by `slots`; `pod` supervises one Pod; `process` runs one command at most once.

mod context;
mod defaults;
mod error;
mod events;
mod job;
mod logs;
mod node;
mod options;
mod paths;
mod pod;
mod process;
mod quantity;
mod scheduler;
mod slots;
mod training;
mod world;

pub use defaults::NodeDefaults;
pub use error::NodeError;
pub use logs::NodeLogs;
pub use node::Node;
pub use options::{Backoff, NodeOptions, OnShutdown};
pub use paths::{PodPaths, RunPaths};
pub use slots::Slots;
pub use training::TrainingAdmission;
