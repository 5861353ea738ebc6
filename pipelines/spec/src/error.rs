//! Why a pipeline document, or the parameters of a run, cannot be used.

use mizzen_types::{Coded, ErrorCode};

/// An error of the person who wrote the document or started the run; it names the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The text is not YAML or JSON, or breaks a limit.
    #[error("the pipeline is not readable YAML or JSON: {0}")]
    Syntax(String),
    /// Something in the document is wrong.
    #[error("`{path}`{at}: {problem}", at = line_suffix(*line))]
    Invalid {
        /// Where, as a dotted path from the document's root.
        path: String,
        /// The line in the YAML text; 0 where it is not known (JSON).
        line: u64,
        /// What was expected, what came, the way out.
        problem: String,
    },
    /// The document is valid KFP, but uses something that is not executed here.
    #[error("`{path}`{at}: {feature} is not supported", at = line_suffix(*line))]
    Unsupported {
        /// Where, as a dotted path from the document's root.
        path: String,
        /// The line in the YAML text; 0 where it is not known (JSON).
        line: u64,
        /// The feature's name, and what to do instead where there is something.
        feature: String,
    },
    /// A parameter given to a run does not fit the pipeline's inputs.
    #[error("parameter `{name}` of pipeline `{pipeline}` {problem}")]
    Parameter {
        /// The pipeline.
        pipeline: String,
        /// The parameter.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn line_suffix(line: u64) -> String {
    if line == 0 { String::new() } else { format!(" (line {line})") }
}

impl Coded for SpecError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unsupported { .. } => ErrorCode::Unsupported,
            Self::Syntax(_) | Self::Invalid { .. } | Self::Parameter { .. } => {
                ErrorCode::InvalidArgument
            }
        }
    }
}
