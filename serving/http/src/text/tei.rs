//! The routes of Hugging Face's text-embeddings-inference.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Response, StatusCode};
use mizzen_serving_host::TextHandle;
use mizzen_serving_text::{Encoded, Score, Side, Task, Text, TextError, TextModel, Token};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Asked, Cut, Items, TEXTS_MAX, classifies, count, each, embed, embeds, encode, ranks, read,
    write,
};
use crate::{
    body::Chunks,
    error::{HttpError, json},
};

/// Texts to be embedded.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Embed {
    /// A text, or many; tokens are taken as they are.
    inputs: Items,
    /// The model's name; may be left out where only one model embeds.
    model: Option<String>,
    #[serde(flatten)]
    cut: Cut,
    /// The prompt before each text, by the model's name for it.
    prompt_name: Option<String>,
    /// Whether vectors are to have length 1; they do unless this is false.
    normalize: Option<bool>,
    /// How long they are to be, for models that were trained to be cut.
    #[schemars(range(min = 1))]
    dimensions: Option<usize>,
}

/// A vector for each text.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Embedded(Vec<Vec<f32>>);

pub(crate) async fn embed_texts(
    asked: &Asked<'_>,
    body: Bytes,
) -> Result<Response<Chunks>, HttpError> {
    let request: Embed = read(body).await?;
    let model = asked.model(request.model.as_deref(), embeds)?;
    let cut = request.cut.side();
    let items = request.inputs.into_items("inputs")?;
    let texts = encode(&model, items, request.prompt_name, cut).await?;
    let normalize = request.normalize.unwrap_or(true);
    let vectors = embed(asked, &model, &texts, request.dimensions, normalize).await?;
    write(vectors.iter().map(Vec::len).sum(), Embedded(vectors)).await
}

/// Texts whose tokens are each to be embedded.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct EmbedAll {
    /// A text, or many; tokens are taken as they are.
    inputs: Items,
    /// The model's name; may be left out where only one model embeds.
    model: Option<String>,
    #[serde(flatten)]
    cut: Cut,
    /// The prompt before each text, by the model's name for it.
    prompt_name: Option<String>,
}

/// A vector for each token of each text.
#[derive(Serialize, JsonSchema)]
pub(crate) struct EmbeddedAll(Vec<Vec<Vec<f32>>>);

pub(crate) async fn embed_tokens(
    asked: &Asked<'_>,
    body: Bytes,
) -> Result<Response<Chunks>, HttpError> {
    let request: EmbedAll = read(body).await?;
    let pools = |model: &TextModel| matches!(model.task(), Task::Embed { pooling: Some(_), .. });
    let model = asked.model(request.model.as_deref(), pools)?;
    let cut = request.cut.side();
    let items = request.inputs.into_items("inputs")?;
    let texts = encode(&model, items, request.prompt_name, cut).await?;
    let rows = model.run(&texts, &asked.options()).await?;
    let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
    let vectors = each(&model, rows, move |model, at, row| {
        let (values, size) = model.token_vectors(row, lengths[at])?;
        Ok(values.chunks_exact(size).map(<[f32]>::to_vec).collect::<Vec<_>>())
    })
    .await?;
    let numbers = vectors.iter().flatten().map(Vec::len).sum();
    write(numbers, EmbeddedAll(vectors)).await
}

/// A question, and texts to be ranked by how well they answer it.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Rerank {
    /// What is asked.
    query: String,
    /// What may answer it.
    #[serde(alias = "documents")]
    texts: Vec<String>,
    /// The model's name; may be left out where only one model ranks.
    model: Option<String>,
    #[serde(flatten)]
    cut: Cut,
    /// Whether scores are the model's own numbers, rather than from 0 to 1.
    #[serde(default)]
    raw_scores: bool,
    /// Whether the texts come back with their scores.
    #[serde(default)]
    return_text: bool,
}

/// A text of the request with its score.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Rank {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    score: f32,
}

