//! Models of tokens, asked with text.
//!
//! A request's texts are taken apart on threads that may take their time, put into groups of like
//! length, and run as one request a group: the batcher sees each with its length, so that a short
//! text is not held up by a long one, be it of the same client or of another.

use std::{sync::Arc, thread::available_parallelism, time::Duration};

use mizzen_runtime_api::Signature;
use mizzen_serving_core::{
    InferRequest, InferResponse, MAX_BATCH_TOKENS, PADDING_INPUTS, PADDING_OUTPUTS, Parameters,
    RequestedOutput,
    config::{DynamicBatching, ModelConfig},
};
use mizzen_serving_text::{Encoded, Task, TextModel, groups};
use mizzen_types::{Coded, ErrorCode, Tensor};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{ModelHost, ServeError, version::Version};

/// Texts a batch may have where the configuration does not say: what the servers of embeddings that
/// people come from take.
const MAX_BATCH_SIZE: usize = 32;

/// Tokens a batch may have where the configuration does not say. A processor gains nothing from more
/// (its products are as fast at a few hundred), and short texts would wait for them.
const MAX_TOKENS: usize = 4096;

/// Characters that are taken apart where they came in; more go to another thread. A tokenizer takes
/// some MB a second.
const HERE_BYTES: usize = 2 * 1024;

/// Threads that take text apart at once.
#[derive(Debug)]
pub(crate) struct Tokenizing(Semaphore);

impl Default for Tokenizing {
    fn default() -> Self {
        Self(Semaphore::new(available_parallelism().map_or(1, std::num::NonZero::get)))
    }
}

impl Tokenizing {
    /// Works on text of so many bytes.
    ///
    /// # Errors
    /// What the work gives; `Internal` if it panics.
    pub(crate) async fn run<T, E>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, ServeError>
    where
        T: Send + 'static,
        E: Coded + Send + 'static,
    {
        let failed = |error: E| ServeError::from_coded(&error);
        if bytes <= HERE_BYTES {
            return work().map_err(failed);
        }
        let turn = self.0.acquire().await;
        let worked = tokio::task::spawn_blocking(work).await;
        drop(turn);
        worked
            .map_err(|error| ServeError::new(ErrorCode::Internal, error.to_string()))?
            .map_err(failed)
    }
}

/// What a request for texts asks of the scheduler.
#[derive(Debug, Clone, Default)]
pub struct TextOptions {
    /// The longest it is willing to wait in the queue.
    pub timeout: Option<Duration>,
    /// 1 is highest; 0 means the model's default level.
    pub priority: u64,
    /// Parameters that go along with it.
    pub parameters: Parameters,
}

/// One version of a model, ready to be asked with text.
#[derive(Clone)]
pub struct TextHandle {
    host: ModelHost,
    version: Arc<Version>,
    /// The version that was asked for.
    asked: Option<String>,
    text: Arc<TextModel>,
}

impl ModelHost {
    /// The text side of a model.
    ///
    /// # Errors
    /// As [`ModelHost::metadata`]; `Unsupported` for a model that is not asked with text.
    pub fn text(&self, model: &str, version: Option<&str>) -> Result<TextHandle, ServeError> {
        let asked = version.map(str::to_owned);
        let version = self.inner().find(model, version)?;
        let Some(text) = version.text.clone() else {
            let message = format!(
                "model `{model}` is not asked with text: it needs a `tokenizer.json` beside it and \
                 an input `input_ids`, as Hugging Face exports models"
            );
            return Err(ServeError::new(ErrorCode::Unsupported, message));
        };
        Ok(TextHandle { host: self.clone(), version, asked, text })
    }

    /// The one model that is asked with text and fits by its name and its text side, for requests
    /// that name none.
    ///
    /// # Errors
    /// `InvalidArgument` with the names there are, if there is none or more than one.
    pub fn only_text(&self, fits: impl Fn(&str, &TextModel) -> bool) -> Result<String, ServeError> {
        let table = self.inner().table.load();
        let models = table.iter().filter(|(name, served)| {
            served.values().filter_map(|version| version.text.as_ref()).any(|text| fits(name, text))
        });
        let mut names: Vec<String> = models.map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        match &names[..] {
            [one] => Ok(one.clone()),
            [] => Err(ServeError::new(ErrorCode::NotFound, "no model that is ready does this")),
            _ => {
                let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
                let message =
                    format!("field `model`: expected one of {}, got nothing", names.join(", "));
                Err(ServeError::new(ErrorCode::InvalidArgument, message))
            }
        }
    }
}

impl TextHandle {
    /// Its text side.
    pub fn model(&self) -> &TextModel {
        &self.text
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.version.spec.model
    }

