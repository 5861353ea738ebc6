//! Controllers for Experiment, Trial, InferenceService and PipelineRun.
//!
//! Written against a `kube::Client` alone, so they are the same over the embedded API server of one
//! machine and on a cluster. Each is a pure decision (what is there → what is to be done) and a
//! thin loop that reads caches, decides, and acts. They are driven by watches, never by polling;
//! names of children are derived from their owners, so acting twice is acting once, and a process
//! killed at any moment leaves nothing that the next one does not find.
//!
//! This is the one place where serving, tuning and pipelines meet. What is deliberately absent: no
//! controller keeps anything in memory that matters.

mod admission;
mod error;
mod experiment;
mod install;
mod kinds;
mod observations;
mod pipeline;
mod pushed;
mod search;
mod serving;
mod sink;
mod start;
mod status;
mod template;
mod thinning;
mod trial;
mod turns;
mod watch;

pub use admission::{Admission, known};
pub use error::ControllerError;
pub use experiment::Services;
pub use install::install_definitions;
pub use pipeline::{JobLauncherOptions, SharedVolume};
pub use serving::{
    DeployError, Deployed, Deployer, KubernetesDeployer, KubernetesDeployerOptions, LocalDeployer,
};
pub use sink::{MetricPoint, MetricSink, StoreSink};
pub use start::{Controllers, ControllersOptions};
pub use thinning::POINTS_MAX;
pub use trial::{AgentImage, AgentLaunch, TrialMarks};