pub(crate) async fn rerank(asked: &Asked<'_>, body: Bytes) -> Result<Response<Chunks>, HttpError> {
    let request: Rerank = read(body).await?;
    let Rerank { query, texts, model, cut, raw_scores, return_text } = request;
    count("texts", texts.len())?;
    let model = asked.model(model.as_deref(), ranks)?;
    let pairs = texts.iter().map(|text| vec![query.clone(), text.clone()]).collect();
    let scores = score(asked, &model, pairs, cut.side(), raw_scores).await?;
    let rank = |((index, text), scores): ((usize, String), Vec<Score>)| Rank {
        index,
        text: return_text.then_some(text),
        score: scores.first().map_or(0.0, |score| score.score),
    };
    let mut ranks: Vec<_> = texts.into_iter().enumerate().zip(scores).map(rank).collect();
    ranks.sort_by(|a, b| b.score.total_cmp(&a.score));
    write(ranks.len(), ranks).await
}

/// Texts to be classified.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Predict {
    /// A text, a pair of texts, or a list of lists of one or two.
    inputs: Sequences,
    /// The model's name; may be left out where only one model classifies.
    model: Option<String>,
    #[serde(flatten)]
    cut: Cut,
    /// Whether scores are the model's own numbers, rather than from 0 to 1.
    #[serde(default)]
    raw_scores: bool,
}

/// What is classified.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Sequences {
    Text(String),
    Sequence(Vec<String>),
    Batch(Vec<Vec<String>>),
}

/// A label with its score.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Labelled {
    score: f32,
    label: String,
}

/// The labels of the text, or of each: the likeliest first.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Predicted {
    One(Vec<Labelled>),
    Many(Vec<Vec<Labelled>>),
}

pub(crate) async fn predict(asked: &Asked<'_>, body: Bytes) -> Result<Response<Chunks>, HttpError> {
    let request: Predict = read(body).await?;
    let (texts, one) = match request.inputs {
        Sequences::Text(text) => (vec![vec![text]], true),
        Sequences::Sequence(texts) => (vec![texts], true),
        Sequences::Batch(batch) => (batch, false),
    };
    count("inputs", texts.len())?;
    if let Some(got) = texts.iter().map(Vec::len).find(|len| !(1..=2).contains(len)) {
        let reason = format!("expected one text or a pair of texts, got {got}");
        return Err(HttpError::Field { field: "inputs", reason });
    }
    let model = asked.model(request.model.as_deref(), classifies)?;
    let cut = request.cut.side();
    let scores = score(asked, &model, texts, cut, request.raw_scores).await?;
    let labelled = |scores: Vec<Score>| {
        let mut all: Vec<_> =
            scores.into_iter().map(|Score { label, score }| Labelled { score, label }).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all
    };
    let count = scores.iter().map(Vec::len).sum();
    let mut all: Vec<_> = scores.into_iter().map(labelled).collect();
    let answer = match (one, all.pop()) {
        (true, Some(only)) => Predicted::One(only),
        (_, last) => Predicted::Many(all.into_iter().chain(last).collect()),
    };
    write(count, answer).await
}

/// The scores of each text or pair.
async fn score(
    asked: &Asked<'_>,
    model: &TextHandle,
    texts: Vec<Vec<String>>,
    cut: Option<Side>,
    raw: bool,
) -> Result<Vec<Vec<Score>>, HttpError> {
    let bytes = texts.iter().flatten().map(String::len).sum();
    let work = move |model: &TextModel| -> Result<Vec<Encoded>, TextError> {
        let one = |(at, texts): (usize, &Vec<String>)| match &texts[..] {
            [first, second] => model.encode(at, Text::Pair(first, second), cut),
            texts => model.encode(at, Text::One(texts.first().map_or("", String::as_str)), cut),
        };
        texts.iter().enumerate().map(one).collect()
    };
    let texts = model.work(bytes, work).await?;
    let rows = model.run(&texts, &asked.options()).await?;
    each(model, rows, move |model, _, row| model.scores(row, raw)).await
}

/// Texts to be taken apart.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Tokenize {
    /// A text, or many.
    inputs: Texts,
    /// The model's name; may be left out where there is only one with a tokenizer.
    model: Option<String>,
    /// Whether tokens are added that the model has for a purpose of its own; they are unless this is
    /// false.
    add_special_tokens: Option<bool>,
    /// The prompt before each text, by the model's name for it.
    prompt_name: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// A token as it stands in its text.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SimpleToken {
    id: u32,
    text: String,
    special: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<usize>,
}

