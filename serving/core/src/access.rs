//! What kind of call a request is, which is what access is granted by.
//!
//! The names are those of Triton's `--http-restricted-api` and `--grpc-restricted-protocol`, and
//! `metrics`. Every route of every protocol has exactly one; what has none is not served.

use std::{fmt, str::FromStr};

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// Whether the server, or a model, is alive or ready.
    Health,
    /// What the server and its models are: names, versions, inputs, outputs.
    Metadata,
    /// Running a model, in whatever protocol.
    Inference,
    /// Registering shared memory, and looking at what is registered.
    SharedMemory,
    /// A model's whole configuration.
    ModelConfig,
    /// What the repository holds; loading and unloading.
    ModelRepository,
    /// Counts and durations by model.
    Statistics,
    /// Trace settings.
    Trace,
    /// Log settings.
    Logging,
    /// Prometheus metrics.
    Metrics,
}

impl Category {
    /// All of them, for tables and tests.
    pub const ALL: [Self; 10] = [
        Self::Health,
        Self::Metadata,
        Self::Inference,
        Self::SharedMemory,
        Self::ModelConfig,
        Self::ModelRepository,
        Self::Statistics,
        Self::Trace,
        Self::Logging,
        Self::Metrics,
    ];

    /// Its name in flags and files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Metadata => "metadata",
            Self::Inference => "inference",
            Self::SharedMemory => "shared-memory",
            Self::ModelConfig => "model-config",
            Self::ModelRepository => "model-repository",
            Self::Statistics => "statistics",
            Self::Trace => "trace",
            Self::Logging => "logging",
            Self::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no category's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of call; they are {all}", all = names())]
pub struct UnknownCategory(pub String);

fn names() -> String {
    Category::ALL.map(Category::as_str).join(", ")
}

impl FromStr for Category {
    type Err = UnknownCategory;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|category| category.as_str() == name);
        found.ok_or_else(|| UnknownCategory(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_another_is_told_the_names() {
        for category in Category::ALL {
            assert_eq!(category.to_string().parse(), Ok(category));
        }
        let error = "Health".parse::<Category>().unwrap_err().to_string();
        assert!(error.contains("`Health`") && error.contains("health, metadata"), "{error}");
    }
}
