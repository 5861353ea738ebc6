//! `/v1/embeddings`, as OpenAI's clients know it.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Asked, Cut, Items, embed, embeds, encode, read, write};
use crate::{body::Chunks, error::HttpError};

/// What is to be embedded, and how it is to come back.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "EmbeddingsRequest")]
pub(crate) struct Request {
    /// The model's name; may be left out where only one model embeds.
    model: Option<String>,
    /// A text, or many; tokens are taken as they are.
    input: Items,
    /// How vectors come back.
    #[serde(default)]
    encoding_format: Format,
    /// How long they are to be, for models that were trained to be cut.
    #[schemars(range(min = 1))]
    dimensions: Option<usize>,
    /// Whose request it is; taken and not looked at.
    #[serde(rename = "user")]
    _user: Option<String>,
    /// Not OpenAI's.
    #[serde(flatten)]
    cut: Cut,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// Numbers.
    #[default]
    Float,
    /// The bytes of the numbers (FP32, the low byte first) in base64.
    Base64,
}

/// The vectors, in the order of the texts.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Embeddings")]
pub(crate) struct Answer {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Serialize, JsonSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize, JsonSchema)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Format {
    fn write(self, vector: Vec<f32>) -> Vector {
        match self {
            Self::Float => Vector::Float(vector),
            Self::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Vector::Base64(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}

pub(crate) async fn embeddings(
    asked: &Asked<'_>,
    body: Bytes,
) -> Result<Response<Chunks>, HttpError> {
    let request: Request = read(body).await?;
    let Request { model, input, encoding_format, dimensions, cut, .. } = request;
    let model = asked.model(model.as_deref(), embeds)?;
    let texts = encode(&model, input.into_items("input")?, None, cut.side()).await?;
    let tokens = texts.iter().map(|text| text.ids.len()).sum();
    let vectors = embed(asked, &model, &texts, dimensions, true).await?;
    let numbers = vectors.iter().map(Vec::len).sum();
    let embedding = |(index, vector)| Embedding {
        object: "embedding",
        index,
        embedding: encoding_format.write(vector),
    };
    let answer = Answer {
        object: "list",
        data: vectors.into_iter().enumerate().map(embedding).collect(),
        model: model.name().to_owned(),
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    };
    write(numbers, answer).await
}