    /// The version's number.
    pub fn version(&self) -> &str {
        &self.version.label
    }

    /// Rows that one batch of the model has at most.
    pub fn batch_max(&self) -> usize {
        self.version.spec.max_batch_size.max(1)
    }

    /// Works on text of so many bytes, on a thread that may take its time.
    ///
    /// # Errors
    /// What the work gives; `Internal` if it panics.
    pub async fn work<T, E>(
        &self,
        bytes: usize,
        work: impl FnOnce(&TextModel) -> Result<T, E> + Send + 'static,
    ) -> Result<T, ServeError>
    where
        T: Send + 'static,
        E: Coded + Send + 'static,
    {
        let text = self.text.clone();
        self.host.inner().tokenizing.run(bytes, move || work(&text)).await
    }

    /// The model's answer to each text, in their order: a row of its output with, where it has one
    /// vector a token, those of the padding at its end. Dropping the future cancels it.
    ///
    /// # Errors
    /// As [`ModelHost::infer`]; one text that fails fails all.
    pub async fn run(
        &self,
        texts: &[Encoded],
        options: &TextOptions,
    ) -> Result<Vec<Tensor>, ServeError> {
        let mut rows: Vec<Option<Tensor>> = vec![None; texts.len()];
        let mut place = |group: Vec<usize>, answer: InferResponse| {
            let given = answer.outputs.iter().find(|output| output.name == *self.text.output());
            for (row, index) in group.into_iter().enumerate() {
                rows[index] = given.and_then(|output| output.tensor.slice_rows(row, 1).ok());
            }
        };
        let mut groups = groups(texts, self.batch_max());
        // The last runs here: most requests have one.
        let last = groups.pop();
        let mut others = JoinSet::new();
        for group in groups {
            let (host, request) = (self.host.clone(), self.request(texts, &group, options)?);
            others.spawn(async move { (group, host.infer(request).await) });
        }
        if let Some(group) = last {
            let answer = self.host.infer(self.request(texts, &group, options)?).await?;
            place(group, answer);
        }
        while let Some(ended) = others.join_next().await {
            let (group, answer) =
                ended.map_err(|error| ServeError::new(ErrorCode::Internal, error.to_string()))?;
            place(group, answer?);
        }
        let missing = || {
            let output = self.text.output();
            let message = format!("output `{output}` has fewer rows than the request has texts");
            ServeError::new(ErrorCode::Internal, message)
        };
        rows.into_iter().map(|row| row.ok_or_else(missing)).collect()
    }

    fn request(
        &self,
        texts: &[Encoded],
        group: &[usize],
        options: &TextOptions,
    ) -> Result<InferRequest, ServeError> {
        let texts: Vec<_> = group.iter().map(|index| &texts[*index]).collect();
        let inputs = self.text.inputs(&texts).map_err(|error| ServeError::from_coded(&error))?;
        let name = self.text.output().clone();
        Ok(InferRequest {
            model: self.version.spec.model.clone(),
            version: self.asked.clone(),
            id: String::new(),
            inputs,
            outputs: vec![RequestedOutput { name, parameters: Parameters::new() }],
            parameters: options.parameters.clone(),
            timeout: options.timeout,
            priority: options.priority,
        })
    }
}

/// Fills in what a configuration leaves open of a model that is asked with text: it batches, and what
/// is shorter than others in a batch is made longer.
pub(crate) fn complete(config: &mut ModelConfig, text: &TextModel, signature: &Signature) {
    let batches = signature.inputs.iter().chain(&signature.outputs);
    let free = batches.map(|spec| spec.shape.0.first()).all(|dim| dim == Some(&-1));
    if !config.inputs.is_empty() || config.max_batch_size == Some(0) || !free {
        return;
    }
    config.max_batch_size.get_or_insert(MAX_BATCH_SIZE);
    if config.sequence_batching.is_some() {
        return;
    }
    config.dynamic_batching.get_or_insert_with(DynamicBatching::default);
    if config.parameters.contains_key(PADDING_INPUTS) {
        return;
    }
    let inputs: Vec<_> = text.padding().map(|(name, fill)| format!("{name}[0]={fill}")).collect();
    config.parameters.insert(PADDING_INPUTS.to_owned(), inputs.join(", ").as_str().into());
    let tokens = config.parameters.entry(MAX_BATCH_TOKENS.to_owned());
    tokens.or_insert_with(|| MAX_TOKENS.to_string().as_str().into());
    if matches!(text.task(), Task::Embed { pooling: Some(_), .. }) {
        let output = format!("{}[0]", text.output());
        config.parameters.insert(PADDING_OUTPUTS.to_owned(), output.as_str().into());
    }
}