/// The tokens of each text.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Tokenized(Vec<Vec<SimpleToken>>);

pub(crate) async fn tokenize(
    asked: &Asked<'_>,
    body: Bytes,
) -> Result<Response<Chunks>, HttpError> {
    let request: Tokenize = read(body).await?;
    let texts = match request.inputs {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    };
    count("inputs", texts.len())?;
    let model = asked.model(request.model.as_deref(), |_| true)?;
    let (special, prompt) = (request.add_special_tokens.unwrap_or(true), request.prompt_name);
    let bytes = texts.iter().map(String::len).sum();
    let work = move |model: &TextModel| -> Result<Vec<_>, TextError> {
        let one = |(at, text): (usize, &String)| {
            model.tokens(at, &model.prompted(text, prompt.as_deref())?, special)
        };
        texts.iter().enumerate().map(one).collect()
    };
    let simple = |token: Token| SimpleToken {
        id: token.id,
        text: token.text,
        special: token.special,
        start: token.at.as_ref().map(|at| at.start),
        stop: token.at.map(|at| at.end),
    };
    let tokens = model.work(bytes, work).await?;
    let count = tokens.iter().map(|text| 4 * text.len()).sum();
    let tokens = tokens.into_iter().map(|text| text.into_iter().map(simple).collect()).collect();
    write(count, Tokenized(tokens)).await
}

/// Tokens to be made text.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Decode {
    /// The tokens of a text, or of many.
    ids: Ids,
    /// The model's name; may be left out where there is only one with a tokenizer.
    model: Option<String>,
    /// Whether tokens are left out that the model has for a purpose of its own; they are unless this
    /// is false.
    skip_special_tokens: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Ids {
    One(Vec<u32>),
    Many(Vec<Vec<u32>>),
}

/// The text of each list of tokens.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Decoded(Vec<String>);

pub(crate) async fn decode(asked: &Asked<'_>, body: Bytes) -> Result<Response<Chunks>, HttpError> {
    let request: Decode = read(body).await?;
    let ids = match request.ids {
        Ids::One(ids) => vec![ids],
        Ids::Many(ids) => ids,
    };
    count("ids", ids.len())?;
    let model = asked.model(request.model.as_deref(), |_| true)?;
    let skip = request.skip_special_tokens.unwrap_or(true);
    let bytes = ids.iter().map(Vec::len).sum();
    let work = move |model: &TextModel| -> Result<Vec<_>, TextError> {
        ids.iter().enumerate().map(|(at, ids)| model.decode(at, ids, skip)).collect()
    };
    write(bytes, Decoded(model.work(bytes, work).await?)).await
}

/// The model and its bounds.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Info {
    model_id: String,
    model_sha: Option<String>,
    model_dtype: &'static str,
    model_type: ModelType,
    max_input_length: usize,
    max_client_batch_size: usize,
    max_batch_requests: usize,
    auto_truncate: bool,
    version: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ModelType {
    Embedding { pooling: &'static str },
    Classifier { id2label: BTreeMap<String, String> },
    Reranker { id2label: BTreeMap<String, String> },
}

pub(crate) fn info(
    asked: &Asked<'_>,
    name: Option<&str>,
    version: &str,
) -> Result<Response<Chunks>, HttpError> {
    let model = asked.model(name, |_| true)?;
    let text = model.model();
    let model_type = match text.task() {
        Task::Embed { pooling, .. } => {
            ModelType::Embedding { pooling: pooling.map_or("model", |pooling| pooling.as_str()) }
        }
        Task::Classify { labels } => {
            let named =
                labels.iter().enumerate().map(|(id, label)| (id.to_string(), label.clone()));
            let id2label = named.collect();
            match labels.len() {
                1 => ModelType::Reranker { id2label },
                _ => ModelType::Classifier { id2label },
            }
        }
    };
    let info = Info {
        model_id: model.name().to_owned(),
        model_sha: None,
        model_dtype: "float32",
        model_type,
        max_input_length: text.tokens_max(),
        max_client_batch_size: TEXTS_MAX,
        max_batch_requests: model.batch_max(),
        auto_truncate: false,
        version: version.to_owned(),
    };
    Ok(json(StatusCode::OK, &info))
}
