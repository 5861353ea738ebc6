//! From a model that makes text to one in service.

use std::{path::Path, sync::Arc};

use mizzen_runtime_api::{Generative, Model, Signature, TensorSpec};
use mizzen_serving_core::config::{ModelConfig, TransactionPolicy};
use mizzen_serving_generate::TextSide;
use mizzen_serving_steps::Steps;
use mizzen_types::{DataType, SpecShape};

use super::{Counts, Driver, Generation, settings::Settings};
use crate::ServeError;

/// What a model that makes text takes and gives as a model of tensors, by the names that Triton's
/// backend for vLLM has.
pub(crate) fn signature() -> Signature {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        dtype: DataType::Bytes,
        shape: SpecShape(vec![1]),
    };
    Signature { inputs: vec![spec("text_input")], outputs: vec![spec("text_output")] }
}

/// Fills in what a configuration leaves open: answers come piece by piece.
pub(crate) fn complete(config: &mut ModelConfig) {
    config.max_batch_size.get_or_insert(0);
    config.transaction_policy.get_or_insert(TransactionPolicy { decoupled: true });
}

/// Opens the engine and what stands between it and text.
///
/// # Errors
/// What is wrong with the configuration, the tokenizer or the template, or what the engine says.
pub(crate) fn build(
    dir: &Path,
    config: &ModelConfig,
    model: &Arc<dyn Model>,
    generative: &dyn Generative,
    queue: usize,
    threads: usize,
    counts: Arc<Counts>,
) -> Result<(Generation, Driver), ServeError> {
    let card = generative.card();
    let settings = Settings::of(config, card, queue, threads)?;
    let side = TextSide::open(dir, card).map_err(|error| ServeError::from_coded(&error))?;
    let context = settings.limits.context;
    let steps = Steps::new(settings.limits).map_err(|error| {
        ServeError::new(mizzen_types::ErrorCode::InvalidArgument, error.to_string())
    })?;
    let name = config.name.as_str().into();
    let driver = Driver::open(&name, model, settings.options, steps, counts.clone())?;
    let generation = Generation { desk: Arc::default(), counts, side: Arc::new(side), context };
    Ok((generation, driver))
}
