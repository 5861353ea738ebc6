//! Models asked with text: OpenAI's embeddings, chats and completions, and the routes of
//! text-embeddings-inference.
//!
//! The model is named in the body (`model`). The routes of text-embeddings-inference, whose servers
//! have one model each, may leave it out where only one model here does what is asked.

pub(crate) mod generation;
pub(crate) mod openai;
pub(crate) mod tei;

use bytes::Bytes;
use http::{Response, StatusCode};
use mizzen_serving_auth::{Caller, Scope};
use mizzen_serving_core::{Category, Parameters};
use mizzen_serving_host::{ModelHost, ServeError, TextHandle, TextOptions};
use mizzen_serving_text::{Encoded, Side, Task, Text, TextError, TextModel};
use mizzen_types::{ErrorCode, Tensor};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned, SeqAccess, Visitor},
};

use crate::{
    body::Chunks,
    error::{HttpError, json},
    offload::offload,
    route,
};

/// A call whose body is a JSON object with texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextCall {
    Embeddings,
    Embed,
    EmbedAll,
    Rerank,
    Predict,
    Tokenize,
    Decode,
    Chat,
    Complete,
    Detokenize,
}

/// Answers one of the calls whose body is a JSON object with texts.
pub(crate) async fn answer(
    asked: &Asked<'_>,
    call: TextCall,
    body: Bytes,
) -> Result<Response<Chunks>, HttpError> {
    match call {
        TextCall::Embeddings => openai::embeddings(asked, body).await,
        TextCall::Embed => tei::embed_texts(asked, body).await,
        TextCall::EmbedAll => tei::embed_tokens(asked, body).await,
        TextCall::Rerank => tei::rerank(asked, body).await,
        TextCall::Predict => tei::predict(asked, body).await,
        TextCall::Tokenize => generation::tokens::tokenize(asked, body).await,
        TextCall::Decode => tei::decode(asked, body).await,
        TextCall::Chat => generation::chat::complete(asked, body).await,
        TextCall::Complete => generation::completions::complete(asked, body).await,
        TextCall::Detokenize => generation::tokens::detokenize(asked, body).await,
    }
}

/// A body's JSON.
async fn read<T: DeserializeOwned + Send + 'static>(body: Bytes) -> Result<T, HttpError> {
    offload(body.len(), move || serde_json::from_slice(&body).map_err(HttpError::Json)).await
}

/// An answer of about so many numbers or words.
async fn write<T: Serialize + Send + 'static>(
    count: usize,
    answer: T,
) -> Result<Response<Chunks>, HttpError> {
    const CHARACTERS: usize = 12; // of one
    offload(count * CHARACTERS, move || Ok(json(StatusCode::OK, &answer))).await
}

/// The model that a query string names.
pub(crate) fn model_in_query(query: Option<&str>) -> Result<Option<String>, HttpError> {
    let pairs = query.unwrap_or_default().split('&');
    let named = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == "model");
    named.map(|(_, name)| route::decode(name)).transpose()
}

/// Texts of one request at most: OpenAI's own bound.
pub(crate) const TEXTS_MAX: usize = 2048;

/// Who asks, and what of the request goes along with it.
pub(crate) struct Asked<'a> {
    pub(crate) host: &'a ModelHost,
    pub(crate) caller: Option<Caller>,
    pub(crate) parameters: Parameters,
}

impl Asked<'_> {
    /// The model that is asked, if the caller may ask it.
    fn model(
        &self,
        name: Option<&str>,
        fits: fn(&TextModel) -> bool,
    ) -> Result<TextHandle, HttpError> {
        let may = |name: &str| match &self.caller {
            Some(caller) => caller.may(Category::Inference, Scope::Model(name)),
            None => Ok(()), // there is no policy
        };
        let name = match name {
            Some(name) => name.to_owned(),
            // Of those that are not theirs, callers do not even learn the names.
            None => self.host.only_text(|name, text| may(name).is_ok() && fits(text))?,
        };
        may(&name)?;
        let model = self.host.text(&name, None)?;
        if !fits(model.model()) {
            let does = match model.model().task() {
                Task::Embed { .. } => "embeds texts",
                Task::Classify { labels } if labels.len() == 1 => "ranks pairs of texts",
                Task::Classify { .. } => "classifies texts",
            };
            let message = format!("model `{name}` {does}, which is not what was asked for");
            return Err(ServeError::new(ErrorCode::Unsupported, message).into());
        }
        Ok(model)
    }

    fn options(&self) -> TextOptions {
        TextOptions { parameters: self.parameters.clone(), ..TextOptions::default() }
    }
}

