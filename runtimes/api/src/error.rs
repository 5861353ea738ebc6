//! Why an engine could not load or run a model.

use mizzen_types::{Coded, ErrorCode, TensorError};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An error of an engine.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine's library is not on this machine.
    #[error("engine `{backend}` is not installed: {hint}")]
    EngineMissing {
        /// The engine.
        backend: &'static str,
        /// What was looked for and how to get it.
        hint: String,
    },
    /// The model could not be loaded.
    #[error("cannot load model `{model}` from `{path}`: {reason}")]
    Load {
        /// The model.
        model: String,
        /// The file or directory.
        path: String,
        /// What is wrong with it, in the engine's words where they help.
        reason: String,
    },
    /// The device asked for is not there.
    #[error("device `{device}` is not available: {reason}")]
    Device {
        /// The device.
        device: String,
        /// Why not.
        reason: String,
    },
    /// An input does not fit the model.
    #[error("input `{input}` does not fit: {reason}")]
    Input {
        /// The input.
        input: String,
        /// What was expected and what came.
        reason: String,
    },
    /// The engine failed while running.
    #[error("the engine failed while running")]
    Run(#[source] Cause),
    /// An output could not be turned into a tensor.
    #[error("output `{output}` is not a tensor Mizzen can carry")]
    Output {
        /// The output.
        output: String,
        /// Why not.
        #[source]
        source: TensorError,
    },
    /// The run was cancelled.
    #[error("the run was cancelled")]
    Cancelled,
}

impl Coded for RuntimeError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::EngineMissing { .. } => ErrorCode::Unsupported,
            Self::Load { .. } | Self::Device { .. } => ErrorCode::FailedPrecondition,
            Self::Input { .. } => ErrorCode::InvalidArgument,
            Self::Run(_) | Self::Output { .. } => ErrorCode::Internal,
            Self::Cancelled => ErrorCode::Cancelled,
        }
    }
}
