//! What a version directory says of text, as far as generation needs it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value as Json};
use tokenizers::Tokenizer;

use crate::{GenerateError, Sampling};

/// Bytes that a tokenizer may have: the largest vocabularies in use take some twenty MiB.
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
/// Bytes that any other file may have; they are some hundred lines at most, and a template.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// `generation_config.json`: how the model's authors would have it sampled.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Defaults {
    /// What logits are divided by.
    pub temperature: Option<f32>,
    /// The mass of tokens that are picked from.
    pub top_p: Option<f32>,
    /// How many tokens are picked from; 0 is all.
    pub top_k: Option<usize>,
    /// How likely a token must be beside the likeliest.
    pub min_p: Option<f32>,
    /// What repeated tokens' logits are divided by.
    pub repetition_penalty: Option<f32>,
    /// Tokens of an answer where the request does not say.
    pub max_new_tokens: Option<usize>,
    #[serde(default)]
    eos_token_id: Ids,
}

impl Defaults {
    /// How a token is picked where a request does not say.
    pub fn sampling(&self) -> Sampling {
        let all = Sampling::default();
        Sampling {
            temperature: self.temperature.unwrap_or(all.temperature),
            top_p: self.top_p.unwrap_or(all.top_p),
            top_k: self.top_k.unwrap_or(all.top_k),
            min_p: self.min_p.unwrap_or(all.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(all.repetition_penalty),
            ..all
        }
    }

    pub(crate) fn ends(&self) -> Vec<u32> {
        match &self.eos_token_id {
            Ids::None => Vec::new(),
            Ids::One(id) => vec![*id],
            Ids::Many(ids) => ids.clone(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
    #[default]
    None,
}

/// A file's JSON object, with where it is.
pub(crate) type Found = (PathBuf, Map<String, Json>);

/// A version directory.
pub(crate) struct Files<'a> {
    dir: &'a Path,
}

impl<'a> Files<'a> {
    pub(crate) fn new(dir: &'a Path) -> Self {
        Self { dir }
    }

    pub(crate) fn tokenizer(&self) -> Result<Option<Tokenizer>, GenerateError> {
        let Some((path, bytes)) = self.bytes("tokenizer.json", TOKENIZER_BYTES_MAX)? else {
            return Ok(None);
        };
        tokenizer(&bytes).map(Some).map_err(|reason| GenerateError::File { path, reason })
    }

    pub(crate) fn defaults(&self) -> Result<Defaults, GenerateError> {
        Ok(self.json("generation_config.json")?.map(|(_, file)| file).unwrap_or_default())
    }

    /// `tokenizer_config.json`, with where it is.
    pub(crate) fn tokenizer_config(&self) -> Result<Option<Found>, GenerateError> {
        self.json("tokenizer_config.json")
    }

    /// `chat_template.jinja`, or the template inside `chat_template.json`, with where it is.
    pub(crate) fn template(&self) -> Result<Option<(PathBuf, Json)>, GenerateError> {
        if let Some((path, bytes)) = self.bytes("chat_template.jinja", FILE_BYTES_MAX)? {
            let text = String::from_utf8(bytes).map_err(|error| GenerateError::File {
                path: path.clone(),
                reason: error.to_string(),
            })?;
            return Ok(Some((path, text.into())));
        }
        let file: Option<(_, Map<String, Json>)> = self.json("chat_template.json")?;
        Ok(file.and_then(|(path, mut file)| Some((path, file.remove("chat_template")?))))
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<(PathBuf, T)>, GenerateError> {
        let Some((path, bytes)) = self.bytes(name, FILE_BYTES_MAX)? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(file) => Ok(Some((path, file))),
            Err(error) => Err(GenerateError::File { path, reason: error.to_string() }),
        }
    }

    /// A file's bytes; `None` if there is no such file.
    fn bytes(&self, name: &str, most: u64) -> Result<Option<(PathBuf, Vec<u8>)>, GenerateError> {
        let path = self.dir.join(name);
        let wrong = |reason: String| GenerateError::File { path: path.clone(), reason };
        let size = match fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error.to_string())),
        };
        if size > most {
            return Err(wrong(format!("it has {size} bytes; at most {most} are read")));
        }
        let bytes = fs::read(&path).map_err(|error| wrong(error.to_string()))?;
        Ok(Some((path, bytes)))
    }
}

/// A tokenizer that neither cuts nor pads: lengths are dealt with by who asks.
pub(crate) fn tokenizer(json: &[u8]) -> Result<Tokenizer, String> {
    let mut tokenizer =
        Tokenizer::from_bytes(json).map_err(|error| format!("not a tokenizer: {error}"))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
    Ok(tokenizer)
}