fn embeds(model: &TextModel) -> bool {
    matches!(model.task(), Task::Embed { .. })
}

fn classifies(model: &TextModel) -> bool {
    matches!(model.task(), Task::Classify { .. })
}

fn ranks(model: &TextModel) -> bool {
    matches!(model.task(), Task::Classify { labels } if labels.len() == 1)
}

/// One text of a request, or the tokens somebody made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Text(String),
    Tokens(Vec<u32>),
}

impl Item {
    fn as_text(&self) -> Text<'_> {
        match self {
            Self::Text(text) => Text::One(text),
            Self::Tokens(tokens) => Text::Tokens(tokens),
        }
    }

    /// How long it takes to take apart: as so many bytes of text.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => tokens.len(),
        }
    }
}

/// One text or many, each as text or as tokens.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Items {
    /// A text.
    One(String),
    /// Texts, or the tokens of one.
    Many(Vec<Part>),
}

/// What stands in a list.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Part {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl Items {
    /// The texts, at least one and at most [`TEXTS_MAX`].
    pub(crate) fn into_items(self, field: &'static str) -> Result<Vec<Item>, HttpError> {
        let parts = match self {
            Self::One(text) => return Ok(vec![Item::Text(text)]),
            Self::Many(parts) => parts,
        };
        let wrong = |reason: String| HttpError::Field { field, reason };
        if parts.iter().any(|part| matches!(part, Part::Token(_))) {
            let token = |part| match part {
                Part::Token(token) => Ok(token),
                _ => Err(wrong("expected texts or tokens, got both in one list".to_owned())),
            };
            return Ok(vec![Item::Tokens(parts.into_iter().map(token).collect::<Result<_, _>>()?)]);
        }
        count(field, parts.len())?;
        let item = |part| match part {
            Part::Text(text) => Item::Text(text),
            Part::Tokens(tokens) => Item::Tokens(tokens),
            Part::Token(token) => Item::Tokens(vec![token]),
        };
        Ok(parts.into_iter().map(item).collect())
    }
}

/// Whether a request may have so many texts.
fn count(field: &'static str, got: usize) -> Result<(), HttpError> {
    if (1..=TEXTS_MAX).contains(&got) {
        return Ok(());
    }
    Err(HttpError::Field { field, reason: format!("expected 1 to {TEXTS_MAX} texts, got {got}") })
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Items;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "a text, a list of texts, a list of tokens or a list of lists of tokens",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Items, E> {
                Ok(Items::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element::<Part>()? {
                    parts.push(part);
                }
                Ok(Items::Many(parts))
            }
        }

        deserializer.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Part;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text, a token or a list of tokens")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Part, E> {
                Ok(Part::Text(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, token: u64) -> Result<Part, E> {
                let token = u32::try_from(token);
                token.map(Part::Token).map_err(|_| E::custom("a token is a number below 2^32"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Part, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = list.next_element()? {
                    tokens.push(token);
                }
                Ok(Part::Tokens(tokens))
            }
        }

        deserializer.deserialize_any(Read)
    }
}

/// What becomes of texts that are too long.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
pub(crate) struct Cut {
    /// Whether texts that are too long are cut, rather than refused.
    truncate: Option<bool>,
    /// Where they are cut.
    #[serde(default)]
    truncation_direction: Direction,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
enum Direction {
    #[default]
    #[serde(alias = "right")]
    Right,
    #[serde(alias = "left")]
    Left,
}

impl Cut {
    fn side(self) -> Option<Side> {
        let side = match self.truncation_direction {
            Direction::Right => Side::Right,
            Direction::Left => Side::Left,
        };
        self.truncate.unwrap_or(false).then_some(side)
    }
}

/// Takes the texts apart, each with the prompt of this name before it.
async fn encode(
    model: &TextHandle,
    items: Vec<Item>,
    prompt: Option<String>,
    cut: Option<Side>,
) -> Result<Vec<Encoded>, HttpError> {
    let bytes = items.iter().map(Item::bytes).sum();
    let work = move |model: &TextModel| -> Result<Vec<Encoded>, TextError> {
        let one = |(at, item): (usize, &Item)| match item {
            Item::Text(text) if !text.is_empty() => {
                let prompted = model.prompted(text, prompt.as_deref())?;
                model.encode(at, Text::One(&prompted), cut)
            }
            item => model.encode(at, item.as_text(), cut),
        };
        items.iter().enumerate().map(one).collect()
    };
    Ok(model.work(bytes, work).await?)
}

/// An embedding of each text.
async fn embed(
    asked: &Asked<'_>,
    model: &TextHandle,
    texts: &[Encoded],
    dimensions: Option<usize>,
    normalize: bool,
) -> Result<Vec<Vec<f32>>, HttpError> {
    let rows = model.run(texts, &asked.options()).await?;
    let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
    each(model, rows, move |model, at, row| {
        model.embedding(row, lengths[at], dimensions, normalize)
    })
    .await
}

/// Makes something of each row of a model's output.
async fn each<T: Send + 'static>(
    model: &TextHandle,
    rows: Vec<Tensor>,
    make: impl Fn(&TextModel, usize, &Tensor) -> Result<T, TextError> + Send + 'static,
) -> Result<Vec<T>, HttpError> {
    // Adding up is some thousand times faster than taking text apart.
    let bytes = rows.iter().map(|row| row.data().len()).sum::<usize>() / 1024;
    let work = move |model: &TextModel| {
        rows.iter().enumerate().map(|(at, row)| make(model, at, row)).collect()
    };
    Ok(model.work(bytes, work).await?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(json: &str) -> Result<Vec<Item>, String> {
        let items: Items = serde_json::from_str(json).map_err(|error| error.to_string())?;
        items.into_items("input").map_err(|error| error.to_string())
    }

    #[test]
    fn a_text_texts_or_tokens_are_told_apart() {
        let text = |text: &str| Item::Text(text.to_owned());
        assert_eq!(items("\"a\"").unwrap(), [text("a")]);
        assert_eq!(items("[\"a\", \"b\"]").unwrap(), [text("a"), text("b")]);
        assert_eq!(items("[1, 2]").unwrap(), [Item::Tokens(vec![1, 2])]);
        assert_eq!(
            items("[[1], [2, 3]]").unwrap(),
            [Item::Tokens(vec![1]), Item::Tokens(vec![2, 3])]
        );
        let many = format!("[{}\"a\"]", "\"a\",".repeat(TEXTS_MAX));
        #[rustfmt::skip]
        let cases = [
            ("[]",          "field `input`: expected 1 to 2048 texts, got 0"),
            (&many,         "expected 1 to 2048 texts, got 2049"),
            ("[1, \"a\"]",  "got both in one list"),
            ("[4294967296]", "below 2^32"),
            ("[-1]",        "a text, a token or a list of tokens"),
            ("true",        "a text, a list of texts"),
            ("[[\"a\"]]",   "invalid type"),
        ];
        for (json, words) in cases {
            let error = items(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
    }

    #[test]
    fn the_model_of_a_query_is_decoded() {
        let named = |query| model_in_query(query).unwrap();
        assert_eq!(named(None), None);
        assert_eq!(named(Some("a=b&model=my%20net")), Some("my net".to_owned()));
        assert!(model_in_query(Some("model=%ff")).is_err());
    }

    proptest! {
        #[test]
        fn any_json_is_texts_or_an_error(json in "[\\[\\]{}\",a0-9:. -]{0,40}") {
            if let Ok(items) = items(&json) {
                prop_assert!((1..=TEXTS_MAX).contains(&items.len()));
            }
        }
    }
}
